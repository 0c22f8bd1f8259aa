"""Run: result lists by name, and the forms other tools keep them in."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from graphattn._optional import require

_QUERY_COLUMNS, _DOC_COLUMNS = ("qid", "query_id", "q_id"), ("docno", "doc_id")
_METRICS = ("dot", "euclidean")


class PaddedLists(NamedTuple):
    """Result lists as the arrays that :meth:`Reranker.rerank` takes.

    Args:
        indices: Rows of the gallery, best first; -1 fills up.
        scores: Scores, larger is better; 0 where the row is -1.
        missing: Documents of each query that are not in the gallery.

    Shapes:
        - ``indices``, ``scores``: :math:`(Q, K)`; ``missing``: :math:`(Q,)`

    Example:
        >>> run = Run(["q", "r"], [["b", "a"], ["c"]], [[0.9, 0.2], [0.5]])
        >>> run.to_arrays({"a": 0, "b": 1, "c": 2}).indices
        array([[ 1,  0],
               [ 2, -1]])
    """

    indices: np.ndarray
    scores: np.ndarray
    missing: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    r"""Result lists of some queries, with ids instead of numbers of rows.

    Iterating yields ``(query id, ids of its documents, their scores)``, which is what :func:`iterate_run` reads from a
    file and :func:`write_run` writes to one.

    Args:
        query_ids: Ids of the queries; ids are anything hashable.
        doc_ids: Ids of the documents of each query: a matrix, or lists of any length.
        scores: Their scores, larger is better; ``-inf`` for what is ranked last. A list that is not sorted by them is
            sorted, equal scores stay in order.

    Shapes:
        - ``doc_ids``, ``scores``: :math:`(Q, K)`, or :math:`Q` sequences of :math:`K_q` entries

    Raises:
        ValueError: If lengths differ, a query comes twice, a document comes twice in a list, or a score is NaN or
            infinite.

    Example:
        >>> run = Run(["q1", "q2"], [["d1", "d2"], ["d7"]], [[0.2, 0.9], [0.5]])
        >>> run.doc_ids
        [['d2', 'd1'], ['d7']]
        >>> run
        Run(2 queries, 3 documents)
    """

    query_ids: Sequence[Hashable]
    doc_ids: Sequence[Any]
    scores: Sequence[Any]

    def __post_init__(self) -> None:
        query_ids, doc_ids, scores = as_list(self.query_ids), list(self.doc_ids), list(self.scores)
        for name, value in (("doc_ids", doc_ids), ("scores", scores)):
            if len(value) != len(query_ids):
                raise ValueError(f"{name} has length {len(value)}; expected {len(query_ids)}, one list per query")
        check_distinct("query_ids", query_ids)
        lists = [best_first(*entry) for entry in zip(query_ids, doc_ids, scores, strict=True)]
        object.__setattr__(self, "query_ids", query_ids)
        object.__setattr__(self, "doc_ids", [docs for docs, _ in lists])
        object.__setattr__(self, "scores", [values for _, values in lists])

    def __len__(self) -> int:
        return len(self.query_ids)

    def __iter__(self) -> Iterator[tuple[Hashable, Sequence[Hashable], np.ndarray]]:
        return zip(self.query_ids, self.doc_ids, self.scores, strict=True)

    def __repr__(self) -> str:
        return f"Run({len(self)} queries, {sum(map(len, self.doc_ids))} documents)"

    @classmethod
    def from_lists(cls, lists: Iterable[tuple[Hashable, Any, Any]]) -> Run:
        """Gather lists, such as the next hundred that :func:`iterate_run` reads.

        Args:
            lists: ``(query id, ids of its documents, their scores)`` of each query.

        Example:
            >>> Run.from_lists([("q1", ["a"], [0.5]), ("q2", ["b", "a"], [0.5, 0.25])])
            Run(2 queries, 3 documents)
        """
        gathered = list(lists)
        return cls(*([entry[column] for entry in gathered] for column in range(3)))

    @classmethod
    def from_arrays(
        cls,
        indices: Tensor | np.ndarray,
        scores: Tensor | np.ndarray,
        query_ids: Sequence[Hashable] | None = None,
        doc_ids: Sequence[Hashable] | None = None,
        *,
        metric: str = "dot",
    ) -> Run:
        r"""Name the rows of lists that a :class:`Reranker` or an index returned.

        A search in FAISS returns ``(D, I)``: these are ``scores`` and ``indices``.

        Args:
            indices: Rows of the gallery; -1 is an empty slot.
            scores: Their scores.
            query_ids: Ids of the queries; their numbers by default.
            doc_ids: Ids of the rows of the gallery; their numbers by default.
            metric: ``"dot"`` if larger scores are better; ``"euclidean"`` if they are distances, squared or not, which
                become negative: those of ``METRIC_L2`` in FAISS.

        Shapes:
            - ``indices``, ``scores``: :math:`(Q, K)`

        Raises:
            ValueError: If a shape or a length does not fit, or a row is not in ``doc_ids`` or twice in a list.
            TypeError: If the rows are no integers.

        Example:
            >>> distances, rows = np.array([[0.1, 0.4, np.inf]]), np.array([[2, 0, -1]])
            >>> Run.from_arrays(rows, distances, ["q"], ["a", "b", "c"], metric="euclidean").to_dict()
            {'q': {'c': -0.1, 'a': -0.4}}
        """
        if metric not in _METRICS:
            raise ValueError(f"metric is {metric!r}; expected {' or '.join(map(repr, _METRICS))}")
        rows, values = _numbers(indices), _numbers(scores).astype(np.float64)
        if rows.ndim != 2:
            raise ValueError(f"indices has shape {rows.shape}; expected [Q, K]")
        if rows.dtype.kind not in "iu":
            raise TypeError(f"indices has dtype {rows.dtype}; expected an integer dtype")
        if rows.shape != values.shape:
            raise ValueError(f"scores has shape {values.shape}; expected {rows.shape}, as indices")
        if query_ids is not None and len(query_ids) != len(rows):
            raise ValueError(f"query_ids has length {len(query_ids)}; expected {len(rows)}, one per row of indices")
        size = None if doc_ids is None else len(doc_ids)
        if rows.size and (rows.min() < -1 or (size is not None and rows.max() >= size)):
            wrong = rows.min() if rows.min() < -1 else rows.max()
            bound = "" if size is None else f" below {size}, the length of doc_ids,"
            raise ValueError(f"indices contains {wrong}; expected rows{bound} or -1 for an empty slot")
        kept = rows >= 0
        found = [row[keep].tolist() for row, keep in zip(rows, kept, strict=True)]
        return cls(
            range(len(rows)) if query_ids is None else query_ids,
            found if doc_ids is None else [[doc_ids[row] for row in one] for one in found],
            [(-row if metric == "euclidean" else row)[keep] for row, keep in zip(values, kept, strict=True)],
        )

    def to_arrays(self, rows: Mapping[Hashable, int], *, skip_missing: bool = False) -> PaddedLists:
        """Find the rows of the documents in a gallery, padded to the longest list.

        Args:
            rows: Row of each id, such as ``Embeddings.rows``.
            skip_missing: Whether documents that are not in the gallery are left out and counted, instead of an error.

        Returns:
            Arrays for ``Reranker.rerank(queries, gallery, lists.indices, lists.scores)``.

        Raises:
            ValueError: If a document is not in the gallery.

        Example:
            >>> run = Run(["q1", "q2"], [["d2", "d1"], ["d7"]], [[0.9, 0.2], [0.5]])
            >>> lists = run.to_arrays({"d1": 0, "d2": 1}, skip_missing=True)
            >>> lists.indices.tolist(), lists.missing.tolist()
            ([[1, 0], [-1, -1]], [0, 1])
        """
        found = [np.array([rows.get(doc, -1) for doc in docs], dtype=np.int64) for docs in self.doc_ids]
        missing = np.array([int((one < 0).sum()) for one in found], dtype=np.int64)
        if missing.any() and not skip_missing:
            query = int((missing > 0).argmax())
            doc = self.doc_ids[query][int((found[query] < 0).argmax())]
            raise ValueError(
                f"document {doc!r} of query {self.query_ids[query]!r} is not in the gallery, one of {missing.sum()}; "
                "pass skip_missing=True to leave them out"
            )
        width = max((len(one) - gone for one, gone in zip(found, missing, strict=True)), default=0)
        indices = np.full((len(self), width), -1, dtype=np.int64)
        scores = np.zeros((len(self), width), dtype=np.float32)
        for row, (one, values) in enumerate(zip(found, self.scores, strict=True)):
            kept = one >= 0
            indices[row, : kept.sum()] = one[kept]
            scores[row, : kept.sum()] = values[kept]
        return PaddedLists(indices, scores, missing)

    @classmethod
    def from_dict(cls, results: Mapping[Hashable, Mapping[Hashable, float]]) -> Run:
        """Take the dictionaries that BEIR and pytrec_eval have.

        Args:
            results: ``{query: {document: score}}``.

        Example:
            >>> Run.from_dict({"q": {"a": 0.1, "b": 0.7}}).doc_ids
            [['b', 'a']]
        """
        return cls.from_lists((query, docs, list(docs.values())) for query, docs in results.items())

    def to_dict(self) -> dict[Any, dict[Any, float]]:
        """Return ``{query: {document: score}}``, the dictionaries that BEIR and pytrec_eval have.

        Example:
            >>> Run(["q"], [["b", "a"]], [[0.7, 0.1]]).to_dict()
            {'q': {'b': 0.7, 'a': 0.1}}
        """
        return {query: dict(zip(docs, scores.tolist(), strict=True)) for query, docs, scores in self}

    @classmethod
    def from_frame(cls, frame: Any) -> Run:
        """Take a pandas ``DataFrame`` of one document a row, as PyTerrier, ir_measures and ranx have it.

        Args:
            frame: Columns ``qid`` (or ``query_id``, ``q_id``), ``docno`` (or ``doc_id``) and ``score``, in any order of
                rows. Others, such as ``rank`` and ``query``, are not read: scores tell the order, as everywhere.

        Raises:
            ValueError: If a column is missing.

        Example:
            >>> import pandas
            >>> frame = pandas.DataFrame({"qid": ["q", "q"], "docno": ["a", "b"], "score": [0.1, 0.7]})
            >>> Run.from_frame(frame).doc_ids
            [['b', 'a']]
        """
        query, doc, score = (_column(frame, names) for names in (_QUERY_COLUMNS, _DOC_COLUMNS, ("score",)))
        lists: dict[Hashable, tuple[list[Hashable], list[float]]] = {}
        columns = (frame[name].tolist() for name in (query, doc, score))
        for query_id, doc_id, value in zip(*columns, strict=True):
            docs, values = lists.setdefault(query_id, ([], []))
            docs.append(doc_id)
            values.append(value)
        return cls.from_lists((query, docs, values) for query, (docs, values) in lists.items())

    def to_frame(self) -> Any:
        """Return a pandas ``DataFrame`` with ``qid``, ``docno``, ``rank`` from 0 and ``score``, as PyTerrier has it.

        Example:
            >>> Run(["q"], [["b", "a"]], [[0.7, 0.1]]).to_frame().values.tolist()
            [['q', 'b', 0, 0.7], ['q', 'a', 1, 0.1]]
        """
        columns = {
            "qid": [query for query, docs, _ in self for _ in docs],
            "docno": [doc for docs in self.doc_ids for doc in docs],
            "rank": [rank for docs in self.doc_ids for rank in range(len(docs))],
            "score": np.concatenate([np.empty(0), *self.scores]),
        }
        return require("pandas", "retrieval").DataFrame(columns)

    @classmethod
    def from_ranx(cls, run: Any) -> Run:
        """Take the lists of ranx.

        Args:
            run: A ``ranx.Run``.
        """
        return cls.from_dict(run.to_dict())

    def to_ranx(self, name: str | None = None) -> Any:
        """Return a ``ranx.Run``, whose ids are texts; for judgements there is ``ranx.Qrels(read_qrels(path))``.

        Args:
            name: What tables of ranx call it.
        """
        results = {
            str(query): {str(doc): score for doc, score in docs.items()} for query, docs in self.to_dict().items()
        }
        return require("ranx", "retrieval").Run(results, name=name)


def best_first(query_id: Hashable, doc_ids: Any, scores: Any) -> tuple[list[Any], np.ndarray]:
    """Check a list and sort it by its scores; equal ones stay in order."""
    docs, values = as_list(doc_ids), _numbers(scores).astype(np.float64)
    if values.shape != (len(docs),):
        raise ValueError(
            f"scores of query {query_id!r} have shape {values.shape}; expected ({len(docs)},), as its doc_ids"
        )
    check_distinct(f"doc_ids of query {query_id!r}", docs)
    wrong = ~(values < np.inf)
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"score of {docs[place]!r} for query {query_id!r} is {values[place]}; expected a finite number"
        )
    if (values[1:] > values[:-1]).any():
        order = np.argsort(-values, kind="stable")
        docs, values = [docs[place] for place in order], values[order]
    return docs, values


def as_list(values: Any) -> list[Any]:
    """Return ids as objects of Python: those of an array or a tensor are other keys, or none."""
    return values.tolist() if isinstance(values, (np.ndarray, Tensor)) else list(values)


def check_distinct(name: str, ids: Sequence[Hashable]) -> None:
    """Raise if an id comes twice."""
    if len(set(ids)) < len(ids):
        seen: set[Hashable] = set()
        twice = next(one for one in ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise ValueError(f"{name} holds {twice!r} twice; expected every id once")


def _numbers(values: Any) -> np.ndarray:
    """Return numbers as an array; NumPy has no bfloat16."""
    if isinstance(values, Tensor):
        return (values.detach().double() if values.is_floating_point() else values).cpu().numpy()
    return np.asarray(values)


def _column(frame: Any, names: tuple[str, ...]) -> str:
    for name in names:
        if name in frame.columns:
            return name
    raise ValueError(f"frame has columns {list(frame.columns)}; expected {' or '.join(map(repr, names))} among them")
