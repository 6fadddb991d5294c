"""A pytest plugin: each worker of a test run has processor cores and compiled programs of its own.

Most of the suite's time is compilation, and most programs are compiled by several tests or runs of
train.py. Each worker has a folder of its own: JAX does not write its entries in one step, and one
worker could read what another is still writing. And each has its own cores: several processes, of
which each starts a thread for every core, wait for one another more than they work.
"""

import os
import shutil
import sys
import tempfile

FOLDER = "JAX_COMPILATION_CACHE_DIR"
SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def pytest_configure(config):
    """The process that starts the workers makes the folder; they inherit its environment."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        if FOLDER not in os.environ:
            folder = tempfile.mkdtemp(prefix="jax-attn-programs-")
            os.environ.update(SETTINGS, **{FOLDER: folder})
            config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        return
    keep_to_own_cores(int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ[FOLDER] = os.path.join(os.environ[FOLDER], worker)
    if "jax" in sys.modules:  # it has read its environment already
        sys.modules["jax"].config.update("jax_compilation_cache_dir", os.environ[FOLDER])


def pytest_collection_modifyitems(items):
    """Files of short tests last: no worker is left with a long file when the others are done."""
    items.sort(key=lambda item: "everyday" in item.path.parts)


def keep_to_own_cores(worker: int, workers: int) -> None:
    """Before torch and JAX start their threads; what a test starts keeps to them, too."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[worker::workers] or {cores[worker % len(cores)]})
