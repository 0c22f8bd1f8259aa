"""HIV: the molecules of ogbg-molhiv made from their SMILES, where OGB's own files are not at hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data
from tqdm import tqdm

from graphattn._files import whole
from graphattn._optional import require
from graphattn.datasets._download import find
from graphattn.datasets._pickles import load_npz
from graphattn.datasets._splits import parse_split
from graphattn.datasets.metrics import OGBEvaluator
from graphattn.datasets.ogb import cut_graphs
from graphattn.datasets.tasks import GraphTask

NAME = "molhiv-smiles"
_FILES = ("hiv.csv.gz", "hiv_scaffold_split.npz")
_CACHE = "hiv_graphs.npz"
_BOND_FEATURES = 3


def load_hiv(name: str, root: Path, split: str | int | None) -> GraphTask:
    """Load HIV from ``hiv.csv.gz`` and ``hiv_scaffold_split.npz``; the catalog documents the arguments.

    Raises:
        FileNotFoundError: If the files are not there.
        ImportError: If pandas, ogb or rdkit is missing.
        ValueError: If a molecule cannot be read; it is named by its place.
    """
    parse_split(name, split, {"scaffold": 1}, "scaffold")
    folder = find((root, root / "molecules"), _FILES)
    if folder is None:
        raise FileNotFoundError(
            f"{name} was not found in {root}; put {' and '.join(_FILES)} there: a CSV with the columns smiles and "
            "HIV_active, and an npz with the row numbers train, valid and test. load('ogbg-molhiv') takes OGB's files"
        )
    path = folder / _FILES[0]
    table = require("pandas", "ogb").read_csv(path, keep_default_na=False)
    if not {"smiles", "HIV_active"} <= set(table.columns):
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}; expected smiles and HIV_active")
    wrong = ~table["HIV_active"].astype(str).isin(["0", "1"]).to_numpy()
    if wrong.any():
        line = int(wrong.argmax())
        raise ValueError(f"{path}, line {line + 2}: HIV_active is {table['HIV_active'][line]!r}; expected 0 or 1")
    graphs = _cached(folder / _CACHE, path, table["smiles"].tolist())
    for graph, label in zip(graphs, table["HIV_active"].tolist(), strict=True):
        graph.y = torch.tensor([[label]])
    rows = load_npz(folder / _FILES[1], ("train", "valid", "test"))
    parts = {
        part: torch.from_numpy(rows[key]) for part, key in (("train", "train"), ("val", "valid"), ("test", "test"))
    }
    return GraphTask(
        name=name,
        graphs=graphs,
        split=parts,
        split_name="scaffold",
        metric="roc_auc",
        licence="MIT",
        num_classes=2,
        evaluator=OGBEvaluator("ogbg-molhiv"),
    )


def read_smiles(smiles: Sequence[str]) -> list[Data]:
    """Read molecules as graphs of atoms and bonds with OGB's features.

    Unlike ``ogb.utils.smiles2graph``, molecules whose valences rdkit refuses are read, too: some metals of HIV.

    Args:
        smiles: The molecules.

    Returns:
        Graphs with ``x`` ``[atoms, 9]``, ``edge_attr`` ``[2 bonds, 3]`` and both directions of each bond.

    Raises:
        ImportError: If ogb or rdkit is missing.
        ValueError: If a molecule cannot be read; it is named by its place.
    """
    arrays = _arrays(smiles)
    nodes, counts, edges = (arrays.pop(key) for key in ("num_nodes_list", "num_edges_list", "edge_index"))
    return cut_graphs(edges, nodes, counts, arrays, inverse=True)


def _arrays(smiles: Sequence[str]) -> dict[str, np.ndarray]:
    """Atoms and bonds of all molecules, one below the other; each bond once."""
    chem = require("rdkit.Chem", "molecules")
    features = require("ogb.utils.features", "ogb")
    atoms, bonds, pairs, nodes, counts = [], [], [], [], []
    for number, text in enumerate(tqdm(smiles, desc="molecules", disable=None, leave=False)):
        molecule = _molecule(chem, number, text)
        atoms += [features.atom_to_feature_vector(atom) for atom in molecule.GetAtoms()]
        for bond in molecule.GetBonds():
            pairs.append((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
            bonds.append(features.bond_to_feature_vector(bond))
        nodes.append(molecule.GetNumAtoms())
        counts.append(molecule.GetNumBonds())
    return {
        "node_feat": np.array(atoms, dtype=np.int64),
        "edge_feat": np.array(bonds, dtype=np.int64).reshape(-1, _BOND_FEATURES),
        "edge_index": np.array(pairs, dtype=np.int64).reshape(-1, 2).T,
        "num_nodes_list": np.array(nodes),
        "num_edges_list": np.array(counts),
    }


def _molecule(chem: ModuleType, number: int, text: str) -> Any:
    """Parse a molecule, at need without the check of its valences."""
    with require("rdkit.rdBase", "molecules").BlockLogs():  # rdkit prints what it refuses
        molecule = chem.MolFromSmiles(text)
        if molecule is None:
            molecule = chem.MolFromSmiles(text, sanitize=False)
            if molecule is None:
                raise ValueError(f"molecule {number}, {text!r}, is no SMILES that rdkit reads")
            molecule.UpdatePropertyCache(strict=False)
            try:
                chem.SanitizeMol(molecule, chem.SANITIZE_ALL ^ chem.SANITIZE_PROPERTIES)
            except ValueError as error:
                raise ValueError(f"molecule {number}, {text!r}, is refused by rdkit ({error})") from error
    if not molecule.GetNumAtoms():
        raise ValueError(f"molecule {number}, {text!r}, has no atoms")
    return molecule


def _cached(cache: Path, source: Path, smiles: Sequence[str]) -> list[Data]:
    """Read the molecules, or what was kept of them when the file was the same."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    arrays: dict[str, np.ndarray] = {}
    try:
        kept = load_npz(cache, ("sha256",))
        if str(kept.pop("sha256")) == digest:
            arrays = kept
    except (FileNotFoundError, ValueError):
        pass  # there is none, or it is damaged
    if not arrays:
        arrays = _arrays(smiles)
        if os.access(cache.parent, os.W_OK):
            with whole(cache) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, allow_pickle=False, sha256=np.array(digest), **arrays)
    nodes, counts, edges = (arrays.pop(key) for key in ("num_nodes_list", "num_edges_list", "edge_index"))
    return cut_graphs(edges, nodes, counts, arrays, inverse=True)
