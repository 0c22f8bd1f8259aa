"""Bulk jobs: result lists in Parquet files, re-ranked file by file, and resumed where they were interrupted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from graphattn._optional import require
from graphattn.retrieval._bulk_job import BulkJob as BulkJob
from graphattn.retrieval._bulk_job import PartReport as PartReport
from graphattn.retrieval._bulk_job import check_manifest
from graphattn.retrieval._bulk_part import PartWorker, finished
from graphattn.retrieval._methods import make_reranker, needs_fit, save_fit
from graphattn.retrieval._ray import map_parts

_ENGINES = ("local", "ray")
_FITTED = "fitted.npz"


def rerank_part(job: BulkJob, part: Path) -> PartReport:
    """Re-rank one part of a job and write its results, whatever is there already.

    It computes in one thread, and takes queries in chunks from the first row, so that the result does not depend on
    where and beside what it runs. A file gets its name when it is complete.

    Args:
        job: The job, whose folder ``out`` is there.
        part: The part.

    Returns:
        Its counts, which are also written beside the results.

    Raises:
        ValueError: If the part cannot be re-ranked; it is named, with the reason.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pyarrow import parquet, table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = Path(folder)
        ...     np.save(out / "docs.npy", np.eye(3))
        ...     np.save(out / "queries.npy", np.array([[0.6, 0.8, 0.0]]))
        ...     lists = table({"query_id": ["0"], "ids": [["0", "1", "7"]], "scores": [[0.9, 0.5, 0.2]]})
        ...     parquet.write_table(lists, out / "lists")
        ...     data = {"queries": out / "queries.npy", "gallery": out / "docs.npy", "parts": (out / "lists",)}
        ...     job = BulkJob("query-expansion", {"k": 0}, out=out, skip_missing=True, **data)
        ...     report = rerank_part(job, job.parts[0])
        ...     parquet.read_table(out / "lists.parquet")["ids"].to_pylist(), report.dropped
        ([['1', '0']], 1)
    """
    return PartWorker(job)(part)


def run_job(job: BulkJob, engine: str = "local", workers: int | None = None, progress: bool = True) -> list[PartReport]:
    """Re-rank all parts of a job that are not finished.

    A job that was interrupted, however hard, goes on where it was when it is run again. The manifest in its folder
    holds hashes of all inputs; a job with other inputs, options (but for ``chunk``) or versions is refused there.

    Args:
        job: The job.
        engine: ``"local"`` re-ranks part after part in this process, ``"ray"`` several at a time by Ray: in the cluster
            of ``ray.init`` or ``RAY_ADDRESS``, whose machines see the same files, or in one that is started here. Both
            give the same results.
        workers: Processes of ``"ray"``, one a CPU by default.
        progress: Whether a progress bar is shown.

    Returns:
        The counts of all parts, in the order of the job.

    Raises:
        ValueError: If the job is not that of the folder, an option does not fit, or a part cannot be re-ranked.
        ImportError: If pyarrow, or Ray for ``"ray"``, cannot be imported.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pyarrow import parquet, table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = Path(folder)
        ...     np.save(data / "docs.npy", np.eye(3))
        ...     np.save(data / "queries.npy", np.array([[0.6, 0.8, 0.0], [0.0, 0.8, 0.6]]))
        ...     for row in ("0", "1"):
        ...         lists = table({"query_id": [row], "ids": [["0", "1", "2"]], "scores": [[0.9, 0.5, 0.2]]})
        ...         parquet.write_table(lists, data / f"part-{row}.parquet")
        ...     parts = data / "part-0.parquet", data / "part-1.parquet"
        ...     job = BulkJob("auto", {}, data / "queries.npy", data / "docs.npy", parts, data / "reranked")
        ...     [(report.part, report.queries) for report in run_job(job, progress=False)]
        [('part-0', 1), ('part-1', 1)]
    """
    if engine not in _ENGINES:
        raise ValueError(f"engine is {engine!r}; expected {' or '.join(map(repr, _ENGINES))}")
    if workers is not None and engine == "local":
        raise ValueError(f"workers is {workers}, but engine 'local' is one process; pass engine='ray', or leave it out")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1")
    require("pyarrow.parquet", "tables")
    if engine == "ray":
        require("ray.data", "ray")
    reranker = make_reranker(job.method, job.options, job.model, job.device)
    if reranker.transductive and len(job.parts) > 1:
        raise ValueError(
            f"transductive is True, but the lists of other queries stand in other parts, {len(job.parts)} in all; "
            "put all lists into one, or leave it out"
        )
    job.out.mkdir(parents=True, exist_ok=True)
    check_manifest(job)
    reports = {part.stem: report for part in job.parts if (report := finished(job, part)) is not None}
    todo = [part for part in job.parts if part.stem not in reports]
    results = _rerank_parts(job, todo, engine, workers) if todo else []
    with tqdm(results, total=len(job.parts), initial=len(reports), unit="part", disable=not progress) as bar:
        for report in bar:
            reports[report.part] = report
    return [reports[part.stem] for part in job.parts]


def _rerank_parts(job: BulkJob, parts: list[Path], engine: str, workers: int | None) -> Iterable[PartReport]:
    """Load or find what the method has to know of the gallery, once for all workers, and start them."""
    fitted = job.out / _FITTED
    if fitted.exists():
        job = replace(job, model=fitted)
    worker = PartWorker(job)  # for Ray too: what is wrong with the data is said before anything starts
    if needs_fit(worker.reranker) and job.model is None:
        save_fit(worker.reranker, fitted)
        job = replace(job, model=fitted)
    return map(worker, parts) if engine == "local" else map_parts(job, parts, workers)
