"""Reranker: what all re-ranking methods share, from reading the lists to writing the diagnostics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from graphattn.affinity._vectors import Source, Vectors
from graphattn.affinity.gallery import GalleryGraph
from graphattn.retrieval._call import Call
from graphattn.retrieval._first_stage import join, level_copies, ranked, read_ids, read_lists, sort_lists, unit_range
from graphattn.retrieval._options import DEFAULTS, Options, read_options
from graphattn.retrieval.batch import CandidateBatch
from graphattn.retrieval.lists import RankedLists

if TYPE_CHECKING:
    from typing_extensions import Unpack

Self = TypeVar("Self", bound="Reranker")

_CHUNK_BYTES, _ACCELERATOR_CHUNK_BYTES = 1 << 26, 1 << 29


class Reranker(ABC):
    r"""Re-rank result lists by what the candidates say about one another.

    A method is a subclass with a ``_scores``; this class reads the lists, fetches the vectors of a chunk of queries,
    calls the method, and sorts. Memory is that of the lists and of one chunk, whatever the size of the gallery.

    A subclass tells what it supports by ``scopes``, ``can_be_transductive``, ``reports_support`` and
    ``reports_confidence`` (its ``_scores`` calls ``batch.report(support=..., confidence=...)``), and what is published
    by ``published_top_k`` and ``published_blend`` (it then blends by its own formula, with ``self.blend``). For
    ``scope="gallery"`` it has a ``_graph_width``; where the memory of a query is not some matrices of all nodes, a
    ``_bytes_per_query``.

    Args:
        top_k: Candidates of each list that are re-ranked (the head); ``None`` takes the published number, if the method
            has one, else all.
        blend: Weight :math:`\lambda` of the first stage, in :math:`(1 - \lambda)\,new + \lambda\,old`, both scaled to
            [0, 1] over the head of each list; ``None`` is 0. Methods with a published blending formula use that one,
            and ``None`` is its published :math:`\lambda`.
        tail: What becomes of the candidates behind the head: ``"keep"`` leaves them in order, with scores below it;
            ``"drop"`` turns them into -1.
        scope: ``"candidates"`` sees the query and its own list; ``"gallery"`` also the neighbours of all items of the
            gallery, found by :meth:`fit`.
        transductive: Whether the other queries take part, as some protocols have it. Scores then depend on who else
            is searching.
        exclude_self: Whether the query itself, known by ``query_ids``, is taken out of its list.
        duplicates: An id that comes twice in a list is taken out after its first occurrence (``"keep_first"``) or
            raises (``"error"``).
        min_support: A list keeps its order if the query has fewer reciprocal neighbours than this.
        chunk: Queries that are processed at a time; ``"auto"`` fills a fixed budget of memory.
        normalize: Whether vectors are divided by their length; zero vectors stay zero.
        nan_policy: Vectors or scores that are not finite raise (``"raise"``), or their candidates are ranked last with
            score ``-inf`` (``"last"``); a list whose query is not finite keeps its order.

    Raises:
        ValueError: If an option is out of range or the method does not support it.

    Example:
        >>> class InnerProduct(Reranker):
        ...     def _scores(self, batch):
        ...         return batch.similarity
        >>> gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> InnerProduct().rerank(torch.tensor([[0.0, 1.0]]), gallery, torch.tensor([[0, 1, 2]])).indices
        tensor([[1, 2, 0]])
    """

    scopes: ClassVar[tuple[str, ...]] = ("candidates",)
    can_be_transductive: ClassVar[bool] = False
    reports_support: ClassVar[bool] = False
    reports_confidence: ClassVar[bool] = False
    published_top_k: ClassVar[int | None] = None
    published_blend: ClassVar[float | None] = None

    top_k: int | None
    blend: float
    tail: str
    scope: str
    transductive: bool
    exclude_self: bool
    duplicates: str
    min_support: int
    chunk: int | str
    normalize: bool
    nan_policy: str
    graph_: GalleryGraph

    def __init__(self, **options: Unpack[Options]) -> None:
        for name, value in read_options(type(self).__name__, dict(options), self._defaults()).items():
            setattr(self, name, value)
        if self.scope not in self.scopes:
            expected = ", ".join(map(repr, self.scopes))
            raise ValueError(f"scope is {self.scope!r}, but {type(self).__name__} has only {expected}")
        unsupported = {
            "transductive": (self.can_be_transductive, "form in which other queries take part"),
            "min_support": (self.reports_support, "reciprocal neighbours to count"),
        }
        for name, (supported, what) in unsupported.items():
            if getattr(self, name) and not supported:
                raise ValueError(f"{name} is {getattr(self, name)}, but {type(self).__name__} has no {what}")

    @abstractmethod
    def _scores(self, batch: CandidateBatch) -> Tensor:
        """Compute new scores ``[B, K]``, larger is better; those of candidates that are not there do not matter."""

    def fit(self: Self, gallery: Tensor | np.ndarray) -> Self:
        """Find the neighbours of all items of the gallery, for ``scope="gallery"``; others need nothing.

        With ``transductive`` the queries are neighbours too, so that every call of :meth:`rerank` finds them anew.

        Args:
            gallery: Vectors ``[N, D]``; a memory-mapped array is read block by block.

        Returns:
            This re-ranker, with the lists as ``graph_``. After the gallery has changed it has to be fitted anew.

        Raises:
            ValueError: If the gallery is a function of ids, has another shape or is not finite.
            TypeError: If the gallery is no floating-point tensor or array.
        """
        if self.scope == "gallery" and not self.transductive:
            if callable(gallery):
                raise ValueError("gallery is a function, but scope is 'gallery'; pass the vectors as a Tensor or array")
            self.graph_ = self._build_graph(gallery, normalize=self.normalize, nan_policy=self.nan_policy)
        return self

    @torch.no_grad()
    def rerank(
        self,
        queries: Tensor | np.ndarray,
        gallery: Source,
        indices: Tensor | np.ndarray | None = None,
        scores: Tensor | np.ndarray | None = None,
        query_ids: Tensor | np.ndarray | None = None,
    ) -> RankedLists:
        r"""Re-rank the lists that a first stage returned, or search the gallery and re-rank what is found.

        Args:
            queries: Vectors of the queries. float16 and bfloat16 are computed in float32.
            gallery: Vectors of the gallery, of which only those of the heads are read; or a function that returns the
                vectors ``[n, D]`` of ids ``[n]``, each asked for once per chunk.
            indices: Ids of the candidates, best first; -1 fills up. Without them the gallery is searched exactly, for
                the head or for everything.
            scores: Scores of the candidates, larger is better; a list that is not sorted by them is sorted first.
                Without them a list is in order as it is, and inner products stand in.
            query_ids: Which item of the gallery each query is, -1 for none; needed by ``exclude_self``.

        Shapes:
            - **input:** ``queries`` :math:`(Q, D)`, ``gallery`` :math:`(N, D)`, ``indices`` and ``scores``
              :math:`(Q, K)`, ``query_ids`` :math:`(Q,)`
            - **output:** :math:`(Q, K)`

        Returns:
            The lists, on the device of the queries, or as arrays if they are one. Equal new scores stay in the order
            of the first stage.

        Raises:
            ValueError: If a shape, a device or an id does not fit, a vector is not finite, or the re-ranker has not
                been fitted to this gallery.
            TypeError: If an argument is of another type.

        Example:
            >>> from graphattn.retrieval import QueryExpansion
            >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, -0.8]])
            >>> lists = QueryExpansion(k=1).rerank(torch.tensor([[1.0, 0.2]]), gallery)
            >>> lists.indices
            tensor([[0, 1, 3, 2]])
        """
        as_numpy = isinstance(queries, np.ndarray)
        call = self._read(queries, gallery, indices, scores, query_ids, as_numpy)
        result = join([self._rerank_chunk(call, rows) for rows in self._chunks(call)])
        result.diagnostics.update(method=type(self).__name__, transductive=self.transductive)
        return result.numpy() if as_numpy else result

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {**DEFAULTS, "top_k": cls.published_top_k, "blend": cls.published_blend or 0.0}

    def __repr__(self) -> str:
        """Name the arguments of the method, and the options that are not at their default."""
        defaults = self._defaults()
        shown = {name: value for name, value in vars(self).items() if name not in defaults and name[-1] != "_"}
        shown |= {name: getattr(self, name) for name in defaults if getattr(self, name) != defaults[name]}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def _build_graph(self, gallery: Tensor | np.ndarray, **options: Any) -> GalleryGraph:
        """Find the neighbours of all nodes."""
        return GalleryGraph.build(gallery, self._graph_width(), **options)

    def _graph_width(self) -> int:
        """Return how many neighbours the method needs of each item of the gallery."""
        raise NotImplementedError

    def _bytes_per_query(self, num_nodes: int, width: int) -> int:
        """Estimate the memory that one query needs: by default some matrices and some vectors of all nodes."""
        return 4 * (4 * num_nodes * num_nodes + 3 * num_nodes * width)

    def _read(self, queries: Any, gallery: Any, indices: Any, scores: Any, query_ids: Any, as_numpy: bool) -> Call:
        """Check and convert the arguments of a call, and search the gallery if there are no lists."""
        if not isinstance(queries, (Tensor, np.ndarray)):
            raise TypeError(f"queries is a {type(queries).__name__}; expected a Tensor or an array [Q, D]")
        options: dict[str, Any] = {"normalize": self.normalize, "nan_policy": self.nan_policy}
        x, there = Vectors(queries, name="queries", **options).all()
        vectors = Vectors(gallery, like=x, as_numpy=as_numpy, **options)
        own = torch.full((x.size(0),), -1, device=x.device)
        if query_ids is not None:
            if not self.exclude_self and self.scope == "candidates":
                raise ValueError("query_ids is given but has no use here; pass exclude_self=True, or leave it out")
            own = read_ids("query_ids", query_ids, x, vectors.size)
            if own.dim() != 1:
                raise ValueError(f"query_ids has shape {tuple(own.shape)}; expected [{x.size(0)}]")
        elif self.exclude_self:
            raise ValueError("exclude_self is True but query_ids is None; pass the id of each query in the gallery")
        if indices is not None:
            lists = read_lists(indices, scores, x, vectors.size)
        elif scores is not None:
            raise ValueError("scores is given but indices is None; pass the ids that the scores belong to")
        elif vectors.size is None:
            raise ValueError("indices is None, but gallery is a function, which cannot be searched; pass indices")
        else:
            depth = vectors.size if self.top_k is None else min(self.top_k, vectors.size)
            lists = vectors.nearest(x, depth, own if self.exclude_self else None)
        call = Call(x, there, own, *lists, vectors, None, own)
        if self.scope == "candidates":
            return call
        if vectors.size is None:
            raise ValueError("gallery is a function, but scope is 'gallery'; pass the vectors as a Tensor or array")
        return self._with_queries(call) if self.transductive else replace(call, graph=self._fitted_graph(x, vectors))

    def _with_queries(self, call: Call) -> Call:
        """Let the queries be items of the gallery, behind the others, and find the neighbours of all."""
        options: dict[str, Any] = {"normalize": False, "nan_policy": self.nan_policy}
        num_items = call.vectors.size or 0
        stacked = call.x.new_empty(num_items + call.x.size(0), call.x.size(1))
        for start, rows, there in call.vectors.blocks():
            stacked[start : start + rows.size(0)] = rows.masked_fill_(~there.unsqueeze(1), torch.nan)
        stacked[num_items:] = call.x.masked_fill(~call.there.unsqueeze(1), torch.nan)
        nodes = torch.arange(num_items, stacked.size(0), device=stacked.device)
        graph = self._build_graph(stacked, **options)
        return replace(call, vectors=Vectors(stacked, **options), graph=graph, query_nodes=nodes)

    def _fitted_graph(self, x: Tensor, vectors: Vectors) -> GalleryGraph:
        graph: GalleryGraph | None = getattr(self, "graph_", None)
        if graph is None:
            raise ValueError("scope is 'gallery' but the re-ranker is not fitted; call fit(gallery) first")
        if graph.ids.device != x.device:
            raise ValueError(f"the re-ranker was fitted on {graph.ids.device} but queries are on {x.device}; move one")
        if graph.num_items != vectors.size:
            size = graph.num_items
            raise ValueError(f"gallery has {vectors.size} items but was fitted with {size}; call fit(gallery) anew")
        return graph

    def _chunks(self, call: Call) -> Iterator[slice]:
        num_queries, width = call.x.shape
        if self.chunk == "auto":
            nodes = self._head(call) + (num_queries if self._has_peers else 1)
            budget = _CHUNK_BYTES if call.x.device.type == "cpu" else _ACCELERATOR_CHUNK_BYTES
            size = max(1, budget // self._bytes_per_query(nodes, width))
        else:
            size = int(self.chunk)
        for start in range(0, max(1, num_queries), size):
            yield slice(start, min(start + size, num_queries))

    def _head(self, call: Call) -> int:
        length = call.indices.size(1)
        return length if self.top_k is None else min(self.top_k, length)

    @property
    def _has_peers(self) -> bool:
        return self.transductive and self.scope == "candidates"

    def _rerank_chunk(self, call: Call, rows: slice) -> RankedLists:
        first = sort_lists(
            call.indices[rows],
            None if call.scores is None else call.scores[rows],
            call.own[rows] if self.exclude_self else None,
            first_row=rows.start,
            duplicates=self.duplicates,
            nan_policy=self.nan_policy,
        )
        batch = call.gather(rows, first, self._head(call), peers=self._has_peers)
        mask = batch.mask
        new = torch.zeros(mask.shape, dtype=call.x.dtype, device=mask.device)
        kept = ~call.there[rows]
        if bool(mask.any()):
            new = self._scores(batch)
            if new.shape != mask.shape:
                raise ValueError(f"{type(self).__name__} gave scores {tuple(new.shape)}; expected {tuple(mask.shape)}")
            if self.published_blend is None and self.blend > 0:
                new = (1 - self.blend) * unit_range(new, mask) + self.blend * unit_range(batch.scores, mask)
            if "support" in batch.reports:
                kept = kept | (batch.reports["support"] < max(1, self.min_support))
            new = level_copies(new, mask, batch.candidates)
            if bool(kept.any()):
                # Scores of a list whose order is kept must not rise where inner products stand in for its own.
                old = batch.scores.masked_fill(~mask, torch.inf).cummin(1).values
                new = torch.where(kept.unsqueeze(1), old, new)
            new = new.masked_fill(~mask, 0.0)
            if not bool(new.isfinite().all()):
                row = int((~new.isfinite()).any(1).nonzero()[0]) + rows.start
                raise ValueError(f"{type(self).__name__} gave a score that is not finite to query {row}")
        result = ranked(first, new, mask, keep_tail=self.tail == "keep")
        result.diagnostics.update(kept=kept, **batch.reports)
        return result
