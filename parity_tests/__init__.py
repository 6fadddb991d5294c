"""The proof that the JAX port is the same function as the torch reference, and its harness."""

try:
    import torch  # noqa: F401
except ImportError:
    raise ImportError(
        'parity_tests needs PyTorch, which is not installed: pip install "jax-attn[test]"'
    ) from None

from parity_tests.harness.budgets import BUDGETS, Budget
from parity_tests.harness.compare import Report, assert_parity, compare

__all__ = ["BUDGETS", "Budget", "Report", "assert_parity", "compare"]
