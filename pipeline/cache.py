"""The store under its former name; see ``pipeline.store``."""

from pipeline.store.features import (
    CHECKED,
    FeatureFile,
    Features,
    memory_map,
    write_feature_blocks,
    write_features,
)
from pipeline.store.files import (
    SEAL,
    UNFINISHED,
    UNWRITABLE,
    atomic,
    is_intact,
    lock,
    remove_unfinished,
    seal,
    storage_errors,
    write_json,
    write_text,
)
from pipeline.store.identity import (
    fingerprint,
    provenance,
)
from pipeline.store.jsonl import (
    CHECKSUM,
    RecordFile,
    read_header,
    write_records,
)

__all__ = [
    "CHECKED",
    "CHECKSUM",
    "SEAL",
    "UNFINISHED",
    "UNWRITABLE",
    "FeatureFile",
    "Features",
    "RecordFile",
    "atomic",
    "fingerprint",
    "is_intact",
    "lock",
    "memory_map",
    "provenance",
    "read_header",
    "remove_unfinished",
    "seal",
    "storage_errors",
    "write_feature_blocks",
    "write_features",
    "write_json",
    "write_records",
    "write_text",
]
