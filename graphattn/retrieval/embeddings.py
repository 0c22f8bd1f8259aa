"""Vectors with ids, from the files that embedding models are run to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphattn._optional import require

_ENDINGS = (".npy", ".npz", ".parquet")
_SIDECARS = (".ids", ".txt")
_BATCH_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Embeddings:
    r"""Vectors and the ids of their rows.

    Ids are compared as texts, as they stand in a run file: 7 and ``"7"`` are the same.

    Args:
        ids: Ids of the rows.
        vectors: The vectors; an array that is mapped from a file stays so.

    Shapes:
        - ``ids``: :math:`(N,)`; ``vectors``: :math:`(N, D)`

    Raises:
        ValueError: If a shape does not fit or an id comes twice.
        TypeError: If the vectors are no floating-point numbers of this machine.

    Example:
        >>> gallery = Embeddings(["a", "b"], np.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> gallery
        Embeddings(2 x 2, float64)
        >>> gallery.rows["b"]
        1

    Attributes:
        rows: Row of each id, for :meth:`Run.to_arrays`.
    """

    ids: Sequence[Hashable]
    vectors: np.ndarray
    rows: Mapping[Hashable, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        vectors = self.vectors
        if not isinstance(vectors, np.ndarray):
            raise TypeError(f"vectors is a {type(vectors).__name__}; expected an array [N, D]")
        if vectors.dtype not in (np.float16, np.float32, np.float64):
            raise TypeError(f"vectors has dtype {vectors.dtype}; expected float16, float32 or float64")
        if vectors.ndim != 2 or vectors.shape[1] < 1:
            raise ValueError(f"vectors has shape {vectors.shape}; expected [N, D], D at least 1")
        if len(self.ids) != len(vectors):
            raise ValueError(f"ids has length {len(self.ids)}; expected {len(vectors)}, one id per row of vectors")
        numbered = isinstance(self.ids, range) and self.ids == range(len(vectors))
        object.__setattr__(self, "rows", _RowNumbers(len(vectors)) if numbered else _Rows(self.ids))

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        return f"Embeddings({len(self)} x {self.vectors.shape[1]}, {self.vectors.dtype})"

    def take(self, ids: Iterable[Hashable]) -> np.ndarray:
        """Copy the vectors of some ids, such as the queries of a run.

        Args:
            ids: The ids.

        Returns:
            Vectors, in the order of the ids.

        Raises:
            ValueError: If an id is not there.

        Example:
            >>> Embeddings(["a", "b"], np.array([[1.0, 0.0], [0.0, 1.0]])).take(["b", "b"])
            array([[0., 1.],
                   [0., 1.]])
        """
        wanted = list(ids)
        rows = np.array([self.rows.get(one, -1) for one in wanted], dtype=np.int64)
        missing = (rows < 0).nonzero()[0]
        if len(missing):
            first, like = wanted[missing[0]], next(iter(self.rows), None)
            raise ValueError(f"id {first!r} has no vector, one of {len(missing)}; ids that have one are like {like!r}")
        return np.asarray(self.vectors[rows])


def load_embeddings(path: str | Path, *, id_column: str | None = None, vector_column: str | None = None) -> Embeddings:
    """Load vectors and their ids.

    ========== ============================================ =======================================================
    ending     vectors                                      ids
    ========== ============================================ =======================================================
    .npy       the array, mapped from the file              lines of the file of the same name that ends in ``.ids``
                                                            or ``.txt``; without one, the numbers of the rows
    .npz       array ``vectors``, in memory                 array ``ids``
    .parquet   column of lists, in memory                   another column
    ========== ============================================ =======================================================

    Args:
        path: The file.
        id_column: Column of the ids of a Parquet file; may be left out if it is ``id`` or the only one of its kind.
        vector_column: Column of its vectors; may be left out if it is the only one of lists.

    Returns:
        The vectors with their ids.

    Raises:
        ValueError: If the file is damaged or of another format, ids and vectors differ in number, or an id comes twice.
        TypeError: If the vectors are no floating-point numbers.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder) / "docs.npy", np.eye(2, dtype="f"))
        ...     _ = (Path(folder) / "docs.ids").write_text("a" + chr(10) + "b")
        ...     load_embeddings(Path(folder) / "docs.npy").take(["b"])
        array([[0., 1.]], dtype=float32)
    """
    path = Path(path)
    ending = path.suffix.lower()
    for name, column in (("id_column", id_column), ("vector_column", vector_column)):
        if column is not None and ending != ".parquet":
            raise ValueError(f"{name} is {column!r}, but {path} has no columns; it is for .parquet files")
    if ending not in _ENDINGS:
        raise ValueError(f"{path} has an unknown ending; expected {', '.join(_ENDINGS)}")
    with open(path, "rb"):  # a file that is not there is no damaged file
        pass
    if ending == ".parquet":
        ids, vectors = _load_parquet(path, id_column, vector_column)
    else:
        ids, vectors = _load_npy(path) if ending == ".npy" else _load_npz(path)
    try:
        return Embeddings(ids, vectors)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None


class _Rows(Mapping[Hashable, int]):
    """Rows of ids, which are compared as texts."""

    def __init__(self, ids: Sequence[Hashable]) -> None:
        self._rows = {str(one): row for row, one in enumerate(ids)}
        if len(self._rows) < len(ids):
            row = next(row for row, one in enumerate(ids) if self._rows[str(one)] != row)
            raise ValueError(f"ids holds {str(ids[row])!r} twice, in rows {row} and {self._rows[str(ids[row])]}")

    def __getitem__(self, one: Hashable) -> int:
        return self._rows[str(one)]

    def get(self, one: Hashable, default: Any = None) -> Any:
        return self._rows.get(str(one), default)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class _RowNumbers(Mapping[Hashable, int]):
    """Rows whose ids are their numbers: millions of them need no table."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __getitem__(self, one: Hashable) -> int:
        text = str(one)
        if text.isdecimal() and text == str(int(text)) and int(text) < self._size:
            return int(text)
        raise KeyError(one)

    def __iter__(self) -> Iterator[Hashable]:
        return map(str, range(self._size))

    def __len__(self) -> int:
        return self._size


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Explain why a file cannot be read; a damaged one may raise anything."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _load_npy(path: Path) -> tuple[Sequence[Hashable], Any]:
    with _reading(path):
        vectors = np.lib.format.open_memmap(path, mode="r")
    for ending in _SIDECARS:
        sidecar = path.with_suffix(ending)
        if sidecar.exists():
            return _read_ids(sidecar), vectors
    return range(len(vectors) if np.ndim(vectors) else 0), vectors


def _read_ids(path: Path) -> list[str]:
    """Read one id a line."""
    with _reading(path):
        ids = path.read_text(encoding="utf-8-sig").split("\n")
    ids = [one.strip() for one in ids]
    if not ids[-1]:
        ids.pop()  # the file ended with a line feed
    if "" in ids:
        raise ValueError(f"{path}, line {ids.index('') + 1}: blank; expected an id")
    return ids


def _load_npz(path: Path) -> tuple[Sequence[Hashable], Any]:
    with _reading(path), open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        names = file.files
        ids, vectors = (file[name] if name in names else None for name in ("ids", "vectors"))
    if ids is None or vectors is None:
        raise ValueError(f"{path} has the arrays {', '.join(names)}; expected ids and vectors")
    if ids.ndim != 1:
        raise ValueError(f"{path}: ids has shape {ids.shape}; expected [N]")
    if ids.dtype.kind not in "iuSU":
        raise TypeError(f"{path}: ids has dtype {ids.dtype}; expected texts or integers")
    return (np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids).tolist(), vectors


def _load_parquet(path: Path, id_column: str | None, vector_column: str | None) -> tuple[Sequence[Hashable], Any]:
    parquet = require("pyarrow.parquet", "tables")
    with _reading(path):
        file = parquet.ParquetFile(path)
    with file:
        vector_column, id_column = _choose_columns(path, file.schema_arrow, vector_column, id_column)
        ids: list[Hashable] = []
        vectors = np.empty((file.metadata.num_rows, 0))
        with _reading(path):
            for batch in file.iter_batches(_BATCH_ROWS, columns=[id_column, vector_column]):
                rows = _list_rows(batch.column(vector_column), len(ids), vectors.shape[1])
                if not ids:
                    vectors = np.empty((len(vectors), rows.shape[1]), dtype=rows.dtype)
                vectors[len(ids) : len(ids) + len(rows)] = rows
                ids += batch.column(id_column).to_pylist()
    if None in ids:
        raise ValueError(f"{path}: column {id_column!r} has no id in row {ids.index(None)}")
    return ids, vectors


def _choose_columns(path: Path, schema: Any, vectors: str | None, ids: str | None) -> tuple[str, str]:
    """Find the columns that are not named by what they hold, and check those that are."""
    kinds = require("pyarrow", "tables").types
    is_list = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)
    columns = {one.name: one.type for one in schema if not one.name.startswith("__index_level_")}
    lists = [name for name, kind in columns.items() if any(test(kind) for test in is_list)]
    others = [name for name, kind in columns.items() if name not in lists and not kinds.is_floating(kind)]
    chosen: list[Any] = []
    for argument, column, fitting in (("vector_column", vectors, lists), ("id_column", ids, others)):
        if column is None and ("id" in fitting or len(fitting) == 1):
            column = "id" if "id" in fitting else fitting[0]
        if column not in fitting:
            shown = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
            what = "lists of numbers" if fitting is lists else "texts or integers"
            raise ValueError(f"{argument} is {column!r}, but {path} has the columns {shown}; choose one of {what}")
        chosen.append(column)
    return chosen[0], chosen[1]


def _list_rows(column: Any, first_row: int, width: int) -> np.ndarray:
    """Return lists of equal length as a matrix."""
    lengths = np.array(column.value_lengths().fill_null(-1))
    width = width or int(lengths[0])
    wrong = (lengths != width).nonzero()[0]
    if len(wrong):
        length = int(lengths[wrong[0]])
        what = "is missing" if length < 0 else f"has {length} numbers, the first has {width}"
        raise ValueError(f"the vector in row {first_row + int(wrong[0])} {what}")
    values = column.flatten()
    if values.null_count:
        row = int(np.array(values.is_null()).argmax()) // width
        raise ValueError(f"the vector in row {first_row + row} lacks a number")
    return values.to_numpy(zero_copy_only=False).reshape(len(lengths), width)
