"""Measures, budgets, weights, taps and the locator: what a parity check is made of."""
