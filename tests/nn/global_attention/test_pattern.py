"""PatternAttention against dense attention with the mask of its pairs, alone, joined, and in many graphs at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.affinity.patterns import EdgeType
from graphattn.nn.global_attention import PatternAttention
from graphattn.nn.global_attention.pattern import PATTERNS

OPTIONS: dict[str, dict[str, Any]] = {
    "complete": {},
    "window": {"width": 3, "dilation": 2},
    "global_nodes": {"nodes": [0]},
    "random_blocks": {"count": 2, "block_size": 3},
    "expander": {"degree": 2},
    "knn": {"k": 4},
}


def nodes(size: int = 23) -> Tensor:
    return torch.randn(size, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def make(patterns: dict[str, dict[str, Any]] | None = None, **options: Any) -> PatternAttention:
    return PatternAttention(8, 2, patterns=patterns, **options).double().eval()


def masked(attend: PatternAttention, x: Tensor, mask: Tensor) -> Tensor:
    """Dense attention with the projections of the layer, 0 where a node attends to none."""
    score = attend.conv.score
    q, k, v = (
        lin(x).unflatten(1, (2, -1)).transpose(0, 1) for lin in (score.lin_query, score.lin_key, score.lin_value)
    )
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("name", PATTERNS)
def test_equals_dense_attention_with_the_mask(name: str) -> None:
    attend, x = make({name: OPTIONS[name]}), nodes()
    mask = attend.pairs(x).to_dense().matrix > 0
    if name != "complete":
        assert 0 < mask.sum() < mask.numel()
    torch.testing.assert_close(attend(x), masked(attend, x, mask), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", PATTERNS)
def test_graphs_come_out_as_alone(name: str) -> None:
    """Unsorted nodes, unequal sizes, one graph of a single node; random pairs are drawn per batch."""
    attend, x = make({name: OPTIONS[name]}), nodes()
    batch = torch.tensor([0, 2, 1, 0, 2, 2, 0, 2, 3, 0, 2, 2, 0, 2, 2, 0, 2, 2, 0, 2, 2, 0, 2])
    pairs = attend.pairs(x, batch)
    source, target = pairs.edge_index
    assert bool((batch[source] == batch[target]).all())
    out = attend(x, batch)
    for graph in range(4):
        rows = batch == graph
        if name not in ("random_blocks", "expander"):
            torch.testing.assert_close(out[rows], attend(x[rows]), rtol=1e-10, atol=1e-12)
    mask = pairs.to_dense().matrix > 0
    torch.testing.assert_close(out, masked(attend, x, mask), rtol=1e-10, atol=1e-12)


def test_nearest_nodes_are_those_of_the_features() -> None:
    attend, x = make({"knn": {"k": 3}}), nodes()
    mask = attend.pairs(x).to_dense().matrix > 0
    distance = torch.cdist(x, x)
    assert torch.equal(mask, distance <= distance.kthvalue(4, dim=1, keepdim=True).values)
    moved = x.clone()
    moved[0] += 100
    assert not bool((attend.pairs(moved).to_dense().matrix[1:, 0] > 0).any())


def test_kinds_of_pairs_are_told_apart() -> None:
    attend, x = make({"window": {"width": 1}, "global_nodes": {"nodes": [0]}}), nodes(6)
    pairs = attend.pairs(x)
    kinds = {
        tuple(pair): kind for pair, kind in zip(pairs.edge_index.T.tolist(), pairs.edge_type.tolist(), strict=True)
    }
    assert kinds[(1, 2)] == kinds[(0, 1)] == EdgeType.WINDOW  # the first pattern names what both have
    assert kinds[(0, 4)] == kinds[(4, 0)] == EdgeType.GLOBAL
    before = attend(x)
    with torch.no_grad():
        attend.edge_embedding.weight[EdgeType.GLOBAL] += 1
        attend.edge_embedding.weight[EdgeType.EXPANDER] += 1
    change = (attend(x) - before).abs().amax(dim=1)
    assert bool((change[[0, 2, 3, 4, 5]] > 1e-3).all())
    assert change[1] < 1e-12  # it has only pairs of the window


def test_random_patterns_follow_the_seed() -> None:
    x = nodes()
    edges = [make({"expander": {"degree": 2}}, seed=seed).pairs(x).edge_index for seed in (0, 0, 1)]
    assert torch.equal(edges[0], edges[1])
    assert edges[0].shape != edges[2].shape or not torch.equal(edges[0], edges[2])


def test_gradients() -> None:
    attend, x = make({"window": {"width": 1}, "knn": {"k": 2}}), nodes(5).requires_grad_()
    assert torch.autograd.gradcheck(attend, (x,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": {}}, "patterns is empty; expected at least one of complete"),
        ({"patterns": {"windwo": {}}}, "patterns has 'windwo'; did you mean 'window'"),
        ({"heads": 3}, "heads is 3, which does not divide channels=8"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatternAttention(8, **options)
