"""Splits of streams of events by their times, with some nodes hidden from training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import TemporalData

from graphattn.datasets._checks import PARTS
from graphattn.datasets._splits import parse_split, split_name

_SCHEMES: dict[str, int | None] = {"inductive-70-15-15": None, "chronological-70-15-15": 1}
_DEFAULTS = dict(zip(("link", "node"), _SCHEMES, strict=True))


def chronological_split(
    data: TemporalData, ratios: tuple[float, float] = (0.7, 0.15), hidden: float = 0.1, seed: int = 0
) -> dict[str, Tensor]:
    """Split events at quantiles of their times, and hide some nodes of later events from training.

    Events of one time come into one part. Of the nodes of ``"val"`` and ``"test"`` as many are hidden as are ``hidden``
    of all nodes with events, and training events that touch one are in no part. So later events are of two kinds:
    between nodes seen in training, and with a node that is new.

    Args:
        data: The events, sorted.
        ratios: Shares of ``"train"`` and ``"val"``.
        hidden: Share of the nodes to hide; 0 for none.
        seed: Seed of their choice.

    Returns:
        Ids of the events of ``"train"``, ``"val"`` and ``"test"``.

    Raises:
        ValueError: If a share is out of range.

    Example:
        >>> stream = TemporalData(src=torch.arange(10), dst=torch.arange(1, 11), t=torch.arange(10))
        >>> {part: ids.tolist() for part, ids in chronological_split(stream, hidden=0).items()}
        {'train': [0, 1, 2, 3, 4, 5, 6], 'val': [7], 'test': [8, 9]}

    Reference:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", 2020.
    """
    if min(ratios) <= 0 or sum(ratios) >= 1:
        raise ValueError(f"ratios are {ratios}; expected positive shares of train and val, which leave some to test")
    if not 0 <= hidden < 1:
        raise ValueError(f"hidden is {hidden}; expected a share from 0 to below 1")
    t = data.t.double()
    ends = torch.from_numpy(np.quantile(t.numpy(), [ratios[0], sum(ratios)])) if len(t) else t
    part = torch.bucketize(t, ends)  # a time that is a quantile belongs before it
    nodes = torch.stack([data.src, data.dst])
    late = nodes[:, part > 0].unique()
    count = min(int(hidden * len(nodes.unique())), len(late))
    drawn = late[torch.randperm(len(late), generator=torch.Generator().manual_seed(seed))[:count]]
    kept = (part > 0) | ~torch.isin(nodes, drawn).any(dim=0)
    return {name: ((part == number) & kept).nonzero().flatten() for number, name in enumerate(PARTS)}


def parse_time_split(name: str, split: str | int | None, kind: str = "link") -> tuple[str, float, int]:
    """Return the name of a split of a stream as it is reported, the share of nodes that it hides, and its seed.

    Args:
        name: Name of the set.
        split: Name of the split, as the catalog documents it.
        kind: ``"link"``, where nodes are hidden by default, or ``"node"``, where none are.

    Raises:
        ValueError: If there is no such split.

    Example:
        >>> parse_time_split("CollegeMsg", 3)
        ('inductive-70-15-15:3', 0.1, 3)
    """
    scheme, seed = parse_split(name, split, _SCHEMES, _DEFAULTS[kind])
    return split_name(scheme, seed, _SCHEMES), 0.0 if _SCHEMES[scheme] == 1 else 0.1, seed
