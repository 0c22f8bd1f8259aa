"""TUDataset: graph classification with the folds of the fair comparison of Errica et al., or folds of our own."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.separate import separate
from torch_geometric.io import read_tu_data

from graphattn.datasets._download import find, obtain, unpack
from graphattn.datasets._splits import parse_split, split_name
from graphattn.datasets.tasks import GraphTask

# Name of the files, of the folds, graphs and classes. PROTEINS and PROTEINS_full differ in node attributes only, which
# are left out, and the folds are those of PROTEINS_full.
SETS: dict[str, tuple[str, str | None, int, int]] = {
    "MUTAG": ("MUTAG", None, 188, 2),
    "PROTEINS": ("PROTEINS_full", "CHEMICAL/PROTEINS_full", 1113, 2),
    "ENZYMES": ("ENZYMES", "CHEMICAL/ENZYMES", 600, 6),
    "NCI1": ("NCI1", "CHEMICAL/NCI1", 4110, 2),
    "DD": ("DD", "CHEMICAL/DD", 1178, 2),
    "IMDB-BINARY": ("IMDB-BINARY", "COLLABORATIVE_1/IMDB-BINARY", 1000, 2),
    "IMDB-MULTI": ("IMDB-MULTI", "COLLABORATIVE_1/IMDB-MULTI", 1500, 3),
    "COLLAB": ("COLLAB", "COLLABORATIVE_1/COLLAB", 5000, 3),
    "REDDIT-BINARY": ("REDDIT-BINARY", "COLLABORATIVE_1/REDDIT-BINARY", 2000, 2),
    "REDDIT-MULTI-5K": ("REDDIT-MULTI-5K", "COLLABORATIVE_1/REDDIT-MULTI-5K", 4999, 5),
}
FOLDS = 10
_URL = "https://www.chrsmrrs.com/graphkerneldatasets/"
_FOLDS_URL = (
    "https://raw.githubusercontent.com/diningphil/gnn-comparison/c524e97193e31195370efc2c3c344dd1d8f5c460/data_splits/"
)
_LICENCE = "none stated by TUDataset"


def load_tu(name: str, root: Path, split: str | int | None) -> GraphTask:
    """Load a set of graphs with their node labels as features; the catalog documents the arguments."""
    prefix, fair, _, _ = SETS[name]
    schemes: dict[str, int | None] = {"own": FOLDS} if fair is None else {"fair": FOLDS, "own": FOLDS}
    scheme, fold = parse_split(name, split, schemes, "own" if fair is None else "fair")
    graphs = _graphs(name, prefix, root)
    if scheme == "own" or fair is None:
        parts = own_fold(torch.cat([graph.y for graph in graphs]), fold)
    else:
        parts = _fair_fold(name, fair, root, fold)
    return GraphTask(
        name=name,
        graphs=graphs,
        split=parts,
        split_name=split_name(scheme, fold, schemes),
        metric="accuracy",
        licence=_LICENCE,
        num_classes=int(max(int(graph.y) for graph in graphs)) + 1,
    )


def own_fold(y: Tensor, fold: int) -> dict[str, Tensor]:
    """Return a fold of ten, stratified by class and shuffled with seed 0; the next fold validates.

    Args:
        y: Class of each graph.
        fold: Which fold is the test set.
    """
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(y, y)
    tests = [torch.from_numpy(test) for _, test in folds]
    test, val = tests[fold], tests[(fold + 1) % FOLDS]
    used = torch.zeros(len(y), dtype=torch.bool)
    used[test] = used[val] = True
    return {"train": (~used).nonzero().flatten(), "val": val, "test": test}


def _fair_fold(name: str, fair: str, root: Path, fold: int) -> dict[str, Tensor]:
    file = f"{Path(fair).name}_splits.json"

    def read(folder: Path) -> dict[str, Tensor]:
        try:
            entry = json.loads((folder / file).read_text())[fold]
            chosen = entry["model_selection"][0]
            ids = {"train": chosen["train"], "val": chosen["validation"], "test": entry["test"]}
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{folder / file} cannot be read ({error}); expected ten folds") from error
        return {part: torch.tensor(values) for part, values in ids.items()}

    folders = (root / "splits_fair_comparison", root / SETS[name][0] / "raw", root)
    return read(obtain(f"the fair folds of {name}", folders, [file], [f"{_FOLDS_URL}{fair}_splits.json"], read))


def _graphs(name: str, prefix: str, root: Path) -> list[Data]:
    archive = root / f"{prefix}.zip"
    folders = (root / prefix / "raw", root / prefix, root)
    files = [f"{prefix}_{part}.txt" for part in ("A", "graph_indicator", "graph_labels")]
    if find(folders, files) is None and archive.is_file():
        with tempfile.TemporaryDirectory() as temporary:
            unpack(archive, Path(temporary))
            return _read(Path(temporary), prefix)
    return _read(obtain(name, folders, files, [f"{_URL}{prefix}.zip"], lambda new: _check(name, new)), prefix)


def _read(folder: Path, prefix: str) -> list[Data]:
    try:
        with warnings.catch_warnings():  # numpy's, about lines without numbers
            warnings.simplefilter("ignore")
            data, slices, sizes = read_tu_data(str(folder), prefix)
    except (ValueError, IndexError, RuntimeError, OSError) as error:
        raise ValueError(f"{folder / prefix}_*.txt cannot be read ({error})") from error
    if data.x is not None:
        labels = data.x[:, sizes["num_node_attributes"] :]
        data.x = labels if labels.size(1) else None
        if data.x is None:
            del slices["x"]
    count = len(slices["y"]) - 1
    return [separate(cls=Data, batch=data, idx=i, slice_dict=slices, decrement=False) for i in range(count)]


def _check(name: str, folder: Path) -> None:
    prefix, _, count, num_classes = SETS[name]
    graphs = _read(folder, prefix)
    found = (len(graphs), int(max(int(graph.y) for graph in graphs)) + 1)
    if found != (count, num_classes):
        raise ValueError(f"{name} was downloaded with graphs and classes {found}; expected {(count, num_classes)}")
