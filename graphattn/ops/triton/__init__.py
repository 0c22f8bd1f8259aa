"""Fused attention for CUDA in Triton: no E x H x C is ever stored, and of the softmax only rows' maxima and sums.

Node features keep their place, ``[N, H, C]``; edge values are in slot order (see :mod:`graphattn.ops.layout`), slot
first: ``[E, H]``. The kernels are in :mod:`graphattn.ops.triton.kernels`; ``forward``, ``backward`` and ``products``
make them operators with gradients. Triton itself, which full names tell from this package, is imported on first use.
A row of more than ``SEGMENT`` neighbours is split over several programs whose sums a further kernel adds in order, so
that results have the same bits every time.
"""

from graphattn.ops.triton.calls import additive_attention as additive_attention
from graphattn.ops.triton.calls import aggregate as aggregate
from graphattn.ops.triton.calls import attention as attention
from graphattn.ops.triton.calls import edge_softmax as edge_softmax
from graphattn.ops.triton.calls import sddmm as sddmm
from graphattn.ops.triton.calls import spmm as spmm
from graphattn.ops.triton.support import installed as installed
from graphattn.ops.triton.support import refusal as refusal
from graphattn.ops.triton.support import serves as serves
