"""Decoding from a cache against the full forward pass, position by position, and padding."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray

from parity_tests.harness.budgets import SEMANTIC
from parity_tests.harness.compare import rms
from parity_tests.harness.tensors import to_numpy

Full = Callable[[Any, Any], Any]  # tokens [B T], mask [B T] -> logits [B T V]
# Tokens [B n] that come next, the mask [B T] of all so far, the cache (None at first) -> logits
# [B n V], or [B V] of the last one alone, and the cache.
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Finding:
    """Two runs that should give the same logits, and where they do not."""

    what: str  # "cached decoding after a prompt of 3 differs from the full forward"
    position: int  # of the first token whose logits differ, counted without padding
    relative: float  # the largest difference of a position, in rms, to the logits there

    def __str__(self) -> str:
        return f"{self.what} from position {self.position} on: by {self.relative:.1e} (relative)"


@dataclass(frozen=True)
class DecodingReport:
    findings: tuple[Finding, ...]
    compared: tuple[str, ...]  # what was tried, the limits of it included
    not_compared: tuple[str, ...]  # with the reason

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def verdict(self) -> str:
        """One line: the first difference, or what agrees."""
        return str(self.findings[0]) if self.findings else f"same: {'; '.join(self.compared)}"

    def __str__(self) -> str:
        lines = [self.verdict, *(f"  also: {finding}" for finding in self.findings[1:])]
        if self.findings:
            lines.append(f"  compared: {'; '.join(self.compared)}")
        return "\n".join([*lines, *(f"  not compared: {text}" for text in self.not_compared)])


def compare_decoding(
    full: Full,
    step: Step,
    tokens: Any,
    *,
    reference: Full | None = None,
    prompts: Sequence[int] = (1, 3),
    padding: int = 3,
    pad_token: int = 0,
) -> DecodingReport:
    """Whether one model decodes from its cache what its full forward pass says, padded or not.

    `full(tokens, mask) -> logits` takes [B T] and gives [B T V]; the mask is False on padding.
    `step(tokens, mask, cache) -> (logits, cache)` takes the [B n] tokens that come next, the mask
    of all so far, and its own cache, None at first: a prompt, then one token at a time. Where a
    port has two functions: `lambda t, m, c: prefill(t, m) if c is None else decode(t[:, 0], c)`.
    Both get JAX arrays; `transformers_decoding` makes them of a transformers model. `reference` is
    a full forward pass in torch, which gets tensors.

    `tokens`: [B T] integers; T must reach beyond a sliding window for its faults to show. One run
    from the cache for each of `prompts`, a length. Then with every other row (all, if B is 1)
    shifted by `padding` places, left and, in the full forward, right; 0 leaves that out. Padding
    holds `pad_token`. Both sides must be float64 and causal.

    ValueError for logits in less than float64, and for tokens too short for prompt and padding.
    """
    tokens = np.asarray(to_numpy(tokens))
    _check(tokens, prompts, padding)
    rows, length = tokens.shape
    findings, compared, not_compared = [], [], []
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), torch.no_grad():
        mask = np.ones(tokens.shape, bool)
        expected = _logits(full(jnp.asarray(tokens), jnp.asarray(mask)))
        if expected.ndim != 3 or expected.shape[:2] != tokens.shape:
            raise ValueError(
                f"`full` gives {expected.shape} for tokens {tokens.shape}, not [B T V]"
            )
        if reference is None:
            not_compared.append("the full forward with the reference's (no `reference`)")
        else:
            of_reference = _logits(reference(torch.from_numpy(tokens), torch.from_numpy(mask)))
            if of_reference.shape != expected.shape:
                shapes = f"{of_reference.shape} in the reference, {expected.shape} in the port"
                raise ValueError(f"logits are {shapes}")
            found = _differ(of_reference, expected, mask)
            compared.append("the full forward with the reference's")
            findings += _finding(found, "the port's full forward differs from the reference's")
        for prompt in prompts:
            decoded = _decoded(step, tokens, mask, prompt)
            after = f"cached decoding after a prompt of {prompt}"
            findings += _finding(
                _differ(expected, decoded, mask), f"{after} differs from the full forward"
            )
        lengths = " and ".join(map(str, prompts))
        compared.append(f"cached decoding after prompts of {lengths} with the full forward")
        for side in ("left", "right") if padding else ():
            padded, visible = _padded(tokens, padding, pad_token, side)
            run = f"{side} padding of {padding}"
            logits = _logits(full(jnp.asarray(padded), jnp.asarray(visible)))
            found = _differ(_shifted(expected, visible), logits, visible)
            findings += _finding(found, f"{run} changes the logits of the full forward")
            compared.append(run)
            if side == "left":
                decoded = _decoded(step, padded, visible, padding + max(prompts))
                found = _differ(_shifted(expected, visible), decoded, visible)
                findings += _finding(found, f"{run} changes the logits of cached decoding")
        if padding:
            not_compared.append("cached decoding after right padding (no model decodes so)")
        else:
            not_compared.append("padding (`padding` is 0)")
    compared.append(f"{rows} rows, no length beyond {length}")
    return DecodingReport(tuple(findings), tuple(compared), tuple(not_compared))


def _check(tokens: NDArray[Any], prompts: Sequence[int], padding: int) -> None:
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens are integers [B T], not {tokens.dtype} {tokens.shape}")
    shortest = max(prompts) + padding + 1
    if tokens.shape[1] <= shortest:
        raise ValueError(
            f"{tokens.shape[1]} tokens a row are too few: more than {shortest} are needed for a "
            f"prompt of {max(prompts)} and a padding of {padding}"
        )


def _logits(result: Any) -> NDArray[Any]:
    logits = to_numpy(result)
    if logits.dtype != np.float64:
        raise ValueError(
            f"the logits are {logits.dtype}, in which a small fault looks like rounding: cast the "
            "model with to_float64 or .double(), or do this inside lift_float32()"
        )
    return logits


def _decoded(
    step: Step, tokens: NDArray[Any], mask: NDArray[Any], prompt: int
) -> NDArray[np.float64]:
    """Logits [B T V] from the cache; NaN where only the last one of the prompt is given."""
    cache, parts, starts = None, [], [0, *range(prompt, tokens.shape[1])]
    for start, stop in zip(starts, [*starts[1:], tokens.shape[1]], strict=True):
        given = (jnp.asarray(tokens[:, start:stop]), jnp.asarray(mask[:, :stop]))
        result, cache = step(*given, cache)
        logits = _logits(result)
        logits = logits[:, None] if logits.ndim == 2 else logits
        part = np.full((len(tokens), stop - start, logits.shape[-1]), np.nan)
        part[:, -logits.shape[1] :] = logits
        # A model's own NaN is a difference; what it does not give is none.
        part[:, -logits.shape[1] :][np.isnan(logits)] = np.inf
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _padded(
    tokens: NDArray[Any], padding: int, pad_token: int, side: str
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """As long as before: every other row loses its last tokens and is padded instead."""
    padded, visible = tokens.copy(), np.ones(tokens.shape, bool)
    pads = slice(0, padding) if side == "left" else slice(tokens.shape[1] - padding, None)
    visible[::2, pads] = False
    padded[~visible] = pad_token
    for row in range(0, len(tokens), 2):
        padded[row, visible[row]] = tokens[row, : tokens.shape[1] - padding]
    return padded, visible


def _shifted(logits: NDArray[Any], visible: NDArray[np.bool_]) -> NDArray[Any]:
    """The logits of rows without padding, at the places of those with it."""
    shifted = np.zeros_like(logits)
    for row, there in enumerate(visible):
        shifted[row, there] = logits[row, : there.sum()]
    return shifted


def _differ(
    expected: NDArray[Any], logits: NDArray[Any], visible: NDArray[np.bool_]
) -> tuple[int, float] | None:
    """The first position that differs, counted without padding, and by how much the worst does."""
    position_of = np.where(visible, np.cumsum(visible, axis=1) - 1, -1)
    worst, first = 0.0, None
    for position, here in _positions(position_of):
        wanted, given = expected[here], logits[here]
        asked = ~np.isnan(given)
        size = rms(wanted[asked]) or 1.0
        with np.errstate(invalid="ignore"):
            relative = rms(given[asked] - wanted[asked]) / size
        if not relative <= SEMANTIC.floor:
            first = position if first is None else first
            worst = max(worst, relative if relative == relative else np.inf)
    return None if first is None else (first, worst)


def _positions(position_of: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for position in range(int(position_of.max()) + 1):
        yield position, position_of == position


def _finding(found: tuple[int, float] | None, what: str) -> list[Finding]:
    return [] if found is None else [Finding(what, *found)]
