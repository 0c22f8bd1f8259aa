"""Attention whose weights are products: of several pairs of features, or of three nodes at a time."""

from graphattn.nn.interaction.hyper import HyperAttention
from graphattn.nn.interaction.hyper_feature import HyperFeatureAttention

__all__ = ["HyperAttention", "HyperFeatureAttention"]
