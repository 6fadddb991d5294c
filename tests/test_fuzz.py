"""Files and command lines at random: understood, or refused in one line. Nothing else, ever."""

import json
import shutil

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jax_attn as ja
from jax_attn.data import load_tokenizer, make_tokenizer
from jax_attn.runs import checksums
from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.run import Run
from tests.drawn.__main__ import drawn
from tests.everyday.texts import text_of
from tests.test_checkpoint import CONFIG, CORPUS, save, state_at

pytestmark = pytest.mark.usefixtures("unchecked")  # as users run it
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
often = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
seldom = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def understood(call):
    """What `call` gives, or None for an InputError of one line."""
    try:
        return call()
    except ja.InputError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@often
@given(st.binary(max_size=200) | st.text(st.characters(codec="utf-8"), min_size=1).map(str.encode))
def test_a_corpus_is_its_text_or_refused(folder, content):
    path = folder / "text.txt"
    path.write_bytes(content)
    corpus = understood(lambda: ja.load_corpus(str(path), print))
    text = content.decode("utf-8", "replace").lstrip("\ufeff")
    if corpus is None:
        bad = any(not c.isprintable() for c in text)  # of other kinds, in other encodings
        assert bad or not text or "\ufffd" in text
    else:
        assert text_of(corpus) == text
        assert text.encode() in content


@often
@given(
    st.binary(max_size=100)
    | JSON.map(json.dumps).map(str.encode)
    | st.dictionaries(st.just("characters"), JSON).map(json.dumps).map(str.encode)
)
def test_a_tokenizer_is_read_or_refused(folder, content):
    path = folder / "tokenizer.json"
    path.write_bytes(content)
    tokenizer = understood(lambda: load_tokenizer(path))
    if isinstance(tokenizer, ja.CharTokenizer):
        text = tokenizer.characters
        assert tokenizer.decode(tokenizer.encode(text)) == text


BPE = make_tokenizer("bpe:260", lambda: ["aa aa bb bb"]).record()
# The 256 bytes are all alike.
SMALL = BPE | {"model": BPE["model"] | {"vocab": {"a": 0, "b": 1, "aa": 2, "Ġ": 3}}}


@often
@given(st.data())
def test_a_tokenizer_of_the_library_is_read_or_refused(folder, data):
    """One value replaced or removed; what is read gives ids that it knows, and writes itself."""
    record = json.loads(json.dumps(SMALL))
    where = data.draw(st.sampled_from(list(places(record))))
    inner = record
    for name in where[:-1]:
        inner = inner[name]
    if data.draw(st.booleans()):
        inner[where[-1]] = data.draw(JSON | st.integers(0, 2**33))
    else:
        del inner[where[-1]]
    (folder / "tokenizer.json").write_text(json.dumps(record))
    tokenizer = understood(lambda: load_tokenizer(folder / "tokenizer.json"))
    ids = None if tokenizer is None else understood(lambda: tokenizer.encode("a b ba aa"))
    if ids is not None:
        assert tokenizer.known[ids].all()
        assert isinstance(tokenizer.decode(ids, "replace"), str)
        tokenizer.save(folder / "tokenizer.json")
        assert load_tokenizer(folder / "tokenizer.json").record() == tokenizer.record()


def places(value, path=()):
    """Every place in a JSON object."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from places(inner, (*path, name))


@pytest.fixture(scope="module")
def run(folder):
    made = Run.create(folder / "run", CONFIG, CORPUS)
    save(made, 3, 6)
    return made


@often
@given(st.data())
def test_a_configuration_is_read_or_refused(run, folder, data):
    """One value replaced, removed, or bytes changed; what is read is valid and writes itself."""
    copy = folder / "configured"
    copy.mkdir(exist_ok=True)
    shutil.copy(run.path / "tokenizer.json", copy)
    record = json.loads((run.path / "config.json").read_text())
    where = data.draw(st.sampled_from(list(places(record))))
    inner = record
    for name in where[:-1]:
        inner = inner[name]
    if data.draw(st.booleans()):
        inner[where[-1]] = data.draw(JSON)
    else:
        del inner[where[-1]]
    content = bytearray(json.dumps(record).encode())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (copy / "config.json").write_bytes(content)
    read = understood(lambda: Run.open(copy))
    if read is not None:
        assert ja.TrainConfig.from_dict(json.loads(json.dumps(read.config.to_dict())))
        understood(lambda: run.require_same(read))


def spoil(data, files):
    """Changes one file in one of the ways in which files go bad."""
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["bit", "cut", "grow", "remove", "swap", "rename"]))
    if kind == "bit" and content:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
    elif kind == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    elif kind == "grow":
        path.write_bytes(content + data.draw(st.binary(min_size=1, max_size=9)))
    elif kind == "remove":
        path.unlink()
    elif kind == "swap":
        other = data.draw(st.sampled_from(files))
        taken = other.read_bytes()
        other.write_bytes(content)
        path.write_bytes(taken)
    else:
        path.rename(path.with_name(path.name + "x"))


def content_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@seldom
@given(st.data())
def test_a_spoilt_checkpoint_is_the_same_or_passed_over(run, folder, data):
    """Three things at once happen to checkpoint 6: its bits come back, or those of 3."""
    newest = run.checkpoints_path / "6"
    whole = content_of(newest)
    shutil.copytree(newest, folder / "whole")
    try:
        for _ in range(data.draw(st.integers(1, 3))):
            spoil(data, sorted(p for p in newest.rglob("*") if p.is_file()))
        spoilt = content_of(newest)
        lists = {p for p in (*whole, *spoilt) if p.name == checksums.CHECKSUMS}
        changed = {p for p in {*whole, *spoilt} - lists if whole.get(p) != spoilt.get(p)}
        fault = checksums.fault(newest)
        assert fault is not None or not changed
        said = []
        checkpoints = Checkpoints(run, said.append)
        state = checkpoints.restore(run.shapes())
        checkpoints.close()
        expected = state_at(run, 6 if fault is None else 3)
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)
        assert len(said) == (fault is not None)
    finally:
        shutil.rmtree(newest)
        (folder / "whole").rename(newest)


@often
@given(st.lists(st.binary(max_size=30) | JSON.map(json.dumps).map(str.encode), max_size=5))
def test_metrics_are_cut_to_whole_records(run, lines):
    """Whatever lines stand in the file; a good one among them stays."""
    good = b'{"step": 2, "train_loss": 1.0}\n'
    run.metrics.path.write_bytes(b"".join(line + b"\n" for line in lines) + b"\n" + good + b"torn")
    assert run.metrics.cut(3) == json.loads(good)
    kept = run.metrics.path.read_bytes().splitlines(keepends=True)
    assert kept[-1] == good
    assert all(json.loads(line)["step"] <= 3 for line in kept)


def test_a_file_that_claims_to_be_endless_is_not_read(run, folder):
    """A sparse file of a terabyte in the place of a configuration."""
    copy = folder / "endless"
    copy.mkdir()
    with (copy / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ja.InputError, match="larger than 67,108,864 bytes"):
        Run.open(copy)


def test_whole_command_lines(tmp_path):
    """For a minute, always the same; `python -m tests.drawn --minutes 10` draws others."""
    for line, outcome, found in drawn(seed=1, seconds=60, place=tmp_path):
        errors = outcome.err.decode("utf-8", errors="replace")[-3000:]
        assert not found, f"{line}\nexit code {outcome.code}: {found}\n{errors}"
