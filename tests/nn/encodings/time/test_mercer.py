"""The Mercer family: its kernel, its period, and sums of harmonics beside the released code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from graphattn.nn.encodings.time import MercerEncoding, MercerFlexEncoding, MercerSumEncoding
from tests.nn.encodings.time.cases import EPS, generator

K, J = 3, 4
FLOAT32 = torch.finfo(torch.float32).eps


def random_mercer(tie: bool = True) -> MercerEncoding:
    encoding = MercerEncoding(K * (2 * J + 1), harmonics=J, tie=tie).double()
    encoding.theta.data = torch.tensor([0.0, 0.4, 1.3]).double()
    encoding.raw.data.normal_(generator=generator(0))
    return encoding


def test_is_its_formula() -> None:
    for tie in (True, False):
        encoding = random_mercer(tie)
        c = (1 + encoding.raw.exp()).log().tolist()
        times, rows = [0.0, 0.7, -5.0], []
        for t in times:
            row = []
            for theta, coefficients in zip(encoding.theta.tolist(), c, strict=True):
                row.append(math.sqrt(coefficients[0]))
                for j in range(1, J + 1):
                    angle = j * math.pi * t / 10**theta
                    cosine, sine = (j, j) if tie else (2 * j - 1, 2 * j)
                    row += [math.sqrt(coefficients[cosine]) * math.cos(angle)]
                    row += [math.sqrt(coefficients[sine]) * math.sin(angle)]
            rows.append(row)
        found = encoding(torch.tensor(times, dtype=torch.float64))
        torch.testing.assert_close(found, torch.tensor(rows, dtype=torch.float64), rtol=0, atol=1024 * EPS)


def test_tied_kernel_is_a_sum_of_cosines() -> None:
    encoding = random_mercer()
    t, s = torch.randn(2, 11, dtype=torch.float64, generator=generator(1)) * 5
    c, expected = encoding.coefficients, torch.zeros(11).double()
    for row, theta in zip(c, encoding.theta.tolist(), strict=True):
        expected = expected + row[0]
        for j in range(1, J + 1):
            assert row[2 * j - 1] == row[2 * j]
            expected = expected + row[2 * j] * (j * math.pi * (t - s) / 10**theta).cos()
    scale = c.sum().item() * 5 * J * math.pi
    torch.testing.assert_close(encoding.kernel(t, s), expected, rtol=0, atol=32 * EPS * scale)
    torch.testing.assert_close((encoding(t) * encoding(s)).sum(1), expected, rtol=0, atol=32 * EPS * scale)


def test_the_period_is_twice_w() -> None:
    encoding = MercerEncoding(2 * J + 1, harmonics=J).double()
    encoding.theta.data.fill_(0.3)
    t, s = torch.randn(2, 11, dtype=torch.float64, generator=generator(1))
    period = 2 * 10 ** encoding.theta.item()
    torch.testing.assert_close(encoding.kernel(t + period, s), encoding.kernel(t, s), rtol=0, atol=256 * EPS)
    assert not torch.allclose(encoding.kernel(t + period / 2, s), encoding.kernel(t, s), atol=1e-3)


@pytest.mark.parametrize("tie", [True, False])
def test_any_coefficients_give_a_kernel(tie: bool) -> None:
    """Gram matrices of 50 times are positive semidefinite, up to roundings of numbers as large as K(t, t)."""
    encoding = random_mercer(tie)
    t = torch.rand(50, dtype=torch.float64, generator=generator(2)) * 40
    gram = encoding.kernel(t.unsqueeze(1), t.unsqueeze(0)).detach()
    assert torch.linalg.eigvalsh(gram).min() >= -50 * 64 * EPS * gram.diagonal().max()
    assert encoding.coefficients.min() > 0


def test_free_with_equal_coefficients_is_tied() -> None:
    tied, free = random_mercer(), random_mercer(tie=False)
    free.raw.data = torch.cat([tied.raw[:, :1], tied.raw[:, 1:].repeat_interleave(2, dim=1)], dim=1).detach()
    t, s = torch.randn(2, 6, dtype=torch.float64)
    assert torch.equal(free(t), tied(t))
    torch.testing.assert_close(free.kernel(t, s), tied.kernel(t, s), rtol=0, atol=1024 * EPS)


def test_free_coefficients_see_more_than_the_difference() -> None:
    encoding = random_mercer(tie=False)
    t, s = torch.zeros(1).double(), torch.full((1,), 0.2).double()
    assert not torch.allclose(encoding.kernel(t, s), encoding.kernel(t + 0.5, s + 0.5), atol=1e-2)


def test_without_harmonics_it_is_constant() -> None:
    encoding = MercerEncoding(1, harmonics=0)
    t = torch.randint(0, 10**9, (5,))
    assert torch.equal(encoding(t), encoding.coefficients.sqrt().expand(5, 1))
    torch.testing.assert_close(encoding.kernel(t, t.flip(0)), torch.ones(5))


@pytest.mark.parametrize(("theta", "clamped"), [(400.0, 12.0), (-400.0, -6.0)])
def test_extreme_periods_are_clamped(theta: float, clamped: float) -> None:
    encoding = MercerEncoding(3, harmonics=1).double()
    encoding.theta.data.fill_(theta)
    assert encoding.frequencies().item() == pytest.approx(math.pi * 10**-clamped)
    assert bool(encoding(torch.arange(5)).isfinite().all())


def test_one_harmonic_is_a_cosine() -> None:
    encoding = MercerSumEncoding(1, harmonics=1).double()
    encoding.theta.data.fill_(0.6)
    encoding.weight.data = torch.tensor([[0.0, 1.0]]).double()
    t = torch.randn(9, dtype=torch.float64) * 10
    expected = (t / 10 ** encoding.theta.item()).cos()
    torch.testing.assert_close(encoding(t).squeeze(1), expected, rtol=0, atol=64 * EPS)


def test_sum_is_the_released_code() -> None:
    encoding = MercerSumEncoding(K, harmonics=J).double()
    encoding.bias.data.normal_()
    t = np.array([0.0, 1.0, -8.0, 3e3])
    base = np.linspace(0, 8, K)
    frequencies = 1 / 10 ** base[:, None] * (np.arange(J) + 1)[None]
    angle = t[:, None, None] * frequencies
    waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    expected = (waves * encoding.weight.detach().numpy()).sum(-1) + encoding.bias.detach().numpy()
    found = encoding(torch.from_numpy(t)).detach().numpy()
    assert np.allclose(found, expected, rtol=0, atol=3e3 * J * 64 * EPS)


def test_sums_start_as_in_the_released_code() -> None:
    """Periods on a geometric grid, no bias, weights of Glorot: uniform with the variance 2 / (rows + columns)."""
    encoding = MercerSumEncoding(300)
    assert encoding.harmonics == MercerEncoding(11).harmonics == 5
    torch.testing.assert_close(encoding.theta, torch.linspace(0, 8, 300), rtol=2 * FLOAT32, atol=0)
    assert not encoding.bias.any()
    assert encoding.weight.abs().max() <= math.sqrt(6 / 310)
    # The square of a uniform number strays by 0.9 of its mean.
    assert encoding.weight.square().mean().item() == pytest.approx(2 / 310, rel=4 * 0.9 / math.sqrt(3000))
    grid = MercerEncoding(33).theta
    torch.testing.assert_close(grid, torch.tensor([0.0, 4.0, 8.0]), rtol=2 * FLOAT32, atol=0)


def test_free_periods_are_the_released_code() -> None:
    encoding = MercerFlexEncoding(K, harmonics=J).double()
    first = np.array(
        [1.0 / d * np.array([1e8 ** (i / (K - 1)) * 2 * np.pi for i in range(K)]) for d in range(1, J + 1)]
    )
    assert np.allclose(encoding.period.detach().numpy(), first.T, rtol=2 * FLOAT32, atol=0)
    encoding.period.data.uniform_(0.5, 50)
    t = np.array([0.0, 1.0, -8.0, 3e3])
    angle = t[:, None, None] / encoding.period.detach().numpy()
    waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    expected = (waves * encoding.weight.detach().numpy()).sum(-1)
    found = encoding(torch.from_numpy(t)).detach().numpy()
    assert np.allclose(found, expected, rtol=0, atol=6e3 * J * 64 * EPS)
    assert MercerFlexEncoding(1, harmonics=2).period.flatten().tolist() == pytest.approx([2 * math.pi, math.pi])


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"channels is 20 and harmonics is 5; .* multiple of 11 channels, .* is 22"):
        MercerEncoding(20)
    with pytest.raises(ValueError, match=r"channels is 3 and .* nearest is 11"):
        MercerEncoding(3)
    with pytest.raises(ValueError, match="harmonics is -1; expected at least 0"):
        MercerEncoding(4, harmonics=-1)
    for encoding in (MercerSumEncoding, MercerFlexEncoding):
        with pytest.raises(ValueError, match="harmonics is 0; expected at least 1"):
            encoding(4, harmonics=0)
