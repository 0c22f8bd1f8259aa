"""PyG layers: attention, diffusion and re-ranking over edges, the scores, and the way from PyG's layers to ours."""

from graphattn.nn.attention_conv import AttentionConv
from graphattn.nn.convert import Acceleration, accelerate, from_pyg
from graphattn.nn.diffusion_conv import DiffusionConv
from graphattn.nn.rerank_conv import RerankConv, candidate_graph
from graphattn.nn.scores import GAT, Cosine, DotProduct, GATv2, Gaussian, Score

__all__ = [
    "GAT",
    "Acceleration",
    "AttentionConv",
    "Cosine",
    "DiffusionConv",
    "DotProduct",
    "GATv2",
    "Gaussian",
    "RerankConv",
    "Score",
    "accelerate",
    "candidate_graph",
    "from_pyg",
]
