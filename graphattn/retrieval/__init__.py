"""Re-ranking of result lists: one contract, one method a file."""

from graphattn.retrieval.affinity_features import AffinityFeatures
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch
from graphattn.retrieval.database_augmentation import DatabaseAugmentation
from graphattn.retrieval.diffusion import Diffusion
from graphattn.retrieval.gnn_rerank import GNNRerank
from graphattn.retrieval.graph_convolution import GraphConvolution
from graphattn.retrieval.k_reciprocal import KReciprocal
from graphattn.retrieval.lists import RankedLists
from graphattn.retrieval.query_expansion import QueryExpansion, expand_query
from graphattn.retrieval.rank_diffusion import RankDiffusion
from graphattn.retrieval.super_global import SuperGlobal

__all__ = [
    "AffinityFeatures",
    "CandidateBatch",
    "DatabaseAugmentation",
    "Diffusion",
    "GNNRerank",
    "GraphConvolution",
    "KReciprocal",
    "QueryExpansion",
    "RankDiffusion",
    "RankedLists",
    "Reranker",
    "SuperGlobal",
    "expand_query",
]
