"""The proof that the JAX port is the same function as the torch reference, and its harness."""

import sys
from importlib.util import find_spec

if sys.argv[:1] == ["-m"]:  # this package itself is being run, and is a program
    missing = [name for name in ("torch", "transformers", "pytest") if find_spec(name) is None]
    if missing:
        print(
            f"parity_tests: error: not installed: {', '.join(missing)}; pip install -e '.[test]'",
            file=sys.stderr,
        )
        sys.exit(2)

try:
    import torch  # noqa: F401
except ImportError:
    raise ImportError(
        "parity_tests needs PyTorch, which is not installed: pip install -e '.[test]'"
    ) from None

from parity_tests.harness.bridge import Bridge, BridgeError, Rule
from parity_tests.harness.budgets import BUDGETS, Budget
from parity_tests.harness.compare import (
    Report,
    assert_parity,
    bit_identical_after_rounding,
    compare,
)
from parity_tests.harness.decoding import DecodingReport, compare_decoding
from parity_tests.harness.draft import Draft, draft_rules
from parity_tests.harness.float64 import to_float64
from parity_tests.harness.islands import float32_islands
from parity_tests.harness.layouts import (
    CONV1D,
    CONV2D,
    CONV3D,
    CONV_TRANSPOSE1D,
    CONV_TRANSPOSE2D,
    CONV_TRANSPOSE3D,
    LINEAR,
    flip_groups,
    trailing_ones,
)
from parity_tests.harness.lift import lift_float32
from parity_tests.harness.locate import locate
from parity_tests.harness.location import Location
from parity_tests.harness.maps import (
    Map,
    add,
    chain,
    constant,
    flip,
    heads,
    inverse,
    merge,
    permute_rows,
    plus_constant,
    split,
    weight_norm,
)
from parity_tests.harness.pairing import Twin
from parity_tests.harness.probe import probe
from parity_tests.harness.rules_for import NoCounterpart, rules_for
from parity_tests.harness.state import compare_state
from parity_tests.harness.state_report import StateReport
from parity_tests.harness.taps import layers, tap
from parity_tests.harness.trace import trace
from parity_tests.harness.transformers_decoding import transformers_decoding
from parity_tests.harness.variables import parameters, variables, with_variables

__all__ = [
    "BUDGETS",
    "CONV1D",
    "CONV2D",
    "CONV3D",
    "CONV_TRANSPOSE1D",
    "CONV_TRANSPOSE2D",
    "CONV_TRANSPOSE3D",
    "LINEAR",
    "Bridge",
    "BridgeError",
    "Budget",
    "DecodingReport",
    "Draft",
    "Location",
    "Map",
    "NoCounterpart",
    "Report",
    "Rule",
    "StateReport",
    "Twin",
    "add",
    "assert_parity",
    "bit_identical_after_rounding",
    "chain",
    "compare",
    "compare_decoding",
    "compare_state",
    "constant",
    "draft_rules",
    "flip",
    "flip_groups",
    "float32_islands",
    "heads",
    "inverse",
    "layers",
    "lift_float32",
    "locate",
    "merge",
    "parameters",
    "permute_rows",
    "plus_constant",
    "probe",
    "rules_for",
    "split",
    "tap",
    "to_float64",
    "trace",
    "trailing_ones",
    "transformers_decoding",
    "variables",
    "weight_norm",
    "with_variables",
]
