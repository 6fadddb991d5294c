"""Whole command lines at random, in all the circumstances that a terminal or a script makes.

`python -m tests.drawn --minutes 10` draws them by hand; `tests/test_fuzz.py` does so for a minute.
"""
