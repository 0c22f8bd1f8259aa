"""Before training: PyG transforms, which give a graph other edges or features, and graphs of sequences and images."""

from graphattn.transforms.diffuse import Diffuse
from graphattn.transforms.encodings import (
    AddDegreeEncoding,
    AddHeatKernelEncoding,
    AddLaplacianEncoding,
    AddRandomWalkEncoding,
)
from graphattn.transforms.node_ids import NodeIds
from graphattn.transforms.patches import patches_to_graph
from graphattn.transforms.sparse_features import SparseFeatures
from graphattn.transforms.tokens import tokens_to_graph

__all__ = [
    "AddDegreeEncoding",
    "AddHeatKernelEncoding",
    "AddLaplacianEncoding",
    "AddRandomWalkEncoding",
    "Diffuse",
    "NodeIds",
    "SparseFeatures",
    "patches_to_graph",
    "tokens_to_graph",
]
