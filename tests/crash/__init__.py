"""Kills `train.py` again and again, and compares what comes out with a run left alone."""
