"""Attention over edges with rotary positions: a dense formula, what the output depends on, and every path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.nn import AttentionConv
from graphattn.nn.encodings import RotaryEncoding
from tests.nn.cases import BIPARTITE, HEADS, SQUARE, WIDTH, make

EPS = torch.finfo(torch.float64).eps
C = 4
SCORES = ["dot", "cosine"]


def _conv(score: str, **options: Any) -> AttentionConv:
    rotary = options.pop("rotary", RotaryEncoding(C))
    return make(score, out_channels=C, rotary=rotary, **options)


def _pos(n: int, coordinates: int = 1) -> Tensor:
    return torch.randn(n, coordinates, dtype=torch.float64).squeeze(1) * 5


def _dense(conv: AttentionConv, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
    """Softmax attention edge by edge, with queries and keys rotated by relative positions: <R_{j - i} k_j, q_i>."""
    q, k, v, _ = conv.score.project(x, x, None)
    source, target = edge_index
    relative = conv.rotary(k[source], (pos[source] - pos[target]).unsqueeze(1))
    exponent = (conv.score.scale * (q[target] * relative).sum(-1)).exp()
    total = torch.zeros(x.size(0), conv.heads).double().index_add(0, target, exponent)
    alpha = exponent / total[target]
    out = torch.zeros(x.size(0), conv.heads, C).double().index_add(0, target, alpha.unsqueeze(-1) * v[source])
    return conv._add_root(out.flatten(1), x)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize("coordinates", [1, 2])
def test_scores_see_relative_positions(coordinates: int, layout: str, score: str) -> None:
    conv = _conv(score, rotary=RotaryEncoding(C, layout=layout, coordinates=coordinates, base=100.0))
    x, pos = torch.randn(8, WIDTH).double(), _pos(8, coordinates)
    found = conv(x, SQUARE.edge_index, pos=pos)
    expected = _dense(conv, x, SQUARE.edge_index, pos)
    torch.testing.assert_close(found, expected, rtol=0, atol=1024 * EPS * expected.abs().max().item())
    shifted = conv(x, SQUARE.edge_index, pos=pos + 3.0)
    torch.testing.assert_close(shifted, expected, rtol=0, atol=1024 * EPS * expected.abs().max().item())
    assert not torch.allclose(conv(x, SQUARE.edge_index, pos=2 * pos), expected)


@pytest.mark.parametrize("score", SCORES)
def test_position_0_is_the_layer_without(score: str) -> None:
    conv = _conv(score)
    x = torch.randn(8, WIDTH).double()
    rotated = conv(x, SQUARE.edge_index, pos=torch.zeros(8))
    conv.rotary = None
    assert torch.equal(rotated, conv(x, SQUARE.edge_index))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": "row"},
        {"hops": 3},
        {"add_self_loops": True},
        {"backend": "reference"},
    ],
    ids=str,
)
def test_single_messages_give_the_same(options: dict[str, Any]) -> None:
    conv = _conv("dot", **options)
    x, pos = torch.randn(8, WIDTH).double(), _pos(8)
    fused, (_, weights) = conv(x, SQUARE.edge_index, pos=pos, return_attention_weights=True)
    seen = []
    conv.register_message_forward_hook(lambda _, args, out: seen.append(out))
    found, (_, alpha) = conv(x, SQUARE.edge_index, pos=pos, return_attention_weights=True)
    assert seen
    torch.testing.assert_close(found, fused, rtol=0, atol=1024 * EPS * fused.abs().max().item())
    torch.testing.assert_close(alpha, weights, rtol=0, atol=64 * EPS)


def test_bipartite_graphs_have_positions_on_both_sides() -> None:
    conv = _conv("dot", in_channels=(WIDTH, 9))
    x = torch.randn(10, WIDTH).double(), torch.randn(6, 9).double()
    pos = _pos(10), _pos(6)
    found, (_, alpha) = conv(x, BIPARTITE.edge_index, pos=pos, return_attention_weights=True)
    q, k, _, _ = conv.score.project(*x, None)
    source, target = BIPARTITE.edge_index
    relative = conv.rotary(k[source], (pos[0][source] - pos[1][target]).unsqueeze(1))
    exponent = (conv.score.scale * (q[target] * relative).sum(-1)).exp()
    total = torch.zeros(6, HEADS).double().index_add(0, target, exponent)
    torch.testing.assert_close(alpha, exponent / total[target], rtol=0, atol=1024 * EPS)
    shifted = conv(x, BIPARTITE.edge_index, pos=(pos[0] - 2, pos[1] - 2))
    torch.testing.assert_close(shifted, found, rtol=0, atol=1024 * EPS * found.abs().max().item())


def test_gradients() -> None:
    conv = _conv("dot")
    x, pos = torch.randn(8, WIDTH).double().requires_grad_(), _pos(8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, pos: conv(x, SQUARE.edge_index, pos=pos), (x, pos))


def test_bfloat16_stays_bfloat16() -> None:
    conv = _conv("dot").bfloat16()
    x, pos = torch.randn(8, WIDTH).bfloat16(), torch.arange(8)
    assert conv(x, SQUARE.edge_index, pos=pos).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rotary": RotaryEncoding(6)}, "rotary is for 6 channels; expected 4, the channels of a head"),
        ({"score": "gat"}, "rotary needs a score of products, 'dot' or 'cosine'; GAT would see absolute positions"),
        ({"score": "gaussian"}, "rotary needs a score of products, .*; Gaussian would see"),
        ({"edge_dim": 2}, "rotary and edge_dim are both given"),
    ],
)
def test_bad_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        AttentionConv(WIDTH, C, **{"rotary": RotaryEncoding(C), **options})


def test_rotary_is_an_encoding() -> None:
    with pytest.raises(TypeError, match="rotary is a bool; expected a RotaryEncoding or None"):
        AttentionConv(WIDTH, C, rotary=True)


@pytest.mark.parametrize(
    ("pos", "coordinates", "expected"),
    [
        (None, 1, "pos is None, but the layer has a rotary encoding; pass both or neither"),
        (torch.zeros(7), 1, r"pos of the sources has shape \(7,\); expected a Tensor of shape \(8,\)"),
        (torch.zeros(1), 1, r"pos of the sources has shape \(1,\)"),
        (torch.zeros(8), 2, r"pos of the sources has shape \(8,\); expected a Tensor of shape \(8, 2\)"),
        ((torch.zeros(8), torch.zeros(8)), 1, "pos is a tuple; expected a Tensor"),
        (3.0, 1, "pos of the sources has type float"),
    ],
)
def test_bad_positions(pos: Any, coordinates: int, expected: str) -> None:
    conv = _conv("dot", rotary=RotaryEncoding(C, coordinates=coordinates))
    with pytest.raises(ValueError, match=expected):
        conv(torch.randn(8, WIDTH).double(), SQUARE.edge_index, pos=pos)


def test_positions_that_nothing_reads() -> None:
    with pytest.raises(ValueError, match="pos is given, but rotary is None; pass both or neither"):
        make("dot")(torch.randn(8, WIDTH).double(), SQUARE.edge_index, pos=torch.zeros(8))


def test_bipartite_positions_are_a_pair() -> None:
    conv = _conv("dot", in_channels=(WIDTH, 9))
    x = torch.randn(10, WIDTH).double(), torch.randn(6, 9).double()
    with pytest.raises(ValueError, match=r"pos is a Tensor; expected \(sources, targets\), as x is"):
        conv(x, BIPARTITE.edge_index, pos=torch.zeros(10))
    with pytest.raises(ValueError, match=r"pos of the targets has shape \(10,\); expected a Tensor of shape \(6,\)"):
        conv(x, BIPARTITE.edge_index, pos=(torch.zeros(10), torch.zeros(10)))
