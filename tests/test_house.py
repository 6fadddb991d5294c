"""Rules of the house: who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jax_attn

ROOT = Path(__file__).parent.parent


# jax_attn's wings, from the ground up. A file imports from its own wing and from those above it in
# this table; `__main__.py`, a door to the street, from all.
WINGS = (
    ("", "configurations, domains, errors, the console: the files beside the wings"),
    ("data", "corpora and tokenizers"),
    ("nn.ops", "how a platform computes what the layers say"),
    ("nn", "building blocks"),
    ("models", "the lecture's models"),
    ("compiling", "what is about XLA"),
    ("training", "a step, batches, evaluation, the optimizer"),
    ("evaluate", "the loss on a text, in all its units"),
    ("generate", "sampling"),
    ("interop", "weights of others"),
    ("torch_replay", "torch's random streams"),
    ("lecture", "the notebooks' numbers"),
    ("runs", "a run's folder from beginning to end"),
)
ORDER = [name for name, _ in WINGS]


def imports(path):
    """Line and full name of every module that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            # `from package import module` imports the module.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imported(path):
    return {name.split(".")[0] for _, name in imports(path)}


def wing(name):
    """Of a module of jax_attn; its own files are in the wing ""."""
    inside = f"{name.removeprefix('jax_attn').removeprefix('.')}."
    return max((own for own in ORDER if own and inside.startswith(f"{own}.")), key=len, default="")


def upward_imports(root):
    """A line for every import from a wing further down the table, and for every unknown wing."""
    for path in sorted((root / "jax_attn").rglob("*.py")):
        inside = path.relative_to(root)
        if path.name == "__main__.py" or inside == Path("jax_attn/__init__.py"):
            continue
        own = ".".join(inside.parts[1:-1])
        if own not in ORDER:
            yield f"{inside}: {own} is not in the table of wings"
            continue
        for line, name in imports(path):
            if name.split(".")[0] == "jax_attn" and ORDER.index(wing(name)) > ORDER.index(own):
                yield f"{inside}:{line}: {own or 'a file beside the wings'} imports {name}"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("jax_attn", {"torch", "torch_ref", "parity_tests"}),
        ("torch_ref", {"jax", "flax", "optax", "jax_attn", "parity_tests"}),
    ],
)
def test_who_never_imports_whom(package, forbidden):
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    for path in files:
        assert not forbidden & imported(path), path


def test_no_wing_imports_a_higher_one():
    assert list(upward_imports(ROOT)) == []


def test_an_import_upwards_is_named(tmp_path):
    house = {
        "config.py": "from jax_attn import errors\nfrom jax_attn.nn import layers",
        "nn/layers.py": "import jax\nfrom jax_attn import config\n\nimport jax_attn.runs.run",
        "nn/loss.py": "from jax_attn.nn.ops.products import matmul",
        "nn/ops/products.py": "from jax_attn.nn import layers\nfrom jax_attn.nn.ops import look_up",
        "runs/run.py": "from jax_attn.nn.layers import linear",
        "generate/__main__.py": "from jax_attn.runs import run",
        "attic/old.py": "",
    }
    for name, text in house.items():
        path = tmp_path / "jax_attn" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert set(upward_imports(tmp_path)) == {
        "jax_attn/attic/old.py: attic is not in the table of wings",
        "jax_attn/config.py:2: a file beside the wings imports jax_attn.nn",
        "jax_attn/config.py:2: a file beside the wings imports jax_attn.nn.layers",
        "jax_attn/nn/layers.py:4: nn imports jax_attn.runs.run",
        "jax_attn/nn/ops/products.py:1: nn.ops imports jax_attn.nn",
        "jax_attn/nn/ops/products.py:1: nn.ops imports jax_attn.nn.layers",
    }


def test_the_harness_is_a_library():
    """It knows nothing of the models that the suite checks with it, nor of the suite."""
    files = list((ROOT / "parity_tests" / "harness").rglob("*.py"))
    assert len(files) > 5
    for path in files:
        for line, name in imports(path):
            own = name.startswith("parity_tests") and not name.startswith("parity_tests.harness")
            assert not own, f"{path}:{line}"
            assert name.split(".")[0] not in ("jax_attn", "torch_ref"), f"{path}:{line}"


def test_importing_the_package_is_light():
    """Neither torch nor what only checkpoints, pictures, downloads and the command line need."""
    heavy = ("torch", "orbax", "tensorstore", "matplotlib", "pooch", "tyro", "transformers")
    code = f"import jax_attn, sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_configurations_are_jax_free():
    path = ROOT / "jax_attn" / "config.py"
    assert not {"jax", "flax", "optax"} & imported(path)


def test_the_package_shows_what_is_public():
    shown = set(dir(jax_attn))
    assert set(jax_attn.__all__) <= shown
    assert not [name for name in shown if name.startswith("_") or not hasattr(jax_attn, name)]
    documents = "".join(p.read_text(encoding="utf-8") for p in ROOT.rglob("README.md"))
    for name in shown - set(jax_attn.__all__):
        assert f"jax_attn.{name}" in documents or f"`{name}/`" in documents
