"""The folder in which what was fetched or made once is kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where downloads are kept: `JAX_ATTN_CACHE`, else the platform's cache folder."""
    given = os.environ.get("JAX_ATTN_CACHE")
    if given:
        return Path(given)
    try:
        import platformdirs
    except ModuleNotFoundError:  # what it would say on Linux
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return Path(base) / "jax_attn"
    return Path(platformdirs.user_cache_dir("jax_attn"))
