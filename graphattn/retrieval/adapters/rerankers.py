"""A re-ranker as a ranker of the rerankers library."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from graphattn._optional import require
from graphattn.retrieval.adapters._texts import check_reranker, rank_documents
from graphattn.retrieval.base import Reranker

Embed = Callable[[list[str]], Any]


def as_ranker(reranker: Reranker, embed: Embed, embed_query: Embed | None = None) -> Any:
    """Make a ``rerankers.models.ranker.BaseRanker``, which re-ranks texts by their embeddings.

    ``rank(query, docs, doc_ids)`` takes the documents as the first stage ranked them, and ``score(query, doc)`` is the
    score of a list of one. All documents of a call are embedded.

    Args:
        reranker: A re-ranker with ``scope="candidates"``.
        embed: Function from texts to vectors ``[n, D]``, such as the ``encode`` of a SentenceTransformer.
        embed_query: The same for queries, if the embedding makes a difference.

    Returns:
        A ``BaseRanker`` whose ``RankedResults`` have new scores, and ranks from 1.

    Raises:
        ValueError: If the re-ranker needs a gallery; by ``rank``, if the embedding does not have one vector per text.
        ImportError: If rerankers cannot be imported.

    Example:
        >>> from graphattn.retrieval import QueryExpansion
        >>> vectors = {"sea": [1.0, 0.2], "lake": [1.0, 0.0], "hill": [0.0, 1.0], "shore": [0.8, 0.6]}
        >>> ranker = as_ranker(QueryExpansion(k=1), lambda texts: [vectors[text] for text in texts])
        >>> [result.text for result in ranker.rank("sea", ["hill", "shore", "lake"])]
        ['lake', 'shore', 'hill']
    """
    check_reranker(reranker)
    return _ranker_class()(reranker, embed, embed if embed_query is None else embed_query)


@cache
def _ranker_class() -> Any:
    """Define the class once its base can be imported."""
    base: Any = require("rerankers.models.ranker", "retrieval").BaseRanker
    results, utils = require("rerankers.results", "retrieval"), require("rerankers.utils", "retrieval")

    class GraphRanker(base):
        """Rank texts by their embeddings."""

        def __init__(self, reranker: Reranker, embed: Embed, embed_query: Embed) -> None:
            self.reranker = reranker
            self.embed = embed
            self.embed_query = embed_query

        def score(self, query: str, doc: str) -> float:
            return self.rank(query, [doc])[0].score

        def rank(self, query: str, docs: Any, doc_ids: Any = None) -> Any:
            # The library's own reader of texts and Documents stops at an empty list.
            if isinstance(docs, list) and not docs:
                return results.RankedResults(results=[], query=query, has_scores=True)
            documents = utils.prep_docs(docs, doc_ids)
            vectors = self.embed([document.text for document in documents])
            order = rank_documents(self.reranker, self.embed_query([query]), vectors, len(documents))
            ranked = [
                results.Result(document=documents[place], score=score, rank=rank)
                for rank, (place, score) in enumerate(order, start=1)
            ]
            return results.RankedResults(results=ranked, query=query, has_scores=True)

    return GraphRanker
