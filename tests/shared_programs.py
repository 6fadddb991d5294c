"""A pytest plugin: every process of one test run shares one cache of compiled programs.

Most of the suite's time is compilation, and most programs are compiled by several tests, workers
or runs of train.py.
"""

import os
import shutil
import tempfile

SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def pytest_configure(config):
    """In the process that starts the workers, before JAX is imported: they inherit the settings."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="jax-attn-programs-")
    os.environ.update(SETTINGS, JAX_COMPILATION_CACHE_DIR=folder)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
