"""PyG layers over edges, their scores, attention within whole graphs, and the way from PyG's layers to ours."""

from graphattn.nn.attention_conv import AttentionConv
from graphattn.nn.convert import Acceleration, accelerate, from_pyg
from graphattn.nn.cooccurrence_attention import CooccurrenceAttention
from graphattn.nn.diffusion_conv import DiffusionConv
from graphattn.nn.graph_transformer_layer import GraphTransformerLayer
from graphattn.nn.interaction import HyperAttention, HyperFeatureAttention
from graphattn.nn.rerank_conv import RerankConv, candidate_graph
from graphattn.nn.scores import GAT, Cosine, DotProduct, GATv2, Gaussian, Score
from graphattn.nn.table_attention import TableAttention, attribute_pairs, datapoint_pairs
from graphattn.nn.temporal_attention_conv import TemporalAttentionConv
from graphattn.nn.virtual_node import VirtualNode

__all__ = [
    "GAT",
    "Acceleration",
    "AttentionConv",
    "CooccurrenceAttention",
    "Cosine",
    "DiffusionConv",
    "DotProduct",
    "GATv2",
    "Gaussian",
    "GraphTransformerLayer",
    "HyperAttention",
    "HyperFeatureAttention",
    "RerankConv",
    "Score",
    "TableAttention",
    "TemporalAttentionConv",
    "VirtualNode",
    "accelerate",
    "attribute_pairs",
    "candidate_graph",
    "datapoint_pairs",
    "from_pyg",
]
