"""What a draft's rules make of a reference's weights, proved there and back."""

from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from parity_tests.harness.bridge import Bridge
from parity_tests.harness.draft import Draft
from parity_tests.harness.rules import Rule
from parity_tests.harness.variables import variables


def filled(ref: nn.Module, port: Any, draft: Draft, *more: Rule) -> dict[str, Any]:
    """The port's arrays; there, back and gradients are proved, of the code that is printed, too."""
    names: dict[str, Any] = {"ref": ref}
    exec(compile(str(draft), "draft", "exec"), names)
    state = {name: value.numpy() for name, value in ref.state_dict().items()}
    results = []
    for rules in (draft.rules, names["rules"]):
        bridge = Bridge([*rules, *more], draft.ignore)
        values = variables(bridge.to_port(ref, port))
        back = bridge.to_reference(bridge.to_port(ref, port))
        assert back.keys() == state.keys()
        jax.tree.map(np.testing.assert_array_equal, back, state)
        # The maps are linear: <gradient, to_port(w)> = <gradient taken back, w>.
        rng = np.random.default_rng(0)
        gradients = {name: rng.normal(size=x.shape) for name, x in values.items()}
        taken_back = bridge.map_gradients(gradients)
        assert taken_back.keys() == dict(ref.named_parameters()).keys()
        terms = [g * values[name] for name, g in gradients.items()]
        theirs = sum(float(x.sum()) for x in terms)
        ours = sum(float((g * state[name]).sum()) for name, g in taken_back.items())
        # Of float32 gradients: the sum may be near zero, its terms are not.
        assert abs(ours - theirs) <= 1e-6 * sum(float(abs(x).sum()) for x in terms)
        results.append(values)
    jax.tree.map(np.testing.assert_array_equal, *results)
    return results[0]


def same(a: Any, b: torch.Tensor) -> None:
    np.testing.assert_array_equal(a, b.detach())
