"""Heterophilous graphs: the ``.npz`` files of Platonov et al., each with ten splits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from graphattn.datasets._download import obtain
from graphattn.datasets._pickles import load_npz
from graphattn.datasets._splits import RANDOM, parse_split, random_split, split_name
from graphattn.datasets.tasks import NodeTask

# File, nodes, features, classes and metric. The unfiltered squirrel and chameleon, in which nodes come twice, one copy
# in the training set and one in the test set, are left out on purpose.
SETS = {
    "Roman-empire": ("roman_empire", 22662, 300, 18, "accuracy"),
    "Amazon-ratings": ("amazon_ratings", 24492, 300, 5, "accuracy"),
    "Minesweeper": ("minesweeper", 10000, 7, 2, "roc_auc"),
    "Tolokers": ("tolokers", 11758, 10, 2, "roc_auc"),
    "Questions": ("questions", 48921, 301, 2, "roc_auc"),
    "squirrel-filtered": ("squirrel_filtered", 2223, 2089, 5, "accuracy"),
    "chameleon-filtered": ("chameleon_filtered", 890, 2325, 5, "accuracy"),
    "Actor": ("actor", 7600, 932, 5, "accuracy"),
    "Texas": ("texas", 183, 1703, 5, "accuracy"),
    "Cornell": ("cornell", 183, 1703, 5, "accuracy"),
    "Wisconsin": ("wisconsin", 251, 1703, 5, "accuracy"),
}
_SCHEMES = {"official": 10, **RANDOM}
_URL = (
    "https://raw.githubusercontent.com/yandex-research/heterophilous-graphs/"
    "a431395582e929d88271309716bea4fe24ce6318/data/"
)
_DIGESTS = {
    "actor.npz": "c350eef06b2c2a9b",
    "minesweeper.npz": "e664c8dacf1e8ac4",
    "squirrel_filtered.npz": "f06370ffb3116c5d",
    "texas.npz": "b164b99e6c3d43e4",
}
_KEYS = ("node_features", "node_labels", "edges", "train_masks", "val_masks", "test_masks")


def load_heterophilous(name: str, root: Path, split: str | int | None) -> NodeTask:
    """Load a heterophilous graph, with its edges in both directions; the catalog documents the arguments."""
    scheme, number = parse_split(name, split, _SCHEMES, "official")
    stem, *_, metric = SETS[name]
    file = f"{stem}.npz"
    folder = obtain(
        name,
        (root / stem / "raw", root / stem, root),
        [file],
        [_URL + file],
        lambda new: _check(name, new / file),
        {file: _DIGESTS[file]} if file in _DIGESTS else {},
    )
    arrays = load_npz(folder / file, _KEYS)
    x, y = torch.from_numpy(arrays["node_features"]), torch.from_numpy(arrays["node_labels"]).long()
    edges = torch.from_numpy(arrays["edges"]).long().t().contiguous()
    data = Data(x=x, y=y, edge_index=to_undirected(edges, num_nodes=len(x)))
    if scheme == "official":
        parts = {part: torch.from_numpy(arrays[f"{part}_masks"][number]) for part in ("train", "val", "test")}
    else:
        parts = random_split(scheme, number, y)
    return NodeTask(
        name=name,
        data=data,
        split=parts,
        split_name=split_name(scheme, number, _SCHEMES),
        metric=metric,
        licence="MIT",
        num_classes=int(y.max()) + 1,
    )


def _check(name: str, path: Path) -> None:
    arrays = load_npz(path, _KEYS)
    found = (*arrays["node_features"].shape, int(arrays["node_labels"].max()) + 1)
    if found != SETS[name][1:4]:
        raise ValueError(f"{name} was downloaded with nodes, features and classes {found}; expected {SETS[name][1:4]}")
