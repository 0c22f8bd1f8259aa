"""Tables of nodes and of edges: columns of cells that know where they stand."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn._optional import require
from graphattn.datasets._checks import PARTS


@dataclass(frozen=True)
class Table:
    """Columns by name, and the words that say where a row stands.

    Args:
        source: What the cells come from, such as a path.
        columns: Cells of each column; ``None`` where there is none.
        place: Names a row by its number, such as ``"line 3"``.

    Example:
        >>> table = Table("t.csv", {"a": ["1", "x"]}, lambda row: f"line {row + 2}")
        >>> table.error(1, "a", "is no number")
        ValueError("t.csv, line 3, column 'a': 'x' is no number")
    """

    source: str
    columns: dict[str, list[Any]]
    place: Callable[[int], str]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def error(self, row: int, column: str, reason: str) -> ValueError:
        """Return the error that names a cell."""
        cell = self.columns[column][row]
        shown = "an empty cell" if _missing(cell) else repr(cell)
        return ValueError(f"{self.source}, {self.place(row)}, column {column!r}: {shown} {reason}")

    def numbers(self, columns: Sequence[str]) -> Tensor:
        """Return columns of finite numbers as ``[rows, columns]``.

        Raises:
            ValueError: If a cell is empty, no number, or not finite; it is named by its place.
        """
        values = torch.empty(len(self), len(columns))
        for j, column in enumerate(columns):
            for row, cell in enumerate(self.columns[column]):
                number = _number(cell)
                if number is None or not math.isfinite(number):
                    raise self.error(row, column, "is no finite number; features must be known everywhere")
                values[row, j] = number
        return values

    def labels(self, column: str) -> tuple[Tensor, list[str] | None]:
        """Return labels, integers as they are and words numbered in alphabetical order, and those words.

        Empty cells, and ``-1``, are labels that are not known. Numbers with a fraction are the targets of a regression,
        in which NaN is what is not known. Numbers have no words.

        Raises:
            ValueError: If an integer is below -1; it is named by its place.
        """
        cells = self.columns[column]
        known = [cell for cell in cells if not _missing(cell)]
        numbers = [_number(cell) for cell in known]
        if any(number is None for number in numbers):
            words = sorted({str(cell) for cell in known})
            label = {word: number for number, word in enumerate(words)}
            return torch.tensor([-1 if _missing(cell) else label[str(cell)] for cell in cells]), words
        if all(number is not None and number.is_integer() for number in numbers):
            labels = torch.tensor([-1 if _missing(cell) else int(_number(cell) or 0) for cell in cells])
            if bool((labels < -1).any()):
                raise self.error(int((labels < -1).nonzero()[0]), column, "is no class; classes count from 0")
            return labels, None
        return torch.tensor([math.nan if _missing(cell) else _number(cell) for cell in cells]), None

    def parts(self, column: str) -> dict[str, Tensor]:
        """Return the mask of each part of a split, which cells name: ``train``, ``val``, ``test`` or none of them.

        Raises:
            ValueError: If a cell is another word; it is named by its place.
        """
        masks = {part: torch.zeros(len(self), dtype=torch.bool) for part in PARTS}
        for row, cell in enumerate(self.columns[column]):
            if _missing(cell):
                continue
            if cell not in masks:
                raise self.error(row, column, "is no part of a split; expected train, val, test or nothing")
            masks[cell][row] = True
        return masks


def read_csv(path: Path, needed: Sequence[str]) -> Table:
    """Read a CSV file with a header.

    Args:
        path: The file, in UTF-8, its cells separated by commas.
        needed: Columns that must be there.

    Raises:
        ValueError: If a column is missing or a row has another length; it is named by its line.
    """
    rows, lines = [], []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    count = f"{len(row)} fields, but the header has {len(header)}"
                    raise ValueError(f"{path}, line {reader.line_num}: {count}")
                rows.append(row)
                lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    _check_header(path, header, needed)
    return Table(str(path), {name: [row[j] for row in rows] for j, name in enumerate(header)}, _line(lines))


def _line(lines: list[int]) -> Callable[[int], str]:
    return lambda row: f"line {lines[row]}"


def read_parquet(path: Path, needed: Sequence[str]) -> Table:
    """Read a Parquet file.

    Args:
        path: The file.
        needed: Columns that must be there.

    Raises:
        ImportError: If pyarrow is missing; the extra ``tables`` brings it.
        ValueError: If it is no Parquet file or a column is missing.
    """
    parquet = require("pyarrow.parquet", "tables")
    try:
        columns = parquet.read_table(path).to_pydict()
    except (OSError, ValueError) as error:  # what pyarrow's errors derive from
        raise ValueError(f"{path} cannot be read as Parquet ({error})") from error
    _check_header(path, list(columns), needed)
    return Table(str(path), columns, lambda row: f"row {row + 1}")


def _check_header(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(f"{path} has the columns {', '.join(header) or 'none'}; {', '.join(missing)} is missing")
    if len(set(header)) < len(header):
        twice = next(name for name in header if list(header).count(name) > 1)
        raise ValueError(f"{path} has the column {twice!r} twice; name each once")


def _missing(cell: Any) -> bool:
    return (
        cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell))
    )


def _number(cell: Any) -> float | None:
    """Read a cell as a number, NaN included; ``None`` if it is none."""
    if isinstance(cell, (bool, int, float, np.number)):
        return float(cell)
    try:
        return float(cell) if isinstance(cell, str) and "_" not in cell else None
    except ValueError:
        return None
