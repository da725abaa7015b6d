"""The vector database Milvus: a file of this process, or a server or cluster at a URL.

Chosen because the same client and calls serve a file, a server and a cluster: what was tried with a
file runs unchanged where a gallery has outgrown one machine.

``search.index.shards`` are partitions of one collection: Milvus searches them all in one call and
merges what it finds; on a cluster its query nodes share them.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pymilvus import DataType, MilvusClient, MilvusException

from pipeline.config import IndexConfig, RuntimeConfig
from pipeline.errors import StorageError
from pipeline.retrieval.indexes.base import Rows, Scores, Vectors, spans
from pipeline.retrieval.ranking import Gallery
from pipeline.retrieval.scoring import normalise
from pipeline.run import progress
from pipeline.store.files import lock

for name in ("pymilvus", "grpc._server"):  # they log what is raised, or what a file cannot do
    logging.getLogger(name).setLevel(logging.CRITICAL)

log = logging.getLogger("seize")

OPEN = (
    "Milvus in a file opens a port of this machine without a password while this command runs: "
    "whoever is logged in here can read, change and delete the index. On a machine that you share "
    "use a server with a token (--milvus-url), or another --index."
)

BLOCK = 4_096
"""Images sent at a time; a server takes messages of 64 MB."""

CONNECTION = {"grpc.keepalive_permit_without_calls": 0, "grpc.keepalive_time_ms": 600_000}
"""The client's own ping of every ten seconds makes Milvus in a file hang up while it builds."""

VECTORS = 64
"""Queries sent at a time."""


class Milvus:
    """A collection with HNSW graphs; ``breadth`` images are tried a query in each."""

    exact = False

    def __init__(self, client: MilvusClient, where: str, collection: str, breadth: int) -> None:
        self.client = client
        self.where = where
        self.collection = collection
        self.breadth = breadth

    def search(self, vectors: Vectors, k: int) -> tuple[Scores, Rows]:
        """Return the k largest inner products, as ``Index`` says."""
        scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
        rows = np.full((len(vectors), k), -1, dtype=np.int64)
        parameters = {"metric_type": "IP", "params": {"ef": max(self.breadth, k)}}
        for start in range(0, len(vectors), VECTORS):
            with _errors(self.where):
                hits = self.client.search(
                    self.collection,
                    data=list(vectors[start : start + VECTORS]),
                    limit=k,
                    anns_field="feature",
                    search_params=parameters,
                    output_fields=["row"],
                )
            for i, found in enumerate(hits, start):
                if not found:
                    raise StorageError(
                        f"Milvus at {self.where} no longer holds the collection {self.collection}: "
                        "somebody else has emptied it. The same command fills it again."
                    )
                scores[i, : len(found)] = [hit["distance"] for hit in found]
                rows[i, : len(found)] = [hit["row"] for hit in found]
        return scores, rows


def opened(gallery: Gallery, settings: IndexConfig, file: Path, runtime: RuntimeConfig) -> Milvus:
    """Return the collection of that file's name, filled where it is not complete.

    It is in ``file``, or where ``runtime.milvus_url`` says. Filling resumes where it was stopped.
    """
    collection = file.stem.replace("-", "_")
    where = runtime.milvus_url or str(file)
    if not runtime.milvus_url:
        log.warning("%s", OPEN)
    with _errors(where), lock(file):
        token = os.environ.get(runtime.milvus_token_variable, "")
        client = MilvusClient(where, token=token, grpc_options=CONNECTION)
        _fill(client, collection, gallery, settings)
        client.load_collection(collection)
    return Milvus(client, where, collection, settings.breadth)


def partition(shard: int) -> str:
    """Return the name of the partition that holds a shard, counted from 0."""
    return f"shard_{shard + 1}"


def _fill(client: MilvusClient, collection: str, gallery: Gallery, settings: IndexConfig) -> None:
    images, width = gallery.shape
    if not client.has_collection(collection):
        schema = client.create_schema(auto_id=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("feature", DataType.FLOAT_VECTOR, dim=width)
        index = client.prepare_index_params()
        index.add_index(
            "feature",
            index_type="HNSW",
            metric_type="IP",
            params={"M": settings.links, "efConstruction": settings.construction},
        )
        client.create_collection(
            collection, schema=schema, index_params=index, consistency_level="Strong"
        )
    bounds = spans(images, settings.shards)
    partitions = [partition(shard) for shard in range(len(bounds) - 1)] if bounds[2:] else [""]
    for name in filter(None, partitions):
        if not client.has_partition(collection, name):
            client.create_partition(collection, name)
    client.load_collection(collection)
    answer = client.query(collection, filter="", output_fields=["count(*)"])
    done = int(answer[0]["count(*)"])
    if done == images:
        return
    with progress(images, done, "image", "fill Milvus") as bar:
        for name, first, stop in zip(partitions, bounds, bounds[1:], strict=False):
            for start in range(max(first, done), stop, BLOCK):
                rows = gallery.rows(start, min(start + BLOCK, stop))
                features = normalise(torch.from_numpy(rows).float()).numpy()
                entities = [{"row": start + i, "feature": row} for i, row in enumerate(features)]
                client.insert(collection, entities, partition_name=name)
                bar.update(len(entities))
    client.flush(collection)


@contextlib.contextmanager
def _errors(where: str) -> Iterator[None]:
    """Turn what Milvus refuses, and a server that is not there, into one StorageError."""
    try:
        yield
    except (MilvusException, OSError) as error:
        reason = str(getattr(error, "message", "") or error) or type(error).__name__
        raise StorageError(
            f"Milvus at {where}: {reason.splitlines()[0]} What was filled in is kept; the same "
            "command goes on."
        ) from error
