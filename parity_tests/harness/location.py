"""What `locate` found: every check of every layer, and which layer is to blame."""

from dataclasses import dataclass
from typing import Literal

from parity_tests.harness.checks import Check, Direction, Mode, table
from parity_tests.harness.report import Report

# Of a float64 comparison: correct ports with float32 islands come to 5e4 to 2e6 times what is
# allowed, as far as a wrong epsilon may.
ROUNDING_RATIO = 1e7


@dataclass(frozen=True)
class Location:
    """Checks in the order of execution: of the forward pass, then of the backward pass."""

    checks: tuple[Check, ...]
    not_compared: tuple[str, ...] = ()  # a sentence for each, with the reason
    state: Report | None = None  # of buffers after the call, where a bridge has rules for any
    pairing: str = ""  # of names="auto": code to paste
    unseen: tuple[str, ...] = ()  # what these inputs and weights cannot show
    islands: tuple[str, ...] = ()  # where a float64 port that differs rounds to float32
    draws: tuple[str, ...] = ()  # where a port that differs draws random numbers

    @property
    def ok(self) -> bool:
        """Whether the models as a whole are the same function, forward and backward.

        And leave the same state. A layer inside may differ all the same: see `inside`.
        """
        return self._same_function and (self.state is None or self.state.ok)

    @property
    def _same_function(self) -> bool:
        return all(check.ok for check in self.checks if not check.name)

    @property
    def outcome(self) -> Literal["same", "state differs", "differs", "not comparable"]:
        """In one word.

        "state differs": the same function, which leaves other buffers behind. "not comparable": the
        models differ, and no layer could be held against its twin; or the port rounds to float32
        on the way and differs by no more than that may do; or it draws random numbers.
        """
        if self._same_function:
            return "same" if self.ok else "state differs"
        if self.may_be_rounding or self.draws:
            return "not comparable"
        alone = [c for c in self.checks if c.name and c.mode == "isolated" and not c.doubt]
        named = [c for c in self.checks if c.name]
        return "differs" if alone or not named else "not comparable"

    @property
    def may_be_rounding(self) -> bool:
        """Whether float32 islands alone may be what makes the models differ.

        They hide what is smaller, a wrong epsilon for one: `lift_float32` takes them away.
        """
        largest = max((c.report.ratio for c in self.checks if not c.name), default=0.0)
        return bool(self.islands) and 1.0 < largest < ROUNDING_RATIO and not self.guilty

    @property
    def guilty(self) -> tuple[Check, ...]:
        """Layers that differ on the reference's own input while every tapped layer inside agrees.

        And while all that they are inside of differs too: what a layer does in another way than the
        reference's, with the same effect on what contains it, is a layout and no fault. Nor is a
        layer guilty whose output in the run of the whole is right, which differs by no more than
        the float32 that is somewhere in the port, or of which it is not known that it was given the
        same. Those that differ in the forward pass come first; a backward pass is
        held against a layer only where the forward pass of it and of all inside is right.
        """
        forward = self._held_against("forward")
        backward = self._held_against("backward")
        wrong_forward = {check.name for check in forward}
        wrong = wrong_forward | {check.name for check in backward}
        return (
            *(c for c in forward if c.is_tap or not _any_inside(c.name, wrong_forward)),
            *(
                c
                for c in backward
                if c.name not in wrong_forward and (c.is_tap or not _any_inside(c.name, wrong))
            ),
        )

    @property
    def inside(self) -> tuple[Check, ...]:
        """Of models that are the same as a whole, the layers that are not: layouts, most likely."""
        if not self._same_function:
            return ()
        return self._failing("isolated", "forward") + self._failing("isolated", "backward")

    @property
    def first(self) -> Check | None:
        """The first guilty layer; without one, the first tap that differs; None without either."""
        return next(iter(self.guilty + self.cascaded_failures), None)

    @property
    def cascaded_failures(self) -> tuple[Check, ...]:
        """Taps that differ when each model runs on its own, in order of execution."""
        return self._failing("cascaded", "forward") + self._failing("cascaded", "backward")

    @property
    def verdict(self) -> str:
        """One line: the first guilty layer, and how far it is beyond the budget."""
        if self.ok:
            worst = max((c for c in self.checks if c.ok), key=lambda check: check.report.ratio)
            text = f"no layer differs ({len(self.checks)} checks); the nearest is {worst}"
            if self.inside:
                labels = ", ".join(dict.fromkeys(check.label for check in self.inside))
                text = (
                    f"the same function, though it differs inside, at {labels}: another layout, or "
                    "a pair that is none"
                )
        elif self._same_function and self.state is not None:
            text = f"same function, state differs: {self.state.worst}"
        elif self.draws:
            text = (
                "not comparable: the port draws random numbers (below), and the reference does "
                f"not; it differs first at {self.first}"
            )
        elif self.may_be_rounding:
            text = (
                "not comparable: the port computes in float32 in places (below), which may be all "
                f"that differs; compare inside lift_float32(). It differs first at {self.first}"
            )
        elif self.outcome == "not comparable":
            text = (
                f"not comparable: the models differ, at {self.first}, and no layer inside could be "
                "held against its twin"
            )
        elif self.guilty:
            text = f"first guilty layer: {self.guilty[0]}"
        else:
            text = f"no layer is guilty on its own; first difference: {self.first}"
        if self.not_compared:
            text += f"; not compared: {len(self.not_compared)} (see below)"
        return text

    def __str__(self) -> str:
        lines = [self.verdict]
        if self.first is not None and not self._same_function:
            for tensor in self.first.report.failures[:3]:
                said = tensor.worst_index is None and tensor.finding in self.verdict
                lines += [] if said else [f"  {tensor}"]
        if self.where:
            lines.append(f"  {self.where}")
        for places, what in (
            (self.islands, "the port computes in float32 here, which lift_float32() takes away:"),
            (self.draws, "the port draws random numbers here; make the rate 0, or what is drawn "
             "an input of both:"),
        ):  # fmt: skip
            lines += [f"  {what}", *(f"    {place}" for place in places)] if places else []
        lines += [f"  also guilty: {check}" for check in self.guilty[1:]]
        if not self._same_function:
            begins = next(iter(self.cascaded_failures), None)
            said = self.first
            if begins and said and (begins.label, begins.direction) != (said.label, said.direction):
                lines.append(f"  first difference of a whole run: {begins}")
        if self.not_compared:
            lines.append("  not compared:")
            lines += [f"    {sentence}" for sentence in self.not_compared]
        if self.unseen:
            lines.append("  what these inputs and weights do not show:")
            lines += [f"    {sentence}" for sentence in self.unseen]
        limits = next((c.report.limits for c in self.checks if c.report.limits), "")
        lines += [f"  {limits}"] if limits else []
        lines.append(table(self.checks, same_function=self._same_function))
        return "\n".join([*lines, self.pairing] if self.pairing else lines)

    @property
    def where(self) -> str:
        """Between which layers inside the first guilty one its difference begins; "" if unknown.

        What is no layer, a function or a sum, has no name of its own.
        """
        guilty = next((c for c in self.guilty if c.direction == "forward"), None)
        if guilty is None:
            return ""
        inputs = {c.label: c for c in self.checks if c.mode == "inputs"}
        if guilty.name and not inputs.get(guilty.label, guilty).ok:
            return ""
        before = "its input"
        for check in self.checks:
            if check.mode != "cascaded" or check.direction != "forward":
                continue
            if not _inside(check.name, guilty.name):
                continue
            given = inputs.get(check.label)
            if given is not None and not given.ok:
                what = ", ".join(t.name for t in given.report.failures)
                return f"inside it, between {before} and {check.label}: {what} differs"
            if not check.ok:
                return ""
            before = check.label
        return "" if before == "its input" else f"inside it, after {before}"

    def _failing(self, mode: Mode, direction: Direction) -> tuple[Check, ...]:
        return tuple(
            c for c in self.checks if not c.ok and c.mode == mode and c.direction == direction
        )

    def _held_against(self, direction: Direction) -> list[Check]:
        """Failures in isolation that are proof: see `guilty`."""
        isolated = [c for c in self.checks if c.mode == "isolated" and c.direction == direction]
        around = [c for c in isolated if not c.is_tap]  # a tap is not what is inside it
        right = {c.name for c in around} - {c.name for c in around if not c.ok}
        right_in_the_whole = {
            c.label
            for c in self.checks
            if c.mode == "cascaded" and c.direction == direction == "forward" and c.ok
        }
        return [
            check
            for check in isolated
            if not check.ok
            and not check.doubt
            and not (self.islands and check.report.ratio < ROUNDING_RATIO)
            and check.label not in right_in_the_whole
            and not any(_inside(check.name, name) for name in right)
        ]


def _any_inside(name: str, others: set[str]) -> bool:
    return any(_inside(other, name) for other in others)


def _inside(name: str, outer: str) -> bool:
    return name != outer and name.startswith(f"{outer}." if outer else "")
