"""Streams of events as tasks: what they refuse, their negatives, and how they score."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch_geometric.data import TemporalData

from graphattn.datasets import EventTask

SPLIT = {"train": torch.arange(4), "val": torch.tensor([4, 5]), "test": torch.tensor([6, 7])}


def stream(**changes: Any) -> TemporalData:
    """Three users and three items; item 5 and user 2 come after training."""
    given: dict[str, Any] = {
        "src": torch.tensor([0, 1, 0, 1, 0, 1, 0, 2]),
        "dst": torch.tensor([3, 4, 4, 3, 5, 3, 4, 3]),
        "t": torch.tensor([0, 1, 1, 2, 3, 3, 4, 9]),
        "msg": torch.arange(16.0).reshape(8, 2),
        "y": torch.tensor([0, 1, 0, 1, 0, 1, 1, 0]),
    }
    return TemporalData(**{key: value for key, value in {**given, **changes}.items() if value is not None})


def event_task(**changes: Any) -> EventTask:
    given: dict[str, Any] = {
        "name": "toy",
        "data": stream(),
        "num_nodes": 6,
        "split": SPLIT,
        "split_name": "own",
        "licence": "none",
    }
    return EventTask(**{**given, **changes})


def test_a_sound_stream() -> None:
    task = event_task()
    assert (task.num_features, task.out_channels, task.num_classes, task.bipartite) == (2, 1, None, True)
    assert (task.kind, task.metric, task.higher_is_better) == ("link", "average_precision", True)
    assert event_task(data=stream(msg=torch.zeros(8, 0), y=None)).num_features == 0
    assert event_task(data=stream(t=stream().t.double() / 3)).data.t.dtype == torch.float64
    masks = {part: torch.zeros(8, dtype=torch.bool).index_fill(0, ids, True) for part, ids in SPLIT.items()}
    assert all(torch.equal(event_task(split=masks).split[part], ids) for part, ids in SPLIT.items())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"t": torch.tensor([0, 1, 2, 1, 3, 3, 4, 9])},
            ValueError,
            r"not sorted: event 3 at 1 comes after event 2 at 2; ",
        ),
        ({"t": stream().t - 3}, ValueError, r"times of toy are negative, the first, -3, at event 0; shift them"),
        (
            {"t": torch.tensor([0, 1, 1, 2, 3, 3, 4, np.nan]).double()},
            ValueError,
            "hold 1 NaN or infinite .* at event 7",
        ),
        (
            {"t": torch.tensor([0, 1, 1, 2, 3, 3, 4, np.inf]).double()},
            ValueError,
            "hold 1 NaN or infinite .* at event 7",
        ),
        (
            {"t": stream().t + 1_700_000_000_000_000_000},
            ValueError,
            r"beyond 2\*\*53, where float64 rounds; if they are nanoseconds since 1970, convert them to seconds: ",
        ),
        ({"t": stream().t.float()}, TypeError, r"times of toy have dtype torch.float32; expected a Tensor of int64 or"),
        ({"t": stream().t[:5]}, ValueError, r"times of toy have shape \(5,\); expected \(8,\), one for each event"),
        ({"src": stream().src - 1}, ValueError, "src of toy has nodes from -1 to 1, but there are 6"),
        ({"dst": stream().dst + 1}, ValueError, "dst of toy has nodes from 4 to 6, but there are 6"),
        ({"src": stream().src.int()}, TypeError, r"src of toy are shape \(8,\) and torch.int32; expected .* int64"),
        ({"dst": stream().dst[:5]}, ValueError, "dst of toy has 5 events, but src 8"),
        (
            {"msg": None},
            ValueError,
            r"data of toy has no msg; expected .* such as torch.zeros\(E, 0\) where there are no",
        ),
        ({"t": None}, ValueError, "data of toy has no t; expected src, dst, t and msg$"),
        (
            {"msg": torch.zeros(7, 2)},
            ValueError,
            "msg of toy has 7 rows, but there are 8 events; expected features for",
        ),
        ({"msg": torch.zeros(8)}, ValueError, r"msg of toy is \(8,\) of torch.float32; expected \(E, D\)"),
        ({"msg": torch.zeros(8, 2, dtype=torch.int64)}, ValueError, "expected .* of floating point"),
        (
            {"msg": torch.zeros(8, 2).index_fill(0, torch.tensor([5]), np.nan)},
            ValueError,
            "features of toy hold 2 NaN or infinite values, the first in row 5, column 0 of msg",
        ),
    ],
)
def test_streams_that_are_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        event_task(data=stream(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "edge"}, "kind of toy is 'edge'; expected 'link' or 'node'"),
        ({"metric": "accuracy"}, "metric of toy is 'accuracy'; expected one of roc_auc, average_precision, or an"),
        ({"split": {**SPLIT, "val": torch.tensor([], dtype=torch.int64)}}, "split 'val' of toy is empty; expected at"),
        (
            {"split": {**SPLIT, "test": torch.tensor([7, 8])}},
            "split 'test' of toy has ids from 7 to 8, but there are 8",
        ),
        (
            {"split": {**SPLIT, "val": torch.tensor([3, 4])}},
            "split of toy leaks: 1 events of 'val' are also in 'train'",
        ),
        ({"split": {**SPLIT, "test": torch.tensor([7, 6])}}, "split 'test' of toy is not in the order of time; sort"),
        (
            {"split": {**SPLIT, "val": torch.tensor([4]), "test": torch.tensor([5, 6, 7])}},
            "not chronological: 'val' ends at 3, 'test' begins at 3; events of one time belong into one part",
        ),
        (
            {"split": {**SPLIT, "train": torch.tensor([7]), "test": torch.tensor([6])}},
            "'train' ends at 9, 'val' begins",
        ),
        ({"given_negatives": {"val": torch.zeros(3, 2).long()}}, r"shape \(3, 2\); expected \(2, M\), some for each"),
        ({"given_negatives": {"val": torch.full((2, 2), 6)}}, "given_negatives of 'val' of toy has nodes from 6 to 6"),
        ({"given_negatives": {"valid": torch.zeros(2, 2).long()}}, "which is 'valid'; expected one of 'train', "),
        ({"node_ids": ("a",)}, "node_ids of toy are 1 names, but there are 6"),
        ({"kind": "node", "classes": ("a",)}, "classes of toy are 1 names, but there are 2"),
        ({"kind": "node", "data": stream(y=None)}, "y of toy is NoneType; a node task needs a label for each event"),
        ({"kind": "node", "data": stream(y=torch.zeros(8, 2))}, r"y of toy is \(8, 2\); a node task needs a label"),
        ({"kind": "node", "data": stream(y=stream().y - 1)}, "labels of toy hold 4 such as -1 .* classes from 0 to 1"),
        ({"kind": "node", "data": stream(y=stream().y + 1)}, "labels of toy hold 4 such as 2 .* classes from 0 to 1"),
    ],
)
def test_tasks_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        event_task(**changes)


def random_task(bipartite: bool) -> EventTask:
    generator = torch.Generator().manual_seed(1)
    src = torch.randint(0, 30, (3000,), generator=generator)
    dst = torch.randint(30 if bipartite else 0, 40, (3000,), generator=generator)
    data = TemporalData(src=src, dst=dst, t=torch.arange(3000), msg=torch.zeros(3000, 0))
    ids = torch.arange(3000)
    return event_task(data=data, num_nodes=40, split={"train": ids[:1000], "val": ids[1000:1200], "test": ids[1200:]})


@pytest.mark.parametrize("bipartite", [True, False])
def test_negatives_are_other_destinations_each_as_likely(bipartite: bool) -> None:
    task = random_task(bipartite)
    assert task.bipartite is bipartite
    positive, negative = task.data.dst[task.split["test"]], task.negatives("test")
    assert negative.shape == positive.shape
    assert not (negative == positive).any()
    low, count = (30, 10) if bipartite else (0, 40)
    assert negative.min() >= low
    # Steps from the positive to the negative are even among those possible: chi-squared with count - 2 degrees.
    steps = ((negative - positive) % count if bipartite else (negative - positive) % 40).bincount(minlength=count)[1:]
    expected = len(positive) / (count - 1)
    chi = ((steps - expected) ** 2 / expected).sum()
    assert chi < (count - 2) + 5 * (2 * (count - 2)) ** 0.5


def test_negatives_are_drawn_once() -> None:
    task = random_task(True)
    assert torch.equal(task.negatives("test"), task.negatives("test", seed=0))
    draws = [task.negatives(which, seed)[:200] for which in ("train", "val", "test") for seed in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    one = event_task(data=stream(dst=torch.full((8,), 3)))
    with pytest.raises(ValueError, match="toy has one destination alone, so that no event has a negative"):
        one.negatives("val")


def test_inductive_events_touch_nodes_that_training_has_not_seen() -> None:
    task = event_task()
    assert {part: task.inductive(part).tolist() for part in SPLIT} == {
        "train": [False] * 4,
        "val": [True, False],
        "test": [False, True],
    }


@pytest.mark.parametrize(
    ("metric", "score"), [("average_precision", average_precision_score), ("roc_auc", roc_auc_score)]
)
def test_links_score_as_scikit_learn_does(metric: str, score: Any) -> None:
    task = dataclasses.replace(random_task(False), metric=metric)
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.rand(2, 1800, dtype=torch.float64, generator=generator)
    positive += 0.2
    truth = np.repeat([1, 0], 1800)
    assert task.evaluate(positive, negative) == score(truth, torch.cat([positive, negative]).numpy())
    mask = task.inductive("test")
    assert not mask.any()
    hidden = torch.isin(task.data.src, torch.tensor([1, 2])) | torch.isin(task.data.dst, torch.tensor([1, 2]))
    train = task.split["train"]
    task = dataclasses.replace(task, split={**task.split, "train": train[~hidden[:1000]]})
    mask = task.inductive("test")
    assert torch.equal(mask, hidden[1200:])
    expected = score(np.repeat([1, 0], int(mask.sum())), torch.cat([positive[mask], negative[mask]]).numpy())
    assert task.evaluate(positive.numpy()[:, None], negative, inductive=True) == expected


def test_labels_score_as_scikit_learn_does() -> None:
    task = event_task(kind="node", metric="roc_auc")
    assert (task.out_channels, task.num_classes) == (1, 2)
    assert task.target("train").tolist() == [0, 1, 0, 1]
    assert task.evaluate(torch.tensor([0.1, 0.4, 0.3, 0.2]), which="train") == roc_auc_score([0, 1, 0, 1], [1, 4, 3, 2])
    many = event_task(kind="node", metric="accuracy", data=stream(y=torch.arange(8) % 4))
    assert many.out_channels == 4
    assert many.evaluate(torch.tensor([2, 2]), which="test") == 0.5
    assert many.evaluate(torch.eye(4)[[2, 2]], which="test") == 0.5
    assert many.evaluate(torch.tensor([2, 2]), which="test", inductive=True) == 0.0
    values = event_task(kind="node", metric="rmse", data=stream(y=torch.arange(8.0)))
    assert (values.out_channels, values.num_classes, values.higher_is_better) == (1, None, False)


def test_negatives_that_the_set_brings() -> None:
    given = {"val": torch.tensor([[3, 4], [5, -1]])}

    def evaluator(positive: Tensor, negative: Tensor) -> float:
        return float((positive[:, None] > negative).double().mean())

    task = event_task(given_negatives=given, metric="mrr", evaluator=evaluator)
    assert task.negatives("val") is given["val"]
    assert task.negatives("test").shape == (2,)
    scores = torch.tensor([[0.0, 2.0], [2.0, 2.0]])
    assert task.evaluate(torch.tensor([1.0, 1.0]), scores, "val") == 0.5  # the last is none and never above
    assert task.evaluate(torch.tensor([1.0, 1.0]), scores, "val", inductive=True) == 0.5
    with pytest.raises(ValueError, match=r"seed is 1, but toy brings the negatives of 'val'; leave it at 0"):
        task.negatives("val", 1)
    with pytest.raises(
        ValueError, match=r"shapes \(2,\) and \(2,\), but events and negatives of 'val' have \(2,\) and"
    ):
        task.evaluate(torch.ones(2), torch.ones(2), "val")


def test_scores_that_are_refused() -> None:
    task, ones = event_task(), torch.ones(2)
    with pytest.raises(ValueError, match=r"prediction has shape \(3,\), but 'test' of toy has 2 rows; pass the rows"):
        task.evaluate(torch.ones(3), ones)
    with pytest.raises(ValueError, match=r"shapes \(2, 2\) and \(2,\), but events and negatives"):
        task.evaluate(torch.ones(2, 2), ones)
    with pytest.raises(ValueError, match="holds NaN"):
        task.evaluate(ones, torch.tensor([0.0, np.nan]))
    with pytest.raises(ValueError, match=r"scores_neg is NoneType; expected the scores of task.negatives\(which\)"):
        task.evaluate(ones)
    with pytest.raises(ValueError, match="scores_neg is Tensor; expected None in a node task"):
        event_task(kind="node", metric="roc_auc").evaluate(ones, ones)
    with pytest.raises(ValueError, match="'train' of toy has no event with a node that training has not seen"):
        task.evaluate(torch.ones(4), torch.ones(4), "train", inductive=True)
    with pytest.raises(ValueError, match="which is 'valid'; expected one of 'train', 'val', 'test'"):
        task.evaluate(ones, ones, "valid")
    with pytest.raises(ValueError, match="toy is a link task, which has no targets"):
        task.target("test")
