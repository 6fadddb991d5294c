"""How far a port may be from the oracle: every budget of the suite, with its measured reason.

    rms(port - oracle) <= factor * rms(reference - oracle) + floor * rms(oracle)

The factor grants the port a multiple of the reference's own rounding error, so that a badly
conditioned tensor asks no more of the port than of the reference. The floor stands where the
reference happens to be exact.
"""

from dataclasses import dataclass

UNIT_ROUNDOFF = 6e-8  # of float32: 2**-24, rounded up


@dataclass(frozen=True)
class Budget:
    name: str
    factor: float  # times the reference's rms error
    floor: float  # times the oracle's rms
    reason: str

    def allowed(self, ref_rms_error: float, oracle_rms: float) -> float:
        """The largest rms error that the port may have."""
        return self.factor * ref_rms_error + self.floor * oracle_rms


SEMANTIC = Budget(
    "semantic",
    factor=0.0,
    floor=1e-12,
    reason="float64 against float64: a correct port is within 1.2e-15 and the weakest observable "
    "planted bug moves something by 1.2e-5; nothing lies between",
)

FORWARD = Budget(
    "forward",
    factor=3.0,
    floor=2 * UNIT_ROUNDOFF,
    reason="float32 activations: two correct orders of summation differ by less than a factor of "
    "3 in rms error; the floor is one rounding of the input and one of the output",
)

GRADIENT = Budget(
    "gradient",
    factor=4.0,
    floor=2 * UNIT_ROUNDOFF,
    reason="float32 gradients: as the forward pass, with twice as many roundings in a chain",
)

LOSS = Budget(
    "loss",
    factor=0.0,
    floor=8 * 2.0**-23,
    reason="one float32 scalar: the reference's own error may be zero by luck, so it buys nothing; "
    "8 ulps for the log, the sum of exponentials and the mean",
)

UPDATE = Budget(
    "update",
    factor=4.0,
    floor=4e-5,
    reason="optax computes Adam's bias correction 1 - beta**t in float32, torch in double: the "
    "update differs by up to 2e-5 relative for t <= 100",
)

TRAJECTORY = Budget(
    "trajectory",
    factor=4.0,
    floor=1e-4,
    reason="float32 training: the update's 2e-5, accumulated over the steps",
)

BFLOAT16 = Budget(
    "bfloat16",
    factor=4.0,
    floor=2 * 2.0**-8,
    reason="bfloat16 keeps 8 bits: one rounding of the input and one of the output",
)

BUDGETS = {
    budget.name: budget
    for budget in (SEMANTIC, FORWARD, GRADIENT, LOSS, UPDATE, TRAJECTORY, BFLOAT16)
}
