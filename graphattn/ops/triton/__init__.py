"""Fused attention for CUDA in Triton: no E x H x C is ever stored, and of the softmax only rows' maxima and sums.

Node features keep their place, ``[N, H, C]``; edge values are in slot order (see :mod:`graphattn.ops.layout`), slot
first: ``[E, H]``. The kernels are in :mod:`graphattn.ops.triton.kernels`; ``forward``, ``backward`` and ``products``
make them operators with gradients. Only the kernels import Triton itself, which full names tell from this package.
A row of more than ``SEGMENT`` neighbours is split over several programs whose sums a further kernel adds in order, so
that results have the same bits every time. Not yet measured on a GPU.
"""

from graphattn.ops.triton.calls import additive_attention, aggregate, attention, edge_softmax, sddmm, spmm
from graphattn.ops.triton.support import installed, refusal, serves

__all__ = [
    "additive_attention",
    "aggregate",
    "attention",
    "edge_softmax",
    "installed",
    "refusal",
    "sddmm",
    "serves",
    "spmm",
]
