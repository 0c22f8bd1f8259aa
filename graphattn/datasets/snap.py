"""CollegeMsg and the Bitcoin trust networks of SNAP: streams of messages and of ratings."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import TemporalData

from graphattn.datasets._download import obtain
from graphattn.datasets.chronological import chronological_split, parse_time_split
from graphattn.datasets.events import EventTask

# Folder in collections, file, nodes and events.
SETS = {
    "CollegeMsg": ("collegemsg", "CollegeMsg.txt.gz", (1899, 59835)),
    "BitcoinOTC": ("bitcoin", "soc-sign-bitcoinotc.csv.gz", (5881, 35592)),
    "BitcoinAlpha": ("bitcoin", "soc-sign-bitcoinalpha.csv.gz", (3783, 24186)),
}
_URL = "https://snap.stanford.edu/data/"
_LICENCE = "none stated (SNAP)"
_HIGHEST_RATING = 10


def load_snap(name: str, root: Path, split: str | int | None) -> EventTask:
    """Load a stream of SNAP; the catalog documents the arguments."""
    chosen, hidden, seed = parse_time_split(name, split)
    collection, file, _ = SETS[name]
    folders = (root / name / "raw", root / name, root / collection, root)
    folder = obtain(name, folders, [file], [_URL + file], lambda new: _check(name, new / file))
    data, ids = read_snap(folder / file)
    return EventTask(
        name=name,
        data=data,
        num_nodes=len(ids),
        split=chronological_split(data, hidden=hidden, seed=seed),
        split_name=chosen,
        licence=_LICENCE,
        node_ids=tuple(map(str, ids.tolist())),
    )


def read_snap(path: Path) -> tuple[TemporalData, Tensor]:
    """Read a stream: lines of source, destination and time, or of source, destination, rating and time.

    Nodes are numbered in the order of their ids, and events sorted by time; those of one time stay as they are. A
    rating from -10 to 10 becomes a feature from -1 to 1. Times without a fraction are int64.

    Args:
        path: The file, compressed by gzip, its cells separated by spaces or commas.

    Returns:
        The events, and the id of each node.

    Raises:
        ValueError: If the file cannot be read; the line is named.
    """
    rows: list[list[float]] = []
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                cells = line.replace(",", " ").split()
                if number == 1 and cells[:1] == ["from"]:
                    continue
                rows.append([float(cell) for cell in cells])
                if len(cells) not in (3, 4) or len(cells) != len(rows[0]):
                    raise ValueError(f"{len(cells)} numbers")
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}, line {number}: {error}; expected source, destination, perhaps a rating, and a time"
        ) from error
    if not rows:
        raise ValueError(f"{path} is empty; expected lines of source, destination and time")
    table = torch.tensor(rows, dtype=torch.float64)
    table = table[table[:, -1].argsort(stable=True)]
    t = table[:, -1].contiguous()
    ids, ends = table[:, :2].long().unique(return_inverse=True)
    return TemporalData(
        src=ends[:, 0].contiguous(),
        dst=ends[:, 1].contiguous(),
        t=t.long() if bool((t == t.round()).all()) else t,
        msg=table[:, 2:-1].float() / _HIGHEST_RATING,
    ), ids


def _check(name: str, path: Path) -> None:
    data, ids = read_snap(path)
    found = (len(ids), data.num_events)
    if found != SETS[name][2]:
        raise ValueError(f"{name} was downloaded with nodes and events {found}; expected {SETS[name][2]}")
