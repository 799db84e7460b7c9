"""CBAM and SE in few passes over memory: the same functions, for training.

``attend.py`` is the attention alone, ``block.py`` the end of a residual block around it; each has its passes
in a file beside it. ``convolution.py`` is the small convolution in both. ``implementation.py``, one folder
up, says when they run.
"""
