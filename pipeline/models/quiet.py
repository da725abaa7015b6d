"""Keeps transformers from talking to the user."""


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
