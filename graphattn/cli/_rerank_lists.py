"""Lists as Parquet: a run cut into parts, and what parts hold."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graphattn._optional import require
from graphattn.cli._checks import UserError
from graphattn.retrieval import Embeddings, iterate_run
from graphattn.retrieval._run import best_first

_COLUMNS, _CONFIDENCE = ("query_id", "ids", "scores"), "confidence"
_GROUP_DOCUMENTS = 1 << 16
_BATCH_ROWS = 256


class List(NamedTuple):
    """The list of a query, best first, and how far the method trusts its own order, if it says so."""

    query: str
    docs: list[str]
    scores: np.ndarray
    confidence: float = np.nan


@dataclass(frozen=True)
class Survey:
    """How much some lists hold: the longest has ``longest`` documents, ``judged`` of the queries have a judgement."""

    queries: int
    documents: int
    longest: int
    judged: int


def read_checked(path: Path, queries: Embeddings, gallery: Embeddings, *, skip_missing: bool) -> Iterator[List]:
    """Read a run query by query, and name the first query or document that has no vector.

    Args:
        path: The run.
        queries: Vectors of the queries.
        gallery: Vectors of the documents.
        skip_missing: Whether documents without a vector may pass.
    """
    for query, docs, scores in iterate_run(path):
        if query not in queries.rows:
            raise UserError(f"query {query!r} of {path} has no vector in --queries, whose {_ids_are_like(queries)}")
        missing = None if skip_missing else next((doc for doc in docs if doc not in gallery.rows), None)
        if missing is not None:
            raise UserError(
                f"document {missing!r} of query {query!r} in {path} has no vector in --gallery, whose "
                f"{_ids_are_like(gallery)}; --skip-missing leaves such documents out"
            )
        yield List(query, docs, scores)


def cut(lists: Iterable[List], folder: Path, part_size: int | None) -> None:
    """Write lists to Parquet files of so many queries each, or to one file."""
    lists = iter(lists)
    for number in count():
        part = islice(lists, part_size)
        first = next(part, None)
        if first is None:
            return
        _write_part(folder / f"part-{number:06d}.parquet", chain([first], part))


def read_part(path: Path) -> Iterator[List]:
    """Read the lists of a Parquet file in the memory of a few hundred."""
    with _open(path) as file:
        optional = [name for name in (_CONFIDENCE,) if name in file.schema_arrow.names]
        for batch in file.iter_batches(_BATCH_ROWS, columns=[*_COLUMNS, *optional]):
            columns = [batch.column(field.name).cast(field.type).to_pylist() for field in _schema()]
            columns += [batch.column(name).to_pylist() for name in optional]
            for query, docs, scores, *confidence in zip(*columns, strict=True):
                yield List(query, *best_first(query, docs, scores), *confidence)


def survey(parts: Sequence[Path], judged: Container[str]) -> Survey:
    """Count what some Parquet files hold, without their documents."""
    compute = require("pyarrow.compute", "tables")
    queries = documents = longest = known = 0
    for path in parts:
        with _open(path) as file:
            for batch in file.iter_batches(columns=["query_id", "scores"]):
                lengths = np.array(compute.list_value_length(batch.column("scores")).fill_null(0))
                queries += len(lengths)
                documents += int(lengths.sum())
                longest = max(longest, int(lengths.max(initial=0)))
                known += sum(str(query) in judged for query in batch.column("query_id").to_pylist())
    return Survey(queries, documents, longest, known)


def _schema() -> Any:
    arrow = require("pyarrow", "tables")
    kinds = (arrow.string(), arrow.list_(arrow.string()), arrow.list_(arrow.float64()))
    return arrow.schema(list(zip(_COLUMNS, kinds, strict=True)))


def _open(path: Path) -> Any:
    parquet = require("pyarrow.parquet", "tables")
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    try:
        # What the types of columns cannot be turned into, an empty table cannot either.
        file.schema_arrow.empty_table().select(_COLUMNS).cast(_schema())
    except (KeyError, ValueError, NotImplementedError) as error:
        columns = ", ".join(f"{field.name} ({field.type})" for field in file.schema_arrow)
        raise UserError(
            f"{path} has the columns {columns}; expected query_id (text), ids (lists of texts) and scores (lists of "
            "numbers)"
        ) from error
    return file


def _write_part(path: Path, lists: Iterable[List]) -> None:
    arrow, parquet = require("pyarrow", "tables"), require("pyarrow.parquet", "tables")
    schema = _schema()
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(lists):
            columns = [list(column) for column in zip(*group, strict=True)][: len(_COLUMNS)]
            writer.write_table(arrow.table(columns, schema=schema))


def _groups(lists: Iterable[List]) -> Iterator[list[List]]:
    """Gather lists until they hold enough documents to be written together."""
    group: list[List] = []
    size = 0
    for one in lists:
        group.append(one)
        size += len(one.docs)
        if size >= _GROUP_DOCUMENTS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _ids_are_like(embeddings: Embeddings) -> str:
    return f"{len(embeddings)} ids are like {next(iter(embeddings.rows), None)!r}"
