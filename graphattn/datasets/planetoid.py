"""Planetoid: the citation graphs Cora, CiteSeer and PubMed in the layout of ``ind.*``."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.io import read_planetoid_data

from graphattn.datasets._download import obtain
from graphattn.datasets._pickles import load_npz
from graphattn.datasets._splits import RANDOM, parse_split, random_split, split_name
from graphattn.datasets.tasks import NodeTask

# Nodes, features and classes.
SETS = {"Cora": (2708, 1433, 7), "CiteSeer": (3327, 3703, 6), "PubMed": (19717, 500, 3)}
_SCHEMES = {"public": 1, "geom-gcn": 10, **RANDOM}
_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_URL = "https://raw.githubusercontent.com/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data/"
_SPLIT_URL = "https://raw.githubusercontent.com/graphdml-uiuc-jlu/geom-gcn/master/splits/"
_LICENCE = "repository of the files: MIT; the underlying LINQS data state none"
_DIGESTS = {
    "ind.cora.allx": "9419ba2f26f5c352",
    "ind.cora.ally": "2b998f5cc7fedc86",
    "ind.cora.graph": "58f13302f39dde88",
    "ind.cora.test.index": "297ce89af2b51a6a",
    "ind.cora.tx": "b9afbaa4a400df99",
    "ind.cora.ty": "41f5ac76596a1699",
    "ind.cora.x": "23cfa55d91c6f624",
    "ind.cora.y": "94465c14eb53e04c",
    "ind.pubmed.allx": "508e538e2abdccdd",
    "ind.pubmed.ally": "0c37bbe3b5014ec3",
    "ind.pubmed.graph": "5b89f0036ca22909",
    "ind.pubmed.test.index": "b101d421688bbaec",
    "ind.pubmed.tx": "4eb5f5d0f30f2649",
    "ind.pubmed.ty": "ee2e0d4819d9fbcc",
    "ind.pubmed.x": "fbe9cb5c47200d1b",
    "ind.pubmed.y": "e6c807633307a07e",
}


def load_planetoid(name: str, root: Path, split: str | int | None) -> NodeTask:
    """Load a citation graph; the catalog documents the arguments."""
    scheme, number = parse_split(name, split, _SCHEMES, "public")
    files = [f"ind.{name.lower()}.{part}" for part in _PARTS]
    folder = obtain(
        name,
        (root / name / "raw", root / name, root),
        files,
        [_URL + file for file in files],
        lambda new: _check(name, new),
        {file: digest for file, digest in _DIGESTS.items() if file in files},
    )
    data = _read(name, folder)
    parts = {part: data.pop(f"{part}_mask") for part in ("train", "val", "test")}
    if scheme == "geom-gcn":
        parts = _geom_gcn(name, root, number)
    elif scheme != "public":
        parts = random_split(scheme, number, data.y)
    return NodeTask(
        name=name,
        data=data,
        split=parts,
        split_name=split_name(scheme, number, _SCHEMES),
        metric="accuracy",
        licence=_LICENCE,
        num_classes=int(data.y.max()) + 1,
    )


def _read(name: str, folder: Path) -> Data:
    try:
        with warnings.catch_warnings():  # old pickles name modules that SciPy and NumPy moved
            warnings.simplefilter("ignore")
            return read_planetoid_data(str(folder), name)
    except (EOFError, pickle.UnpicklingError, ValueError, IndexError) as error:
        raise ValueError(f"the files of {name} in {folder} cannot be read ({type(error).__name__}: {error})") from error


def _check(name: str, folder: Path) -> None:
    data = _read(name, folder)
    found = (data.num_nodes, data.num_node_features, int(data.y.max()) + 1)
    if found != SETS[name]:
        raise ValueError(f"{name} was downloaded with nodes, features and classes {found}; expected {SETS[name]}")


def _geom_gcn(name: str, root: Path, number: int) -> dict[str, Tensor]:
    """Read one of the ten splits that came with Geom-GCN."""
    files = [f"{name.lower()}_split_0.6_0.2_{i}.npz" for i in range(10)]

    def read(folder: Path) -> dict[str, Tensor]:
        keys = {part: f"{part}_mask" for part in ("train", "val", "test")}
        masks = load_npz(folder / files[number], list(keys.values()))
        return {part: torch.from_numpy(masks[key]).bool() for part, key in keys.items()}

    folders = (root / name / "geom-gcn" / "raw", root / name / "raw", root / name, root)
    return read(obtain(f"the geom-gcn splits of {name}", folders, files, [_SPLIT_URL + file for file in files], read))
