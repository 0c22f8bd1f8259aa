"""The matrix A: how strongly each node draws on each other, given, built from features, or never stored."""

from graphattn.affinity.affinity import Affinity
from graphattn.affinity.cooccurrence import cooccurrence
from graphattn.affinity.dense import DenseAffinity
from graphattn.affinity.gallery import GalleryGraph
from graphattn.affinity.implicit import ImplicitAffinity
from graphattn.affinity.kernels import bilateral, cosine, dot_product, gaussian
from graphattn.affinity.neighbors import k_reciprocal, knn, mutual_knn, nearest, radius
from graphattn.affinity.sparse import SparseAffinity

__all__ = [
    "Affinity",
    "DenseAffinity",
    "GalleryGraph",
    "ImplicitAffinity",
    "SparseAffinity",
    "bilateral",
    "cooccurrence",
    "cosine",
    "dot_product",
    "gaussian",
    "k_reciprocal",
    "knn",
    "mutual_knn",
    "nearest",
    "radius",
]
