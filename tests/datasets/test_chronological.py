"""Splits by time: their shares, ties, and the nodes that they hide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import TemporalData

from graphattn.datasets import chronological_split
from graphattn.datasets.chronological import parse_time_split


def stream(seed: int, events: int = 2000, nodes: int = 200, times: int = 400) -> TemporalData:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(0, nodes, (2, events), generator=generator)
    return TemporalData(src=ends[0], dst=ends[1], t=torch.randint(0, times, (events,), generator=generator).sort()[0])


def published(data: TemporalData) -> dict[str, np.ndarray]:
    """The masks of the released code of TGAT, without hidden nodes."""
    t = data.t.numpy()
    val_time, test_time = np.quantile(t, [0.70, 0.85])
    return {"train": t <= val_time, "val": (t > val_time) & (t <= test_time), "test": t > test_time}


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_those_of_tgat(seed: int) -> None:
    data = stream(seed)
    split = chronological_split(data, hidden=0)
    for part, mask in published(data).items():
        assert split[part].tolist() == mask.nonzero()[0].tolist()


@pytest.mark.parametrize("times", [4, 10, 3000])
def test_no_time_is_in_two_parts(times: int) -> None:
    data = stream(0, times=times)
    split = chronological_split(data, hidden=0)
    assert torch.equal(torch.cat(list(split.values())), torch.arange(2000))
    moments = [set(data.t[ids].tolist()) for ids in split.values()]
    assert not moments[0] & moments[1]
    assert not moments[1] & moments[2]


def test_hidden_nodes_are_in_no_training_event() -> None:
    data = stream(0)
    whole, split = chronological_split(data, hidden=0), chronological_split(data, hidden=0.1, seed=3)
    assert torch.equal(split["val"], whole["val"])
    assert torch.equal(split["test"], whole["test"])
    ends = torch.stack([data.src, data.dst])
    seen = ends[:, split["train"]].unique()
    hidden = torch.tensor(sorted(set(range(200)) - set(seen.tolist())))
    # All 200 nodes have events before the first border, so what is not seen is what is hidden: a tenth of all.
    assert len(ends[:, whole["train"]].unique()) == 200
    assert len(hidden) == 20
    touched = torch.isin(ends[:, whole["train"]], hidden).any(dim=0)
    assert torch.equal(split["train"], whole["train"][~touched])
    assert set(hidden.tolist()) <= set(ends[:, torch.cat([whole["val"], whole["test"]])].unique().tolist())


def test_the_seed_chooses_the_hidden_nodes() -> None:
    data = stream(1)
    first, again, other = (chronological_split(data, seed=seed)["train"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_all_late_nodes_are_hidden_where_they_are_few() -> None:
    # Of 101 nodes, of which 10 are a tenth, only two have events after the first border.
    src = torch.cat([torch.arange(100), torch.full((60,), 100)])
    data = TemporalData(src=src, dst=torch.cat([torch.arange(100), torch.zeros(60)]).long(), t=torch.arange(160))
    split = chronological_split(data)
    seen = torch.cat([data.src[split["train"]], data.dst[split["train"]]])
    assert not torch.isin(seen, torch.tensor([0, 100])).any()
    assert len(split["train"]) == 99


def test_times_may_be_large() -> None:
    data = stream(0)
    late = TemporalData(src=data.src, dst=data.dst, t=data.t + (1 << 52))
    for part, ids in chronological_split(data).items():
        assert torch.equal(chronological_split(late)[part], ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": (0.0, 0.5)}, r"ratios are \(0.0, 0.5\); expected positive shares"),
        ({"ratios": (0.8, 0.2)}, r"ratios are \(0.8, 0.2\); expected positive shares of train and val, which leave"),
        ({"hidden": 1.0}, "hidden is 1.0; expected a share from 0 to below 1"),
        ({"hidden": -0.1}, "hidden is -0.1"),
    ],
)
def test_shares_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chronological_split(stream(0), **options)


def test_names_of_splits() -> None:
    assert parse_time_split("S", None) == ("inductive-70-15-15:0", 0.1, 0)
    assert parse_time_split("S", None, "node") == ("chronological-70-15-15", 0.0, 0)
    assert parse_time_split("S", "inductive-70-15-15", "node") == ("inductive-70-15-15:0", 0.1, 0)
    assert parse_time_split("S", "inductive-70-15-15:4") == ("inductive-70-15-15:4", 0.1, 4)
    assert parse_time_split("S", "chronological-70-15-15") == ("chronological-70-15-15", 0.0, 0)
    with pytest.raises(
        ValueError, match="split is 'random'; S has 'inductive-70-15-15:SEED', 'chronological-70-15-15'"
    ):
        parse_time_split("S", "random")
