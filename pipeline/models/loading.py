"""How models are loaded: one at a time, whatever the threads, and without running their code."""

import contextlib
import ctypes
import pickle
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError, memory_problem
from pipeline.models import weights
from pipeline.printable import one_line
from pipeline.run import log

LOADING = threading.RLock()
"""Held while a model's library is imported and the model loaded.

transformers fills its namespace as names are asked for; of two threads that import from it at the
same time (open_clip does too), one can find a name missing.
"""

SAFELY: dict[str, Any] = {"trust_remote_code": False, "weights_only": True}
"""What transformers' ``from_pretrained`` is given so that loading a model runs no code: Python
files of a checkpoint are never run, pickles are read for their tensors alone."""


def pretrained(kind: Any, name: str, **settings: Any) -> Any:
    """Return ``kind.from_pretrained(name)``, loaded without running code, and whole.

    Raises ValueError where the weights lack a tensor: transformers would fill it with random
    numbers. Its other errors are as they come.
    """
    model, told = kind.from_pretrained(name, **settings, **SAFELY, output_loading_info=True)
    if missing := sorted(told["missing_keys"]):
        raise ValueError(
            f"its weights lack {len(missing)} of a {kind.__name__}'s, the first: {missing[0]}"
        )
    return model


TEMPLATE_TIMEOUT = 60.0
"""Seconds in which a chat template must have written one short message, on a busy machine too."""


def check_template(writer: Any, what: str, content: Any = "a") -> None:
    """Try the chat template of ``writer``, a tokenizer or processor, on one message of the user.

    Templates are programs, without any door to the machine but also without an end where their
    author wants none. Raises ModelError for one that is not there, does not end or is refused.
    """
    if writer.chat_template is None:
        raise ModelError(f"{what} has no chat template; use an instruction-tuned model.")
    problems: list[Exception] = []

    def attempt() -> None:
        messages = [{"role": "user", "content": content}]
        with contextlib.suppress(SystemExit):  # raised from outside, below
            try:
                writer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            except Exception as error:
                problems.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(TEMPLATE_TIMEOUT)
    if thread.is_alive():
        stop = ctypes.py_object(SystemExit)  # it ends at its next step, not at once
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), stop)
        said = f"did not end within {TEMPLATE_TIMEOUT:.0f} s"
    elif problems:
        error = problems[0]
        said = f"fails: {' '.join(str(error).split())[:300] or type(error).__name__}"
    else:
        return
    whose = what.replace("The ", "the ", 1)
    raise ModelError(one_line(f"The chat template of {whose} {said}. Use another checkpoint."))


LONGEST_REASON = 300
"""Characters that are shown of what a library says about a model it cannot load."""


@contextlib.contextmanager
def hub(name: str) -> Iterator[None]:
    """Load a model inside, of this name or folder; hold ``LOADING`` while doing so.

    Where the hub does not answer, only what is on this machine is used: its library would ask
    again and again for a minute or more, and say so each time.
    """
    if Path(name).exists() or weights.offline():
        yield
        return
    from huggingface_hub import constants, utils

    utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # what fails in the end is told by the error
    if (why := weights.unreachable()) is None:
        yield
        return
    log.info("Uses only models that are on this machine: %s.", why)
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def failed(
    what: str, error: Exception, advice: str, flag: str | None = None, name: str = ""
) -> ModelError:
    """Return the error about a model that cannot be loaded; pickles that were refused say so.

    ``flag`` is the option that would load them all the same, where there is one; ``name`` is the
    model's folder or hub name.
    """
    if _is_refused_pickle(error):
        trusted = f", or add {flag} if you trust where it comes from" if flag else ""
        return ModelError(
            f"{what} holds weights that can run code when they are loaded, so they were not. Use "
            f"a checkpoint as safetensors{trusted}."
        )
    if memory_problem(error):
        return ModelError(
            f"{what} does not fit into the memory that is free. Give a smaller model, or end what "
            "else uses memory; then run the same command again."
        )
    from huggingface_hub import constants

    reason = _hub_problem(error)
    if reason is None and name and constants.HF_HUB_OFFLINE and not Path(name).exists():
        reason = _not_here()  # transformers does not always say what is behind its error
    reason = reason or sentences(str(error)) or f"{type(error).__name__}."
    return ModelError(one_line(f"{what} cannot be loaded: {reason} {advice}"))


def sentences(text: str, longest: int = LONGEST_REASON) -> str:
    """Return the beginning of a text on one line, cut between words, ending as a sentence does."""
    short = textwrap.shorten(text, longest, placeholder=" …")
    return short if not short or short.endswith((".", "!", "?", "…")) else f"{short}."


def _hub_problem(error: BaseException) -> str | None:
    """Return why the hub did not give a model, where that is behind an error; libraries wrap it."""
    from huggingface_hub import errors

    said: list[tuple[type[Exception], str]] = [
        (errors.OfflineModeIsEnabled, _not_here()),
        (errors.LocalEntryNotFoundError, _not_here()),
        (errors.GatedRepoError, "The hub gives it only to those who agreed to its terms: do so on "
         "its page there, then run `hf auth login`."),
        (errors.RepositoryNotFoundError, "The hub has no model of this name, or shows it only "
         "after `hf auth login`."),
        (errors.RevisionNotFoundError, "The hub has no such revision of it."),
    ]  # fmt: skip
    cause: BaseException | None = error
    while cause is not None:
        for kind, reason in said:
            if isinstance(cause, kind):
                return reason
        cause = cause.__cause__ or cause.__context__
    return None


def _not_here() -> str:
    if variable := weights.offline():
        return f"It is not on this machine, and {variable} forbids to ask the hub for it."
    why = weights.unreachable() or "the hub could not be reached"
    return (
        f"It is not on this machine, and {why}. Without a network, fetch it elsewhere with `hf "
        "download` and give its local folder; HF_HUB_OFFLINE=1 then keeps from asking."
    )


def _is_refused_pickle(error: BaseException | None) -> bool:
    """Return whether torch's restricted unpickler is behind an error; libraries wrap it."""
    while error is not None:
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
