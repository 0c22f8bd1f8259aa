"""Re-rankers in the forms that other libraries call: thin adapters that import nothing before they are used."""

from graphattn.retrieval.adapters.langchain import as_document_compressor
from graphattn.retrieval.adapters.metric_learning import as_knn_func
from graphattn.retrieval.adapters.rerankers import as_ranker
from graphattn.retrieval.adapters.sentence_transformers import rerank_hits

__all__ = ["as_document_compressor", "as_knn_func", "as_ranker", "rerank_hits"]
