"""Long Range Graph Benchmark: the peptides and the superpixels, in their original files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn._files import unread
from graphattn.datasets._download import obtain
from graphattn.datasets._pickles import load_arrays
from graphattn.datasets._splits import parse_split
from graphattn.datasets.tasks import GraphTask

# Suffix of the files, metric, classes, where PyG takes the files from, and licence.
SETS: dict[str, tuple[str, str, int | None, str, str]] = {
    "Peptides-func": ("pt", "average_precision", 2, "ycsq37q8sxs1ou8/peptidesfunc", "CC BY-NC 4.0"),
    "Peptides-struct": ("pt", "mae", None, "zgv4z8fcpmknhs8/peptidesstruct", "CC BY-NC 4.0"),
    "PascalVOC-SP": ("pickle", "f1_macro", 21, "8x722ai272wqwl4/pascalvocsp", "that of Pascal VOC 2011"),
    "COCO-SP": ("pickle", "f1_macro", 81, "r6ihg1f4pmyjjy0/cocosp", "CC BY 4.0"),
}
_URL = "https://www.dropbox.com/s/{}.zip?dl=1"
_PARTS = ("train", "val", "test")
# COCO numbers its classes with gaps, from 0 to 90.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def load_lrgb(name: str, root: Path, split: str | int | None) -> GraphTask:
    """Load a set of the benchmark; the catalog documents the arguments."""
    parse_split(name, split, {"official": 1}, "official")
    suffix, metric, num_classes, place, licence = SETS[name]
    folder = obtain(
        name,
        (root / name.lower() / "raw", root / name / "raw", root / name.lower(), root / name),
        [f"{part}.{suffix}" for part in _PARTS],
        [_URL.format(place)],
        lambda new: _read(name, new / f"val.{suffix}"),
    )
    graphs: list[Data] = []
    ids: dict[str, Tensor] = {}
    for part in _PARTS:
        found = _read(name, folder / f"{part}.{suffix}")
        ids[part] = torch.arange(len(graphs), len(graphs) + len(found))
        graphs += found
    return GraphTask(
        name=name,
        graphs=graphs,
        split=ids,
        split_name="official",
        metric=metric,
        licence=licence,
        num_classes=num_classes,
    )


def _read(name: str, path: Path) -> list[Data]:
    try:
        if path.suffix == ".pt":
            entries = torch.load(path, weights_only=True)
        else:
            with open(path, "rb") as file:
                entries = load_arrays(file)
        return [_graph(name, *entry[:4]) for entry in entries]
    except (pickle.UnpicklingError, EOFError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({unread(error)}); expected a list of tuples of tensors") from error


def _graph(name: str, x: Tensor, edge_attr: Tensor, edge_index: Tensor, y: Any) -> Data:
    if name.startswith("Peptides"):
        return Data(x=x, edge_attr=edge_attr, edge_index=edge_index, y=y)
    y = torch.as_tensor(y, dtype=torch.long)
    if name == "COCO-SP":
        y = y - (y[:, None] > torch.tensor(_COCO_GAPS)).sum(1)
    return Data(x=x.float(), edge_attr=edge_attr.float(), edge_index=edge_index, y=y)
