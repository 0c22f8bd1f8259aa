"""Read a CSV file as people write them: any common delimiter, with or without a header, row names or a target."""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from graphattn.cli._checks import UserError
from graphattn.cli._select_table import MISSING, Table, listed, position

_BOOLEANS = {"true": 1.0, "false": 0.0}
# The comma comes last: a table cut by another delimiter may hold decimal commas, hardly the other way round.
_DELIMITERS = "\t;|,"
_SAMPLE_LINES = 10
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


def read_csv(path: Path, target: str | None, header: str) -> Table:
    """Read the numbers of a CSV file, one row at a time.

    Args:
        path: The file; ``.gz`` is unpacked on the way.
        target: Column that holds the classes, if any; its cells are kept as they are written.
        header: ``"yes"``, ``"no"`` or ``"auto"``: whether the first row names the columns.

    Raises:
        UserError: If a row or a cell cannot be read; the message gives its line.
    """
    rows = _rows(path)
    first = list(islice(rows, 2))
    if not first:
        raise UserError(f"{path} is empty")
    notes, row_names = [], None
    if header == "yes" or (header == "auto" and _is_header(*(row for _, row in first))):
        written = [name.strip() for name in first.pop(0)[1]]
        names = [name or f"column {j}" for j, name in enumerate(written, start=1)]
        if not written[0]:
            row_names = 0
            notes.append("the first column has no name: it is taken for row names and left out")
    else:
        names = [f"x{j}" for j in range(1, len(first[0][1]) + 1)]
        notes.append(f"the first row is data: columns are named x1 to x{len(names)}")
    labelled = None if target is None else position(names, target, path)

    values: list[np.ndarray] = []
    labels: list[str] = []
    texts: Counter[int] = Counter()
    first_text: dict[int, tuple[int, str]] = {}
    for line, row in chain(first, rows):
        if len(row) != len(names):
            raise UserError(f"{path}, line {line}: {len(row)} fields, but the first row has {len(names)}")
        numbers = [to_number(cell) for cell in row]
        for j, number in enumerate(numbers):
            if number is None:
                texts[j] += 1
                first_text.setdefault(j, (line, row[j]))
        values.append(np.array(numbers, dtype=np.float64))  # None becomes NaN
        if labelled is not None:
            labels.append(row[labelled])
    table = np.stack(values) if values else np.empty((0, len(names)))

    text = []
    for j, (line, cell) in sorted(first_text.items()):
        if j in (labelled, row_names):
            continue
        comma = _DECIMAL_COMMA.fullmatch(cell) is not None
        if comma or texts[j] <= np.count_nonzero(~np.isnan(table[:, j])):
            hint = "; write decimals with a point" if comma else ""
            raise UserError(f"{path}, line {line}, column {names[j]!r}: {cell!r} is not a number{hint}")
        text.append(j)
    if text:
        notes.append(f"text columns are left out: {listed([names[j] for j in text])}")
    left_out = {row_names, labelled, *text}
    kept = [j for j in range(len(names)) if j not in left_out]
    classes = None if labelled is None else np.array(labels, dtype=object)
    return Table([names[j] for j in kept], table[:, kept], classes, notes, names)


def to_number(cell: str) -> float | None:
    """Read a cell: NaN where it is missing, None where it is text.

    Example:
        >>> [to_number(cell) for cell in ("1.5", " 2e3 ", "True", "NA", "1_000")]
        [1.5, 2000.0, 1.0, nan, None]
    """
    word = cell.strip().lower()
    if "_" in word:  # float reads 1_000, but a table means a name by it
        return None
    try:
        return float(word)
    except ValueError:
        return math.nan if word in MISSING else _BOOLEANS.get(word)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its last line."""
    line = 0
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(
            path, "rt", encoding="utf-8-sig", newline=""
        ) as file:
            sample = list(islice(file, _SAMPLE_LINES))
            reader = csv.reader(chain(sample, file), delimiter=_delimiter(sample))
            for row in reader:
                line = reader.line_num
                if any(not cell.isspace() for cell in row if cell):
                    yield line, row
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"{path} is not UTF-8 text (byte 0x{byte:02x}: {error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}, after line {line}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _delimiter(sample: list[str]) -> str:
    """The delimiter that cuts the most rows into as many fields as the first one."""

    def agreeing(delimiter: str) -> int:
        try:
            lengths = [len(row) for row in csv.reader(sample, delimiter=delimiter) if row]
        except csv.Error:  # a wide row that is not cut exceeds the longest field that csv reads
            return 0
        return lengths.count(lengths[0]) if lengths and lengths[0] > 1 else 0

    best = max(_DELIMITERS, key=agreeing)
    return best if agreeing(best) else ","


def _is_header(first: list[str], second: list[str] | None = None) -> bool:
    """Whether a row names the columns: it holds no number, or holds text above a number."""
    numbers = [to_number(cell) for cell in first]
    if all(number is None or math.isnan(number) for number in numbers):
        return True
    below = [] if second is None else [to_number(cell) for cell in second]
    return any(a is None and b is not None and not math.isnan(b) for a, b in zip(numbers, below, strict=False))
