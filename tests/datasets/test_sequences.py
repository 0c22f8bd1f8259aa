"""Sequences of events as tasks: windows, scores, what is refused, and the stream whose truth is known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from graphattn.datasets import SequenceTask, periodic_events

LENGTHS = [2, 7, 5, 12, 3]


def sequence_task(**changes: Any) -> SequenceTask:
    generator = torch.Generator().manual_seed(0)
    t = torch.cat([torch.rand(n, dtype=torch.float64, generator=generator).cumsum(0) for n in LENGTHS])
    given: dict[str, Any] = {
        "name": "toy",
        "event_type": torch.randint(1, 4, (sum(LENGTHS),), generator=generator),
        "t": t,
        "ptr": torch.tensor([0, *LENGTHS]).cumsum(0),
        "num_types": 3,
        "split": {"train": torch.tensor([3, 0]), "val": torch.tensor([1, 4]), "test": torch.tensor([2])},
        "split_name": "own",
        "metric": "accuracy",
        "licence": "none",
    }
    return SequenceTask(**{**given, **changes})


def sequences(task: SequenceTask, which: str) -> list[tuple[list[int], list[float]]]:
    """Types and times of the sequences of a part, cut out one by one."""
    cut = [slice(task.ptr[s], task.ptr[s + 1]) for s in task.split[which].tolist()]
    return [(task.event_type[rows].tolist(), task.t[rows].tolist()) for rows in cut]


@pytest.mark.parametrize("which", ["train", "val", "test"])
def test_targets_are_all_events_but_the_first(which: str) -> None:
    task = sequence_task()
    assert task.target(which).tolist() == [k for types, _ in sequences(task, which) for k in types[1:]]
    gaps = [b - a for _, times in sequences(task, which) for a, b in pairwise(times)]
    assert task.elapsed(which).tolist() == gaps
    assert (task.num_sequences, task.out_channels, task.classes) == (5, 4, ("1", "2", "3"))


@pytest.mark.parametrize("which", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("length", "stride"), [(None, None), (1, 1), (3, 1), (3, 2), (4, None), (4, 4), (11, 2), (40, 7)]
)
def test_windows_score_each_target_once_and_in_order(which: str, length: int | None, stride: int | None) -> None:
    task = sequence_task()
    windows = task.windows(which, length, stride)
    expected = []
    for types, times in sequences(task, which):
        size = length or max(len(types) for types, _ in sequences(task, which)) - 1
        step = stride or max(1, size // 2)
        end, scored = min(size, len(types) - 1), 0
        while True:
            places = list(range(end - size, end + 1))
            expected.append(
                (
                    [types[i] if i >= 0 else 0 for i in places],
                    [times[max(i, 0)] for i in places],
                    [i > scored for i in places],
                )
            )
            if end == len(types) - 1:
                break
            end, scored = min(end + step, len(types) - 1), end
    assert windows.event_type.tolist() == [row[0] for row in expected]
    assert windows.t.tolist() == [row[1] for row in expected]
    assert windows.scored.tolist() == [row[2] for row in expected]
    assert torch.equal(windows.event_type[windows.scored], task.target(which))
    before = windows.t.roll(1, dims=1)
    assert torch.equal((windows.t - before)[windows.scored], task.elapsed(which))


def test_a_window_is_no_longer_than_it_must_be_and_sees_what_it_says() -> None:
    task = sequence_task()
    windows = task.windows("train", length=4, stride=3)
    row = windows.scored.nonzero()[:, 0]
    seen = windows.scored.nonzero()[:, 1] - (windows.event_type[row] == 0).sum(1)
    assert seen.tolist() == [1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 4, 1]
    assert windows.event_type.size(1) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length is 0; expected at least 1"),
        ({"length": 3, "stride": 0}, "stride is 0; expected 1 to the length of 3"),
        ({"length": 3, "stride": 4}, "stride is 4; expected 1 to the length of 3"),
        ({"which": "valid"}, "which is 'valid'; expected one of"),
    ],
)
def test_windows_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sequence_task().windows(**options)


def test_scores() -> None:
    task = sequence_task()
    truth = task.target("val")
    scores = torch.nn.functional.one_hot(truth, 4).double()
    scores[:, 0] = 5.0  # of what fills up, which is never the answer
    assert task.evaluate(scores, "val") == 1.0
    guess = truth % 3 + 1
    guess[2:5] = truth[2:5]
    assert task.evaluate(guess.numpy(), "val") == 3 / len(truth)
    macro = sequence_task(metric="f1_macro")
    assert macro.evaluate(guess, "val") == f1_score(truth, guess, average="macro")
    assert sequence_task(metric="own", evaluator=lambda a, b: float((a - b).sum())).evaluate(truth + 1, "val") == len(
        truth
    )
    gaps = task.elapsed("val")
    error = torch.arange(len(gaps)).double() * (-1.0) ** torch.arange(len(gaps))
    assert task.time_error(gaps + error, "val") == pytest.approx(np.median(np.arange(len(gaps))), rel=1e-12)
    assert task.time_error(gaps[:, None], "val") == 0.0


def test_scores_that_are_refused() -> None:
    task = sequence_task()
    with pytest.raises(
        ValueError, match=r"prediction has shape \(4, 3\); expected \(4, 4\), a score for each type from 0"
    ):
        task.evaluate(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"shape \(4,\); expected \(4, 4\)"):
        task.evaluate(torch.zeros(4))
    with pytest.raises(
        ValueError, match=r"has shape \(5,\), but 'test' of toy has 4 rows; pass the rows of task.target"
    ):
        task.evaluate(torch.ones(5).long())
    with pytest.raises(ValueError, match=r"has 4 rows; pass the rows of task.elapsed\('test'\)"):
        task.time_error(torch.ones(5))
    with pytest.raises(ValueError, match="holds NaN"):
        task.time_error(torch.full((4,), np.nan))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metric": "mae"}, ValueError, "metric of toy is 'mae'; expected one of accuracy, f1_macro"),
        (
            {"ptr": torch.tensor([0, 2, 9, 14, 26, 28])},
            ValueError,
            r"ptr of toy has the ends \[0, 28\]; expected 0, .* 29",
        ),
        ({"ptr": torch.tensor([1, 9, 29])}, ValueError, r"has the ends \[1, 29\]"),
        ({"ptr": torch.tensor([], dtype=torch.int64)}, ValueError, r"has the ends \[\]"),
        (
            {"ptr": torch.tensor([0, 2, 9, 14, 28, 29])},
            ValueError,
            "sequence 4 of toy has 1 events; expected at least 2",
        ),
        ({"ptr": torch.tensor([0, 9, 2, 14, 26, 29])}, ValueError, "sequence 1 of toy has -7 events"),
        ({"num_types": 2}, ValueError, "types of toy hold 3 at event .*; expected 1 to 2, as 0 fills up"),
        ({"event_type": torch.zeros(29).long()}, ValueError, "types of toy hold 0 at event 0; expected 1 to 3"),
        (
            {"event_type": torch.ones(29)},
            TypeError,
            r"types of toy are shape \(29,\) and torch.float32; expected a vector",
        ),
        ({"event_type": [1, 2]}, TypeError, "types of toy are list; expected a vector of int64"),
        (
            {"t": torch.arange(29)},
            TypeError,
            r"times of toy have dtype torch.int64; expected float64, convert them by t\.",
        ),
        ({"t": torch.arange(29).float()}, TypeError, "times of toy have dtype torch.float32"),
        ({"t": [1.0]}, TypeError, "times of toy are a list"),
        ({"t": torch.arange(28).double()}, ValueError, r"times of toy have shape \(28,\)"),
        ({"t": torch.arange(29).double() - 1}, ValueError, "times of toy are negative, the first, -1.0, at event 0"),
        ({"t": torch.arange(29).double() * 1e17}, ValueError, r"beyond 2\*\*53"),
        (
            {"t": torch.arange(29).double().flip(0)},
            ValueError,
            "not sorted: event 1 at 27.0 comes after event 0 at 28.0",
        ),
        ({"t": torch.arange(29).double().log()}, ValueError, "hold 1 NaN or infinite values, the first at event 0"),
        ({"classes": ("a",)}, ValueError, "classes of toy are 1 names; expected 3"),
        (
            {"split": {"train": torch.tensor([0]), "val": torch.tensor([1]), "test": torch.tensor([5])}},
            ValueError,
            "ids fr",
        ),
    ],
)
def test_sequences_that_are_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sequence_task(**changes)


def test_times_start_anew_in_each_sequence() -> None:
    t = torch.cat([torch.arange(n).double() for n in LENGTHS])
    assert sequence_task(t=t).t is t
    fall = t.clone()
    fall[5] = 0.5
    with pytest.raises(ValueError, match=r"not sorted: event 5 at 0\.5 comes after event 4 at 2\.0"):
        sequence_task(t=fall)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_phase_of_time_decides_the_next_type(noise: float) -> None:
    task = periodic_events(400, 20, 5, seed=2, period=7.0, noise=noise)
    t, types = task.t.reshape(400, 20).numpy(), task.event_type.reshape(400, 20).numpy()
    assert (t[:, 0] == 0).all()
    truth = 1 + np.floor(5 * (t[:, :-1] % 7.0) / 7.0)
    right = (truth == types[:, 1:]).mean()
    assert task.optimum == 1 - noise + noise / 5
    assert abs(right - task.optimum) <= 5 * (task.optimum * (1 - task.optimum) / 7600) ** 0.5
    assert task.evaluate(torch.from_numpy(truth.astype(int)[320:].flatten())) == pytest.approx(
        (truth == types[:, 1:])[320:].mean()
    )
    # Without the times: the second type is known, and the others are even whatever came before.
    after = np.stack([types[:, 1:-1].flatten(), types[:, 2:].flatten()])
    counts = np.bincount((after[0] - 1) * 5 + after[1] - 1, minlength=25).reshape(5, 5)
    if noise == 0:
        assert (types[:, 1] == 1).all()
        given = counts[:, :] / counts.sum(1, keepdims=True)
        assert (np.abs(given - 0.2) <= 5 * np.sqrt(0.16 / counts.sum(1, keepdims=True))).all()
    assert task.optimum_of_order == pytest.approx((task.optimum + 18 / 5) / 19)
    gaps = np.diff(t)
    assert gaps.min() >= 0
    assert gaps.max() <= 14
    assert abs(gaps.mean() - 7) <= 5 * 14 / np.sqrt(12 * gaps.size)


def test_periodic_streams_repeat_with_their_seed() -> None:
    first, again, other = (periodic_events(20, 6, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.t, again.t)
    assert torch.equal(first.event_type, again.event_type)
    assert not torch.equal(first.t, other.t)
    assert [len(ids) for ids in first.split.values()] == [12, 4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_sequences": 4}, "num_sequences is 4; expected at least 5"),
        ({"length": 1}, "length is 1; expected at least 2"),
        ({"num_types": 1}, "num_types is 1; expected at least 2"),
        ({"period": 0.0}, "period is 0.0; expected a positive number"),
        ({"noise": 1.5}, "noise is 1.5; expected a chance from 0 to 1"),
    ],
)
def test_streams_that_cannot_be_drawn(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        periodic_events(**options)
