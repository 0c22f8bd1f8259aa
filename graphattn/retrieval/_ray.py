"""The parts of a bulk job on a pool of Ray actors, each of which loads its data once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from graphattn._optional import require
from graphattn.retrieval._bulk_job import BulkJob, PartReport
from graphattn.retrieval._bulk_part import PartWorker

_OBJECT_STORE_BYTES = 100_000_000  # only names of files and reports pass through it


class _Actor:
    """Re-rank parts by name; the reason of a failure is a result, which Ray would bury in its own trace."""

    def __init__(self, job: BulkJob) -> None:
        self._worker = PartWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        part = Path(str(batch["part"][0]))
        try:
            return {"report": [json.dumps(asdict(self._worker(part)))], "error": [""]}
        except ValueError as error:
            return {"report": [""], "error": [str(error)]}


def map_parts(job: BulkJob, parts: Sequence[Path], workers: int | None) -> Iterator[PartReport]:
    """Re-rank parts, and yield the report on each when it is finished, in any order.

    Args:
        job: The job.
        parts: Its parts.
        workers: Number of actors; one a CPU by default. With ``job.device`` on CUDA each has a GPU of its own.

    Raises:
        ValueError: If a part cannot be re-ranked.
    """
    data = require("ray.data", "ray")
    # A worker starts in a folder of its own.
    files = {name: getattr(job, name).absolute() for name in ("queries", "gallery", "out")}
    job = replace(job, **files, model=None if job.model is None else job.model.absolute())
    with _cluster(workers) as num_cpus:
        size = min(len(parts), workers or num_cpus)
        names = data.from_items([{"part": str(part.absolute())} for part in parts], override_num_blocks=len(parts))
        results = names.map_batches(
            _Actor,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=1 if torch.device(job.device).type == "cuda" else None,
        )
        for row in results.iter_rows():
            if row["error"]:
                raise ValueError(row["error"])
            yield PartReport(**json.loads(row["report"]))


@contextmanager
def _cluster(workers: int | None) -> Iterator[int]:
    """Join the cluster that is there, or start one on this machine and stop it afterwards; gives its CPUs."""
    ray = require("ray", "ray")
    with _quiet():
        started = not ray.is_initialized()
        if started and os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        elif started:
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        try:
            yield int(ray.cluster_resources().get("CPU", 1))
        finally:
            if started:
                ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's plans and bars from the terminal, where there is a bar of parts."""
    context = require("ray.data", "ray").DataContext.get_current()
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    bars, levels = context.enable_progress_bars, [logger.level for logger in loggers]
    context.enable_progress_bars = False
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
