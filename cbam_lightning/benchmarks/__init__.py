"""Benchmarks: time candidates alternately, count the memory saved for the backward pass, report both."""
