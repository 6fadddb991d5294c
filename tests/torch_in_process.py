"""torch's files read and written in the tests' own process, which has torch: a process of its own
takes seconds. That it does the same is tests/test_torch_files.py's."""

import contextlib

import torch_ref.files
from jax_attn.data.file_bytes import shown
from jax_attn.errors import InputError
from jax_attn.interop import torch_file


def run(task, source, target, *, reading):
    try:
        {"read": torch_ref.files.read, "write": torch_ref.files.write}[task](source, target)
    except torch_ref.files.NoStateDict as error:
        raise InputError(f"{shown(reading)}: {error}") from error
    except MemoryError as error:  # of a size that nothing bounds here
        raise InputError(f"{shown(reading)}: memory") from error


@contextlib.contextmanager
def torch_in_process(patch):
    with patch.context() as here:
        here.setattr(torch_file, "_run", run)
        yield
