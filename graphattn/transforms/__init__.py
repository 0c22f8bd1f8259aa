"""PyG transforms: other edges for a graph, made before training."""

from graphattn.transforms.diffuse import Diffuse

__all__ = ["Diffuse"]
