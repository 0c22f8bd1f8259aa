"""The sinusoidal encoding: its formula, what its products depend on, and PyG's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch_geometric.nn.encoding import PositionalEncoding

from graphattn.nn.encodings import SinusoidalEncoding

EPS = torch.finfo(torch.float64).eps
CHANNELS = 10


def _frequencies(channels: int, base: float) -> list[float]:
    return [base ** (-2 * i / channels) for i in range(channels // 2)]


def _by_hand(pos: list[float], channels: int, base: float) -> Tensor:
    rows = [[f(w * p) for w in _frequencies(channels, base) for f in (math.sin, math.cos)] for p in pos]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("base", [1.0, 100.0, 10000.0])
@pytest.mark.parametrize("channels", [2, CHANNELS])
def test_is_its_formula(channels: int, base: float) -> None:
    pos = [0.0, 1.0, -3.5, 17.0]
    found = SinusoidalEncoding(channels, base=base)(torch.tensor(pos, dtype=torch.float64))
    torch.testing.assert_close(found, _by_hand(pos, channels, base), rtol=0, atol=64 * EPS)


def test_products_depend_on_the_distance_alone() -> None:
    """<PE(m), PE(n)> = sum_i cos(w_i (m - n)), and |PE|^2 = C / 2."""
    pos = torch.randn(7, dtype=torch.float64) * 5
    pe = SinusoidalEncoding(CHANNELS)(pos)
    distance = pos[:, None] - pos[None, :]
    expected = sum((w * distance).cos() for w in _frequencies(CHANNELS, 10000.0))
    torch.testing.assert_close(pe @ pe.T, expected, rtol=0, atol=256 * EPS)
    torch.testing.assert_close(pe.square().sum(1), torch.full((7,), CHANNELS / 2).double(), rtol=0, atol=64 * EPS)


def test_a_shift_is_one_rotation_for_all_positions() -> None:
    pos, shift = torch.randn(20, dtype=torch.float64), 2.5
    encoding = SinusoidalEncoding(CHANNELS)
    pairs, shifted = (encoding(p).view(20, -1, 2) for p in (pos, pos + shift))
    angle = shift * torch.tensor(_frequencies(CHANNELS, 10000.0), dtype=torch.float64)
    sine, cosine = pairs.unbind(-1)
    turned = torch.stack([sine * angle.cos() + cosine * angle.sin(), cosine * angle.cos() - sine * angle.sin()], dim=-1)
    torch.testing.assert_close(shifted, turned, rtol=0, atol=64 * EPS)


def test_large_positions_are_as_exact_as_small_ones() -> None:
    pos = [10**6 + 1, 123_456_789]
    found = SinusoidalEncoding(CHANNELS)(torch.tensor(pos))
    assert found.dtype == torch.float32
    # The angle keeps 53 bits, the sine of what is left of it float32's.
    atol = 4 * torch.finfo(torch.float32).eps + 2 * EPS * max(pos)
    torch.testing.assert_close(found.double(), _by_hand(pos, CHANNELS, 10000.0), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_positions_give_their_dtype(dtype: torch.dtype) -> None:
    pos = torch.arange(5)
    found = SinusoidalEncoding(CHANNELS)(pos.to(dtype))
    assert found.dtype == dtype
    truth = _by_hand(pos.tolist(), CHANNELS, 10000.0)
    torch.testing.assert_close(found.double(), truth, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("channels", [2, 4, 64])
def test_is_pygs_encoding(channels: int) -> None:
    pos = torch.arange(40.0)
    expected = PositionalEncoding(channels)(pos)
    found = SinusoidalEncoding(channels, compat="pyg")(pos)
    # PyG multiplies in float32: its angles are off by eps times their size.
    torch.testing.assert_close(found, expected, rtol=0, atol=4 * 40 * torch.finfo(torch.float32).eps)


def test_pygs_grid_differs_from_the_papers() -> None:
    one = torch.ones(1, dtype=torch.float64)
    ours = SinusoidalEncoding(8)(one)[0, 0::2].asin()
    theirs = SinusoidalEncoding(8, compat="pyg")(one)[0, :4].asin()
    torch.testing.assert_close(ours, torch.tensor([1, 0.1, 0.01, 0.001]).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(theirs, 10000.0 ** -(torch.arange(4).double() / 3), rtol=1e-12, atol=0)


def test_gradient_in_the_position() -> None:
    pos = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    for compat in (None, "pyg"):
        assert torch.autograd.gradcheck(SinusoidalEncoding(6, compat=compat), pos)


def test_any_shape() -> None:
    pos = torch.randint(50, (2, 0, 3))
    assert SinusoidalEncoding(4)(pos).shape == (2, 0, 3, 4)
    pos = torch.randint(50, (2, 5))
    assert torch.equal(SinusoidalEncoding(4)(pos)[1], SinusoidalEncoding(4)(pos[1]))
    assert SinusoidalEncoding(4)(torch.tensor(3)).shape == (4,)


@pytest.mark.parametrize("channels", [0, 3, -2])
def test_odd_channels(channels: int) -> None:
    with pytest.raises(ValueError, match=f"channels is {channels}; expected an even number"):
        SinusoidalEncoding(channels)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"base is 0\.5; expected a finite number of at least 1"):
        SinusoidalEncoding(4, base=0.5)
    with pytest.raises(ValueError, match="compat is 'torch'; expected None or 'pyg'"):
        SinusoidalEncoding(4, compat="torch")
    with pytest.raises(TypeError, match="pos is a list; expected a Tensor"):
        SinusoidalEncoding(4)([1])
    with pytest.raises(TypeError, match=r"pos has dtype torch\.bool; expected integers or real"):
        SinusoidalEncoding(4)(torch.ones(2, dtype=torch.bool))
