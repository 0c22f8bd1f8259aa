"""A table of samples by features, and what is done to it before its features are ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graphattn.cli._checks import UserError

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "<na>", "?"})
_SHOWN = 10
# As many numbers are classes only if each is there three times on average.
_MANY = 20


@dataclass(frozen=True)
class Table:
    """The numbers of a file, NaN where a cell is missing, and the target as it is written there."""

    names: list[str]
    values: np.ndarray  # [T, F], float64
    target: np.ndarray | None  # [T], numbers, or texts and None as objects
    notes: list[str]  # what was done to the table so far, for the user
    targets: list[str]  # what --target could name: all columns, or the arrays of the file


def listed(names: Iterable[object]) -> str:
    """Names in one line, the first of them where there are many."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def position(names: list[str], wanted: str, path: Path) -> int:
    """Where the column of ``--target`` is."""
    if wanted not in names:
        raise UserError(f"--target {wanted}: {path} has no such column; it has {listed(names)}")
    return names.index(wanted)


def prepare(table: Table, target: str | None, missing: str) -> Table:
    """Refuse what cannot be ranked, treat missing values and number the classes.

    Args:
        table: What was read.
        target: Name of the target, for messages.
        missing: ``"error"``, ``"median"``, ``"drop-rows"`` or ``"drop-columns"``.

    Returns:
        A table without missing values whose target, if any, holds class numbers; ``notes`` says what was done.

    Raises:
        UserError: If the table is unfit, with what to do about it.
    """
    repeated = [name for name, count in Counter(table.targets).items() if count > 1]
    if repeated:
        raise UserError(f"several columns have the same name: {listed(repeated)}; rename them")
    if not len(table.values):
        raise UserError("the table has no rows of data")
    infinite = np.isinf(table.values).any(axis=0)
    if infinite.any():
        raise UserError(f"infinite values in {listed(_pick(table.names, infinite))}; correct or remove them")
    empty = np.isnan(table.values).all(axis=0)
    if empty.any():
        note = f"columns without a single value are left out: {listed(_pick(table.names, empty))}"
        table = _keep_columns(table, ~empty, note)
    table = _treat_missing(table, target, missing)
    if not table.names:
        raise UserError("the table has no column of numbers to rank")
    if len(table.values) < 2:
        raise UserError("the table has 1 row of data; ranking needs at least 2")
    constant = (table.values == table.values[0]).all(axis=0)
    if constant.any():
        note = f"constant columns are ranked last, with score 0: {listed(_pick(table.names, constant))}"
        table = replace(table, notes=[*table.notes, note])
    return table if table.target is None else _number_classes(table, table.target, target)


def _pick(names: list[str], mask: np.ndarray) -> list[str]:
    return [names[j] for j in np.flatnonzero(mask)]


def _keep_columns(table: Table, mask: np.ndarray, note: str) -> Table:
    return replace(table, names=_pick(table.names, mask), values=table.values[:, mask], notes=[*table.notes, note])


def _is_missing(target: np.ndarray | None, rows: int) -> np.ndarray:
    if target is None:
        return np.zeros(rows, dtype=bool)
    if target.dtype == object:
        return np.array([cell is None or str(cell).strip().lower() in MISSING for cell in target])
    return np.isnan(target)


def _treat_missing(table: Table, target: str | None, missing: str) -> Table:
    holes, unlabelled = np.isnan(table.values), _is_missing(table.target, len(table.values))
    counts = holes.sum(axis=0)
    if missing == "drop-rows":
        dropped = holes.any(axis=1) | unlabelled
        if dropped.all():
            raise UserError("--missing drop-rows leaves no row: every row misses a value; try median or drop-columns")
        if dropped.any():
            note = f"{dropped.sum()} of {len(dropped)} rows with missing values are left out"
            kept = None if table.target is None else table.target[~dropped]
            table = replace(table, values=table.values[~dropped], target=kept, notes=[*table.notes, note])
        return table
    if unlabelled.any():
        raise UserError(
            f"the target {target} misses {unlabelled.sum()} of {len(unlabelled)} values; "
            f"--missing drop-rows leaves those rows out"
        )
    if not counts.any():
        return table
    columns = listed(f"{table.names[j]} ({counts[j]})" for j in np.flatnonzero(counts))
    if missing == "drop-columns":
        if counts.all():
            raise UserError(f"--missing drop-columns leaves no column: values are missing in all, {columns}")
        return _keep_columns(table, counts == 0, f"columns with missing values are left out: {columns}")
    if missing == "median":
        filled = np.where(holes, np.nanmedian(table.values, axis=0), table.values)
        note = f"missing values are filled with the median of their column: {columns}"
        return replace(table, values=filled, notes=[*table.notes, note])
    raise UserError(f"values are missing in {columns}; choose --missing median, drop-rows or drop-columns")


def _number_classes(table: Table, target: np.ndarray, name: str | None) -> Table:
    labels = _labels(target)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"the target {name} holds one class, {classes[0]}; ranking by class needs at least 2")
    if _is_quantity(classes, len(labels)):
        raise UserError(
            f"the target {name} has {len(classes)} distinct values in {len(labels)} rows, like measurements or ids; "
            f"expected classes: cut it into classes first, or rank without --target"
        )
    return replace(table, target=codes)


def _labels(target: np.ndarray) -> np.ndarray:
    """Numbers where all labels are numbers, so that 1 and 1.0 are one class, otherwise texts."""
    try:
        return target.astype(np.float64)
    except (ValueError, TypeError):
        return np.array([str(cell).strip() for cell in target])


def _is_quantity(classes: np.ndarray, rows: int) -> bool:
    """Whether labels are too many, or too fine, to be classes."""
    if len(classes) == 2:
        return False
    numbers = classes.dtype.kind == "f"
    fine = numbers and bool((classes != np.round(classes)).any())
    return fine or 2 * len(classes) > rows or (numbers and len(classes) > _MANY and 3 * len(classes) > rows)
