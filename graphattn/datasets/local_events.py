"""One's own events: a table with a row for each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import TemporalData

from graphattn.datasets._streams import EXACT
from graphattn.datasets._tables import Table, _number, read_csv, read_parquet
from graphattn.datasets.chronological import chronological_split, parse_time_split
from graphattn.datasets.events import EventTask

SUFFIXES = (".csv", ".parquet")
_NEEDED = ("src", "dst", "t")


def load_local_events(path: Path, split: str | int | None) -> EventTask:
    """Load a table of events as a task; the catalog documents the columns.

    Args:
        path: A file ``.csv`` or ``.parquet``.
        split: Name of the split.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the content is broken or unsound; the place is named.
        ImportError: If a Parquet file needs pyarrow, which is not installed.
    """
    if not path.exists():
        raise FileNotFoundError(f"local:{path} does not exist; expected a table with the columns src, dst and t")
    table = read_parquet(path, _NEEDED) if path.suffix == ".parquet" else read_csv(path, _NEEDED)
    kind = "node" if "label" in table.columns else "link"
    chosen, hidden, seed = parse_time_split(f"local:{path}", split, kind)
    if not len(table):
        raise ValueError(f"local:{path} has no events; expected at least one in each part of a split")
    numbers: dict[str, int] = {}
    ends = [_nodes(table, column, numbers) for column in ("src", "dst")]
    features = [name for name in table.columns if name not in (*_NEEDED, "label")]
    data = TemporalData(src=ends[0], dst=ends[1], t=_times(table), msg=table.numbers(features))
    parts = chronological_split(data, hidden=hidden, seed=seed)
    metric, words = "average_precision", None
    if kind == "node":
        data.y, words = table.labels("label")
        known = torch.isfinite(data.y) if data.y.is_floating_point() else data.y >= 0
        parts = {part: ids[known[ids]] for part, ids in parts.items()}
        metric = _metric(data.y)
    return EventTask(
        name=path.stem,
        data=data,
        num_nodes=len(numbers),
        split=parts,
        split_name=chosen,
        licence="your own",
        kind=kind,
        metric=metric,
        node_ids=tuple(numbers),
        classes=None if words is None else tuple(words),
    )


def _metric(y: Tensor) -> str:
    if y.is_floating_point():
        return "rmse"
    return "accuracy" if int(y.max()) > 1 else "roc_auc"


def _nodes(table: Table, column: str, numbers: dict[str, int]) -> Tensor:
    """Number the nodes of a column in the order of their first appearance."""
    nodes = []
    for row, cell in enumerate(table.columns[column]):
        node = "" if cell is None else str(cell).strip()
        if not node:
            raise table.error(row, column, "is no node")
        nodes.append(numbers.setdefault(node, len(numbers)))
    return torch.tensor(nodes)


def _times(table: Table) -> Tensor:
    """Return the times, int64 if all are integers, else float64."""
    times: list[float] = []
    for row, cell in enumerate(table.columns["t"]):
        time = _time(cell)
        if time is None:
            raise table.error(row, "t", "is no finite number; convert dates to seconds")
        if time < 0:
            raise table.error(row, "t", "is negative; shift all times, such as to start at 0")
        if time > EXACT:
            raise table.error(row, "t", "is beyond 2**53, where float64 rounds; convert nanoseconds to seconds")
        if times and time < times[-1]:
            raise table.error(row, "t", f"is before that of {table.place(row - 1)}, {times[-1]}; sort the rows by t")
        times.append(time)
    return torch.tensor(times, dtype=torch.int64 if all(isinstance(time, int) for time in times) else torch.float64)


def _time(cell: Any) -> float | None:
    """Read a cell as a finite number, an integer if it is one."""
    if isinstance(cell, str) and cell.strip().removeprefix("-").isdecimal():
        cell = int(cell)
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell
    number = _number(cell)
    return number if number is not None and math.isfinite(number) else None
