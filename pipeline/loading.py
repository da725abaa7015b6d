"""How models are loaded: one at a time, whatever the threads, and without running their code."""

import pickle
import threading
from typing import Any

from pipeline.errors import ModelError
from pipeline.printable import one_line

LOADING = threading.RLock()
"""Held while a model's library is imported and the model loaded.

transformers fills its namespace as names are asked for; of two threads that import from it at the
same time (open_clip does too), one can find a name missing.
"""

SAFELY: dict[str, Any] = {"trust_remote_code": False, "weights_only": True}
"""What transformers' ``from_pretrained`` is given so that loading a model runs no code: Python
files of a checkpoint are never run, pickles are read for their tensors alone."""


def tame_transformers() -> None:
    """Keep transformers from asking, telling and drawing bars on the user's terminal.

    Left alone it asks there whether a checkpoint's own code may run, wherever ``from_pretrained``
    was not told (other libraries call it so); asked no more, it refuses. What it finds worth a
    warning is either refused here or nothing that a user can act on.
    """
    from transformers import dynamic_module_utils
    from transformers.utils import logging

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def failed(what: str, error: Exception, advice: str, flag: str | None = None) -> ModelError:
    """Return the error about a model that cannot be loaded; pickles that were refused say so.

    ``flag`` is the option that would load them all the same, where there is one.
    """
    if _is_refused_pickle(error):
        trusted = f", or add {flag} if you trust where it comes from" if flag else ""
        return ModelError(
            f"{what} holds weights that can run code when they are loaded, so they were not. Use "
            f"a checkpoint as safetensors{trusted}."
        )
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return ModelError(one_line(f"{what} cannot be loaded: {said} {advice}"))


def _is_refused_pickle(error: BaseException | None) -> bool:
    """Return whether torch's restricted unpickler is behind an error; libraries wrap it."""
    while error is not None:
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
