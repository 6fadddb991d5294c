import contextlib
import os
import subprocess
import sys
import time

import jax
import pytest

from jax_attn.compiling.program_cache import UNFINISHED_AFTER_S, keep_programs, remove_unfinished

SCRIPT = """
import sys
from pathlib import Path
import jax
from jax_attn.compiling import program_cache
program_cache.keep_programs(Path(sys.argv[1]))
print(jax.config.jax_compilation_cache_dir)
jax.jit(lambda x: x * 3)(2.0)
"""


def start(folder, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    run = subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, check=True
    )
    assert "compilation cache" not in run.stderr
    return run.stdout.strip()


def test_what_one_process_compiles_is_there_for_the_next(tmp_path):
    folder = tmp_path / "new" / "programs"
    assert start(folder) == str(folder)
    programs = {p.name: p.read_bytes() for p in folder.glob("*-cache")}
    assert programs
    start(folder)
    assert {p.name: p.read_bytes() for p in folder.glob("*-cache")} == programs
    for name, program in programs.items():  # as a run leaves them that is killed in writing
        (folder / name).write_bytes(program[: len(program) // 2])
    start(folder)


def test_the_folder_that_the_user_has_named_to_jax_is_used(tmp_path):
    named = tmp_path / "named"
    assert start(tmp_path / "ours", JAX_COMPILATION_CACHE_DIR=str(named)) == str(named)
    assert not (tmp_path / "ours").exists()


@contextlib.contextmanager
def jaxs_folder(folder):
    """What JAX has been told, in this process."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", folder)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    with jaxs_folder(None):
        keep_programs(tmp_path / "file" / "programs")
        assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize(("age", "gone"), [(2 * UNFINISHED_AFTER_S, True), (0.0, False)])
def test_half_a_program_is_removed_when_nobody_can_be_writing_it(tmp_path, age, gone):
    whole, half = tmp_path / "a-cache", tmp_path / "b-cache"
    for path in (whole, half):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age,) * 2)
    (tmp_path / "a-atime").write_bytes(b"x")
    remove_unfinished(tmp_path)
    assert whole.exists()
    assert half.exists() is not gone


def test_keeping_twice_changes_nothing(tmp_path):
    with jaxs_folder(str(tmp_path / "first")):
        keep_programs(tmp_path / "other")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "first")
    assert not (tmp_path / "other").exists()
