"""PyG layers: attention over given edges, its scores, and the way from PyG's own layers to ours."""

from graphattn.nn.attention_conv import AttentionConv
from graphattn.nn.convert import Acceleration, accelerate, from_pyg
from graphattn.nn.scores import GAT, Cosine, DotProduct, GATv2, Gaussian, Score

__all__ = [
    "GAT",
    "Acceleration",
    "AttentionConv",
    "Cosine",
    "DotProduct",
    "GATv2",
    "Gaussian",
    "Score",
    "accelerate",
    "from_pyg",
]
