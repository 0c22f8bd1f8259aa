"""Losses of event sequences against SciPy and their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import lognorm

from graphattn.models.event_losses import log_normal_loss, median_gap, ranking_loss


def test_density_is_that_of_scipy() -> None:
    mean, std = torch.randn(50).double(), torch.rand(50).double() + 0.1
    gap = torch.cat([torch.zeros(5).double(), 10 ** (6 * torch.rand(45).double())])
    expected = -lognorm.logpdf(1 + gap.numpy(), s=std.numpy(), scale=np.exp(mean.numpy()))
    for row in range(50):
        found = log_normal_loss(mean[row : row + 1], std[row : row + 1], gap[row : row + 1]).item()
        assert math.isclose(found, expected[row], rel_tol=1e-12)
    assert math.isclose(log_normal_loss(mean, std, gap).item(), expected.mean(), rel_tol=1e-12)
    medians = lognorm.median(s=std.numpy(), scale=np.exp(mean.numpy())) - 1
    np.testing.assert_allclose(median_gap(mean).numpy(), np.maximum(medians, 0), rtol=1e-12, atol=1e-15)


def test_density_is_least_at_mean_and_spread_of_the_logarithms() -> None:
    gap = 1000 * torch.rand(200).double()
    logs = gap.log1p()
    mean, std = logs.mean().requires_grad_(), logs.std(correction=0).requires_grad_()
    log_normal_loss(mean.expand(200), std.expand(200), gap).backward()
    assert abs(mean.grad.item()) < 1e-12
    assert abs(std.grad.item()) < 1e-12


def test_long_times_are_not_rounded_in_single_precision() -> None:
    gap = torch.tensor([1e12 + 1], dtype=torch.float64)
    mean = gap.log1p().float()
    assert log_normal_loss(mean, torch.ones(1), gap).dtype == torch.float32
    assert abs(median_gap(mean).item() / gap.item() - 1) < 2 * 28 * torch.finfo(torch.float32).eps


def test_gradcheck() -> None:
    mean, std = torch.randn(4).double().requires_grad_(), (torch.rand(4).double() + 0.5).requires_grad_()
    gap = torch.rand(4).double()
    assert torch.autograd.gradcheck(lambda m, s: log_normal_loss(m, s, gap), (mean, std))
    assert torch.autograd.gradcheck(ranking_loss, (mean, std))


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_times_that_cannot_be(wrong: float) -> None:
    with pytest.raises(ValueError, match="gap has a negative or infinite time, or NaN; sort the events"):
        log_normal_loss(torch.zeros(2), torch.ones(2), torch.tensor([1.0, wrong]).double())


def test_ranking_loss() -> None:
    positive, negative = torch.randn(30).double(), torch.randn(30).double()
    cross_entropy = torch.nn.functional.binary_cross_entropy
    expected = cross_entropy(positive.sigmoid(), torch.ones(30).double())
    expected = expected + cross_entropy(negative.sigmoid(), torch.zeros(30).double())
    torch.testing.assert_close(ranking_loss(positive, negative), expected)
    assert ranking_loss(torch.tensor([math.inf]), torch.tensor([-math.inf])).item() == 0
    for far in (1e2, 1e30):
        assert ranking_loss(torch.tensor([far]), torch.tensor([-far])).item() < 1e-40, "a perfect model"
    assert math.isclose(ranking_loss(torch.tensor([-1e30]), torch.tensor([0.0])).item(), 1e30, rel_tol=1e-6)


def test_no_targets_cost_nothing() -> None:
    none = torch.zeros(0, requires_grad=True)
    assert log_normal_loss(none, none, none.double()).item() == 0
    assert ranking_loss(none, none).item() == 0
    (log_normal_loss(none, none, none.double()) + ranking_loss(none, none)).backward()
