"""The folder of a run: what is in it, and how its state is saved and restored (Orbax).

Orbax is imported when a checkpoint is touched, not before: it takes a second.
"""
from __future__ import annotations
from pathlib import Path


def load_model(run_dir):
    raise NotImplementedError
