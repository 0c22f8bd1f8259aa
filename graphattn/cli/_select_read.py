"""Read a table from any of the formats that ``graphattn select`` knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from graphattn._optional import require
from graphattn.cli._checks import UserError
from graphattn.cli._select_csv import read_csv
from graphattn.cli._select_table import Table, listed, position

_TEXT = (".csv", ".tsv", ".txt")
_FORMATS = ".csv, .tsv and .txt (also with .gz), .parquet, .mat, .npz, .npy"


def read_table(path: Path, target: str | None, array: str | None, header: str) -> Table:
    """Read a file by its name's ending.

    Args:
        path: The file.
        target: The column, or in ``.mat`` and ``.npz`` the array, that holds the classes, if any.
        array: The array of a ``.mat`` or ``.npz`` that holds the features.
        header: Whether the first row of a text file names the columns: ``"yes"``, ``"no"`` or ``"auto"``.

    Raises:
        UserError: If the file cannot be read as a table, or has no such target.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    ending = suffixes[-1] if suffixes else ""
    text = (suffixes[-2:-1] or [""])[0] if ending == ".gz" else ending
    if array is not None and ending not in (".mat", ".npz"):
        raise UserError(f"--array {array} chooses an array of a .mat or .npz file, but {path} is neither")
    if header != "auto" and text not in _TEXT:
        raise UserError(f"--header {header} is for text files, but {path} is none")
    if not path.is_file():
        raise UserError(f"{path} is a folder; expected a file" if path.exists() else f"{path} does not exist")
    if text in _TEXT:
        return read_csv(path, target, header)
    if ending == ".parquet":
        return _read_parquet(path, target)
    if ending in (".mat", ".npz"):
        return _from_arrays(_read_mat(path) if ending == ".mat" else _read_npz(path), path, target, array)
    if ending == ".npy":
        return _from_matrix(_read_npy(path), path, target)
    raise UserError(f"{path} has an unknown format; expected {_FORMATS}")


def _read_parquet(path: Path, target: str | None) -> Table:
    try:
        pyarrow, parquet = require("pyarrow", "tables"), require("pyarrow.parquet", "tables")
    except ImportError as error:
        raise UserError(str(error)) from error
    with _reading(path):
        file = parquet.read_table(path)
        names = file.column_names
    types = pyarrow.types
    labelled = None if target is None else position(names, target, path)
    numeric = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    values, kept, text, notes = [], [], [], []
    for j, (name, column) in enumerate(zip(names, file.columns, strict=True)):
        if j == labelled:
            continue
        if name.startswith("__index_level_"):
            notes.append(f"the row names that pandas stored as {name} are left out")
        elif any(is_kind(column.type) for is_kind in numeric):
            kept.append(name)
            values.append(column.cast(pyarrow.float64(), safe=False).to_numpy())
        else:
            text.append(name)
    if text:
        notes.append(f"text columns are left out: {listed(text)}")
    classes = None if labelled is None else np.array(file.column(labelled).to_pylist(), dtype=object)
    matrix = np.stack(values, axis=1) if values else np.empty((file.num_rows, 0))
    return Table(kept, matrix, classes, notes, names)


def _read_mat(path: Path) -> dict[str, Any]:
    with _reading(path):
        try:
            arrays = scipy.io.loadmat(path)
        except NotImplementedError as error:
            raise ValueError("a MATLAB v7.3 file; save it in MATLAB with save(..., '-v7')") from error
    return {name: value for name, value in arrays.items() if not name.startswith("__")}


def _read_npz(path: Path) -> dict[str, Any]:
    with _reading(path), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_npy(path: Path) -> Any:
    with _reading(path):
        return np.load(path, allow_pickle=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Explain why a file cannot be read; a damaged one may raise anything."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _from_arrays(arrays: dict[str, Any], path: Path, target: str | None, array: str | None) -> Table:
    """Take the features from the array that is named, is called X, or is the only matrix."""
    shapes = listed(f"{name} {np.shape(value)}" for name, value in arrays.items())
    if target is not None and target not in arrays:
        raise UserError(f"--target {target}: {path} has no such array; it has {shapes}")
    if array is None:
        matrices = [k for k, value in arrays.items() if k != target and np.ndim(value) == 2 and min(value.shape) > 1]
        array = next((name for name in ("X", "x") if name in arrays), matrices[0] if len(matrices) == 1 else None)
        if array is None:
            raise UserError(f"{path} holds {shapes}; choose the one with the features by --array")
    if array not in arrays:
        raise UserError(f"--array {array}: {path} has no such array; it has {shapes}")
    table = _from_matrix(arrays[array], path, None)
    if target is None:
        return replace(table, targets=[name for name in arrays if name != array])
    classes = arrays[target]
    if np.size(classes) != len(table.values):
        raise UserError(f"the target {target} has {np.size(classes)} values, but {array} has {len(table.values)} rows")
    return replace(table, target=_flat_target(classes))


def _from_matrix(matrix: Any, path: Path, target: str | None) -> Table:
    if scipy.sparse.issparse(matrix):
        matrix = matrix.toarray()
    if np.ndim(matrix) != 2 or matrix.dtype.kind not in "biuf":
        raise UserError(
            f"{path} holds an array of shape {np.shape(matrix)} and dtype {matrix.dtype}; "
            f"expected a matrix of numbers, samples by features"
        )
    names, values = [f"x{j}" for j in range(1, matrix.shape[1] + 1)], matrix.astype(np.float64)
    if target is None:
        return Table(names, values, None, [], names)
    j = position(names, target, path)
    return Table(names[:j] + names[j + 1 :], np.delete(values, j, axis=1), values[:, j], [], names)


def _flat_target(classes: np.ndarray) -> np.ndarray:
    """A vector of numbers, or of texts as objects; MATLAB keeps texts in cells."""
    if classes.dtype.kind in "biuf":
        return classes.ravel().astype(np.float64)
    cells = [cell.item() if isinstance(cell, np.ndarray) and cell.size == 1 else cell for cell in classes.ravel()]
    return np.array([cell if isinstance(cell, str) else None for cell in cells], dtype=object)
