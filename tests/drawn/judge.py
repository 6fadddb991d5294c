"""What is right, whatever was drawn."""

import itertools
import json
import math
import re
import signal
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

import jax_attn as ja
from jax_attn.runs.report import evaluation_sizes
from jax_attn.runs.run import Run
from tests.drawn.command_lines import CommandLine
from tests.drawn.process import Outcome, resume
from tests.drawn.texts import TEXTS

NEVER = ("Traceback", "Exception ignored", "Fatal Python error", "Segmentation fault", "Error in ")
MOST_LINES = 4  # of an error, a remark among them
LONG_RUN = 1000  # steps beyond which a stopped run is not taken to its end
TITLE = re.compile(r"--- sample \d+ of \d+, seed \d+ -*\n")
CURSOR = re.compile(rb"\x1b\[\?25|\x1b\[\d*[ABCDJK]|\r(?!\n)")


def faults(line: CommandLine, outcome: Outcome) -> list[str]:
    """In words; none if all is well."""
    found = []
    try:
        found += _faults(line, outcome)
    except ja.InputError as error:  # of what was to be read
        found.append(str(error))
    return found


def _faults(line: CommandLine, outcome: Outcome) -> Iterator[str]:
    if outcome.code is None:
        yield "it did not end"
        return
    words = outcome.said + outcome.err.decode("utf-8", errors="replace")
    yield from (f"{word!r} is said" for word in NEVER if word in words)
    allowed = {0, 1, 2, *(128 + n for n in outcome.signals), *(-n for n in outcome.signals)}
    if line.output == "head":
        allowed |= {128 + signal.SIGPIPE, -signal.SIGPIPE}
    if outcome.code not in allowed:
        yield f"exit code {outcome.code}"
    if line.output == "file" and line.text != "escape sequences" and CURSOR.search(outcome.out):
        yield "a file holds the movements of a cursor"
    if outcome.code == 2:
        yield from _refused(line, outcome)
    elif line.program in ("train", "resume"):
        yield from _trained(line, outcome)
    elif line.program == "generate" and outcome.code == 0 and line.output in ("pipe", "file"):
        yield from _sampled(line, outcome)
    elif line.program == "evaluate" and outcome.code == 0 and line.output in ("pipe", "file"):
        yield from _evaluated(line, outcome)


def _refused(line: CommandLine, outcome: Outcome) -> Iterator[str]:
    errors = outcome.err.decode("utf-8", errors="replace").strip().splitlines()
    if not errors:
        yield "refused without a word"
    if len(errors) > MOST_LINES:
        yield f"refused in {len(errors)} lines"
    if line.program == "train" and outcome.run.exists():
        yield "refused, and a folder is left"


def _trained(line: CommandLine, outcome: Outcome) -> Iterator[str]:
    if not outcome.run.exists():
        if outcome.code == 0 or (outcome.code == 1 and not outcome.signals):
            yield "there is no folder"
        return
    run = Run.open(outcome.run)
    if outcome.code != 0:
        if outcome.signals and run.config.steps <= LONG_RUN:
            read_once = line.way in ("pipe", "named pipe")
            again = resume(outcome.run, TEXTS[line.text] if read_once else None)
            if again.code not in (0, 1):
                yield f"it cannot be gone on with: {again.said[-300:]}{again.err.decode()[-500:]}"
            elif again.code == 0:
                yield from _whole(line, again)
        return
    yield from _whole(line, outcome)


def _whole(line: CommandLine, outcome: Outcome) -> Iterator[str]:
    """A run that says that it has come to its end."""
    run = Run.open(outcome.run)
    records = [json.loads(x) for x in run.metrics.path.read_text(encoding="utf-8").splitlines()]
    steps = [record["step"] for record in records]
    if steps != sorted(set(steps)) or steps[-1] < run.config.steps:
        yield f"records of steps {steps[:20]}, of {run.config.steps}"
    sample = (run.path / "sample.txt").read_bytes().decode("utf-8")
    if len(sample) != 1 + run.config.sample_tokens + 1:
        yield f"a sample of {len(sample) - 2} characters"
    names = {path.name for path in run.path.iterdir()}
    if not {"config.json", "tokenizer.json", "checkpoints", "sample.txt"} <= names:
        yield f"the folder holds {sorted(names)} only"
    shown = line.output in ("pipe", "file") and _shows_everything(line) and not outcome.signals
    if shown and sample.rstrip("\n") not in outcome.said:
        yield "the sample printed is not the one kept"
    if line.program != "train" or outcome.text is None:
        return
    symbols = _symbols(line)
    if symbols is not None and run.tokenizer.characters != symbols:
        yield f"symbols {run.tokenizer.characters!r} instead of {symbols!r}"
    yield from _the_models(run, line, records)


def _the_models(run: Run, line: CommandLine, records: list[dict]) -> Iterator[str]:
    """The loss that is recorded is that of the model that is kept, on this text."""
    text = _decoded(line)
    if text is None or run.config.dtype != "float32":
        return
    tokens = run.tokenizer.encode(text)
    validation = tokens[int(0.9 * len(tokens)) :]
    bound = getattr(run.config, "eval_tokens", 0) or len(validation)
    loss = ja.evaluate(
        ja.load_model(run.path),
        jnp.asarray(np.asarray(validation[:bound], np.int32)),
        **evaluation_sizes(run.config),
    )
    recorded = records[-1].get("val_loss", math.nan)
    if not math.isclose(loss, recorded, rel_tol=1e-4):
        yield f"validation loss {recorded} is recorded, {loss} is the model's"


def _sampled(line: CommandLine, outcome: Outcome) -> Iterator[str]:
    tokenizer = Run.open(outcome.run).tokenizer
    options = dict(zip(line.arguments[::2], line.arguments[1::2], strict=True))
    if not _shows_everything(line) or "--prompt-file" in options:
        return
    assert isinstance(tokenizer, ja.CharTokenizer)
    prompt = "".join(c for c in options.get("--prompt", "x") if c in tokenizer.characters)
    length, stop = int(options["--tokens"]) + len(prompt), options.get("--stop")
    n = int(options.get("--num-samples", "1"))
    text = outcome.out.decode("utf-8")
    texts = [text] if n == 1 else TITLE.split(text)[1:]
    if len(texts) != n:
        yield f"{len(texts)} samples, not {n}"
    for text in texts:
        sample = text.removesuffix("\n")
        if len(sample) != length and (stop is None or len(sample) > length):
            yield f"{len(sample)} characters, not {length}"
        if stop is not None and stop in sample[len(prompt) :]:
            yield f"it goes on after {stop!r}"
        if strange := set(sample) - set(tokenizer.characters):
            yield f"symbols that the model does not know: {strange}"


def _evaluated(line: CommandLine, outcome: Outcome) -> Iterator[str]:
    if "--json" not in line.arguments:
        return
    found = json.loads(outcome.out)
    total = found["nats_per_token"] * found["tokens"]
    if not math.isclose(total, found["bits_per_byte"] * found["bytes"] * math.log(2)):
        yield f"figures that are not of one loss: {found}"
    asked = int(dict(itertools.pairwise(line.arguments)).get("--eval-tokens", "0"))
    if asked and found["tokens"] > asked:
        yield f"{found['tokens']} tokens, not {asked}"


def _shows_everything(line: CommandLine) -> bool:
    """Whether all characters reach the output as they are."""
    return not {"PYTHONIOENCODING", "LC_ALL"} & line.environment.keys()


def _decoded(line: CommandLine) -> str | None:
    try:
        return TEXTS[line.text].decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _symbols(line: CommandLine) -> str | None:
    text = _decoded(line)
    return None if text is None else "".join(sorted(set(text)))
