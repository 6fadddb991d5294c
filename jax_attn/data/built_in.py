"""The texts that need no path: the lecture's corpus, and one that every Python carries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from jax_attn.data.cache import cache_dir
from jax_attn.errors import InputError

# Notebook address of the lecture's corpus: 1,115,394 characters, 65 symbols.
TINYSHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
BUILT_IN = ("tinyshakespeare", "python-docs")
DOWNLOAD_TIMEOUT_S = 10


def tinyshakespeare(fetch: bool, warn: Callable[[str], None]) -> Path | None:
    """Path of the checked copy, fetched where there is none and `fetch` is True.

    Where that cannot be, None, and `warn` gets a line that says what takes its place.
    """
    try:
        return _fetched(fetch)
    except (OSError, ModuleNotFoundError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        reason = f"{error.name} is not installed" if missing else type(error).__name__
        warn(
            f"tinyshakespeare is neither in {cache_dir()} nor to be fetched ({reason}); "
            "going on with --data python-docs"
        )
        return None


def python_docs() -> str:
    """The help texts of the standard library."""
    try:
        from pydoc_data import topics
    except ImportError as error:
        raise InputError(
            "this Python carries no pydoc_data; give a text of your own with --data PATH"
        ) from error
    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def _fetched(fetch: bool) -> Path:
    """OSError when there is no copy and none can be fetched.

    ModuleNotFoundError where the downloader is not installed.
    """
    path = cache_dir() / "tinyshakespeare.txt"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == TINYSHAKESPEARE_SHA256:
        return path  # spares the half second that importing the downloader takes
    if not fetch:
        raise FileNotFoundError(path)
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    try:
        fetched = pooch.retrieve(
            TINYSHAKESPEARE_URL,
            known_hash=f"sha256:{TINYSHAKESPEARE_SHA256}",
            fname=path.name,
            path=path.parent,
            # pooch's own annotation leaves its downloader out of its Downloader protocol.
            downloader=pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT_S),  # pyright: ignore[reportArgumentType]
        )
    except ValueError as error:  # what arrived has another hash
        raise OSError(str(error)) from error
    return Path(fetched)
