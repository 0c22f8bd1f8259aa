"""Saved attention maps, as ``graphattn inspect`` reads them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphattn.analysis import AttentionMaps
from graphattn.cli._checks import UserError
from graphattn.cli._inspect_subject import WHOLE, Sample, Subject

_NAME = "attention"
_BESIDE = ("tokens", "mask", "parts")


def read_maps(path: Path, names: Sequence[Sequence[str]], node: int | None, most: int, *, validate: bool) -> Subject:
    """Read the maps of one or several inputs.

    Args:
        path: A ``.npz`` file: what ``AttentionMaps.save`` writes; an array ``attention`` [L, H, N, N], or [B, L, H, N,
            N] with a ``mask`` [B, N]; or arrays ``attention_0``, ``attention_1``, ... of inputs of any lengths. Arrays
            ``parts``, as ``tokens``, name the part of the input that each node is of.
        names: Names of the nodes of each input; none for those in the file, or numbers.
        node: The node to explain.
        most: Number of inputs that are read.
        validate: Whether rows have to sum to 1.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{path} is no .npz file of arrays: {reason}") from error
    entries = _entries(path, arrays)
    notes = [] if len(entries) <= most else [f"the first {most} of {len(entries)} inputs were read"]
    samples = []
    for number, entry in enumerate(entries[:most]):
        own = list(names[number]) if number < len(names) else None
        if entry.get("mask") is not None and not np.asarray(entry["mask"]).any():
            notes.append(f"input {number} has no tokens and is left out")
            continue
        try:
            maps = _read(path, entry, own, validate)
        except (ValueError, TypeError) as error:
            hint = "; --unnormalized reads rows that do not sum to 1" if "validate=False" in str(error) else ""
            raise UserError(f"{path}, input {number}: {error}{hint}") from error
        samples.append(_sample(f"input {number}", maps, node, _parts(path, entry["parts"], maps)))
    if not samples:
        raise UserError(f"{path} has no tokens; expected at least one input with one")
    return Subject(path.name, "saved attention maps", samples, notes=notes)


def _entries(path: Path, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Split what a file holds into inputs."""
    if _NAME in arrays:
        attention, beside = arrays[_NAME], {name: arrays.get(name) for name in _BESIDE}
        if attention.ndim != 5:
            return [{_NAME: attention} | beside]
        expected = (len(attention), attention.shape[-1])
        for name, values in beside.items():
            if values is not None and values.shape[:2] != expected:
                raise UserError(f"{path}: {name} has shape {values.shape}; expected {expected}")
        return [
            {_NAME: each} | {name: _row(values, number) for name, values in beside.items()}
            for number, each in enumerate(attention)
        ]
    if f"{_NAME}_0" in arrays:
        entries: list[dict[str, Any]] = []
        while f"{_NAME}_{len(entries)}" in arrays:
            end = f"_{len(entries)}"
            entries.append({name: arrays.get(name + end) for name in (_NAME, *_BESIDE)})
        return entries
    return [{"file": path, "parts": arrays.get("parts")}]


def _row(values: np.ndarray | None, number: int) -> np.ndarray | None:
    """Return a row where there is any."""
    return None if values is None else values[number]


def _read(path: Path, entry: dict[str, Any], names: list[str] | None, validate: bool) -> AttentionMaps:
    if "file" in entry:
        maps = AttentionMaps.load(path, validate=validate)
        if names is None:
            return maps
        if len(names) != maps.num_nodes:
            raise ValueError(f"{len(names)} names were given but the maps have {maps.num_nodes} nodes")
        return AttentionMaps(maps.layers, maps.num_nodes, tuple(names), maps.causal, maps.positions)
    tokens = entry["tokens"]
    if names is None and tokens is not None:
        names = [str(token) for token in tokens.tolist()]
    return AttentionMaps.from_arrays(entry["attention"], tokens=names, mask=entry["mask"], validate=validate)


def _parts(path: Path, parts: np.ndarray | None, maps: AttentionMaps) -> list[str] | None:
    """Name the part of each node that is not masked."""
    if parts is None:
        return None
    if parts.ndim == 1 and len(parts) != maps.num_nodes and len(parts) > maps.positions[-1]:
        parts = parts[maps.positions]
    if parts.shape != (maps.num_nodes,):
        raise UserError(f"{path}: parts has shape {parts.shape}; expected one for each of {maps.num_nodes} nodes")
    return [str(part) for part in parts.tolist()]


def _sample(title: str, maps: AttentionMaps, node: int | None, parts: list[str] | None) -> Sample:
    if node is not None and not 0 <= node < maps.num_nodes:
        raise UserError(f"--node is {node} but {title} has {maps.num_nodes} nodes; expected a number from 0")
    sparse = any(maps.is_sparse(layer) for layer in range(maps.num_layers))
    target = node
    if target is None and maps.causal and not sparse:
        target = maps.num_nodes - 1
    if target is None and (sparse or maps.num_nodes > WHOLE):
        target = int(np.bincount(maps.edges(-1)[0][1], minlength=maps.num_nodes).argmax())
    return Sample(title, maps, None if sparse else list(maps.tokens), target, parts=parts)
