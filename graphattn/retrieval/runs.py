"""TREC files: runs read and written, whole or query by query, and relevance judgements."""

from __future__ import annotations

import os
import shutil
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from graphattn.retrieval._run import Run as Run
from graphattn.retrieval._run import best_first
from graphattn.retrieval._run_lines import (
    corrupt,
    opened,
    parse_judgement_line,
    parse_run_line,
    read_lines,
    run_lines,
    word,
)


def read_run(path: str | Path) -> Run:
    """Read a TREC run, ``query Q0 document rank score tag``, compressed by gzip or not.

    Documents are sorted by score, as evaluation tools do, whatever the ranks say; equal scores stay in the order of the
    file. The lines of a query need not stand together.

    Args:
        path: The file.

    Returns:
        The run; its ids are texts.

    Raises:
        ValueError: If a line is corrupt or names a document of the query again; it is named by its number.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "run"
        ...     write_run(path, Run(["q1", "q2"], [["a", "b"], ["c"]], [[0.5, 0.25], [0.1]]))
        ...     read_run(path).to_dict()
        {'q1': {'a': 0.5, 'b': 0.25}, 'q2': {'c': 0.1}}
    """
    path = Path(path)
    lists: dict[str, tuple[dict[str, int], list[float]]] = {}
    names: dict[str, str] = {}  # one object for each document, however many queries found it
    for number, line in read_lines(path):
        query, doc, score = parse_run_line(path, number, line)
        if query not in lists:
            lists[query] = {}, []
        docs, scores = lists[query]
        _add(path, number, query, names.setdefault(doc, doc), docs)
        scores.append(score)
    return Run.from_lists((query, docs, scores) for query, (docs, scores) in lists.items())


def iterate_run(path: str | Path) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """Read a TREC run query by query, in the memory of one query and of the names of those before.

    Args:
        path: The file, in which the lines of each query stand together.

    Yields:
        A query, its documents from the best, and their scores ``[K]``.

    Raises:
        ValueError: If a line is corrupt, names a document of the query again, or belongs to a query that came before;
            it is named by its number.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "run.gz"
        ...     write_run(path, Run(["q1", "q2"], [["a", "b"], ["c"]], [[0.5, 0.25], [0.1]]))
        ...     [(query, docs) for query, docs, scores in iterate_run(path)]
        [('q1', ['a', 'b']), ('q2', ['c'])]
    """
    path = Path(path)
    begins: dict[str, int] = {}
    current: str | None = None
    docs: dict[str, int] = {}
    scores: list[float] = []
    for number, line in read_lines(path):
        query, doc, score = parse_run_line(path, number, line)
        if query != current:
            if current is not None:
                yield current, *best_first(current, docs, scores)
            if query in begins:
                reason = f"query {query!r} comes back, which began on line {begins[query]}"
                raise corrupt(path, number, f"{reason}; sort the file by query, or read it whole by read_run")
            begins[query] = number
            current, docs, scores = query, {}, []
        _add(path, number, query, doc, docs)
        scores.append(score)
    if current is not None:
        yield current, *best_first(current, docs, scores)


def write_run(
    path: str | Path, run: Iterable[tuple[Hashable, Iterable[Hashable], Any]], tag: str = "graphattn"
) -> None:
    """Write a TREC run: ``query Q0 document rank score tag``, ranks from 1, scores strictly decreasing.

    Evaluation tools sort by score in float32 and break ties by the name of the document, so scores are rounded to
    float32 and equal ones are moved apart by its least step. A file that is there is replaced once the new one is
    complete.

    Args:
        path: The file; compressed by gzip if its name ends in ``.gz``.
        run: A :class:`Run`, or ``(query id, ids of its documents, their scores)`` from anywhere, such as a generator.
        tag: Name of the run.

    Raises:
        ValueError: If a name contains white space, a query or a document of a query comes twice, or a score is NaN or
            too large for float32.
        TypeError: If ``run`` is a dictionary.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(Path(folder) / "run", Run(["q"], [["b", "a"]], [[0.5, 0.5]]))
        ...     print((Path(folder) / "run").read_text(), end="")
        q Q0 b 1 0.5 graphattn
        q Q0 a 2 0.49999997 graphattn
    """
    if isinstance(run, Mapping):
        raise TypeError(f"run is a {type(run).__name__}; expected a Run; pass Run.from_dict(run)")
    written: set[str] = set()
    tag = word("tag", tag)
    with opened(Path(path)) as file:
        for query, docs, scores in run:
            file.write(_lines_of_new(written, query, docs, scores, tag))


class RunWriter:
    """Write a TREC run query by query, so that a job that was interrupted can go on.

    Lists are appended to ``<path>.part``, which becomes the file when the ``with`` block ends; after an error it stays.
    With ``resume`` the writer goes on behind what stands there, of which the last query is taken off and to be written
    again: nobody can tell whether it is whole.

    Args:
        path: The file, written as by :func:`write_run`.
        tag: Name of the run.
        resume: Whether to go on with a ``<path>.part``, if there is one, instead of replacing it.

    Raises:
        ValueError: If ``tag`` contains white space, or what is to be resumed is no run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RunWriter(Path(folder) / "run") as writer:
        ...         writer.write("q1", ["b", "a"], [0.5, 0.25])
        ...     print((Path(folder) / "run").read_text(), end="")
        q1 Q0 b 1 0.5 graphattn
        q1 Q0 a 2 0.25 graphattn

    Attributes:
        done: Names of the queries that stand on disk.
    """

    done: set[str]

    def __init__(self, path: str | Path, tag: str = "graphattn", *, resume: bool = False) -> None:
        self.path = Path(path)
        self.tag = word("tag", tag)
        self.done = set()
        self._part = self.path.with_name(self.path.name + ".part")
        if resume and self._part.exists():
            end, self.done = _whole_queries(self._part)
            os.truncate(self._part, end)
        self._file = open(self._part, "ab" if self.done else "wb")  # noqa: SIM115 - close() ends it

    def write(self, query_id: Hashable, doc_ids: Iterable[Hashable], scores: Any) -> None:
        """Append the list of a query, which is sorted by its scores if it is not.

        Args:
            query_id: Its id, not written before.
            doc_ids: Ids of its documents.
            scores: Their scores, larger is better.

        Raises:
            ValueError: As :func:`write_run` does.
        """
        self._file.write(_lines_of_new(self.done, query_id, doc_ids, scores, self.tag))
        self._file.flush()

    def close(self) -> None:
        """Finish the run: give the file its name."""
        self._file.close()
        if self.path.suffix == ".gz":
            with open(self._part, "rb") as lines, opened(self.path) as file:
                shutil.copyfileobj(lines, file)
            self._part.unlink()
        else:
            os.replace(self._part, self.path)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Read TREC relevance judgements, ``query iteration document relevance``, compressed by gzip or not.

    Args:
        path: The file.

    Returns:
        ``{query: {document: relevance}}``, as BEIR, pytrec_eval and ``ranx.Qrels`` take it.

    Raises:
        ValueError: If a line is corrupt or judges a document again; it is named by its number.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_qrels(Path(folder) / "qrels", {"q": {"a": 1, "b": 0}})
        ...     read_qrels(Path(folder) / "qrels")
        {'q': {'a': 1, 'b': 0}}
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    lines: dict[str, dict[str, int]] = {}
    for number, line in read_lines(path):
        query, doc, relevance = parse_judgement_line(path, number, line)
        _add(path, number, query, doc, lines.setdefault(query, {}))
        qrels.setdefault(query, {})[doc] = relevance
    return qrels


def write_qrels(path: str | Path, qrels: Mapping[Hashable, Mapping[Hashable, int]]) -> None:
    """Write TREC relevance judgements; a file that is there is replaced once the new one is complete.

    Args:
        path: The file; compressed by gzip if its name ends in ``.gz``.
        qrels: ``{query: {document: relevance}}``.

    Raises:
        ValueError: If a name contains white space, or a relevance is no integer.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_qrels(Path(folder) / "qrels", {"q": {"a": 1}})
        ...     print((Path(folder) / "qrels").read_text(), end="")
        q 0 a 1
    """
    with opened(Path(path)) as file:
        for query, docs in qrels.items():
            for doc, relevance in docs.items():
                if int(relevance) != relevance:
                    raise ValueError(f"relevance of {doc!r} for query {query!r} is {relevance}; expected an integer")
                file.write(f"{word('qrels', query)} 0 {word('qrels', doc)} {int(relevance)}\n".encode())


def _add(path: Path, number: int, query: str, doc: str, docs: dict[str, int]) -> None:
    """Note on which line a query names a document, which it may do once."""
    if docs.setdefault(doc, number) != number:
        raise corrupt(path, number, f"document {doc!r} of query {query!r} was already on line {docs[doc]}")


def _lines_of_new(written: set[str], query_id: Hashable, doc_ids: Any, scores: Any, tag: str) -> bytes:
    """Write the lines of a query that has not been written, and note that it is now."""
    name = word("query_ids", query_id)
    if name in written:
        raise ValueError(f"query {name!r} comes twice; a run has one list per query")
    lines = run_lines(name, *best_first(query_id, doc_ids, scores), tag)
    written.add(name)
    return lines


def _whole_queries(path: Path) -> tuple[int, set[str]]:
    """Find where the last query of a run begins that may have been cut off, and which queries stand before it."""
    queries: dict[str, int] = {}
    position = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                queries.setdefault(parse_run_line(path, number, line)[0], position)
                position += len(line)
    return (0, set()) if not queries else (queries.popitem()[1], set(queries))
