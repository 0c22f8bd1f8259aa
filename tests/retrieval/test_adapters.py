"""Adapters inside the packages they are made for."""

from __future__ import annotations

import asyncio
import importlib
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graphattn import _optional
from graphattn.retrieval import AffinityFeatures, Diffusion, KReciprocal, QueryExpansion, Reranker
from graphattn.retrieval.adapters import as_document_compressor, as_knn_func, as_ranker, rerank_hits
from tests.retrieval.cases import Crowd, InnerProduct, Reverse, problem


def package(name: str) -> ModuleType:
    """Import a package, whatever it warns of, or skip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} cannot be imported: {error}")


def clusters(
    items: int = 24, width: int = 8, classes: int = 4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Noisy clusters, unit vectors, and their labels."""
    labels = torch.arange(items) % classes
    x = torch.randn(classes, width, dtype=dtype)[labels] + 0.9 * torch.randn(items, width, dtype=dtype)
    return torch.nn.functional.normalize(x, dim=1), labels


# pytorch-metric-learning


def accuracy(knn_func: Any, k: Any = "max_bin_count") -> Any:
    """Its calculator, with measures that look at nothing but the neighbours."""
    calculator = package("pytorch_metric_learning.utils.accuracy_calculator").AccuracyCalculator
    include = ("precision_at_1", "mean_average_precision_at_r", "mean_average_precision", "r_precision")
    return calculator(include=include, k=k, knn_func=knn_func, device=torch.device("cpu"))


def map_at_r(lists: list[list[int]], labels: Tensor, own: Tensor, members: int) -> float:
    """MAP@R from its formula."""
    values = []
    for row, found in enumerate(lists):
        hits, total = 0, 0.0
        for rank, item in enumerate(found[:members], start=1):
            if labels[item] == own[row]:
                hits += 1
                total += hits / rank
        values.append(total / members)
    return float(np.mean(values))


def test_inner_products_are_the_search_of_pytorch_metric_learning() -> None:
    x, labels = clusters()
    inference, distances = (
        package("pytorch_metric_learning.utils.inference"),
        package("pytorch_metric_learning.distances"),
    )
    theirs = inference.CustomKNN(distances.CosineSimilarity())
    ours = as_knn_func(InnerProduct())
    for k in (1, 5, 23):
        similarity, indices = theirs(x, k, x, True)
        distance, found = ours(x, k, x, True)
        assert torch.equal(found, indices)
        assert torch.allclose(-distance, similarity, rtol=0, atol=8 * torch.finfo(torch.float32).eps)
    assert accuracy(ours).get_accuracy(x, labels) == accuracy(theirs).get_accuracy(x, labels)


@pytest.mark.parametrize("scope", ["candidates", "gallery"])
def test_accuracy_of_reranked_neighbors(scope: str) -> None:
    """The calculator's numbers are those of the lists that the re-ranker makes of an exact search."""
    x, labels = clusters()
    reranker = KReciprocal(k1=6, k2=3, top_k=15, scope=scope)
    found = accuracy(as_knn_func(reranker)).get_accuracy(x, labels)
    itself = KReciprocal(k1=6, k2=3, top_k=15, scope=scope, exclude_self=True)
    if scope == "gallery":
        itself.fit(x)
    lists = itself.rerank(x, x, query_ids=torch.arange(24)).indices
    assert found["mean_average_precision_at_r"] == pytest.approx(map_at_r(lists.tolist(), labels, labels, 5), rel=1e-12)
    assert found["precision_at_1"] == pytest.approx((labels[lists[:, 0]] == labels).double().mean().item(), rel=1e-12)
    plain = accuracy(as_knn_func(InnerProduct())).get_accuracy(x, labels)
    assert found["mean_average_precision_at_r"] != plain["mean_average_precision_at_r"]


def test_accuracy_with_references_of_their_own() -> None:
    x, labels = clusters()
    query, reference, own, theirs = x[:7], x[7:], labels[:7], labels[7:]
    members = int(theirs.bincount().max())
    reranker = QueryExpansion(k=3)
    found = accuracy(as_knn_func(reranker), k=17).get_accuracy(query, own, reference, theirs)
    lists = reranker.rerank(query, reference).indices
    assert lists.shape == (7, 17)
    assert found["precision_at_1"] == (theirs[lists[:, 0]] == own).double().mean().item()
    assert members == 5


@pytest.mark.parametrize("k", [1, 4, 9, 23])
def test_exactly_k_neighbors_and_never_the_query(k: int) -> None:
    x, _ = clusters()
    x[5] = x[2]
    distances, indices = as_knn_func(AffinityFeatures(top_k=9))(x, k, x, ref_includes_query=True)
    assert distances.shape == indices.shape == (24, k)
    assert (indices != torch.arange(24).unsqueeze(1)).all()
    assert ((indices >= 0) & (indices < 24)).all()
    assert all(len(set(row)) == k for row in indices.tolist())
    assert (distances[:, 1:] >= distances[:, :-1]).all()
    assert indices[5, 0] == 2
    assert indices[2, 0] == 5


def test_head_is_searched_beyond_k() -> None:
    """The best of nine candidates, not of the one that is asked for."""
    x, _ = clusters()
    reranker = Reverse(top_k=9, exclude_self=False)
    worst = reranker.rerank(x, x, x.matmul(x.T).sort(dim=1, descending=True).indices[:, :9]).indices
    assert torch.equal(as_knn_func(reranker)(x, 1, x)[1], worst[:, :1])


def test_the_reranker_stays_as_it_is() -> None:
    x, _ = clusters()
    reranker = Diffusion(scope="gallery", k=5, exclude_self=True)
    knn_func = as_knn_func(reranker)
    assert (knn_func(x, 3, x)[1] == torch.arange(24).unsqueeze(1)).any()
    assert not hasattr(reranker, "graph_")
    assert reranker.exclude_self


def test_bad_calls_of_knn_func() -> None:
    x, _ = clusters()
    knn_func = as_knn_func(InnerProduct())
    for k, ref_includes_query in ((0, False), (25, False), (24, True)):
        with pytest.raises(ValueError, match=f"k is {k}; expected 1 to {24 - ref_includes_query}, the references"):
            knn_func(x, k, x, ref_includes_query)
    with pytest.raises(
        ValueError, match=r"InnerProduct\(.*tail='drop'\) left 3 of 5 references; expected one with tail="
    ):
        as_knn_func(InnerProduct(top_k=3, tail="drop"))(x, 5, x)
    broken = x.clone()
    broken[3] = torch.nan
    with pytest.raises(ValueError, match=r"reference is not finite in 1 row\(s\): 3"):
        knn_func(x, 5, broken)
    with pytest.raises(ValueError, match="left 23 of 24 references"):
        as_knn_func(InnerProduct(nan_policy="last"))(x, 24, broken)


# Texts: rerankers and LangChain

WORDS = [f"word {i}" for i in range(11)]


class Embedding:
    """Vectors of texts from a table, in any form, with its own for queries."""

    def __init__(self, form: Any = Tensor.numpy) -> None:
        self.form = form
        self.table = {word: torch.randn(6) for word in [*WORDS, "query"]}
        self.table["query: query"] = torch.randn(6)
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> Any:
        self.calls.append(texts)
        return self.form(torch.stack([self.table[text] for text in texts]))

    def for_query(self, texts: list[str]) -> Any:
        return self([f"query: {text}" for text in texts])

    def vectors(self, texts: list[str]) -> Tensor:
        return torch.stack([self.table[text] for text in texts])

    def expected(
        self, reranker: Reranker, words: list[str] = WORDS, query: str = "query"
    ) -> tuple[list[int], list[float]]:
        lists = reranker.rerank(self.vectors([query]), self.vectors(words), torch.arange(len(words)).unsqueeze(0))
        kept = lists.indices[0] >= 0
        return lists.indices[0][kept].tolist(), lists.scores[0][kept].tolist()


RERANKERS = [QueryExpansion(k=3), AffinityFeatures(top_k=7), AffinityFeatures(top_k=7, tail="drop"), Crowd()]


@pytest.mark.parametrize("reranker", RERANKERS, ids=repr)
@pytest.mark.parametrize("form", [Tensor.numpy, Tensor.tolist, Tensor.clone], ids=["array", "lists", "tensor"])
def test_ranker_ranks_as_the_reranker(reranker: Reranker, form: Any) -> None:
    base = package("rerankers.models.ranker").BaseRanker
    embedding = Embedding(form)
    ranker = as_ranker(reranker, embedding)
    assert isinstance(ranker, base)
    ids = [f"id{i}" for i in range(11)]
    found = ranker.rank("query", WORDS, doc_ids=ids)
    order, scores = embedding.expected(reranker)
    assert [result.doc_id for result in found] == [ids[i] for i in order]
    assert [result.text for result in found.results] == [WORDS[i] for i in order]
    assert [result.score for result in found] == scores
    assert [result.rank for result in found] == list(range(1, len(order) + 1))
    assert all(type(result.score) is float for result in found)
    assert (found.query, found.has_scores) == ("query", True)
    assert [result.doc_id for result in found.top_k(2)] == [ids[i] for i in order[:2]]
    assert sorted(map(len, embedding.calls)) == [1, 11]


def test_ranker_reads_documents_of_its_library() -> None:
    documents = package("rerankers.documents")
    embedding = Embedding()
    ranker = as_ranker(QueryExpansion(k=2), embedding, embedding.for_query)
    order, _ = embedding.expected(QueryExpansion(k=2), query="query: query")
    given = [documents.Document(word, doc_id=i, metadata={"page": i}) for i, word in enumerate(WORDS)]
    assert [result.metadata["page"] for result in ranker.rank("query", given)] == order
    assert [result.doc_id for result in ranker.rank("query", WORDS)] == order
    assert [result.doc_id for result in asyncio.run(ranker.rank_async("query", WORDS))] == order
    assert order != embedding.expected(QueryExpansion(k=2))[0]
    assert ranker.rank("query", []).results == []
    only = ranker.rank("query", WORDS[4])
    assert only.results_count() == 1
    assert ranker.score("query", WORDS[4]) == only[0].score


@pytest.mark.parametrize("reranker", RERANKERS, ids=repr)
def test_compressor_ranks_as_the_reranker(reranker: Reranker) -> None:
    core = package("langchain_core.documents")
    embeddings = package("langchain_core.embeddings").DeterministicFakeEmbedding(size=6)
    compressor = as_document_compressor(reranker, embeddings)
    assert isinstance(compressor, core.BaseDocumentCompressor)
    documents = [core.Document(word, id=str(i), metadata={"page": i}) for i, word in enumerate(WORDS)]
    found = compressor.compress_documents(documents, "query")
    lists = reranker.rerank(
        torch.tensor([embeddings.embed_query("query")], dtype=torch.float32),
        torch.tensor(embeddings.embed_documents(WORDS), dtype=torch.float32),
        torch.arange(11).unsqueeze(0),
    )
    kept = lists.indices[0] >= 0
    order, scores = lists.indices[0][kept].tolist(), lists.scores[0][kept].tolist()
    assert [document.metadata for document in found] == [
        {"page": i, "relevance_score": score} for i, score in zip(order, scores, strict=True)
    ]
    assert [document.page_content for document in found] == [WORDS[i] for i in order]
    assert [document.id for document in found] == [str(i) for i in order]
    assert all(type(document.metadata["relevance_score"]) is float for document in found)
    assert all(list(document.metadata) == ["page"] for document in documents)
    assert asyncio.run(compressor.acompress_documents(documents, "query")) == found
    assert as_document_compressor(reranker, embeddings, top_n=2).compress_documents(documents, "query") == found[:2]
    assert compressor.compress_documents([], "query") == []


def test_compressor_behind_a_retriever() -> None:
    """As a step behind what finds the documents."""
    core = package("langchain_core.documents")
    runnables, stores = package("langchain_core.runnables"), package("langchain_core.vectorstores")
    embeddings = package("langchain_core.embeddings").DeterministicFakeEmbedding(size=6)
    store = stores.InMemoryVectorStore.from_documents([core.Document(word) for word in WORDS], embeddings)
    retriever = store.as_retriever(search_kwargs={"k": 5})
    compressor = as_document_compressor(Reverse(), embeddings)
    chain = runnables.RunnableLambda(lambda query: compressor.compress_documents(retriever.invoke(query), query))
    found = [document.page_content for document in chain.invoke("query")]
    assert found == [document.page_content for document in retriever.invoke("query")][::-1]
    assert len(found) == 5


@pytest.mark.parametrize("reranker", [Diffusion(scope="gallery"), QueryExpansion(exclude_self=True)], ids=repr)
def test_texts_have_no_gallery(reranker: Reranker) -> None:
    value = "scope='gallery'" if reranker.scope == "gallery" else "exclude_self=True"
    for make in (as_ranker, as_document_compressor):
        with pytest.raises(ValueError, match=f"reranker has {value}, but there is no gallery here, only texts"):
            make(reranker, Embedding())


def test_bad_embeddings_and_options() -> None:
    package("rerankers")
    package("langchain_core")
    ranker = as_ranker(QueryExpansion(), lambda texts: np.ones((min(2, len(texts)), 4)))
    with pytest.raises(ValueError, match=r"the embedding of 11 documents has shape \(2, 4\); expected \[11, D\]"):
        ranker.rank("query", WORDS)
    ranker = as_ranker(QueryExpansion(), lambda texts: np.ones((len(texts), 4)), lambda texts: np.ones(4))
    with pytest.raises(ValueError, match=r"the embedding of 1 query has shape \(4,\); expected \[1, D\]"):
        ranker.rank("query", WORDS)
    with pytest.raises(ValueError, match="top_n is 0; expected an integer, at least 1, or None"):
        as_document_compressor(QueryExpansion(), Embedding(), top_n=0)


@pytest.mark.parametrize(("make", "missing"), [(as_ranker, "rerankers"), (as_document_compressor, "langchain_core")])
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, make: Any, missing: str) -> None:
    def attempt(module: str) -> Any:
        return ModuleNotFoundError(f"No module named {module!r}") if module.startswith(missing) else ModuleType(module)

    monkeypatch.setattr(_optional, "_attempt", attempt)
    for adapter in ("rerankers._ranker_class", "langchain._compressor_class"):
        module, name = adapter.split(".")
        made = getattr(importlib.import_module(f"graphattn.retrieval.adapters.{module}"), name)
        monkeypatch.setattr(f"graphattn.retrieval.adapters.{adapter}", made.__wrapped__)
    with pytest.raises(ImportError, match=rf"{missing}.* is needed here .*pip install 'graphattn\[retrieval\]'"):
        make(QueryExpansion(), Embedding())


# sentence-transformers


@pytest.mark.parametrize("reranker", RERANKERS, ids=repr)
def test_hits_of_semantic_search(reranker: Reranker) -> None:
    search = package("sentence_transformers.util").semantic_search
    data = problem(dtype=torch.float32)
    hits = search(data.queries, data.gallery, top_k=9)
    found = rerank_hits(reranker, data.queries, data.gallery, hits)
    indices = torch.tensor([[hit["corpus_id"] for hit in one] for one in hits])
    scores = torch.tensor([[hit["score"] for hit in one] for one in hits])
    lists = reranker.rerank(data.queries, data.gallery, indices, scores)
    expected = [
        [{"corpus_id": i, "score": s} for i, s in zip(*row, strict=True) if i >= 0]
        for row in zip(lists.indices.tolist(), lists.scores.tolist(), strict=True)
    ]
    assert found == expected
    assert rerank_hits(reranker, data.queries[2], data.gallery.numpy(), hits[2:3]) == expected[2:3]
    assert rerank_hits(reranker, data.queries.numpy(), data.gallery.numpy(), hits) == expected


def test_embeddings_of_a_model() -> None:
    """A model of sentence-transformers embeds for the hits and for the ranker."""
    sentence_transformers = package("sentence_transformers")
    package("rerankers")
    modules = package("sentence_transformers.models")
    vocabulary = [f"w{i}" for i in range(12)]
    model = sentence_transformers.SentenceTransformer(modules=[modules.BoW(vocabulary)], device="cpu")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(vocabulary, 5)) for _ in range(20)]
    corpus = model.encode(texts, show_progress_bar=False)
    query = model.encode(["w1 w2 w3"], show_progress_bar=False)
    hits = package("sentence_transformers.util").semantic_search(query, corpus, top_k=20)
    reranker = QueryExpansion(k=3)
    found = rerank_hits(reranker, query, corpus, hits)[0]
    ranked = as_ranker(reranker, model.encode).rank("w1 w2 w3", texts)
    expected = {result.doc_id: result.score for result in ranked}
    assert {hit["corpus_id"]: hit["score"] for hit in found} == pytest.approx(expected, rel=1e-5)
    assert [hit["corpus_id"] for hit in found] != [hit["corpus_id"] for hit in hits[0]]


def test_ragged_hits_and_what_they_hold() -> None:
    data = problem(dtype=torch.float32)
    hits: list[list[dict[str, Any]]] = [
        [{"corpus_id": 3, "score": 0.2, "text": "c"}, {"corpus_id": 7, "score": 0.9, "text": "g"}],
        [],
        [{"corpus_id": 1, "score": 0.5, "text": "a"}],
        [{"corpus_id": i, "score": float(np.float32(1 / (i + 1))), "text": str(i)} for i in range(12)],
        [{"corpus_id": 4, "score": 0.5}, {"corpus_id": 4, "score": 0.4}, {"corpus_id": 2, "score": 0.3}],
    ]
    copies = [[dict(hit) for hit in one] for one in hits]
    found = rerank_hits(QueryExpansion(k=2), data.queries, data.gallery, hits)
    assert hits == copies
    assert [len(one) for one in found] == [2, 0, 1, 12, 2]
    texts = {hit["corpus_id"]: hit["text"] for hit in hits[3]}
    assert all(hit["text"] == texts[hit["corpus_id"]] for hit in found[3])
    for row in range(5):
        one = rerank_hits(QueryExpansion(k=2), data.queries[row], data.gallery, hits[row : row + 1])
        assert [hit["corpus_id"] for hit in one[0]] == [hit["corpus_id"] for hit in found[row]]
        assert [hit["score"] for hit in one[0]] == pytest.approx([hit["score"] for hit in found[row]], rel=1e-5)
    assert rerank_hits(QueryExpansion(k=2), data.queries[:0], data.gallery, []) == []


def test_hits_without_the_query_itself() -> None:
    x, _ = clusters()
    hits = [[{"corpus_id": i, "score": float(x[row] @ x[i])} for i in range(24)] for row in range(24)]
    found = rerank_hits(InnerProduct(exclude_self=True), x, x, hits, query_ids=torch.arange(24))
    assert [len(one) for one in found] == [23] * 24
    assert all(row not in [hit["corpus_id"] for hit in one] for row, one in enumerate(found))


def test_bad_hits() -> None:
    x, _ = clusters()
    with pytest.raises(ValueError, match="hits has 1 lists; expected 24, one per query"):
        rerank_hits(InnerProduct(), x, x, [[]])
    for name in ("corpus_id", "score"):
        hit = {"corpus_id": 1, "score": 0.5}
        del hit[name]
        with pytest.raises(ValueError, match=f"hits of query 0 lack '{name}'"):
            rerank_hits(InnerProduct(), x[0], x, [[hit]])
    with pytest.raises(ValueError, match="indices contains 24"):
        rerank_hits(InnerProduct(), x[0], x, [[{"corpus_id": 24, "score": 0.5}]])
