"""A pure step, its batches, evaluation, the optimizer, and the search for a NaN."""
