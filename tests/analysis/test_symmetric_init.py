"""Symmetric initialization of every kind of layer that has queries and keys."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, TransformerConv

from graphattn.analysis.symmetric_init import symmetric_init_
from graphattn.analysis.symmetry import query_key_symmetry
from graphattn.nn import AttentionConv

EPS = torch.finfo(torch.float64).eps


class Grouped(nn.Module):
    """Two groups of keys for four heads, as in the decoders of transformers."""

    def __init__(self, head_dim: int = 3) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj, self.k_proj = nn.Linear(8, 12), nn.Linear(8, 6)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6)


def chunks(layer: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    W_q, W_k, _ = layer.in_proj_weight.detach().chunk(3)
    return W_q, W_k


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[..., tuple[Tensor, Tensor]], int]] = {
    "AttentionConv": (
        lambda: AttentionConv(6, 4, heads=2),
        lambda m: (m.score.lin_query.weight, m.score.lin_key.weight),
        2,
    ),
    "TransformerConv": (
        lambda: TransformerConv(6, 4, heads=2),
        lambda m: (m.lin_query.weight, m.lin_key.weight),
        2,
    ),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(6, 2), chunks, 2),
    "transformers": (SelfAttention, lambda m: (m.query.weight, m.key.weight), 3),
    "grouped": (Grouped, lambda m: (m.q_proj.weight, m.k_proj.weight), 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_is_symmetric_and_the_rest_unchanged(name: str) -> None:
    make, weights, heads = LAYERS[name]
    torch.manual_seed(0)
    layer = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    before = copy.deepcopy(layer)
    assert symmetric_init_(layer) is layer
    W_q, W_k = (weight.detach().double() for weight in weights(layer))
    for per_head in (False, True):
        found = query_key_symmetry([(W_q.T, W_k.T)], heads=heads, per_head=per_head)
        assert abs(found.symmetry - 1).max() <= 8 * W_q.shape[0] * EPS
    assert torch.equal(weights(layer)[1], weights(before)[1])
    assert not torch.equal(weights(layer)[0], weights(before)[0])
    with torch.no_grad():
        weights(before)[0].copy_(weights(layer)[0])  # all that may differ
    for (key, value), old in zip(layer.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(value, old), key
    assert all(parameter.requires_grad for parameter in layer.parameters())


def test_separate_projections_of_multihead_attention() -> None:
    with pytest.raises(ValueError, match=r"queries have weights \(6, 6\) and keys \(6, 4\)"):
        symmetric_init_(nn.MultiheadAttention(6, 2, kdim=4))
    layer = nn.MultiheadAttention(6, 2, vdim=4)
    symmetric_init_(layer)
    assert torch.equal(layer.q_proj_weight, layer.k_proj_weight)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(TypeError, match="GCNConv without projections to queries and keys"):
        symmetric_init_(GCNConv(4, 4))
    with pytest.raises(ValueError, match="is lazy and has no weights yet"):
        symmetric_init_(AttentionConv(-1, 4))
    with pytest.raises(ValueError, match="fewer keys than queries but no head_dim divides them"):
        symmetric_init_(Grouped(head_dim=4))
