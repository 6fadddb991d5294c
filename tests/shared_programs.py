"""A pytest plugin: each worker of a test run keeps the programs that it has compiled.

Most of the suite's time is compilation, and most programs are compiled by several tests or runs of
train.py. Each worker has a folder of its own: JAX does not write its entries in one step, and one
worker could read what another is still writing.
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
    os.environ[FOLDER] = os.path.join(os.environ[FOLDER], worker)
    if "jax" in sys.modules:  # it has read its environment already
        sys.modules["jax"].config.update("jax_compilation_cache_dir", os.environ[FOLDER])
