"""A model from elsewhere as a run, to be sampled from, and trained by its command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from jax_attn.data.file_bytes import shown
from jax_attn.interop.model_record import model_record
from jax_attn.models.gpt import GPT
from jax_attn.runs.commands import generate_command, resume_command
from jax_attn.runs.device_choices import choose_for_device
from jax_attn.runs.presets import PRESETS
from jax_attn.runs.run import NO_TEXT, Run, versions_in_use
from jax_attn.runs.source import Source
from jax_attn.runs.start import save_start, shape_of, source_record

SETTINGS = {"gpt": "mini", "head": "head", "bigram": "bigram"}  # presets for what is no run


def export_run(source: Source, path: Path) -> Iterator[str]:
    """A run of no steps yet, whose only checkpoint has the source's weights and a fresh optimizer.

    It has the settings of the run that the source is, or of the preset of its kind; which text is
    trained on is said when it goes on, unless the source says it. Lines about it. InputError where
    something is at `path`, and for a source without a tokenizer.
    """
    tokenizer = source.require_tokenizer()
    record = model_record(source.model)
    config = source.config or PRESETS[SETTINGS[record["kind"]]][1]
    config, _ = choose_for_device(config, None, None)
    dropout_rate = source.model.config.dropout_rate if isinstance(source.model, GPT) else 0.0
    config = dataclasses.replace(
        config,
        model=shape_of(source, dropout_rate),
        block_size=record.get("block_size", config.block_size),
    )
    run = Run(
        path,
        config,
        tokenizer,
        source.corpus or NO_TEXT,
        versions_in_use(),
        started_from=source_record(source),
    )
    run.make()
    save_start(run, source.model)
    yield f"wrote {shown(path)}: a run of no steps yet, {config.steps:,} to make"
    yield f"sample from it with: {generate_command(path)}"
    text = "" if source.corpus else " --data PATH"
    yield f"train it with: {resume_command(path)}{text}"
