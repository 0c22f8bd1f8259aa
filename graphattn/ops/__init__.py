"""The numeric core: one mathematical definition per op, several backends."""

from graphattn.ops.attention import edge_aggregate, edge_attention, edge_softmax, sddmm, spmm
from graphattn.ops.blocks import edge_scores
from graphattn.ops.layout import Layout

__all__ = ["Layout", "edge_aggregate", "edge_attention", "edge_scores", "edge_softmax", "sddmm", "spmm"]
