"""Two calls that stand for one another: which of their arrays are the same, and in what layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from parity_tests.harness.arguments import Arguments
from parity_tests.harness.calls import Key
from parity_tests.harness.pairing import Pair, Which
from parity_tests.harness.results import Results


@dataclass(frozen=True, eq=False)
class Likeness:
    """A pair of calls with what corresponds in them."""

    pair: Pair
    arguments: Arguments
    results: Results

    @classmethod
    def of(cls, pair: Pair, part: Which) -> "Likeness":
        """`part` of both results is compared, all of them if None."""
        return cls(pair, Arguments.of(pair), Results.of(pair, part))

    @property
    def name(self) -> str:
        return self.pair.call.name

    @property
    def label(self) -> str:
        return self.pair.call.label

    @property
    def is_tap(self) -> bool:
        """Whether the port has a tap there, which has no inputs."""
        return self.pair.port_call.layer is None

    @property
    def key(self) -> Key:
        return self.pair.call.name, self.pair.call.count

    @property
    def port_key(self) -> Key:
        return self.pair.port_call.name, self.pair.port_call.count

    def left_out(self) -> Iterator[str]:
        """A sentence for what of the results is compared with nothing."""
        if not self.arguments.all_reached:
            yield f"{self.label}: gradients of inputs of which the adapter makes no real array"
        matching = self.results.matching
        for whose, left, outputs in (
            ("the reference", matching.ref_left, self.results.ref),
            ("the port", matching.port_left, self.results.port),
        ):
            if left:
                what = ", ".join(_described(*outputs[i]) for i in left)
                yield f"{self.label}: of its results {what}, which only {whose} has"

    def doubt(self) -> str:
        """Why the port's layer is not known to get what the reference's does; "" if it is."""
        matching = self.arguments.matching
        if self.pair.twin.inputs is not None or matching.sure or not self.name:
            return ""
        unsure = [m.port for m in matching.matches if not m.sure]
        found = [self.arguments.port[i] for i in (*matching.port_left, *unsure)]
        what = ", ".join(_described(*named) for named in found)
        return f"its {what} in the port is not known to be the reference's; see Twin(inputs=...)"


def _described(name: str, array: Any) -> str:
    shape = "×".join(map(str, array.shape)) or "scalar"
    named = "" if not name or name.replace(".", "").isdigit() else f"{name} "
    return f"{named}[{shape}] {array.dtype}"
