"""Temporal Graph Benchmark: its link sets, read by its package, with its splits, its negatives and its evaluator."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import TemporalData

from graphattn._optional import require
from graphattn.datasets._download import obtain
from graphattn.datasets._splits import parse_split
from graphattn.datasets.events import EventTask

# Version of the files.
SETS = {
    "tgbl-wiki": 2,
    "tgbl-review": 2,
    "tgbl-coin": 2,
    "tgbl-comment": 1,
    "tgbl-flight": 2,
    "tgbl-subreddit": 1,
    "tgbl-lastfm": 1,
    "tgbl-uci": 1,
    "tgbl-enron": 1,
}
_LICENCE = "stated for each set at tgb.complexdatalab.com"
_URL = "https://object-arbutus.alliancecan.ca/swift/v1/14c95234f6cd4a21a47deafe20cce2a7/tgb/"
_BLOCK = 512


@dataclass(frozen=True)
class TGBEvaluator:
    """Score links by the ``Evaluator`` of the package tgb, which is imported when it is first needed.

    Args:
        dataset: TGB's name of the set.

    Example:
        >>> TGBEvaluator("tgbl-wiki").dataset
        'tgbl-wiki'
    """

    dataset: str

    def __call__(self, positive: Tensor, negative: Tensor) -> float:
        """Return the mean reciprocal rank of events among their negatives.

        Args:
            positive: Scores of the events, ``[n]``.
            negative: Scores of their negatives, ``[n]`` or ``[n, M]``.

        Raises:
            ImportError: If py-tgb is not installed; the extra ``tgb`` brings it.
        """
        evaluator = require("tgb.linkproppred.evaluate", "tgb").Evaluator(name=self.dataset)
        scores = {"y_pred_pos": positive, "y_pred_neg": negative.reshape(len(positive), -1), "eval_metric": ["mrr"]}
        return float(evaluator.eval(scores)["mrr"])


def load_tgb(name: str, root: Path, split: str | int | None) -> EventTask:
    """Load a set of the Temporal Graph Benchmark; the catalog documents the arguments."""
    parse_split(name, split, {"official": 1}, "official")
    end = f"_v{SETS[name]}" if SETS[name] > 1 else ""
    files = [f"{name}_edgelist{end}.csv", f"{name}_val_ns{end}.pkl", f"{name}_test_ns{end}.pkl"]
    if name == "tgbl-flight":
        files.append(f"airport_node_feat{end}.csv")
    url = f"{_URL}{name}{end.replace('_', '-')}.zip"
    folder = obtain(name, [root / name.replace("-", "_")], files, [url], lambda new: None)
    return _task(name, folder)


def _task(name: str, folder: Path) -> EventTask:
    module = require("tgb.linkproppred.dataset", "tgb")
    # The package takes the root as a path from its own folder.
    root = os.path.relpath(folder.parent, module.PROJ_DIR)
    dataset = module.LinkPropPredDataset(name=name, root=root, download=False)
    dataset.load_val_ns()
    dataset.load_test_ns()
    full = dataset.full_data
    order = torch.from_numpy(full["timestamps"]).argsort(stable=True)
    src, dst, t = (torch.from_numpy(full[key])[order] for key in ("sources", "destinations", "timestamps"))
    msg = torch.from_numpy(np.array(full["edge_feat"], dtype=np.float32))[order]
    masks = {"train": dataset.train_mask, "val": dataset.val_mask, "test": dataset.test_mask}
    split = {part: torch.from_numpy(mask)[order].nonzero().flatten() for part, mask in masks.items()}
    return EventTask(
        name=name,
        data=TemporalData(src=src, dst=dst, t=t, msg=msg),
        num_nodes=int(torch.maximum(src, dst).max()) + 1,
        split=split,
        split_name="official",
        licence=_LICENCE,
        metric="mrr",
        evaluator=TGBEvaluator(name),
        given_negatives={
            part: _negatives(dataset, part, src[split[part]], dst[split[part]], t[split[part]])
            for part in ("val", "test")
        },
    )


def _negatives(dataset: Any, part: str, src: Tensor, dst: Tensor, t: Tensor) -> Tensor:
    """Look the negatives of events up, ``[n, M]``, where -1 fills up."""
    blocks = []
    for start in range(0, len(src), _BLOCK):
        events = (ends[start : start + _BLOCK] for ends in (src, dst, t))
        found = dataset.negative_sampler.query_batch(*events, split_mode=part)
        rows = [torch.tensor(row, dtype=torch.int64) for row in found]
        blocks.append(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1))
    width = max(block.size(1) for block in blocks)
    return torch.cat([torch.nn.functional.pad(block, (0, width - block.size(1)), value=-1) for block in blocks])
