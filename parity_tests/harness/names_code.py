"""Names of layers as code to paste, layers that differ by a number in one line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from parity_tests.harness.pairing import Twin
from parity_tests.harness.patterns import Pattern


def names_code(names: Mapping[str, Twin], rest: Sequence[str]) -> str:
    """`rest` are layers of the reference without a twin."""
    lines = ["names = {"]
    for ref, twin in _generalized(names).items():
        call = f'"{twin.call}"' if isinstance(twin.call, str) else twin.call
        more = "" if twin.axes is None else f", axes={twin.axes}"
        more += "" if call is None else f", call={call}"
        text = f'Twin("{twin.port}"{more})' if more else f'"{twin.port}"'
        lines.append(f'    "{ref}": {text},')
    without = dict.fromkeys(re.sub(r"\d+", "{i}", name) for name in rest)
    lines += [f"    # without a twin: {name}" for name in without]
    return "\n".join([*lines, "}"])


def _generalized(names: Mapping[str, Twin]) -> dict[str, Twin]:
    """With one pattern for all layers that differ by a number, where that says the same."""
    short: dict[str, Twin] = {}
    for ref, twin in names.items():
        numbers = re.findall(r"\d+", ref)
        general, target = (re.sub(r"\d+", "{i}", name) for name in (ref, twin.port))
        pattern = replace(twin, port=target)
        if twin.call is not None and str(twin.call) in numbers:
            pattern = replace(pattern, call="{i}")
        alike = {name: places for name in names if (places := Pattern(general).match(name))}
        if len(numbers) == 1 and all(
            names[name] == _filled(pattern, places) for name, places in alike.items()
        ):
            short[general] = pattern
        else:
            short[ref] = twin
    return short


def _filled(pattern: Twin, places: Mapping[str, str]) -> Twin | None:
    try:
        return pattern.filled(places)
    except KeyError:
        return None
