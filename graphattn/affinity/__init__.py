"""The matrix A: how strongly each node draws on each other, given, built from features, or never stored."""

from graphattn.affinity.affinity import Affinity
from graphattn.affinity.cooccurrence import cooccurrence
from graphattn.affinity.dense import DenseAffinity
from graphattn.affinity.expander import expander
from graphattn.affinity.gallery import GalleryGraph
from graphattn.affinity.grids import grid
from graphattn.affinity.implicit import ImplicitAffinity
from graphattn.affinity.kernels import bilateral, cosine, dot_product, gaussian
from graphattn.affinity.neighbors import k_reciprocal, knn, mutual_knn, nearest, radius
from graphattn.affinity.patterns import EdgeType, complete, global_nodes, random_blocks, union, window
from graphattn.affinity.sparse import SparseAffinity

__all__ = [
    "Affinity",
    "DenseAffinity",
    "EdgeType",
    "GalleryGraph",
    "ImplicitAffinity",
    "SparseAffinity",
    "bilateral",
    "complete",
    "cooccurrence",
    "cosine",
    "dot_product",
    "expander",
    "gaussian",
    "global_nodes",
    "grid",
    "k_reciprocal",
    "knn",
    "mutual_knn",
    "nearest",
    "radius",
    "random_blocks",
    "union",
    "window",
]
