"""graphattn: attention as message passing over affinity graphs."""

from graphattn.affinity import Affinity, DenseAffinity, ImplicitAffinity, SparseAffinity
from graphattn.nn import AttentionConv, DiffusionConv, RerankConv, accelerate, from_pyg
from graphattn.ops import edge_attention

__version__ = "0.1.0"

__all__ = [
    "Affinity",
    "AttentionConv",
    "DenseAffinity",
    "DiffusionConv",
    "ImplicitAffinity",
    "RerankConv",
    "SparseAffinity",
    "accelerate",
    "edge_attention",
    "from_pyg",
]
