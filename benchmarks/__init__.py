"""JAX against torch, side by side in one run: `python -m benchmarks`."""
