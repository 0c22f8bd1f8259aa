"""Deletion and insertion curves, the masking test and randomized weights, on models whose truth is known."""

from __future__ import annotations

import copy
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphattn.analysis import faithfulness, randomized_control, removal_test
from graphattn.analysis.faithfulness_plot import draw_faithfulness


def additive(worth: Tensor) -> Any:
    """Score rows by the worth of the tokens that are kept."""
    return lambda kept: kept.to(worth) @ worth


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


WORTH = torch.arange(24, 0, -1, dtype=torch.float64)


def test_curves_of_an_additive_score_are_its_partial_sums() -> None:
    order = torch.randperm(24, generator=generator())
    worth = WORTH[order]
    result = faithfulness(additive(worth), worth, steps=24, generator=generator())
    sums = np.concatenate([[0.0], np.cumsum(WORTH.numpy())])
    np.testing.assert_allclose(result.insertion, sums, rtol=1e-14)
    np.testing.assert_allclose(result.deletion, 300 - sums, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.fractions, np.arange(25) / 24, rtol=1e-15)
    np.testing.assert_allclose(result.insertion_area, np.trapezoid(sums, dx=1 / 24), rtol=1e-14)
    np.testing.assert_allclose(result.deletion_area + result.insertion_area, 300, rtol=1e-14)
    assert result.deletion_p == result.insertion_p == 1 / 21
    np.testing.assert_array_equal(result.random[:, [0, -1]], np.tile([300.0, 0.0], (20, 1)))


def test_the_right_attribution_is_better_than_random_and_the_wrong_one_worse() -> None:
    score = additive(WORTH.softmax(0))
    right, none, wrong = (
        faithfulness(score, attribution, generator=generator())
        for attribution in (WORTH, torch.rand(24, generator=generator()), -WORTH)
    )
    assert right.deletion_area < none.deletion_area < wrong.deletion_area
    assert right.insertion_area > none.insertion_area > wrong.insertion_area
    assert wrong.deletion_p == wrong.insertion_p == 1.0
    assert right.deletion_p < none.deletion_p


@pytest.mark.parametrize("size", [1, 2, 7, 24, 25, 101])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_steps_go_from_all_to_none_and_are_the_same_both_ways(size: int, steps: int) -> None:
    result = faithfulness(additive(torch.ones(size)), torch.rand(size), steps=steps, samples=2)
    assert result.fractions[0] == 0
    assert result.fractions[-1] == 1
    np.testing.assert_allclose(result.fractions, 1 - result.fractions[::-1], atol=1e-15)
    assert min(size, steps) <= len(result.fractions) - 1 <= steps + 1
    # Each token counts the same, so that no order differs from another.
    np.testing.assert_allclose(result.deletion, size * (1 - result.fractions), atol=1e-5 * size)
    np.testing.assert_allclose(result.insertion, size * result.fractions, atol=1e-5 * size)
    assert result.deletion_p == result.insertion_p == 1.0


def test_a_permutation_of_the_tokens_changes_nothing() -> None:
    values, places = torch.rand(12, generator=generator()), torch.randperm(12, generator=generator())
    one = faithfulness(additive(WORTH[:12]), values, samples=1)
    other = faithfulness(additive(WORTH[:12][places]), values[places].numpy(), samples=1)
    np.testing.assert_allclose(one.deletion, other.deletion, rtol=1e-14, atol=1e-12)
    np.testing.assert_allclose(one.insertion, other.insertion, rtol=1e-14, atol=1e-12)


def test_of_equal_attributions_the_first_counts_as_more() -> None:
    result = faithfulness(additive(torch.tensor([4.0, 2.0, 1.0])), torch.zeros(3), samples=1)
    assert result.deletion.tolist() == [7.0, 3.0, 1.0, 0.0]


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_scores_are_asked_for_in_batches_without_gradients(batch_size: int) -> None:
    worth = WORTH.clone().requires_grad_()
    seen = []

    def score(kept: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert kept.dtype == torch.bool
        seen.append(len(kept))
        return kept.to(worth) @ worth

    result = faithfulness(score, WORTH, steps=6, samples=3, batch_size=batch_size, generator=generator())
    assert max(seen) <= batch_size
    assert sum(seen) == 5 * 7
    whole = faithfulness(additive(WORTH), WORTH, steps=6, samples=3, generator=generator())
    np.testing.assert_allclose(result.random, whole.random, rtol=1e-13, atol=1e-12)


def test_frames_have_what_the_results_have() -> None:
    pytest.importorskip("pandas")
    result = faithfulness(additive(WORTH), WORTH, steps=4, samples=2, generator=generator())
    frame = result.as_frame()
    assert frame.index.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert frame.columns.tolist() == ["deletion", "random_deletion", "insertion", "random_insertion"]
    np.testing.assert_array_equal(frame["random_insertion"], frame["random_deletion"][::-1])
    np.testing.assert_array_equal(frame["deletion"], result.deletion)
    assert repr(result) == ("Faithfulness(deletion area 105, p = 0.333; insertion area 195, p = 0.333)")
    test = removal_test(additive(WORTH), [0, 1], 24, samples=5, generator=generator()).as_frame()
    assert test["drop"][0] == 47
    assert test["tested"].tolist() == [True] + [False] * 5
    control = randomized_control(nn.Linear(4, 1), lambda net: net.weight[0], copies=2).as_frame()
    assert repr(removal_test(additive(WORTH), [0, 1], 24, samples=300)) == (
        "RemovalTest(2 tokens: the score falls by 47, p = 0.00362)"
    )
    assert control.columns.tolist() == ["original", "randomized_0", "randomized_1"]


def test_the_picture_shows_both_curves_and_every_random_order() -> None:
    result = faithfulness(additive(WORTH), WORTH, samples=7)
    removed, inserted = draw_faithfulness(result).axes
    for axes, curve in ((removed, result.deletion), (inserted, result.insertion)):
        assert len(axes.lines) == 7 + 2
        np.testing.assert_array_equal(axes.lines[-1].get_ydata(), curve)
    np.testing.assert_array_equal(removed.lines[0].get_ydata(), inserted.lines[0].get_ydata()[::-1])


@pytest.mark.parametrize("tokens", [[0], [0, 1], [22, 3]])
def test_masking_against_all_sets_of_the_size(tokens: list[int]) -> None:
    test = removal_test(additive(WORTH), tokens, 24, samples=500)
    sums = np.array([WORTH[list(chosen)].sum() for chosen in combinations(range(24), len(tokens))])
    assert test.exact
    assert test.drop == WORTH[tokens].sum()
    assert test.p == (sums >= test.drop).mean()
    np.testing.assert_allclose(np.sort([test.drop, *test.random_drops]), np.sort(sums), rtol=1e-14)


def test_masking_against_some_sets_of_the_size() -> None:
    test = removal_test(additive(WORTH), [2, 0, 1], 24, samples=99, generator=generator())
    assert not test.exact
    assert test.tokens == (0, 1, 2)
    assert test.p == (1 + (test.random_drops >= test.drop).sum()) / 100
    assert ((test.random_drops >= 1 + 2 + 3) & (test.random_drops <= 24 + 23 + 22)).all()
    assert removal_test(additive(WORTH), [23, 22, 21], 24, samples=99, generator=generator()).p == 1.0
    assert removal_test(additive(WORTH), range(24), 24).random_drops.size == 0


def test_an_attribution_that_reads_the_weights_changes_with_them_and_one_of_the_input_does_not() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    x = torch.randn(30, dtype=torch.float64)

    def gradient(net: nn.Module) -> Tensor:
        given = x.clone().requires_grad_()
        return torch.autograd.grad(net(given).sum(), given)[0].abs()

    state = copy.deepcopy(net.state_dict())
    control = randomized_control(net, gradient, copies=6, generator=generator())
    assert np.abs(control.correlation).max() < 0.8
    assert control.randomized.shape == (6, 30)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    unfaithful = randomized_control(net, lambda net: x, copies=2)
    np.testing.assert_allclose(unfaithful.correlation, 1.0, rtol=1e-14)
    assert np.isnan(randomized_control(net, lambda net: torch.ones(4), copies=1).correlation).all()


def test_shuffled_weights_are_the_same_numbers() -> None:
    net = nn.Linear(5, 3)
    control = randomized_control(net, lambda net: net.weight.flatten(), copies=3, generator=generator())
    for row in control.randomized:
        np.testing.assert_array_equal(np.sort(row), np.sort(control.original))
        assert not np.array_equal(row, control.original)


@pytest.mark.parametrize("values", [[], [[1.0]], [float("nan")], [float("inf"), 1.0], 3.0])
def test_attributions_that_are_none(values: Any) -> None:
    with pytest.raises(ValueError, match=r"attribution has shape .*; expected finite numbers, \[N\]"):
        faithfulness(additive(torch.ones(1)), values)
    with pytest.raises(ValueError, match=r"attribution has shape .*; expected finite numbers, \[N\]"):
        randomized_control(nn.Linear(1, 1), lambda net: values)


def test_scores_that_are_none() -> None:
    with pytest.raises(ValueError, match="score returned 1 numbers for 64 rows; expected one for each"):
        faithfulness(lambda kept: [1.0], WORTH)
    with pytest.raises(ValueError, match=r"score has shape \(64,\) and finite=False"):
        faithfulness(lambda kept: torch.full((len(kept),), torch.nan), WORTH)
    with pytest.raises(ValueError, match=r"score has shape \(2, 24\)"):
        removal_test(lambda kept: kept[:2], [0], 24)


@pytest.mark.parametrize("name", ["steps", "samples", "batch_size"])
def test_counts_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; expected at least 1"):
        faithfulness(additive(WORTH), WORTH, **{name: 0})


def test_wrong_sets_and_copies() -> None:
    for tokens in ([], [0, 0], [24], [-1]):
        with pytest.raises(ValueError, match=r"tokens is \[.*\]; expected one or more different numbers of 0 to 23"):
            removal_test(additive(WORTH), tokens, 24)
    with pytest.raises(ValueError, match="samples is 0 and batch_size is 64"):
        removal_test(additive(WORTH), [0], 24, samples=0)
    with pytest.raises(ValueError, match="copies is 0; expected at least 1"):
        randomized_control(nn.Linear(1, 1), lambda net: net.bias, copies=0)
    lengths = iter((3, 2))
    with pytest.raises(ValueError, match="attribution has 2 values for a copy but 3 for the model"):
        randomized_control(nn.Linear(1, 1), lambda net: np.arange(next(lengths)))
