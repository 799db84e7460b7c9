"""CBAM and SE in few passes over memory: the same functions, for training.

``forms.py`` registers the fused forward passes with ``attention.implementation``, which decides when they
run; ``known_gates.py`` says for which modules. ``attend.py`` is the attention alone and ``block.py`` the end
of a residual block around it; the passes of each are in the file beside it. ``convolution.py`` is the small
convolution that both use. On GPUs, ``kernels/`` takes the place of these passes for what
``kernel_forms.py`` finds suitable; ``norm.py`` is what these know of a BatchNorm.
"""

from cbam_lightning.attention.fused import forms

__all__ = ["forms"]
