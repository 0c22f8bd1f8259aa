"""One part of a bulk job: a Parquet file of result lists, read, re-ranked and written block by block."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphattn._files import whole
from graphattn._optional import require
from graphattn.retrieval._bulk_job import BulkJob, PartReport, write_json
from graphattn.retrieval._methods import make_reranker, needs_fit
from graphattn.retrieval._run import Run
from graphattn.retrieval.embeddings import load_embeddings
from graphattn.retrieval.lists import RankedLists

_ROWS = 256


class PartWorker:
    """Re-rank parts of a job; queries, gallery and re-ranker are loaded once.

    Args:
        job: The job. A re-ranker that has to know the gallery is fitted here, unless the job has its ``model``.
    """

    def __init__(self, job: BulkJob) -> None:
        self.job = job
        self.reranker = make_reranker(job.method, job.options, job.model, job.device)
        self._queries, self._gallery = load_embeddings(job.queries), load_embeddings(job.gallery)
        widths = self._queries.vectors.shape[1], self._gallery.vectors.shape[1]
        if widths[0] != widths[1]:
            raise ValueError(f"{job.queries} has width {widths[0]}, but {job.gallery} has width {widths[1]}")
        if needs_fit(self.reranker) and job.model is None:
            vectors = self._gallery.vectors
            on_cpu = torch.device(job.device).type == "cpu"
            self.reranker.fit(vectors if on_cpu else torch.from_numpy(np.array(vectors)).to(job.device))

    def __call__(self, part: Path) -> PartReport:
        """Re-rank a part; see :func:`~graphattn.retrieval.bulk.rerank_part`."""
        start = time.perf_counter()
        counts = {"queries": 0, "dropped": 0}
        try:
            with _one_thread():
                self._write(part, self._rerank(part, counts))
        except Exception as error:
            reason = str(error) if isinstance(error, (ValueError, TypeError)) else repr(error)
            raise ValueError(f"{part}: {reason}") from error
        report = PartReport(part.stem, **counts, seconds=round(time.perf_counter() - start, 3))
        write_json(_report_file(self.job, part), asdict(report))
        return report

    def _write(self, part: Path, tables: Iterator[Any]) -> None:
        writer_class = require("pyarrow.parquet", "tables").ParquetWriter
        first = next(tables)
        with whole(self.job.target(part)) as file, writer_class(file, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)

    def _rerank(self, part: Path, counts: dict[str, int]) -> Iterator[Any]:
        """Yield the results of a part as tables, at least one; count its queries and the ids that are left out."""
        seen: set[str] = set()
        for query_ids, ids, scores in _read_lists(part, self._block_rows()):
            run = Run(query_ids, ids, scores)
            again = next((one for one in query_ids if one in seen), None)
            if again is not None:
                raise ValueError(f"query {again!r} comes twice; expected one row a query")
            seen.update(query_ids)
            padded = run.to_arrays(self._gallery.rows, skip_missing=self.job.skip_missing)
            counts["queries"] += len(run)
            counts["dropped"] += int(padded.missing.sum())
            yield self._table(query_ids, self._rerank_block(query_ids, padded.indices, padded.scores))

    def _block_rows(self) -> int | None:
        """Return how many queries are read at a time, some whole chunks; all if they see one another."""
        if self.reranker.transductive:
            return None
        chunk = self.reranker.chunk
        return _ROWS if isinstance(chunk, str) else -(-_ROWS // chunk) * chunk

    def _rerank_block(self, query_ids: list[str], indices: np.ndarray, scores: np.ndarray) -> RankedLists:
        device = torch.device(self.job.device)
        queries = torch.from_numpy(self._queries.take(query_ids)).to(device)
        own = None
        if self.reranker.exclude_self:
            own = torch.tensor([self._gallery.rows.get(one, -1) for one in query_ids], dtype=torch.int64, device=device)
        rows, values = (torch.from_numpy(array).to(device) for array in (indices, scores))
        return self.reranker.rerank(queries, self._gallery.vectors, rows, values, own).numpy()

    def _table(self, query_ids: list[str], lists: RankedLists) -> Any:
        """Return lists as a table of names."""
        arrow = require("pyarrow", "tables")
        indices, scores = np.asarray(lists.indices), np.asarray(lists.scores, dtype=np.float64)
        kept = indices >= 0
        names = self._gallery.ids
        columns = {
            "query_id": arrow.array(query_ids, arrow.string()),
            "ids": arrow.array(
                [[str(names[row]) for row in rows[keep]] for rows, keep in zip(indices, kept, strict=True)],
                arrow.list_(arrow.string()),
            ),
            "scores": arrow.array(
                [values[keep] for values, keep in zip(scores, kept, strict=True)], arrow.list_(arrow.float64())
            ),
        }
        if self.reranker.reports_confidence:
            # Where all lists are empty nothing is reported.
            confidence = lists.diagnostics.get("confidence", np.zeros(len(lists)))
            columns["confidence"] = arrow.array(np.asarray(confidence, dtype=np.float64))
        return arrow.table(columns)


def finished(job: BulkJob, part: Path) -> PartReport | None:
    """Return the report on a part whose results are there."""
    path = _report_file(job, part)
    if not (path.exists() and job.target(part).exists()):
        return None
    return PartReport(**json.loads(path.read_bytes()))


def _report_file(job: BulkJob, part: Path) -> Path:
    # It is written behind the results, so that these are whole where it is there.
    return job.target(part).with_suffix(".json")


def _read_lists(path: Path, rows: int | None) -> Iterator[tuple[list[str], list[list[str]], list[list[float]]]]:
    """Yield ids of queries, ids of their candidates and scores, some rows at a time; an empty file gives one block."""
    arrow, parquet = require("pyarrow", "tables"), require("pyarrow.parquet", "tables")
    schema = arrow.schema(
        [("query_id", arrow.string()), ("ids", arrow.list_(arrow.string())), ("scores", arrow.list_(arrow.float64()))]
    )
    with parquet.ParquetFile(path) as file:
        present = file.schema_arrow.names
        if any(present.count(name) != 1 for name in schema.names):
            raise ValueError(f"it has the columns {', '.join(present)}; expected {', '.join(schema.names)} among them")
        size = max(1, file.metadata.num_rows if rows is None else rows)
        first_row = 0
        for batch in file.iter_batches(size, columns=schema.names):
            table = arrow.Table.from_batches([batch]).select(schema.names).cast(schema)
            for name in schema.names:
                _refuse_nulls(name, table[name], first_row)
            first_row += len(table)
            yield tuple(table[name].to_pylist() for name in schema.names)
        if first_row == 0:
            yield [], [], []


def _refuse_nulls(name: str, column: Any, first_row: int) -> None:
    """Raise if a query has no id or no list, or a list has a gap."""
    if column.null_count:
        row = first_row + int(np.array(column.is_null()).argmax())
        raise ValueError(f"row {row} has no {name}")
    if name != "query_id" and column.combine_chunks().flatten().null_count:
        row = first_row + next(row for row, values in enumerate(column.to_pylist()) if None in values)
        raise ValueError(f"{name} in row {row} has a value that is missing")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in one thread: sums are then taken in one order, and workers do not fight for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
