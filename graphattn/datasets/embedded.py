"""Sets that need no files: handwritten digits, the karate club, and a stochastic block model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.datasets import KarateClub
from torch_geometric.utils import to_undirected

from graphattn.affinity import knn
from graphattn.datasets._splits import RANDOM, parse_split, random_split, split_name
from graphattn.datasets.tasks import NodeTask

_NEIGHBORS = 10
_BLOCKS, _BLOCK_SIZE, _WITHIN, _BETWEEN, _FEATURES = 4, 100, 0.08, 0.01, 16
_PERCENT = {"random-60-20-20": None}
# Splits, the default first, and licence.
SETS: dict[str, tuple[dict[str, int | None], str]] = {
    "digits-knn": ({**_PERCENT, **RANDOM}, "UCI digits as in scikit-learn: CC BY 4.0"),
    "karate": ({"one-per-class": None, **_PERCENT}, "none stated (Zachary 1977)"),
    "sbm": ({**_PERCENT}, "generated"),
}


def load_embedded(name: str, root: Path, split: str | int | None) -> NodeTask:
    """Load a set that needs no files, so that ``root`` plays no part; the catalog documents the arguments."""
    schemes, licence = SETS[name]
    scheme, number = parse_split(name, split, schemes, next(iter(schemes)))
    data = _DATA[name]()
    if scheme == "one-per-class":
        parts = _one_per_class(data["train_mask"], number)
    else:
        parts = random_split(scheme, number, data["y"])
    return NodeTask(
        name=name,
        data=Data(x=data.x, edge_index=data.edge_index, y=data.y),
        split=parts,
        split_name=split_name(scheme, number, schemes),
        metric="accuracy",
        licence=licence,
        num_classes=int(data["y"].max()) + 1,
    )


def _digits() -> Data:
    """1,797 images of 8 x 8 pixels, each joined with its 10 nearest, in both directions."""
    digits = load_digits()
    x = torch.from_numpy(digits.data / 16).float()
    edge_index = knn(x, _NEIGHBORS).edge_index
    return Data(x=x, edge_index=to_undirected(edge_index, num_nodes=len(x)), y=torch.from_numpy(digits.target).long())


def _one_per_class(train: Tensor, seed: int) -> dict[str, Tensor]:
    """The known member of each class trains; a third of the others, drawn at random, validates."""
    others = (~train).nonzero().flatten()
    others = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))]
    return {"train": train, "val": others[: len(others) // 3], "test": others[len(others) // 3 :]}


def _sbm() -> Data:
    """Four blocks of 100 nodes, whose noisy features alone do not tell them apart."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(_BLOCKS).repeat_interleave(_BLOCK_SIZE)
    chance = torch.full((_BLOCKS, _BLOCKS), _BETWEEN).fill_diagonal_(_WITHIN)[y[:, None], y]
    edges = torch.bernoulli(chance, generator=generator).triu(1).nonzero().t()
    centers = torch.randn(_BLOCKS, _FEATURES, generator=generator)
    x = 0.5 * centers[y] + torch.randn(len(y), _FEATURES, generator=generator)
    return Data(x=x, edge_index=to_undirected(edges.contiguous(), num_nodes=len(y)), y=y)


_DATA: dict[str, Callable[[], Data]] = {"digits-knn": _digits, "karate": lambda: KarateClub()[0], "sbm": _sbm}
