"""What every time encoding keeps: its kernel, determinism in evaluation, exact differences, gradients, errors."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import Tensor

from graphattn.nn.encodings.time import TimeEncoding
from tests.nn.encodings.time.cases import ALL, CHANNELS, EPS, INVARIANT, RANDOM, XU2019, generator

NOW = 1_600_000_000


@pytest.mark.parametrize("name", ALL)
def test_kernel_is_the_product_of_the_encodings(name: str) -> None:
    encoding = ALL[name]().double()
    t, s = torch.randn(2, 7, dtype=torch.float64)
    torch.manual_seed(3)
    found = encoding.kernel(t, s)
    torch.manual_seed(3)
    first, second = encoding(torch.stack([t, s]))
    scale = CHANNELS * (first.norm(dim=-1) * second.norm(dim=-1)).max().item()
    torch.testing.assert_close(found, (first * second).sum(-1), rtol=0, atol=64 * EPS * scale)


@pytest.mark.parametrize("name", INVARIANT)
def test_kernel_is_a_function_of_the_difference(name: str) -> None:
    encoding = INVARIANT[name]().double().eval()
    t, s = torch.randint(0, 1000, (2, 9)).unbind()
    expected = encoding.kernel(t, s)
    assert torch.equal(encoding.kernel(t + NOW * 10**9, s + NOW * 10**9), expected), "nanoseconds of an epoch"
    shifted = encoding.kernel(t.double() + NOW, s.double() + NOW)
    torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(encoding.kernel(s, t), expected, rtol=0, atol=64 * EPS * NOW)
    one = encoding.kernel(t, t)
    torch.testing.assert_close(one, torch.ones_like(one), rtol=0, atol=4 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("name", ALL)
def test_many_times_are_encoded_as_each_of_them(name: str) -> None:
    """So many that their angles are found in several parts."""
    encoding = ALL[name]().eval()
    t = torch.randint(10**9, (2**15 + 3,), generator=generator(0))

    def encode(times: Tensor) -> Tensor:
        torch.manual_seed(3)  # for those that draw in evaluation too
        return encoding(times)

    assert torch.equal(encode(t), torch.cat([encode(part) for part in t.split(100)]))


@pytest.mark.parametrize("name", INVARIANT)
def test_gram_matrices_are_positive_semidefinite(name: str) -> None:
    t = torch.rand(50, dtype=torch.float64, generator=generator(0)) * 1e4
    encoding = INVARIANT[name]().double().eval()
    eigenvalues = torch.linalg.eigvalsh(encoding.kernel(t.unsqueeze(1), t.unsqueeze(0)).detach())
    # The symmetric matrix is exact up to the rounding of phases of up to 1e4 times the largest frequency.
    largest = max(1.0, encoding.frequencies().abs().max().item())
    assert eigenvalues.min() >= -50 * EPS * 1e4 * largest


# The released code draws in evaluation too.
DRAWS_ALWAYS = [f"xu2019_{name}" for name in ("normal", "inverse_cdf", "random")]


@pytest.mark.parametrize("name", [name for name in ALL if name not in DRAWS_ALWAYS])
def test_two_calls_in_evaluation_agree(name: str) -> None:
    encoding = ALL[name]().eval()
    t = torch.randint(0, NOW, (6,))
    assert torch.equal(encoding(t), encoding(t))
    assert torch.equal(encoding.frequencies(), encoding.frequencies())


@pytest.mark.parametrize("name", [*RANDOM, *DRAWS_ALWAYS])
def test_draws_follow_the_generator(name: str) -> None:
    encoding = ALL[name]()
    encoding.train(name in RANDOM)
    t = torch.randint(0, 100, (6,))
    before = torch.get_rng_state()
    first = encoding(t, generator=generator(1))
    assert torch.equal(encoding(t, generator=generator(1)), first)
    assert not torch.equal(encoding.frequencies(generator=generator(2)), encoding.frequencies(generator=generator(1)))
    kernel = encoding.kernel(t, t.flip(0), generator=generator(1))
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator is left alone"
    torch.testing.assert_close(kernel, (first * first.flip(0)).sum(-1), rtol=0, atol=1e-5 * CHANNELS)
    assert not torch.equal(encoding(t), encoding(t))


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_parameter(name: str) -> None:
    encoding = ALL[name]().double()
    parameters = dict(encoding.named_parameters())
    if not parameters:
        pytest.skip("nothing is learned")
    t = torch.rand(5, dtype=torch.float64, generator=generator(0)) * 3 + 0.5

    def call(*values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return torch.func.functional_call(encoding, dict(zip(parameters, values, strict=True)), (t,))

    values = tuple(value.detach().clone().requires_grad_() for value in parameters.values())
    assert torch.autograd.gradcheck(call, values)
    gradients = torch.autograd.grad(call(*values).square().sum() + call(*values).sum(), values)
    assert all(bool((gradient != 0).any()) for gradient in gradients)


@pytest.mark.parametrize("name", ALL)
def test_gradient_in_the_time(name: str) -> None:
    encoding = ALL[name]().double().eval()
    t = torch.rand(3, dtype=torch.float64, generator=generator(0)).requires_grad_()

    def call(t: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return encoding(t)

    assert torch.autograd.gradcheck(call, t)


@pytest.mark.parametrize("name", ALL)
def test_large_times_are_as_exact_as_small_ones(name: str) -> None:
    """Encodings of float32 at today's seconds are those of float64 with the same parameters."""
    single = ALL[name]().eval()
    double = copy.deepcopy(single).double()
    t = NOW + torch.arange(0, 60, 7)
    torch.manual_seed(5)
    found = single(t)
    torch.manual_seed(5)
    expected = double(t)
    assert found.dtype == torch.float32
    scale = max(1.0, sum(p.detach().abs().max().item() for p in single.parameters() if p.dim() > 1))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=64 * torch.finfo(torch.float32).eps * scale)


@pytest.mark.parametrize("name", ALL)
def test_any_shape(name: str) -> None:
    encoding = ALL[name]().eval()
    assert encoding(torch.zeros(0).double()).shape == (0, CHANNELS)
    assert encoding(torch.zeros(2, 0, 3).long()).shape == (2, 0, 3, CHANNELS)
    t = torch.randint(0, 50, (2, 5))
    torch.manual_seed(5)
    found = encoding(t)[1]
    torch.manual_seed(5)
    assert torch.equal(found, encoding(t[1]))
    assert encoding(torch.tensor(3)).shape == (CHANNELS,)
    assert encoding.kernel(t.unsqueeze(-1), torch.zeros(7).double()).shape == (2, 5, 7)
    assert encoding.bfloat16()(t).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ALL)
def test_reset_and_state(name: str) -> None:
    encoding = ALL[name]()
    torch.manual_seed(0)
    encoding.reset_parameters()
    first = copy.deepcopy(encoding.state_dict())
    for parameter in encoding.parameters():
        parameter.data.add_(0.5)
    torch.manual_seed(0)
    encoding.reset_parameters()
    assert all(torch.equal(value, first[key]) for key, value in encoding.state_dict().items())
    assert encoding.load_state_dict(first).missing_keys == []
    assert re.match(rf"\w+\({CHANNELS}", repr(encoding).splitlines()[0]) or "(\n" in repr(encoding)


def test_diagnose_counts_channels_that_hardly_vary() -> None:
    encoding = ALL["graphmixer"]()
    t = torch.arange(50)
    variance = encoding(t).double().var(dim=0)
    assert encoding.diagnose(t) == (variance < 1e-6).double().mean().item() < 1
    assert encoding.diagnose(torch.zeros(3).long()) == 1
    with pytest.raises(ValueError, match="t has 1 times; expected at least 2"):
        encoding.diagnose(torch.zeros(1).long())


@pytest.mark.parametrize("name", ALL)
def test_bad_times(name: str) -> None:
    encoding = ALL[name]()
    with pytest.raises(TypeError, match="is a list; expected a Tensor of times, int64 or float64"):
        encoding([1])
    with pytest.raises(TypeError, match="s is a float; expected a Tensor of times"):
        encoding.kernel(torch.zeros(1).double(), 0.0)
    for dtype in (torch.float32, torch.int32, torch.bool):
        with pytest.raises(TypeError, match=rf"t has dtype {dtype}; expected int64 or float64, which do not round"):
            encoding(torch.ones(2, dtype=dtype))
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="t contains NaN or infinity; expected finite times"):
            encoding(torch.tensor([0.0, value]).double())
    with pytest.raises(ValueError, match="contains NaN or infinity; expected finite times"):
        encoding.kernel(torch.zeros(1).double(), torch.tensor([math.nan]).double())


@pytest.mark.parametrize("name", ALL)
def test_no_channels(name: str) -> None:
    with pytest.raises(ValueError, match="channels is 0; expected at least 1"):
        type(ALL[name]())(0)


@pytest.mark.parametrize("name", [*XU2019, "family_normal"])
def test_odd_channels(name: str) -> None:
    with pytest.raises(ValueError, match="channels is 3; expected an even number, a cosine and a sine"):
        type(INVARIANT[name]())(3)


@pytest.mark.parametrize("name", XU2019)
def test_unknown_compat(name: str) -> None:
    with pytest.raises(ValueError, match="compat is 'tf'; expected None or 'xu2019'"):
        type(XU2019[name]())(4, compat="tf")


def test_a_base_class_does_not_encode() -> None:
    with pytest.raises(NotImplementedError, match="TimeEncoding does not define forward"):
        TimeEncoding(2)(torch.zeros(1).double())
    with pytest.raises(NotImplementedError, match="TimeEncoding does not define frequencies"):
        TimeEncoding(2).frequencies()
