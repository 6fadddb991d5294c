"""How far a port may be from the oracle: every budget of the suite, with its measured reason.

    rms(port - oracle) <= factor * rms(reference - oracle) + floor * rms(oracle)

The factor grants the port a multiple of the reference's own rounding error, so that a badly
conditioned tensor asks no more of the port than of the reference. The floor stands where the
reference happens to be exact.

Only the semantic budget tells whether two programs are the same function. The others tell whether
the port is as accurate, and can tell no more than that: what changes a result by less than their
`power` passes, and a right port that rounds more than the reference is accused. With float32
activations of rms 1, 4 and 30 a norm's epsilon of 1e-5 for 1e-6 passed in 0, 18 to 47 and 100 % of
60 cases each; a layer norm of the same function, its variance as the mean square less the squared
mean, was accused in 67 % (ratio up to 2.6) where the mean was 3 times the deviation. So give the
float32 tier only ports that have passed in float64.
"""

from dataclasses import dataclass

UNIT_ROUNDOFF = 6e-8  # of float32: 2**-24, rounded up


@dataclass(frozen=True)
class Budget:
    name: str
    factor: float  # times the reference's rms error
    floor: float  # times the oracle's rms
    reason: str
    # The reference's relative rms error, as nine of ten tensors stay below it: measured.
    ref_error: float = 0.0

    @property
    def power(self) -> float:
        """The smallest relative change of a result that is seen in nine of ten tensors.

        `Report.sees` is the same of the tensors at hand.
        """
        return self.factor * self.ref_error + self.floor

    def allowed(self, ref_rms_error: float, oracle_rms: float) -> float:
        """The largest rms error that the port may have."""
        return self.factor * ref_rms_error + self.floor * oracle_rms


SEMANTIC = Budget(
    "semantic",
    factor=0.0,
    floor=1e-12,
    reason="float64 against float64. Logits, weights and losses of a correct port are within "
    "6e-16, gradients within 3e-15, updates read off the parameters within 7e-14; the weakest "
    "observable planted bug moves something by 1.2e-5. Nothing lies between",
)

FORWARD = Budget(
    "forward",
    factor=3.0,
    floor=2 * UNIT_ROUNDOFF,
    reason="float32 activations. Another order of summation makes the rms error up to 1.5 times as "
    "large (logits and weights of 24 GPTs); with the floor a factor of 0.8 would do there, and "
    "small tensors need more. The floor is one rounding of the input and one of the output",
    ref_error=1.3e-7,  # logits of 24 GPTs; the median is 1.1e-7, the largest 2.0e-7
)

GRADIENT = Budget(
    "gradient",
    factor=4.0,
    floor=2 * UNIT_ROUNDOFF,
    reason="float32 gradients. The chain is twice as long: of 1,344 gradients of 24 GPTs, 99 in "
    "100 pass with a factor of 1.7 and all with 2.6",
    ref_error=1.2e-6,  # 1,284 gradients of 24 GPTs; the median is 2.1e-7, one in 100 has 1.3e-5
)

SECOND_DERIVATIVE = Budget(
    "second derivative",
    factor=20.0,
    floor=2 * UNIT_ROUNDOFF,
    reason="float32 products of a loss's Hessian and a direction. Where a row of attention has one "
    "weight near 1, JAX's second derivative of a softmax is 2.7 times as far off as torch's, the "
    "median of 200 rows. 95 of 96 models pass with a factor of 10, all with 14",
    ref_error=1.4e-6,  # as many products of them; the median is 2.5e-7, one in 100 has 1.9e-5
)

LOSS = Budget(
    "loss",
    factor=0.0,
    floor=8 * 2.0**-23,
    reason="one float32 number, whose error in the reference may be zero by luck and so buys "
    "nothing. Both are within 1.6 epsilon over 48 losses; 8 leaves room for other sizes",
)

UPDATE = Budget(
    "update",
    factor=3.0,
    floor=2e-5,
    reason="optax computes Adam's bias correction 1 - beta**t in float32, torch in double: with "
    "beta2 0.999 the update is off by 1.0e-5 relative at t = 2, by less at any other t up to "
    "10,000, and by 4e-6 past 1,000. Twice the worst is granted; torch's own is within 1.4e-7",
    ref_error=1.4e-7,
)

TRAJECTORY = Budget(
    "trajectory",
    factor=4.0,
    floor=1e-5,
    reason="float32 training at learning rate 1e-3, where each update carries the 1e-5 of UPDATE "
    "into the next gradient. After 10 and 100 steps parameters (but for key biases, whose gradient "
    "is noise) are within 5e-6 and pass with a factor of 2.1; losses are within 2e-6, of which "
    "1e-6 is beyond 4 times the reference's 2e-7. With GELU that stays so for 400 steps, or 100 at "
    "1e-2. With ReLU it does not and no budget helps: a unit opens in one run and not in the "
    "other, and torch is off by 6e-3 after 400 steps",
    ref_error=2e-7,  # of losses
)

BFLOAT16 = Budget(
    "bfloat16",
    factor=3.0,
    floor=2 * 2.0**-9,
    reason="bfloat16 has a unit roundoff of 2**-9. Logits and weights of 24 GPTs computed in it "
    "are off by 0.4 to 0.8 % on both sides, the port's error at most 1.22 of the reference's",
    ref_error=8e-3,
)

BUDGETS = {
    budget.name: budget
    for budget in (
        SEMANTIC,
        FORWARD,
        GRADIENT,
        SECOND_DERIVATIVE,
        LOSS,
        UPDATE,
        TRAJECTORY,
        BFLOAT16,
    )
}
