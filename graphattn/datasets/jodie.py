"""JODIE's streams of Wikipedia, Reddit, MOOC and LastFM: users act on items, and some are banned or give up."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import TemporalData

from graphattn.datasets._download import obtain
from graphattn.datasets.chronological import chronological_split, parse_time_split
from graphattn.datasets.events import EventTask

# Nodes and events.
_COUNTS = {
    "wikipedia": (9227, 157474),
    "reddit": (10984, 672447),
    "mooc": (7144, 411749),
    "lastfm": (1980, 1293103),
}
_LABELS = "-labels"
# The file of each task; nobody is banned from LastFM.
SETS = {
    **{f"jodie-{file}": file for file in _COUNTS},
    **{f"jodie-{file}{_LABELS}": file for file in _COUNTS if file != "lastfm"},
}
_URL = "http://snap.stanford.edu/jodie/"
_LICENCE = "none stated (SNAP)"
_BLOCK = 1 << 15


def load_jodie(name: str, root: Path, split: str | int | None) -> EventTask:
    """Load a stream of JODIE; the catalog documents the arguments."""
    kind = "node" if name.endswith(_LABELS) else "link"
    chosen, hidden, seed = parse_time_split(name, split, kind)
    stem = SETS[name]
    file = f"{stem}.csv"
    folder = obtain(
        name, (root / stem / "raw", root / stem, root), [file], [_URL + file], lambda new: _check(stem, new / file)
    )
    data, num_nodes = read_jodie(folder / file)
    return EventTask(
        name=name,
        data=data,
        num_nodes=num_nodes,
        split=chronological_split(data, hidden=hidden, seed=seed),
        split_name=chosen,
        licence=_LICENCE,
        kind=kind,
        metric="roc_auc" if kind == "node" else "average_precision",
    )


def read_jodie(path: Path) -> tuple[TemporalData, int]:
    """Read a stream: below a header, lines of user, item, time, label and features.

    Items are numbered behind the users, and events sorted by time; those of one time stay as they are. Times without a
    fraction are int64.

    Args:
        path: The file, its cells separated by commas.

    Returns:
        The events and the number of nodes.

    Raises:
        ValueError: If a line holds something else than numbers, or as many as the others; it is named.
    """
    keys, features, width = [], [], 0
    with open(path, encoding="utf-8") as file:
        next(file, None)
        numbered = ((number, line) for number, line in enumerate(file, start=2) if line.strip())
        while block := list(islice(numbered, _BLOCK)):
            width = width or block[0][1].count(",") + 1
            values = _parse(path, block, width)
            keys.append(values[:, :4])
            features.append(values[:, 4:].astype(np.float32))
    if not keys:
        raise ValueError(f"{path} has no events; expected lines of user, item, time, label and features")
    table = torch.from_numpy(np.concatenate(keys))
    order = table[:, 2].argsort(stable=True)
    user, item, t, label = table[order].unbind(dim=1)
    users = int(user.max()) + 1
    data = TemporalData(
        src=user.long(),
        dst=item.long() + users,
        t=t.long() if bool((t == t.round()).all()) else t.contiguous(),
        msg=torch.from_numpy(np.concatenate(features))[order],
        y=label.long(),
    )
    return data, users + int(item.max()) + 1


def _parse(path: Path, block: list[tuple[int, str]], width: int) -> np.ndarray:
    """Read numbered lines of as many numbers each."""
    if width < 4:
        raise ValueError(f"{path}, line {block[0][0]}: {width} numbers; expected user, item, time, label, features")
    for number, line in block:
        if line.count(",") + 1 != width:
            raise ValueError(f"{path}, line {number}: {line.count(',') + 1} numbers, not {width}")
    try:
        return _numbers([line for _, line in block])
    except ValueError:
        for number, line in block:
            try:
                _numbers([line])
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
        raise


def _numbers(lines: list[str]) -> np.ndarray:
    return np.loadtxt(lines, delimiter=",", ndmin=2, comments=None)


def _check(stem: str, path: Path) -> None:
    data, num_nodes = read_jodie(path)
    found = (num_nodes, data.num_events)
    if found != _COUNTS[stem]:
        raise ValueError(f"jodie-{stem} was downloaded with nodes and events {found}; expected {_COUNTS[stem]}")
