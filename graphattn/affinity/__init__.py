"""The matrix A: how strongly each node draws on each other."""

from graphattn.affinity.affinity import Affinity
from graphattn.affinity.dense import DenseAffinity
from graphattn.affinity.implicit import ImplicitAffinity
from graphattn.affinity.sparse import SparseAffinity

__all__ = ["Affinity", "DenseAffinity", "ImplicitAffinity", "SparseAffinity"]
