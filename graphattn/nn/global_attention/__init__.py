"""Attention between all nodes of a graph, for many graphs of unequal size at once: exact, and in linear time."""

from graphattn.nn.global_attention.base import GlobalAttention
from graphattn.nn.global_attention.catalog import make_attention
from graphattn.nn.global_attention.infsa import InfSA
from graphattn.nn.global_attention.linear import LinearAttention
from graphattn.nn.global_attention.linear_infsa import LinearInfSA
from graphattn.nn.global_attention.nystrom import NystromAttention
from graphattn.nn.global_attention.padding import Padding
from graphattn.nn.global_attention.pattern import PatternAttention
from graphattn.nn.global_attention.performer import PerformerAttention
from graphattn.nn.global_attention.primal import PrimalAttention
from graphattn.nn.global_attention.softmax import SoftmaxAttention

__all__ = [
    "GlobalAttention",
    "InfSA",
    "LinearAttention",
    "LinearInfSA",
    "NystromAttention",
    "Padding",
    "PatternAttention",
    "PerformerAttention",
    "PrimalAttention",
    "SoftmaxAttention",
    "make_attention",
]
