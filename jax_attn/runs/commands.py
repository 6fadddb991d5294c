"""Commands that a run prints: as they stand, they can be pasted into a shell and work there."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "train.py"


def resume_command(run: Path) -> str:
    """Goes on with a run."""
    return f"python {quoted(_from_here(SCRIPT))} --resume {quoted(run)}"


def generate_command(run: Path) -> str:
    """Samples from a run."""
    return f"python -m jax_attn.generate {quoted(run)}"


def quoted(path: Path) -> str:
    """A path as one word of a command line, and none that looks like a flag."""
    word = os.path.join(os.curdir, path) if str(path).startswith("-") else str(path)
    return subprocess.list2cmdline([word]) if os.name == "nt" else shlex.quote(word)


def _from_here(script: Path) -> Path:
    """The short name, where it is in the working folder or an installation has none."""
    if not script.exists() or script.parent == Path.cwd():
        return Path(script.name)
    return script
