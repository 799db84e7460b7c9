"""The tables of CBAM's paper, next to what this package counts.

``classification.csv`` and ``detection.csv`` are from *CBAM: Convolutional Block Attention Module*
(https://arxiv.org/abs/1807.06521): errors and mAP in percent, parameters in millions, GFLOPs at 224 px.
"""
