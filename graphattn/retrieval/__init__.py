"""Re-ranking of result lists: one contract, one method a file."""

from graphattn.retrieval._run import PaddedLists, Run
from graphattn.retrieval.affinity_features import AffinityFeatures
from graphattn.retrieval.auto import Auto
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch
from graphattn.retrieval.contextual import ContextualReranker
from graphattn.retrieval.database_augmentation import DatabaseAugmentation
from graphattn.retrieval.diffusion import Diffusion
from graphattn.retrieval.embeddings import Embeddings, load_embeddings
from graphattn.retrieval.gnn_rerank import GNNRerank
from graphattn.retrieval.graph_convolution import GraphConvolution
from graphattn.retrieval.k_reciprocal import KReciprocal
from graphattn.retrieval.lists import RankedLists
from graphattn.retrieval.query_expansion import QueryExpansion, expand_query
from graphattn.retrieval.rank_diffusion import RankDiffusion
from graphattn.retrieval.runs import RunWriter, iterate_run, read_qrels, read_run, write_qrels, write_run
from graphattn.retrieval.super_global import SuperGlobal

__all__ = [
    "AffinityFeatures",
    "Auto",
    "CandidateBatch",
    "ContextualReranker",
    "DatabaseAugmentation",
    "Diffusion",
    "Embeddings",
    "GNNRerank",
    "GraphConvolution",
    "KReciprocal",
    "PaddedLists",
    "QueryExpansion",
    "RankDiffusion",
    "RankedLists",
    "Reranker",
    "Run",
    "RunWriter",
    "SuperGlobal",
    "expand_query",
    "iterate_run",
    "load_embeddings",
    "read_qrels",
    "read_run",
    "write_qrels",
    "write_run",
]
