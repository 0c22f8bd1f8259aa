"""A re-ranker as a document compressor of LangChain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from graphattn._optional import require
from graphattn.retrieval.adapters._texts import check_reranker, rank_documents
from graphattn.retrieval.base import Reranker


def as_document_compressor(reranker: Reranker, embeddings: Any, top_n: int | None = None) -> Any:
    """Make a ``BaseDocumentCompressor`` of LangChain, which re-ranks what a retriever found.

    Documents are taken as the retriever ranked them. What comes out are copies in the new order, with the new score as
    ``metadata["relevance_score"]``.

    Args:
        reranker: A re-ranker with ``scope="candidates"``.
        embeddings: An ``Embeddings`` of LangChain, the one of the vector store for instance.
        top_n: How many documents are returned; all by default.

    Returns:
        A ``BaseDocumentCompressor``, for a ``ContextualCompressionRetriever`` or for itself.

    Raises:
        ValueError: If the re-ranker needs a gallery or ``top_n`` is below 1; by ``compress_documents``, if the
            embeddings do not have one vector per text.
        ImportError: If langchain_core cannot be imported.

    Example:
        >>> from graphattn.retrieval import QueryExpansion
        >>> from langchain_core.documents import Document
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> compressor = as_document_compressor(QueryExpansion(k=1), DeterministicFakeEmbedding(size=8), top_n=1)
        >>> documents = [Document("hills"), Document("the sea"), Document("shores")]
        >>> [document.page_content for document in compressor.compress_documents(documents, "the sea")]
        ['the sea']
    """
    check_reranker(reranker)
    if top_n is not None and top_n < 1:
        raise ValueError(f"top_n is {top_n}; expected an integer, at least 1, or None")
    return _compressor_class()(reranker=reranker, embeddings=embeddings, top_n=top_n)


@cache
def _compressor_class() -> Any:
    """Define the class once its base can be imported."""
    base: Any = require("langchain_core.documents", "retrieval").BaseDocumentCompressor

    class GraphCompressor(base):
        """Re-rank documents by their embeddings."""

        reranker: Any
        embeddings: Any
        top_n: int | None = None

        def compress_documents(self, documents: Sequence[Any], query: str, callbacks: Any = None) -> list[Any]:
            if not documents:
                return []
            vectors = self.embeddings.embed_documents([document.page_content for document in documents])
            query_vectors = [self.embeddings.embed_query(query)]
            order = rank_documents(self.reranker, query_vectors, vectors, len(documents))
            return [
                documents[place].model_copy(
                    update={"metadata": {**documents[place].metadata, "relevance_score": score}}
                )
                for place, score in order[: self.top_n]
            ]

    return GraphCompressor
