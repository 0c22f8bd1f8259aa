"""The Bochner family: its formulas, the kernels that it approaches, and the released code's forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from graphattn.nn.encodings import SinusoidalEncoding
from graphattn.nn.encodings.time import (
    BochnerEncoding,
    FamilyBochnerEncoding,
    InverseCDFBochnerEncoding,
    NormalBochnerEncoding,
    RandomBochnerEncoding,
)
from tests.nn.encodings.time.cases import CHANNELS, EPS, INVARIANT, XU2019, generator

D = CHANNELS // 2
FLOAT32 = torch.finfo(torch.float32).eps
FAMILIES = ("normal", "cauchy", "laplace", "uniform")


def test_is_its_formula() -> None:
    encoding = BochnerEncoding(CHANNELS).double()
    times = [0.0, 1.0, -3.5, 17.0]
    expected = [
        [f(10**-theta * t) / math.sqrt(D) for theta in encoding.theta.tolist() for f in (math.cos, math.sin)]
        for t in times
    ]
    torch.testing.assert_close(
        encoding(torch.tensor(times, dtype=torch.float64)),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=64 * EPS,
    )
    # Exponents are stored in float32.
    assert np.allclose(encoding.theta.tolist(), np.linspace(0, 8, D), rtol=FLOAT32, atol=0)


@pytest.mark.parametrize("name", [name for name in INVARIANT if name != "mercer"])
def test_kernel_is_the_mean_of_cosines(name: str) -> None:
    encoding = INVARIANT[name]().double().eval()
    t, s = torch.randn(2, 9, dtype=torch.float64) * 100
    expected = (encoding.frequencies() * (t - s).unsqueeze(1)).cos().mean(1)
    scale = max(1.0, encoding.frequencies().abs().max().item())
    torch.testing.assert_close(encoding.kernel(t, s), expected, rtol=0, atol=64 * EPS * 100 * scale)
    torch.testing.assert_close((encoding(t) * encoding(s)).sum(1), expected, rtol=0, atol=64 * EPS * 1000 * scale)
    assert torch.equal(encoding.kernel(t, t), torch.ones(9).double())


def test_what_is_learned_starts_where_the_paper_has_it() -> None:
    normal = NormalBochnerEncoding(CHANNELS)
    assert np.allclose(normal.mu.tolist(), 10 ** (-np.linspace(0, 8, D) / (2 * math.pi)), rtol=4 * FLOAT32, atol=0)
    assert normal.log_sigma.exp().tolist() == [1.0] * D
    layers = InverseCDFBochnerEncoding(CHANNELS).layers
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(1, 32), (32, 32), (32, 1)]
    assert FamilyBochnerEncoding(CHANNELS).log_scale.exp().item() == 1.0


@pytest.mark.parametrize("compat", [None, "xu2019"])
def test_the_backward_pass_keeps_phases_alone(compat: str | None) -> None:
    """Of 3,000 times a number for each phase and no more, beside what depends on times or frequencies alone."""
    encoding, t, kept = BochnerEncoding(64, compat=compat), torch.randint(0, 10**6, (3000,)), {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = encoding(t)
    phases = 3000 * encoding.theta.numel() * 4
    output = 0 if compat is None else out.untyped_storage().nbytes()  # which its learned factors multiply
    assert phases <= sum(kept.values()) <= phases + output + 3000 * 8 + 64 * 32


def test_ranks_at_geometric_frequencies_are_the_sinusoidal_encoding() -> None:
    encoding = BochnerEncoding(CHANNELS).double()
    encoding.theta.data = 4 * torch.arange(0, CHANNELS, 2).double() / CHANNELS
    rank = torch.arange(40).double()
    expected = SinusoidalEncoding(CHANNELS)(rank).view(40, D, 2).flip(-1).flatten(1)
    torch.testing.assert_close(math.sqrt(D) * encoding(rank), expected, rtol=0, atol=64 * EPS * 40)


def test_order_is_blind_to_a_warp_that_time_sees() -> None:
    t = torch.rand(30, dtype=torch.float64, generator=generator(0)) * 10

    def rank(t: torch.Tensor) -> torch.Tensor:
        return t.argsort().argsort()

    assert torch.equal(SinusoidalEncoding(CHANNELS)(rank(t)), SinusoidalEncoding(CHANNELS)(rank(t**3)))
    encoding = BochnerEncoding(CHANNELS)
    assert not torch.allclose(encoding(t), encoding(t**3), atol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_kernel_approaches_that_of_the_family(family: str, scale: float) -> None:
    """400,000 draws, whose mean is off by less than 2e-3 at 2.5 standard errors: 2.5 / sqrt(2 * 4e5)."""
    tau = torch.tensor([0.0, 0.3, 1.0, 2.5, 7.0], dtype=torch.float64)
    closed = {
        "normal": (-((scale * tau) ** 2) / 2).exp(),
        "cauchy": (-scale * tau).exp(),
        "laplace": 1 / (1 + (scale * tau) ** 2),
        "uniform": torch.where(tau > 0, (scale * tau).sin() / (scale * tau).clamp(min=1e-9), 1.0),
    }[family]
    encoding = FamilyBochnerEncoding(800_000, family=family, scale=scale).double()
    zero = torch.zeros(5).double()
    torch.testing.assert_close(encoding.limit(tau, zero), closed, rtol=0, atol=8 * FLOAT32)
    torch.testing.assert_close(encoding.kernel(tau, zero, generator=generator(0)), closed, rtol=0, atol=2e-3)
    # The middle quantiles leave out the half of the last interval, which weighs most for the tails of Cauchy.
    torch.testing.assert_close(encoding.eval().kernel(tau, zero), closed, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_quantiles_are_those_of_scipy(family: str) -> None:
    from scipy import stats

    law = {
        "normal": stats.norm(0, 0.5),
        "cauchy": stats.cauchy(0, 0.5),
        "laplace": stats.laplace(0, 0.5),
        "uniform": stats.uniform(-0.5, 1),
    }[family]
    encoding = FamilyBochnerEncoding(CHANNELS, family=family, scale=0.5).eval()
    u = (np.arange(D) + 0.5) / D
    assert np.allclose(encoding.frequencies().numpy(), law.ppf(u), rtol=8 * FLOAT32, atol=8 * FLOAT32)


def test_inverse_cdf_grows() -> None:
    torch.manual_seed(0)
    encoding = InverseCDFBochnerEncoding(CHANNELS)
    for layer in encoding.layers:
        layer.weight.data.normal_(std=2)
        layer.bias.data.normal_()
    frequencies = encoding.eval().frequencies()
    assert bool((frequencies > 0).all() and (frequencies.diff() > 0).all())


def test_normal_in_evaluation_has_the_middle_quantiles() -> None:
    from scipy import stats

    encoding = NormalBochnerEncoding(CHANNELS).double().eval()
    encoding.log_sigma.data.fill_(math.log(0.3))
    grid = 10 ** (-np.linspace(0, 8, D) / (2 * math.pi))
    expected = grid + 0.3 * stats.norm.ppf((np.arange(D) + 0.5) / D)
    assert np.allclose(encoding.frequencies().detach().numpy(), expected, rtol=0, atol=8 * FLOAT32)


def test_random_periods_ascend() -> None:
    frequencies = RandomBochnerEncoding(CHANNELS).frequencies(generator=generator(0))
    assert bool((frequencies.diff() > 0).all())
    assert 1e-8 <= frequencies.min() <= frequencies.max() <= 1


def test_many_draws_of_the_normal_encoding_average_to_its_kernel() -> None:
    encoding = NormalBochnerEncoding(2).double()
    encoding.mu.data.fill_(0.7)
    encoding.log_sigma.data.fill_(math.log(0.5))
    tau, source = torch.tensor([0.4, 2.0]).double(), generator(0)
    zero = torch.zeros(2).double()
    mean = torch.stack([encoding.kernel(tau, zero, generator=source) for _ in range(4000)]).mean(0)
    expected = (0.7 * tau).cos() * (-(tau**2) * 0.25 / 2).exp()
    # Four standard errors of the mean of numbers between -1 and 1.
    torch.testing.assert_close(mean, expected, rtol=0, atol=4 / math.sqrt(4000))


# The released code, formula by formula, in NumPy ######################################################################


def released_pairs(t: np.ndarray, sines: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    return np.concatenate([np.sin(t[:, None] * sines), np.cos(t[:, None] * cosines)], axis=1)


def test_xu2019_learned_frequencies() -> None:
    encoding = BochnerEncoding(CHANNELS, compat="xu2019").double()
    t = np.array([0.0, 2.0, 30.0, 4e4])
    base = np.linspace(0, 8, D).astype(np.float32).astype(np.float64)
    expected = released_pairs(t, 1 / 10**base, 1 / 10**base)
    assert np.allclose(encoding(torch.from_numpy(t)).detach(), expected, rtol=0, atol=1e5 * 64 * EPS)
    assert torch.allclose(encoding(torch.from_numpy(t)).square().sum(1), torch.full((4,), CHANNELS / 2).double())
    encoding.theta.data = torch.tensor([0.5] * D + [0.2] * D, dtype=torch.float64)
    encoding.beta.data = torch.arange(CHANNELS).double()
    expected = released_pairs(t, np.full(D, 10**-0.5), np.full(D, 10**-0.2)) * np.arange(CHANNELS)
    assert np.allclose(encoding(torch.from_numpy(t)).detach(), expected, rtol=0, atol=1e6 * 64 * EPS)
    first, second = torch.zeros(1).double(), torch.ones(1).double()
    assert not torch.allclose(encoding.kernel(first, second), encoding.kernel(first + 3, second + 3), atol=1.0)


@pytest.mark.parametrize("name", ["normal", "inverse_cdf", "random"])
def test_xu2019_drawn_frequencies(name: str) -> None:
    encoding = XU2019[name]().double()
    u = torch.rand(D, dtype=torch.float64, generator=generator(4)).numpy()
    if name == "normal":
        from scipy import stats

        frequencies = stats.norm.ppf(u) + 10 ** (-np.linspace(0, 8, D) / np.pi / 2)
    elif name == "random":
        frequencies = np.sort(1 / (1 + (1e8 - 1) * u))
    else:
        (w1, b1), (w2, b2), (w3, b3) = (
            (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in encoding.layers
        )
        a = 1 / 10**u
        inner = w2 @ np.maximum(w1 @ a + b1, 0) + b2
        frequencies = np.exp(w3 @ (inner + a) + b3)
    t = np.array([0.0, 1.0, 7.5])
    expected = released_pairs(t, frequencies, frequencies)
    for training in (True, False):
        found = encoding.train(training)(torch.from_numpy(t), generator=generator(4)).detach().numpy()
        assert np.allclose(found, expected, rtol=0, atol=7.5 * 8 * FLOAT32)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_bad_scale(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale is .*; expected a positive number"):
        FamilyBochnerEncoding(4, scale=scale)


def test_bad_family() -> None:
    with pytest.raises(ValueError, match="family is 'student'; expected one of 'normal', 'cauchy'"):
        FamilyBochnerEncoding(4, family="student")
