"""Lists in Parquet files for the tests of bulk jobs, and what a job has to make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphattn._optional import require
from graphattn.retrieval._methods import METHODS
from graphattn.retrieval.bulk import BulkJob

Lists = dict[str, dict[str, float]]

_SIZES = (7, 1, 9, 4)  # queries of each part


def write_lists(path: Path, lists: Lists, **options: Any) -> Path:
    """Write lists as a part."""
    pyarrow = require("pyarrow", "tables")
    table = pyarrow.table(
        {
            "query_id": pyarrow.array(list(lists), pyarrow.string()),
            "ids": pyarrow.array([list(docs) for docs in lists.values()], pyarrow.list_(pyarrow.string())),
            "scores": pyarrow.array([list(docs.values()) for docs in lists.values()], pyarrow.list_(pyarrow.float64())),
        }
    )
    require("pyarrow.parquet", "tables").write_table(table, path, **options)
    return path


def read_lists(path: Path) -> Lists:
    """Read a file of lists; raises if the same query or document comes twice."""
    rows = require("pyarrow.parquet", "tables").read_table(path).to_pylist()
    lists = {row["query_id"]: dict(zip(row["ids"], row["scores"], strict=True)) for row in rows}
    assert len(lists) == len(rows)
    assert all(len(lists[row["query_id"]]) == len(row["ids"]) for row in rows)
    return lists


def make_job(folder: Path, method: str = "query-expansion", sizes: tuple[int, ...] = _SIZES, **job: Any) -> BulkJob:
    """Write a gallery, queries and the lists of an inexact search, in parts; one list is empty."""
    depth, items, width = job.pop("depth", 12), job.pop("items", 60), 8
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((items, width)).astype("f")
    queries = rng.standard_normal((sum(sizes), width)).astype("f")
    names = [f"d{row}" for row in rng.permutation(items)]
    folder.mkdir(exist_ok=True)
    for stem, vectors, ids in (("g", gallery, names), ("q", queries, [f"q{row}" for row in range(len(queries))])):
        np.save(folder / f"{stem}.npy", vectors)
        (folder / f"{stem}.ids").write_text("\n".join(ids))
    parts = []
    for number in range(len(sizes)):
        lists: Lists = {}
        for row in range(sum(sizes[:number]), sum(sizes[: number + 1])):
            scores = gallery @ queries[row] + 0.1 * rng.standard_normal(items).astype("f")
            best = np.argsort(-scores)[: 0 if row == 2 else depth - row % 3]
            lists[f"q{row}"] = {names[item]: float(scores[item]) for item in best}
        parts.append(write_lists(folder / f"lists-{number}.parquet", lists))
    values: dict[str, Any] = {"options": {}, "out": folder / "out", **job}
    return BulkJob(method, queries=folder / "q.npy", gallery=folder / "g.npy", parts=tuple(parts), **values)


def expected(job: BulkJob) -> Lists:
    """Re-rank the lists of a job one at a time by the method itself."""
    folder = job.queries.parent
    gallery, queries = (torch.from_numpy(np.load(folder / f"{stem}.npy")) for stem in "gq")
    names, query_ids = ((folder / f"{stem}.ids").read_text().split("\n") for stem in "gq")
    kind: Any = METHODS[job.method]
    reranker = kind(**job.options) if job.model is None else kind.load(job.model)
    reranker.fit(gallery) if reranker.scope == "gallery" else None
    result: Lists = {}
    for part in job.parts:
        for query, docs in read_lists(part).items():
            rows = torch.tensor([[names.index(doc) for doc in docs]], dtype=torch.int64)
            scores = torch.tensor([list(docs.values())])
            lists = reranker.rerank(queries[query_ids.index(query)].unsqueeze(0), gallery, rows, scores)
            result[query] = {
                names[int(row)]: float(score)
                for row, score in zip(lists.indices[0], lists.scores[0], strict=True)
                if row >= 0
            }
    return result


def results(job: BulkJob) -> Lists:
    """Read what a job has written; raises if a query stands in two parts."""
    lists: Lists = {}
    for part in job.parts:
        found = read_lists(job.target(part))
        assert not found.keys() & lists.keys()
        lists |= found
    return lists


def assert_same(found: Lists, wanted: Lists) -> None:
    """The same queries and documents in the same order, scores within 1e-6 of the largest, at least of 1."""
    assert list(found) == list(wanted)
    for query, docs in wanted.items():
        assert list(found[query]) == list(docs), query
        scale = max([1.0, *map(abs, docs.values())])
        np.testing.assert_allclose(list(found[query].values()), list(docs.values()), rtol=0, atol=1e-6 * scale)
