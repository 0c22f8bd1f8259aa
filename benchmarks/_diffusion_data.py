"""Graphs of the diffusion benchmarks: the Planetoid citation networks, from a folder of their raw files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid
from torch_geometric.utils import stochastic_blockmodel_graph

FILES = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")


def load_planetoid(name: str, folder: Path) -> Data:
    """Read Cora or PubMed with its public split from a folder that holds the files ``ind.<name>.*``."""
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root) / name / "raw"
        raw.mkdir(parents=True)
        for file in FILES:
            path = (folder / f"ind.{name.lower()}.{file}").resolve()
            if not path.exists():
                raise SystemExit(f"{path} is missing; --data is the folder of Planetoid's raw files")
            (raw / path.name).symlink_to(path)
        return Planetoid(root, name)[0]


def random_graph(nodes_per_class: int = 40, features: int = 24, classes: int = 3) -> Data:
    """Return a small graph of classes that are better connected inside than across, for ``--quick``."""
    generator = torch.Generator().manual_seed(0)
    nodes = nodes_per_class * classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        across = torch.full((classes, classes), 0.2 / nodes_per_class)
        edge_index = stochastic_blockmodel_graph([nodes_per_class] * classes, across + 0.1 * torch.eye(classes))
    y = torch.arange(nodes) // nodes_per_class
    x = torch.randn(nodes, features, generator=generator) + torch.nn.functional.one_hot(y, features)
    part = torch.randperm(nodes, generator=generator) % 3
    masks = {f"{split}_mask": part == number for number, split in enumerate(("train", "val", "test"))}
    return Data(x=x, y=y, edge_index=edge_index, **masks)
