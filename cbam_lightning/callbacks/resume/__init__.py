"""Exact resume: save the complete state of a run, stop on signals, and continue in mid-epoch."""
