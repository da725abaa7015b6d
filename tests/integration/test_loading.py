"""Models load in threads that run side by side."""

import os
import subprocess
import sys

THREADS = """
import threading
from pipeline import config
from pipeline.models import captioners, encoders, llms, verifiers

settings = config.load("demo")
together = threading.Barrier(4)
loads = (
    lambda: encoders.load(settings.clip, settings.runtime),
    lambda: captioners.load(settings.captioner, settings.runtime),
    lambda: llms.load(settings.llm, settings.runtime),
    lambda: verifiers.load(settings.verifier, settings.runtime),
)

def load(one):
    together.wait()
    one()
    print("loaded", flush=True)

threads = [threading.Thread(target=load, args=(one,)) for one in loads]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_four_threads_that_load_models_at_once_all_succeed() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(2):  # the libraries' imports are what clashes: a fresh process each time
        run = subprocess.run(
            [sys.executable, "-c", THREADS], capture_output=True, text=True, env=environment
        )
        assert run.stdout.count("loaded") == 4, run.stderr
