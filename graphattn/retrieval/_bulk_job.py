"""What a bulk job is, and whether it is still the one that its folder was begun with."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphattn._files import whole
from graphattn.retrieval.embeddings import _SIDECARS

_MANIFEST = "manifest.json"
_HASHED = "sha256:"
_HASH_BYTES = 1 << 20


@dataclass(frozen=True)
class BulkJob:
    r"""Describe the re-ranking of result lists that stand in Parquet files, the parts of the job.

    A part has one row a query, with the columns ``query_id`` (text), ``ids`` (a list of texts) and ``scores`` (a list
    of numbers, larger is better). What is made of it has the same name, columns and order of queries, and a number
    ``confidence`` where the method reports one.

    Args:
        method: Name of the method, such as ``"k-reciprocal"``.
        options: Arguments of its class, ``chunk`` among them. ``exclude_self`` looks for the query's id in the gallery.
        queries: Vectors of the queries, a file for :func:`load_embeddings`.
        gallery: Vectors of the gallery; a ``.npy`` is mapped by all workers, other files are read by each.
        parts: Files of lists, of different names.
        out: Folder for the results: a ``.parquet`` and a ``.json`` file for each part, and ``manifest.json``.
        skip_missing: Whether ids that are not in the gallery are left out and counted, instead of an error.
        model: What the method has learned or found in the gallery, a file that its ``save`` has written.
        device: Where scores are computed.

    Raises:
        ValueError: If there are no parts, two have the same name, or a result would replace its part.

    Example:
        >>> job = BulkJob("gnn", {}, Path("q.npy"), Path("g.npy"), (Path("lists/0.parquet"),), Path("reranked"))
        >>> job.target(job.parts[0]).as_posix()
        'reranked/0.parquet'
    """

    method: str
    options: dict[str, Any]
    queries: Path
    gallery: Path
    parts: tuple[Path, ...]
    out: Path
    skip_missing: bool = False
    model: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts is empty; expected the Parquet files of the lists")
        names: dict[str, Path] = {}
        for part in self.parts:
            twin = names.setdefault(part.stem, part)
            if twin is not part:
                raise ValueError(f"parts holds {twin} and {part}, whose results would have the same name; rename one")
            if part.stem == Path(_MANIFEST).stem:
                raise ValueError(f"parts holds {part}, but {_MANIFEST} describes the job; rename the part")
            if self.target(part).absolute() == part.absolute():
                raise ValueError(f"out is {self.out}, where {part} would be replaced by its result; choose another")

    def target(self, part: Path) -> Path:
        """Return the file of the results of a part."""
        return self.out / f"{part.stem}.parquet"


@dataclass(frozen=True)
class PartReport:
    """Count what happened to a part.

    Args:
        part: Its name.
        queries: Its queries.
        dropped: Ids that were left out because they are not in the gallery.
        seconds: Time that it took.
    """

    part: str
    queries: int
    dropped: int
    seconds: float


def check_manifest(job: BulkJob) -> None:
    """Write down what the results depend on, or compare it with what the folder was begun with.

    Raises:
        ValueError: If something differs; it is named.
    """
    path = job.out / _MANIFEST
    manifest = _manifest(job)
    if path.exists():
        try:
            before = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}; delete the folder, or choose another") from error
        changes = "; ".join(_changes(manifest, before))
        if changes:
            raise ValueError(f"{job.out} belongs to another job: {changes}; choose another folder, or delete this one")
    else:
        write_json(path, manifest)


def write_json(path: Path, value: Any) -> None:
    """Write a file that is either whole or not there."""
    with whole(path) as file:
        file.write_text(json.dumps(value, indent=1))


def _manifest(job: BulkJob) -> dict[str, Any]:
    # Neither the number of queries at a time nor the device changes more than the rounding.
    options = {name: value for name, value in job.options.items() if name != "chunk"}
    return {
        "method": job.method,
        "options": json.loads(json.dumps(options)),
        "skip_missing": job.skip_missing,
        "queries": _hash_embeddings(job.queries),
        "gallery": _hash_embeddings(job.gallery),
        "model": None if job.model is None else _hash(job.model),
        "parts": {part.stem: _hash(part) for part in job.parts},
        "versions": {
            # The floors of the package keep its root, which gathers their names, out of their reach.
            "graphattn": sys.modules[__name__.partition(".")[0]].__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _hash_embeddings(path: Path) -> dict[str, str]:
    """Hash the file of the vectors and those of their ids."""
    endings = _SIDECARS if path.suffix.lower() == ".npy" else ()
    beside = [file for ending in endings if (file := path.with_suffix(ending)).exists()]
    return {file.suffix: _hash(file) for file in [path, *beside]}


def _hash(path: Path) -> str:
    status = os.stat(path)
    return _hash_content(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _hash_content(path: Path, size: int, changed: int) -> str:
    """Hash a file, once as long as it does not change: queries and gallery are often the same one."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASH_BYTES):
            digest.update(block)
    return _HASHED + digest.hexdigest()


def _changes(now: Mapping[str, Any], before: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Say in which entries two manifests differ."""
    for name in [*now, *(name for name in before if name not in now)]:
        new, old = now.get(name), before.get(name)
        if isinstance(new, dict) and isinstance(old, dict):
            yield from _changes(new, old, f"{prefix}{name}.")
        elif new != old:
            yield f"{prefix}{name} is {_short(new)} but was {_short(old)}"


def _short(value: Any) -> str:
    if isinstance(value, str) and value.startswith(_HASHED):
        return value[: len(_HASHED) + 8]
    return "not given" if value is None else repr(value)
