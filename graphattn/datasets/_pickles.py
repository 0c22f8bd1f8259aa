"""Pickles that hold arrays and nothing else: what old archives of graphs are made of, read without running code."""

from __future__ import annotations

import codecs
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse
import torch

_RECONSTRUCT = np.empty(0).__reduce__()[0]
_FROM_BUFFER = np.empty(0).__reduce_ex__(5)[0]


def _storage(content: bytes) -> Any:
    """Load the storage of a tensor, which torch pickles as a file of its own."""
    return torch.load(io.BytesIO(content), weights_only=True)


# What pickles may name, under the names of old and of new versions, and what it stands for.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): codecs.encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("scipy.sparse.csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("scipy.sparse._csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _storage,
}


class _Arrays(pickle.Unpickler):
    """Refuse everything but arrays, sparse matrices and tensors."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return _ALLOWED[module, name]


def load_arrays(file: IO[bytes]) -> Any:
    """Unpickle arrays, sparse matrices and tensors, in lists, tuples and dictionaries.

    Raises:
        pickle.UnpicklingError: If the pickle holds anything else.
    """
    return _Arrays(file, encoding="latin1").load()


class _Module:
    """What ``torch.load`` needs of a pickle module."""

    Unpickler = _Arrays

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> Any:
        return _Arrays(file, **options).load()


def load_torch(path: Path) -> Any:
    """Load what ``torch.save`` wrote of arrays and tensors, by any protocol of pickle.

    Raises:
        pickle.UnpicklingError: If the file holds anything else.
    """
    # weights_only=True reads protocol 2 alone, and some files of OGB are newer; _Arrays is as strict.
    return torch.load(path, weights_only=False, pickle_module=_Module)


def load_npz(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Read an ``.npz`` whose entries may be pickled arrays or sparse matrices.

    Args:
        path: The file.
        needed: Entries that must be there.

    Raises:
        ValueError: If it is no such archive, an entry is missing, or a pickle holds anything else than arrays.
    """
    entries: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    entries[member.removesuffix(".npy")] = _entry(file)
    except (zipfile.BadZipFile, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected an npz of arrays") from error
    missing = [name for name in needed if name not in entries]
    if missing:
        raise ValueError(f"{path} has the arrays {', '.join(entries) or 'none'}; {', '.join(missing)} is missing")
    return entries


def _entry(file: IO[bytes]) -> Any:
    """Read a ``.npy``."""
    major, _ = np.lib.format.read_magic(file)
    read: Callable = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        entry = load_arrays(file)
        return entry.item() if shape == () else entry  # a matrix is stored as an array of one object
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
