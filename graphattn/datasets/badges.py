"""Badges of Stack Overflow: which one a user is given next, and when."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets._download import find, obtain
from graphattn.datasets._splits import parse_split, split_name
from graphattn.datasets.sequences import SequenceTask

_NAME = "StackOverflow"
_FOLDS = {"users": 5}
_VALIDATION = 0.1
_NUM_TYPES = 22
_NUM_SEQUENCES = 6633
_URL = "https://raw.githubusercontent.com/dunan/NeuralPointProcess/master/data/real/so/"
_MERGED = (["event.txt.gz"], ["time.txt.gz"])
# Both files of a fold are all users.
_ORIGINAL = (["event-2-train.txt", "event-2-test.txt"], ["time-2-train.txt", "time-2-test.txt"])
_NAMES = "badges.csv"
_LICENCE = "Stack Exchange data: CC BY-SA"


def load_badges(root: str | Path = "data", split: str | int | None = None) -> SequenceTask:
    """Load the badges of users of Stack Overflow, 22 types in the order in which they were given.

    The users are dealt to five folds: one tests, and a tenth of the others, drawn at random, validates. Files are
    looked for in ``root``, in its folder ``StackOverflow`` or ``npp_stackoverflow``: those of the source, of 6,633
    users, or ``event.txt.gz`` and ``time.txt.gz`` in their format, with a line for each user. If none are there, those
    of the source are downloaded. Numbers on different users cannot be compared.

    Args:
        root: Folder of the data.
        split: ``"users:0"``, the default, to ``"users:4"``, or the number of the fold.

    Returns:
        The task.

    Raises:
        ValueError: If there is no such split, or the files are broken.
        FileNotFoundError: If files are missing and cannot be downloaded.

    Example:
        >>> load_badges("/no/such/folder", split=7)
        Traceback (most recent call last):
        ...
        ValueError: split is 7; StackOverflow has 'users:0' to 'users:4'

    Reference:
        Du et al., "Recurrent Marked Temporal Point Processes: Embedding Event History to Vector", 2016.
    """
    scheme, fold = parse_split(_NAME, split, _FOLDS, "users")
    root = Path(root).expanduser()
    folders = [root / _NAME, root / "npp_stackoverflow", root]
    folder, files = find(folders, [*_MERGED[0], *_MERGED[1], _NAMES]), _MERGED
    if folder is None:
        files = _ORIGINAL
        needed = [*files[0], *files[1], _NAMES]
        folder = obtain(_NAME, folders, needed, [_URL + file for file in needed], _check)
    event_type, t, ptr = read_sequences([folder / file for file in files[0]], [folder / file for file in files[1]])
    return SequenceTask(
        name=_NAME,
        event_type=event_type,
        t=t,
        ptr=ptr,
        num_types=_NUM_TYPES,
        split=_split(len(ptr) - 1, fold),
        split_name=split_name(scheme, fold, _FOLDS),
        metric="accuracy",
        licence=_LICENCE,
        classes=_read_names(folder / _NAMES),
    )


def read_sequences(types: Sequence[Path], times: Sequence[Path]) -> tuple[Tensor, Tensor, Tensor]:
    """Read sequences: a line of types for each in some files, and a line of times in as many others.

    Args:
        types: Files of types, perhaps compressed by gzip.
        times: Files of times, in the same order.

    Returns:
        Types, times and where each sequence starts, as :class:`~graphattn.datasets.SequenceTask` takes them.

    Raises:
        ValueError: If a cell is no number, or lines do not go together; the line is named.
    """
    events: list[np.ndarray] = []
    moments: list[np.ndarray] = []
    for type_file, time_file in zip(types, times, strict=True):
        first, second = _lines(type_file, np.int64), _lines(time_file, np.float64)
        if len(first) != len(second):
            raise ValueError(f"{type_file} has {len(first)} lines, but {time_file} {len(second)}")
        for number, (a, b) in enumerate(zip(first, second, strict=True), start=1):
            if len(a) != len(b):
                raise ValueError(f"{type_file}, line {number}: {len(a)} types, but {len(b)} times in {time_file}")
            later = np.flatnonzero(np.diff(b) < 0)
            if len(later):
                raise ValueError(f"{time_file}, line {number}: time {later[0] + 2} is before time {later[0] + 1}")
        events += first
        moments += second
    counts = torch.tensor([0, *map(len, events)])
    return torch.from_numpy(np.concatenate(events)), torch.from_numpy(np.concatenate(moments)), counts.cumsum(0)


def _lines(path: Path, dtype: type[np.number]) -> list[np.ndarray]:
    """Read lines of numbers."""
    rows = []
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.append(np.array(line.split(), dtype=dtype))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    return rows


def _read_names(path: Path) -> tuple[str, ...]:
    """Read the name of each type, below a header, from lines of a number and a name."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    found = {int(number): name.strip() for number, _, name in (line.partition(",") for line in lines if line.strip())}
    if sorted(found) != list(range(1, _NUM_TYPES + 1)):
        raise ValueError(f"{path} names the types {sorted(found)}; expected 1 to {_NUM_TYPES}")
    return tuple(found[number] for number in range(1, _NUM_TYPES + 1))


def _split(num_sequences: int, fold: int) -> dict[str, Tensor]:
    """Deal the sequences to the folds, the same ones every time, and draw those that validate."""
    order = torch.randperm(num_sequences, generator=torch.Generator().manual_seed(0))
    test = order[fold :: _FOLDS["users"]]
    others = order[~torch.isin(order, test)]
    count = int(_VALIDATION * len(others))
    return {"train": others[count:].sort()[0], "val": others[:count].sort()[0], "test": test.sort()[0]}


def _check(folder: Path) -> None:
    _, _, ptr = read_sequences([folder / file for file in _ORIGINAL[0]], [folder / file for file in _ORIGINAL[1]])
    if len(ptr) - 1 != _NUM_SEQUENCES:
        raise ValueError(f"{_NAME} was downloaded with {len(ptr) - 1} users; expected {_NUM_SEQUENCES}")
