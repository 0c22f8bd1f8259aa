"""The rotary encoding: rotation matrices written out, its identities, and two released implementations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphattn.nn.encodings import RotaryEncoding
from tests.budget import assert_within_budget

EPS = torch.finfo(torch.float64).eps
LAYOUTS = ["interleaved", "half"]
CHANNELS = 8


def _matrix(pos: list[float], channels: int, base: float, layout: str) -> Tensor:
    """The rotation of one vector as a matrix: a block of channels for each coordinate, pairs of channels in each."""
    matrix = torch.zeros(channels, channels, dtype=torch.float64)
    width = channels // len(pos)
    for c, p in enumerate(pos):
        for i in range(width // 2):
            a, b = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, i + width // 2)
            a, b = c * width + a, c * width + b
            angle = p * base ** (-2 * i / width)
            matrix[a, a] = matrix[b, b] = math.cos(angle)
            matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("coordinates", [1, 2, 4])
@pytest.mark.parametrize("base", [100.0, 10000.0])
def test_is_a_product_with_rotation_matrices(base: float, coordinates: int, layout: str) -> None:
    x = torch.randn(5, CHANNELS, dtype=torch.float64)
    pos = torch.randn(5, coordinates, dtype=torch.float64) * 10
    rotary = RotaryEncoding(CHANNELS, base=base, layout=layout, coordinates=coordinates)
    found = rotary(x, pos if coordinates > 1 else pos.squeeze(1))
    expected = torch.stack([_matrix(p, CHANNELS, base, layout) @ row for p, row in zip(pos.tolist(), x, strict=True)])
    torch.testing.assert_close(found, expected, rtol=0, atol=64 * EPS * x.abs().max().item())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("coordinates", [1, 2])
def test_products_depend_on_relative_positions_alone(coordinates: int, layout: str) -> None:
    rotary = RotaryEncoding(CHANNELS, layout=layout, coordinates=coordinates)
    q, k = torch.randn(2, 6, CHANNELS, dtype=torch.float64)
    shape = (6, coordinates) if coordinates > 1 else (6,)
    m, n = torch.randn(2, *shape, dtype=torch.float64) * 20
    shift = torch.randn(shape[1:], dtype=torch.float64) * 50
    here, there = ((rotary(q, m + s) * rotary(k, n + s)).sum(-1) for s in (0.0, shift))
    torch.testing.assert_close(here, there, rtol=0, atol=1024 * EPS * 50)
    relative = (rotary(q, m - n) * k).sum(-1)
    torch.testing.assert_close(here, relative, rtol=0, atol=1024 * EPS * 20)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_norms_stay_and_position_0_changes_nothing(layout: str) -> None:
    rotary = RotaryEncoding(CHANNELS, layout=layout)
    x = torch.randn(6, CHANNELS, dtype=torch.float64)
    assert torch.equal(rotary(x, torch.zeros(6)), x)
    torch.testing.assert_close(rotary(x, torch.arange(6)).norm(dim=1), x.norm(dim=1), rtol=16 * EPS, atol=0)


@pytest.mark.parametrize("coordinates", [1, 2])
def test_the_layouts_differ_by_a_permutation_of_channels(coordinates: int) -> None:
    """Half is interleaved on the channels in the order (evens, odds) of every block."""
    x = torch.randn(6, CHANNELS, dtype=torch.float64)
    pos = torch.randn(6, coordinates, dtype=torch.float64).squeeze(1)
    width = CHANNELS // coordinates
    order = torch.cat([c * width + torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])
                       for c in range(coordinates)])  # fmt: skip
    interleaved, half = (RotaryEncoding(CHANNELS, layout=layout, coordinates=coordinates) for layout in LAYOUTS)
    assert torch.equal(half(x[:, order], pos), interleaved(x, pos)[:, order])
    assert not torch.allclose(half(x, pos), interleaved(x, pos))


def test_positions_broadcast_over_heads() -> None:
    rotary = RotaryEncoding(CHANNELS)
    x, pos = torch.randn(5, 3, CHANNELS), torch.arange(5)
    assert torch.equal(rotary(x, pos[:, None]), torch.stack([rotary(x[:, h], pos) for h in range(3)], dim=1))
    heads_first = rotary(x.transpose(0, 1).unsqueeze(0), pos)
    assert torch.equal(heads_first, rotary(x, pos[:, None]).transpose(0, 1).unsqueeze(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_is_as_good_as_the_dtype_allows(layout: str, dtype: torch.dtype) -> None:
    """Positions in the millions, where angles of float32 are off by a tenth."""
    rotary = RotaryEncoding(CHANNELS, layout=layout)
    x, pos = torch.randn(50, CHANNELS).to(dtype), torch.randint(10**6, (50,))
    truth = rotary(x.double(), pos)
    assert_within_budget(rotary(x, pos), truth.to(dtype), truth)


def test_is_rotary_embedding_torch() -> None:
    released = pytest.importorskip("rotary_embedding_torch", reason="the parity needs rotary-embedding-torch")
    q = torch.randn(2, 3, 11, CHANNELS)
    expected = released.RotaryEmbedding(CHANNELS).rotate_queries_or_keys(q)
    torch.testing.assert_close(RotaryEncoding(CHANNELS)(q, torch.arange(11)), expected.detach())


def test_is_the_rotation_of_transformers() -> None:
    llama = pytest.importorskip(
        "transformers.models.llama.modeling_llama", reason="the parity needs transformers", exc_type=ImportError
    )
    q, k = torch.randn(2, 2, 3, 11, CHANNELS)
    angle = torch.arange(11.0)[:, None] * 10000.0 ** -(torch.arange(0, CHANNELS, 2) / CHANNELS)
    table = torch.cat([angle, angle], dim=-1).unsqueeze(0)
    expected = llama.apply_rotary_pos_emb(q, k, table.cos(), table.sin())
    rotary = RotaryEncoding(CHANNELS, layout="half")
    torch.testing.assert_close((rotary(q, torch.arange(11)), rotary(k, torch.arange(11))), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("coordinates", [1, 2])
def test_gradients(coordinates: int, layout: str) -> None:
    rotary = RotaryEncoding(4, layout=layout, coordinates=coordinates)
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    pos = torch.randn(3, 1, coordinates, dtype=torch.float64).squeeze(2).requires_grad_()
    assert torch.autograd.gradcheck(rotary, (x, pos))
    assert torch.autograd.gradgradcheck(rotary, (x, pos))


@pytest.mark.usefixtures("reset_dynamo")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_equals_eager(layout: str) -> None:
    rotary = RotaryEncoding(CHANNELS, layout=layout, coordinates=2)
    compiled = torch.compile(rotary, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 9):
        x, pos = torch.randn(n, 3, CHANNELS), torch.randn(n, 1, 2)
        assert torch.equal(compiled(x, pos), rotary(x, pos))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"channels": 3}, "channels is 3; expected a multiple of 2: pairs of channels for the position"),
        ({"channels": 6, "coordinates": 2}, "channels is 6; expected a multiple of 4: .* for each coordinate"),
        ({"channels": 0}, "channels is 0; expected a multiple of 2"),
        ({"channels": 4, "coordinates": 0}, "coordinates is 0; expected at least 1"),
        ({"channels": 4, "base": math.inf}, "base is inf; expected a finite number"),
        ({"channels": 4, "layout": "whole"}, "layout is 'whole'; expected one of 'interleaved', 'half'"),
    ],
)
def test_bad_options(options: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        RotaryEncoding(**options)


@pytest.mark.parametrize(
    ("x", "pos", "coordinates", "expected"),
    [
        ((3, 5), (3,), 1, r"x has shape \(3, 5\); expected 4 channels last"),
        ((3, 4), (2,), 1, r"pos has shape \(2,\); it does not broadcast over x \(3, 4\)"),
        ((3, 4), (3, 1), 1, r"pos has shape \(3, 1\); it does not broadcast"),
        ((3, 4), (3,), 2, r"pos has shape \(3,\); expected 2 coordinates last"),
        ((3, 4), (2, 2), 2, r"pos has shape \(2, 2\); it does not broadcast"),
    ],
)
def test_bad_shapes(x: tuple[int, ...], pos: tuple[int, ...], coordinates: int, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        RotaryEncoding(4, coordinates=coordinates)(torch.zeros(x), torch.zeros(pos))


def test_bad_types() -> None:
    with pytest.raises(TypeError, match=r"x has dtype torch\.int64; expected a floating-point Tensor"):
        RotaryEncoding(4)(torch.zeros(3, 4, dtype=torch.long), torch.arange(3))
    with pytest.raises(TypeError, match="pos is a NoneType; expected a Tensor"):
        RotaryEncoding(4)(torch.zeros(3, 4), None)
