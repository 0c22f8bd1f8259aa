"""The numeric core: one mathematical definition per op, several backends."""

from graphattn.ops.additive import additive_attention, fuses
from graphattn.ops.attention import edge_aggregate, edge_attention, edge_softmax, sddmm, spmm
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
    "spmm",
]
