"""What may have been meant by a path where there is nothing."""

from __future__ import annotations

import difflib
import itertools
import os
from pathlib import Path

MOST_NAMES = 10_000  # of a folder, that are looked at


def nearest(path: Path) -> Path | None:
    """What is most like it, if anything is, in the last folder on its way that is there.

    So `runs/mimi/checkpoints/7` finds `runs/mini`.
    """
    try:
        while not os.path.lexists(path.parent):
            path = path.parent
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in itertools.islice(entries, MOST_NAMES)]
    except (OSError, ValueError):
        return None
    alike = difflib.get_close_matches(path.name, names, 1)
    return path.parent / alike[0] if alike and alike[0] != path.name else None
