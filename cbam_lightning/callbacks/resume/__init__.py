"""Exact resume: save the whole state of a training, heed signals, and continue in mid-epoch."""
