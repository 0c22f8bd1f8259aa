"""The numeric core: one mathematical definition per op, several backends.

``backend="auto"`` takes the first row that fits:

=========  ====================================================  =============  ======================================
device     call                                                  backend        rests on
=========  ====================================================  =============  ======================================
CPU        eager, edges not kept between calls, E H C <= 2^20    ``reference``  measured: sorting takes longer than
                                                                                gathering so few edges
CPU        any other                                             ``csr``        measured: ``attention.md``
CUDA       float32, bfloat16 or float16, at most 256 channels    ``triton``     measured on an H100: ``gpu.md``
           a head, fewer than 2^31 edges, and fewer than 2^31
           of rows and segments times heads; Triton installed
CUDA       eager, torch-scatter installed for this torch         ``scatter``    not measured on a GPU
any        any other                                             ``reference``  defines the result
=========  ====================================================  =============  ======================================

The files are in ``benchmarks/results``. With some 100 features an edge, ``triton`` saves memory and takes longer than
products of matrices. ``benchmarks/gpu.py`` checks and times the CUDA rows on a machine that has a GPU. Without one, the
kernels run in Triton's interpreter against float64, and ``triton_kernels.md`` lists registers, shared memory and spills
of each, compiled for A100 and H100.

Fused (of the softmax the backward is left with each row's maximum and sum): :func:`edge_attention` and
:func:`additive_attention`, with and without edge features; the weights of further hops are computed anew too.
"""

from graphattn.ops.additive import additive_attention, fuses
from graphattn.ops.attention import edge_aggregate, edge_attention, edge_softmax, sddmm, sorts, spmm
from graphattn.ops.blocks import edge_scores
from graphattn.ops.layout import Layout

__all__ = [
    "Layout",
    "additive_attention",
    "edge_aggregate",
    "edge_attention",
    "edge_scores",
    "edge_softmax",
    "fuses",
    "sddmm",
    "sorts",
    "spmm",
]
