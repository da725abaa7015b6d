"""What all sections of a configuration are, and the values that several of them take."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

LARGEST_SEED = 2**32 - 1

Precision = Literal["auto", "float32", "float16", "bfloat16"]


class Section(BaseModel):
    """Part of a configuration: a field that it does not know, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)
