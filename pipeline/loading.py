"""One model is loaded at a time, whatever the threads."""

import threading

LOADING = threading.RLock()
"""Held while a model's library is imported and the model loaded.

transformers fills its namespace as names are asked for; of two threads that import from it at the
same time (open_clip does too), one can find a name missing.
"""
