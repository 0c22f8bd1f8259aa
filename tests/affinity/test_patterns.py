"""Patterns against masks written out, published counts and theory; types that stay; graphs side by side."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from graphattn.affinity import (
    Affinity,
    EdgeType,
    SparseAffinity,
    complete,
    expander,
    global_nodes,
    grid,
    knn,
    random_blocks,
    union,
    window,
)
from graphattn.nn import AttentionConv
from graphattn.ops import edge_attention
from tests.budget import assert_within_budget

EPS = torch.finfo(torch.float64).eps
# The package has a function of the module's name.
EXPANDER: Any = sys.modules[expander.__module__]

Pattern = Callable[..., SparseAffinity]
PATTERNS: dict[str, Pattern] = {
    "complete": complete,
    "complete-causal": lambda *n, **graphs: complete(*n, causal=True, **graphs),
    "window": lambda *n, **graphs: window(*(n or [None]), 2, **graphs),
    "window-dilated": lambda *n, **graphs: window(*(n or [None]), 2, dilation=3, **graphs),
    "window-causal": lambda *n, **graphs: window(*(n or [None]), 2, dilation=2, causal=True, **graphs),
    "global": lambda *n, **graphs: global_nodes(*(n or [None]), [4, 0], **graphs),
    "global-causal": lambda *n, **graphs: global_nodes(*(n or [None]), [1, 3], causal=True, **graphs),
}
SIZES = [7, 0, 1, 12, 5]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mask(A: SparseAffinity) -> Tensor:
    """Dense mask of a pattern, which must list every edge once, by (target, source)."""
    dense = A.to_dense().matrix
    assert bool((dense <= 1).all()), "an edge stands twice"
    key = A.edge_index[1] * A.shape[1] + A.edge_index[0]
    assert bool((key[1:] > key[:-1]).all()), "edges are not in the order of (target, source)"
    assert not A.symmetric or torch.equal(dense, dense.T)
    return dense.bool()


def by_rule(size: int, rule: Callable[[int, int], bool]) -> Tensor:
    return torch.tensor([[rule(i, j) for j in range(size)] for i in range(size)], dtype=torch.bool).view(size, size)


RULES: dict[str, Callable[[int, int], bool]] = {
    "complete": lambda i, j: True,
    "complete-causal": lambda i, j: j <= i,
    "window": lambda i, j: abs(i - j) <= 2,
    "window-dilated": lambda i, j: abs(i - j) in (0, 3, 6),
    "window-causal": lambda i, j: i - j in (0, 2, 4),
    "global": lambda i, j: bool({i, j} & {0, 4}),
    "global-causal": lambda i, j: j <= i and bool({i, j} & {1, 3}),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("size", [5, 6, 13])
def test_masks(name: str, size: int) -> None:
    A = PATTERNS[name](size)
    assert torch.equal(mask(A), by_rule(size, RULES[name]))
    assert A.symmetric == ("causal" not in name)
    assert A.weight is None
    expected = {"complete": EdgeType.COMPLETE, "window": EdgeType.WINDOW, "global": EdgeType.GLOBAL}
    assert set(A.edge_type.tolist()) == {expected[name.split("-")[0]]}


@pytest.mark.parametrize("name", PATTERNS)
def test_graphs_side_by_side(name: str) -> None:
    """A list of sizes, bounds and a batch in any order give one pattern per graph; an empty graph is none."""
    make = PATTERNS[name]
    blocks = [by_rule(size, RULES[name]) for size in SIZES]
    together = torch.block_diag(*blocks)
    assert torch.equal(mask(make(SIZES)), together)
    ptr = torch.tensor([0, *np.cumsum(SIZES).tolist()])
    assert torch.equal(mask(make(ptr=ptr)), together)
    batch = torch.repeat_interleave(torch.tensor(SIZES))
    assert torch.equal(mask(make(batch=batch)), together)
    shuffled = batch[torch.randperm(batch.numel(), generator=seeded())]
    within = shuffled.argsort(stable=True)
    assert torch.equal(mask(make(batch=shuffled))[within][:, within], together)
    assert make(batch=shuffled).symmetric == make(SIZES).symmetric


@pytest.mark.parametrize(
    "make", [lambda: complete(0), lambda: window([], 1), lambda: expander(0), lambda: complete([0])]
)
def test_no_nodes(make: Callable[[], SparseAffinity]) -> None:
    A = make()
    assert A.shape == (0, 0)
    assert A.num_edges == A.edge_type.numel() == 0


def test_edge_counts() -> None:
    for size in (5, 20, 33):
        for width in (0, 1, 3, 4):
            assert window(size, width).num_edges == size * (2 * width + 1) - width * (width + 1)
            assert window(size, width, causal=True).num_edges == size * (width + 1) - width * (width + 1) // 2
        assert window(size, size - 1).num_edges == window(size, 10 * size).num_edges == size**2
        for hubs in (0, 1, 4):
            assert global_nodes(size, list(range(hubs))).num_edges == 2 * hubs * size - hubs**2
        assert complete(size, causal=True).num_edges == size * (size + 1) // 2


@pytest.mark.parametrize("dilation", [1, 3])
def test_layers_over_a_window_reach_exactly_so_far(dilation: int) -> None:
    width, layers, middle = 2, 3, 25
    A = window(51, width, dilation=dilation)
    reached = torch.zeros(51)
    reached[middle] = 1.0
    for _ in range(layers):
        reached = A @ reached
    distance = (torch.arange(51) - middle).abs()
    assert torch.equal(reached > 0, (distance <= layers * width * dilation) & (distance % dilation == 0))


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("radius", [0, 1, 2, 9])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 6), (3, 4), (0, 3)])
def test_grid(rows: int, cols: int, radius: int, diagonal: bool) -> None:
    def near(i: int, j: int) -> bool:
        down, right = abs(i // cols - j // cols), abs(i % cols - j % cols)
        return (max(down, right) if diagonal else down + right) <= radius

    A = grid(rows, cols, radius, diagonal=diagonal)
    assert torch.equal(mask(A), by_rule(rows * cols, near))
    assert A.symmetric
    assert set(A.edge_type.tolist()) <= {EdgeType.GRID}


# Random blocks ########################################################################################################


@pytest.mark.parametrize("size", [1, 5, 40])
@pytest.mark.parametrize("count", [1, 3, 60])
def test_random_sources(count: int, size: int) -> None:
    A = random_blocks(size, count, generator=seeded())
    assert torch.equal(mask(A).sum(1), torch.full((size,), min(count, size)))
    again = random_blocks(size, count, generator=seeded())
    assert torch.equal(A.edge_index, again.edge_index)
    assert set(A.edge_type.tolist()) == {EdgeType.RANDOM}


@pytest.mark.parametrize("causal", [False, True])
def test_random_blocks_of_graphs(causal: bool) -> None:
    """Blocks are whole, the last one shorter; each draws different ones of its own graph."""
    sizes, count, block = [23, 0, 4, 9], 2, 4
    A = mask(random_blocks(sizes, count, block, causal=causal, generator=seeded(1)))
    first = 0
    for size in sizes:
        part = A[first : first + size, first : first + size]
        assert part.sum() == A[first : first + size].sum(), "an edge leaves its graph"
        blocks = math.ceil(size / block)
        for b in range(blocks):
            rows = part[b * block : (b + 1) * block]
            drawn = [bool(rows[:, c * block : (c + 1) * block].any()) for c in range(blocks)]
            assert sum(drawn) == min(count, b + 1 if causal else blocks)
            assert not causal or not any(drawn[b + 1 :])
            whole = torch.tensor(drawn).repeat_interleave(block)[:size].expand_as(rows)
            if causal:
                row = torch.arange(b * block, b * block + rows.size(0)).unsqueeze(1)
                whole = whole & (torch.arange(size) <= row)
            assert torch.equal(rows, whole)
        first += size


def test_random_sources_are_uniform() -> None:
    """Each subset of two of four sources comes as often as any other: chi-squared below its 99.99 % quantile."""
    source = random_blocks([4] * 12_000, 2, generator=seeded()).edge_index[0].view(-1, 2) % 4
    counts = torch.bincount(source[:, 0] * 4 + source[:, 1], minlength=16)
    counts = counts[counts > 0].double()
    assert len(counts) == 6, "pairs in ascending order"
    expected = 48_000 / 6
    assert ((counts - expected) ** 2 / expected).sum() < 25.7  # 5 degrees of freedom


# Expanders ############################################################################################################


def laplacian_gap(A: SparseAffinity) -> float:
    """Second eigenvalue of the Laplacian by networkx, on the multigraph."""
    graph = nx.MultiGraph()
    graph.add_nodes_from(range(A.shape[0]))
    graph.add_edges_from(A.edge_index.T[A.edge_index[0] < A.edge_index[1]].tolist())
    return float(np.sort(nx.laplacian_spectrum(graph))[1])


@pytest.mark.parametrize("algorithm", ["permutation", "shuffle", "hamiltonian"])
@pytest.mark.parametrize(("size", "degree"), [(11, 5), (30, 3), (250, 4)])
def test_expanders_are_regular_and_have_the_gap(algorithm: str, size: int, degree: int) -> None:
    drawn = expander(size, degree, algorithm=algorithm, generator=seeded(), compat="exphormer")
    assert torch.equal(drawn.row_sums(), torch.full((size,), 2.0 * degree))
    dense = drawn.to_dense().matrix
    assert torch.equal(dense, dense.T)
    bound = 2 * degree - 2 * math.sqrt(2 * degree - 1) - 0.1
    assert laplacian_gap(drawn) >= bound - 1e-3
    clean = expander(size, degree, algorithm=algorithm, generator=seeded())
    assert torch.equal(mask(clean), (dense > 0) & ~torch.eye(size, dtype=torch.bool))
    assert clean.symmetric
    assert set(clean.edge_type.tolist()) == {EdgeType.EXPANDER}
    if algorithm == "hamiltonian":
        assert not dense.diagonal().any()
        assert nx.is_connected(nx.from_numpy_array(dense.numpy()))


def test_expanders_of_few_nodes_are_complete() -> None:
    for size in (1, 2, 10):
        assert torch.equal(mask(expander(size)), ~torch.eye(size, dtype=torch.bool))
    # Where nodes are fewer than draws, the degree is one less than the nodes.
    capped = expander(12, 30, generator=seeded(), compat="exphormer")
    assert torch.equal(capped.row_sums(), torch.full((12,), 22.0))


def test_the_best_draw_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no draw has the gap, the one that comes nearest is taken, of at most 100."""
    gaps = iter([1.0, 3.0, 2.0, *[0.5] * 97])
    seen = []

    def gap(node: Tensor, image: Tensor, size: int, degree: int) -> float:
        seen.append(image)
        return next(gaps)

    monkeypatch.setattr(EXPANDER, "_spectral_gap", gap)
    A = expander(20, 5, generator=seeded(), compat="exphormer")
    assert len(seen) == 100
    node = torch.arange(20).repeat(5)
    dense = torch.zeros(20, 20).index_put((node, seen[1]), torch.ones(100), accumulate=True)
    assert torch.equal(A.to_dense().matrix, dense + dense.T)


def test_expander_gaps_of_the_paper_setting() -> None:
    """Mean second eigenvalue of 5 permutations: 4.5, 4.2 and 4.0 at 20, 100 and 1,000 nodes."""
    generator = seeded()
    for size, mean in ((20, 4.5), (100, 4.15), (1000, 4.0)):
        node = torch.arange(size).repeat(5)
        images = [EXPANDER._images(size, 5, "permutation", generator) for _ in range(20)]
        assert np.mean([EXPANDER._spectral_gap(node, image, size, 5) for image in images]) == pytest.approx(
            mean, abs=0.2
        )


def test_lanczos_and_dense_eigenvalues_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    node = torch.arange(150).repeat(3)
    image = EXPANDER._images(150, 3, "permutation", seeded())
    dense = EXPANDER._spectral_gap(node, image, 150, 3)
    monkeypatch.setattr(EXPANDER, "_DENSE", 10)
    assert EXPANDER._spectral_gap(node, image, 150, 3) == pytest.approx(
        dense, abs=6e-4
    )  # tol=1e-4 of an eigenvalue < 6


def test_expanders_side_by_side() -> None:
    A = mask(expander([30, 0, 4, 25], 3, generator=seeded()))
    generator = seeded()
    alone = [mask(expander(size, 3, generator=generator)) for size in (30, 0, 4, 25)]
    assert torch.equal(A, torch.block_diag(*alone))
    batch = torch.tensor([1, 0] * 12)
    shuffled = mask(expander(batch=batch, degree=2, generator=seeded()))
    apart = torch.block_diag(*[mask(expander(12, 2, generator=g)) for g in [seeded()] for _ in range(2)])
    within = batch.argsort(stable=True)
    assert torch.equal(shuffled[within][:, within], apart)


# Union and types ######################################################################################################


def test_union_keeps_the_first_type() -> None:
    given = Affinity.from_edge_index(torch.tensor([[0, 3, 0, 0], [3, 0, 0, 3]]), num_nodes=9)
    parts = [given, window(9, 1), global_nodes(9, [0]), random_blocks(9, 2, generator=seeded())]
    joined = union(*parts)
    types = torch.full((9, 9), -1)
    for part in reversed(parts):
        kind = torch.zeros(part.num_edges, dtype=torch.long) if part.edge_type is None else part.edge_type
        types[part.edge_index[1], part.edge_index[0]] = kind
    assert torch.equal(mask(joined), types >= 0)
    assert torch.equal(joined.edge_type, types[types >= 0])
    assert not joined.symmetric
    assert union(window(9, 1), global_nodes(9, [0])).symmetric
    assert torch.equal(union(joined, *parts).edge_type, joined.edge_type)


def test_bigbird_counts() -> None:
    """Every target has its window, the global nodes and at most r more; global nodes have all."""
    size, width, hubs, r = 64, 3, [0, 63], 2
    A = union(window(size, width), global_nodes(size, hubs), random_blocks(size, r, generator=seeded()))
    counts = torch.bincount(A.edge_index[1] * len(EdgeType) + A.edge_type, minlength=size * len(EdgeType))
    counts = counts.view(size, len(EdgeType))
    node = torch.arange(size)
    in_window = torch.minimum(node, torch.tensor(width)) + torch.minimum(size - 1 - node, torch.tensor(width)) + 1
    assert torch.equal(counts[:, EdgeType.WINDOW], in_window)
    near = sum(((node - hub).abs() <= width).long() for hub in hubs)
    is_hub = torch.isin(node, torch.tensor(hubs))
    assert torch.equal(counts[:, EdgeType.GLOBAL], torch.where(is_hub, size - in_window, len(hubs) - near))
    assert bool((counts[:, EdgeType.RANDOM] <= r).all())
    assert bool((counts[is_hub].sum(1) == size).all())


def test_types_stay_with_their_edges() -> None:
    types = torch.tensor([5, 6, 7, 8])
    A = SparseAffinity(
        torch.tensor([[2, 0, 1, 0], [0, 1, 0, 1]]), torch.tensor([3.0, 1.0, 2.0, 4.0]), (3, 3), edge_type=types
    )
    for other in (
        A.normalize("row"),
        A.with_weight(None),
        A.T,
        A.T.T,
        A.to_sparse(),
        A.to(torch.float64),
        A.to("meta"),
    ):
        assert other.edge_type is not None
        assert other.edge_type.device == other.device
    assert torch.equal(A.to("cpu").edge_type, types)
    assert A.to("meta").edge_type.shape == (4,)
    assert A.threshold(2.0).edge_type.tolist() == [5, 7, 8]
    assert A.top_k(1).edge_type.tolist() == [5, 8]
    merged = A.coalesce()
    assert merged.edge_index.tolist() == [[1, 2, 0], [0, 0, 1]]
    assert merged.edge_type.tolist() == [7, 5, 6]  # the first of two parallel edges lends its type
    ordered = SparseAffinity(torch.tensor([[0, 0], [1, 1]]), None, (2, 2), edge_type=torch.tensor([9, 4]))
    assert ordered.coalesce().edge_type.tolist() == [9]
    assert torch.equal(A.to_data().edge_type, types)
    assert "edge_type" not in complete(2).with_weight(None).T.to_dense().to_sparse().to_data()


# Attention over patterns ##############################################################################################


def attention(A: SparseAffinity, heads: int = 2) -> tuple[AttentionConv, Tensor, Tensor, Tensor]:
    """A layer, features, and its output and truth: masked dense softmax in float64."""
    torch.manual_seed(0)
    conv = AttentionConv(6, 4, heads=heads, root_weight=False).double()
    x = torch.randn(A.shape[0], 6, dtype=torch.float64)
    edges = torch.arange(A.shape[0]).repeat(2, 1)  # to read the projections off, every node attends to itself alone
    v = conv(x, edges).view(-1, heads, 4).transpose(0, 1)
    q, k, *_ = conv.score.project(x, x, None)
    scores = torch.einsum("nhd,mhd->hnm", q.view(-1, heads, 4), k.view(-1, heads, 4)) / 2.0
    dense = A.to_dense().matrix.bool()
    weights = scores.masked_fill(~dense, -math.inf).softmax(-1).nan_to_num(0.0)
    return conv, x, conv(x, A), (weights @ v).transpose(0, 1).flatten(1)


@pytest.mark.parametrize(
    "A",
    [
        complete(17),
        complete([6, 11], causal=True),
        union(window(17, 2), global_nodes(17, [0, 9])),
        union(window(17, 1), global_nodes(17, [3]), random_blocks(17, 2, generator=seeded())),
        expander(17, 3, generator=seeded()),
    ],
    ids=["complete", "causal", "longformer", "bigbird", "expander"],
)
def test_attention_over_a_pattern_is_masked_dense_attention(A: SparseAffinity) -> None:
    _, _, out, truth = attention(A)
    assert_within_budget(out, truth, truth, longest_row=17)


def test_window_is_that_of_longformer() -> None:
    """The local attention of the released Longformer, whose window is its one-sided width on either side."""
    reason = "the released Longformer is compared where transformers is installed"
    modeling = pytest.importorskip("transformers.models.longformer.modeling_longformer", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    size, width, channels, heads = 16, 2, 6, 2
    config = transformers.LongformerConfig(
        hidden_size=channels, num_attention_heads=heads, attention_window=[2 * width], attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(0)
    theirs = modeling.LongformerSelfAttention(config, layer_id=0).double().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight)
    x = torch.randn(1, size, channels, dtype=torch.float64)
    nothing = torch.zeros(1, size, dtype=torch.float64)
    out = theirs(x, nothing, is_index_masked=nothing.bool(), is_index_global_attn=nothing.bool(), is_global_attn=False)[
        0
    ]
    q, k, v = (lin(x[0]).view(size, heads, -1).transpose(0, 1) for lin in (theirs.query, theirs.key, theirs.value))
    dense = window(size, width).to_dense().matrix.bool()
    truth = F.scaled_dot_product_attention(q, k, v, dense).transpose(0, 1).flatten(1)
    # Their softmax is one of float32.
    torch.testing.assert_close(out[0], truth, rtol=0, atol=16 * torch.finfo(torch.float32).eps * v.abs().max().item())


@pytest.mark.parametrize("causal", [False, True])
def test_window_is_that_of_local_attention(causal: bool) -> None:
    """As many neighbours on either side as the released windows are wide, or before."""
    theirs = pytest.importorskip("local_attention", reason="local-attention is not installed to compare with")
    size, width, heads, channels = 18, 3, 2, 4
    torch.manual_seed(0)
    q, k, v = (torch.randn(size, heads, channels, dtype=torch.float64) for _ in range(3))
    layer = theirs.LocalAttention(
        width, causal=causal, look_forward=0 if causal else 1, exact_windowsize=True, use_rotary_pos_emb=False
    )
    expected = layer(*(x.transpose(0, 1).unsqueeze(0) for x in (q, k, v)))[0].transpose(0, 1)
    found = edge_attention(q, k, v, window(size, width, causal=causal))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e3 * EPS * float(v.abs().max()))


def test_blocks_are_those_of_bigbird() -> None:
    """A layer over the pairs that the released BigBird says it draws on: its blocks, ours as edges."""
    reason = "the released BigBird is compared where transformers is installed"
    modeling = pytest.importorskip("transformers.models.big_bird.modeling_big_bird", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    block, blocks, channels = 2, 12, 4
    size = block * blocks
    config = transformers.BigBirdConfig(
        hidden_size=channels, num_attention_heads=1, block_size=block, num_random_blocks=1,
        max_position_embeddings=size, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = modeling.BigBirdBlockSparseAttention(config, seed=3).double()  # draws blocks in training alone
    theirs.requires_grad_(False)
    drawn: list[np.ndarray] = []
    draw = theirs._bigbird_block_rand_mask_with_head

    def keep(*args: Any, **options: Any) -> Any:
        drawn.extend(draw(*args, **options))
        return drawn

    theirs._bigbird_block_rand_mask_with_head = keep
    masks = modeling.BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(1, size).double(), block)
    x = torch.randn(1, size, channels, dtype=torch.float64)
    blocked, band, start, end = masks
    expected = theirs(x, band, start, end, blocked, blocked)[0][0]

    near = window(blocks, 1).to_dense().matrix.bool()
    ends = global_nodes(blocks, [0, blocks - 1]).to_dense().matrix.bool()
    seen = near | ends
    for row, chosen in enumerate(drawn[0], start=1):
        seen[row, torch.as_tensor(chosen).long()] = True
    pairs = seen.repeat_interleave(block, 0).repeat_interleave(block, 1)
    A = Affinity.from_edge_index(pairs.T.nonzero().T, num_nodes=size)
    q, k, v = (lin(x[0]).unsqueeze(1) for lin in (theirs.query, theirs.key, theirs.value))
    found = edge_attention(q, k, v, A).flatten(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e3 * EPS * v.abs().max().item())


def test_edge_types_become_edge_features() -> None:
    """Embedded types are the edge features of a layer; the gradient reaches the types that there are, and no other."""
    A = union(window(12, 1), global_nodes(12, [0]))
    embedding = torch.nn.Embedding(len(EdgeType), 3)
    conv = AttentionConv(5, 4, heads=2, edge_dim=3)
    conv(torch.randn(12, 5), A, embedding(A.edge_type)).sum().backward()
    touched = embedding.weight.grad.abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == [EdgeType.WINDOW, EdgeType.GLOBAL]


def test_neighbors_of_the_features_of_each_layer() -> None:
    """A layer over the k nearest in its own input: the graph follows the features, gradients flow past it."""
    torch.manual_seed(0)
    x = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    convs = [AttentionConv(6, 6, root_weight=False).double() for _ in range(2)]
    h = x
    for conv in convs:
        graph = knn(h.detach(), 3, loops=True).with_weight(None)
        distance = torch.cdist(h.detach(), h.detach()).fill_diagonal_(-1.0)
        near = torch.zeros(20, 20).scatter(1, distance.topk(4, largest=False).indices, 1.0)
        assert torch.equal(graph.to_dense().matrix, near)
        h = conv(h, graph)
    h.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


# Cost #################################################################################################################


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(
    ("make", "per_node"),
    [
        (lambda n: window(n, 4), 9),
        (lambda n: global_nodes(n, [0, 1]), 4),
        (lambda n: random_blocks(n, 3, 2, generator=seeded()), 6),
        (lambda n: expander(n, 3, generator=seeded()), 6),
    ],
    ids=["window", "global", "random", "expander"],
)
def test_memory_is_that_of_the_edges(make: Callable[[int], SparseAffinity], per_node: int) -> None:
    with LargestTensor() as largest:
        A = make(4096)
    assert A.num_edges <= per_node * 4096
    assert largest.elements <= 2 * per_node * 4096


def test_types_on_an_accelerator() -> None:
    """Over fake tensors: types stay where the edges are."""
    with FakeTensorMode():
        edges = torch.zeros(2, 4, dtype=torch.long, device="cuda")
        A = SparseAffinity(edges, None, (3, 3), edge_type=torch.zeros(4, dtype=torch.long, device="cuda"))
        assert A.T.edge_type.device.type == "cuda"


# Errors ###############################################################################################################

WEIGHTED = window(3, 1).with_weight(torch.ones(7))
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "neither": (lambda: complete(), ValueError, "nothing is given; expected one of num_nodes, batch and ptr"),
    "both": (
        lambda: complete(3, batch=torch.zeros(3, dtype=torch.long)),
        ValueError,
        "num_nodes and batch is given; expected one of num_nodes, batch and ptr",
    ),
    "negative": (lambda: complete(-1), ValueError, "num_nodes is -1; expected an integer of at least 0"),
    "negative size": (lambda: complete([2, -1]), ValueError, "num_nodes is -1; expected an integer of at least 0"),
    "float": (lambda: complete([2.0]), ValueError, "num_nodes is 2.0; expected an integer of at least 0"),
    "tensor": (
        lambda: complete(torch.tensor([2, 3])),
        TypeError,
        "num_nodes is a Tensor; expected an integer, or one per graph",
    ),
    "batch dtype": (
        lambda: complete(batch=torch.zeros(3)),
        TypeError,
        "batch is torch.float32 (3,); expected integers of one dimension",
    ),
    "batch type": (lambda: complete(batch=[0, 1]), TypeError, "batch is list; expected integers of one dimension"),
    "negative batch": (
        lambda: complete(batch=torch.tensor([0, -1])),
        ValueError,
        "batch contains -1; expected graphs of at least 0",
    ),
    "ptr": (
        lambda: complete(ptr=torch.tensor([1, 3])),
        ValueError,
        "ptr is [1, 3]; expected bounds of graphs, rising from 0",
    ),
    "ptr falls": (lambda: complete(ptr=torch.tensor([0, 3, 2])), ValueError, "ptr is [0, 3, 2]; expected bounds"),
    "width": (lambda: window(3, -1), ValueError, "width is -1; expected an integer of at least 0"),
    "dilation": (lambda: window(3, 1, dilation=0), ValueError, "dilation is 0; expected an integer of at least 1"),
    "nodes": (
        lambda: global_nodes([3, 2], [0, 3]),
        ValueError,
        "nodes contains 3; expected places from 0 to 2, the last of a graph",
    ),
    "negative node": (lambda: global_nodes(3, [-1]), ValueError, "nodes contains -1; expected places from 0 to 2"),
    "rows": (lambda: grid(-1, 2), ValueError, "rows is -1; expected an integer of at least 0"),
    "count": (lambda: random_blocks(3, 0), ValueError, "count is 0; expected an integer of at least 1"),
    "block_size": (lambda: random_blocks(3, 1, 0), ValueError, "block_size is 0; expected an integer of at least 1"),
    "degree": (lambda: expander(3, 0), ValueError, "degree is 0; expected an integer of at least 1"),
    "algorithm": (
        lambda: expander(3, algorithm="random"),
        ValueError,
        "algorithm is 'random'; expected one of 'permutation', 'shuffle', 'hamiltonian'",
    ),
    "compat": (lambda: expander(3, compat="pyg"), ValueError, "compat is 'pyg'; expected None or 'exphormer'"),
    "empty union": (lambda: union(), ValueError, "patterns is empty; expected at least one affinity"),
    "union of tensors": (
        lambda: union(window(3, 1), torch.zeros(2, 1)),
        TypeError,
        "patterns[1] is a Tensor; expected a SparseAffinity",
    ),
    "union of shapes": (
        lambda: union(window(3, 1), window(4, 1)),
        ValueError,
        "patterns[1] has shape (4, 4) on cpu, patterns[0] (3, 3) on cpu",
    ),
    "union of weights": (
        lambda: union(window(3, 1), WEIGHTED),
        ValueError,
        "patterns[1] has weights, which a union has no use for; pass with_weight(None)",
    ),
    "type dtype": (
        lambda: SparseAffinity(torch.zeros(2, 2, dtype=torch.long), None, (1, 1), edge_type=torch.zeros(2)),
        TypeError,
        "edge_type has dtype torch.float32; expected an integer Tensor",
    ),
    "type list": (
        lambda: SparseAffinity(torch.zeros(2, 2, dtype=torch.long), None, (1, 1), edge_type=[0, 0]),
        TypeError,
        "edge_type has type list; expected an integer Tensor",
    ),
    "type shape": (
        lambda: SparseAffinity(
            torch.zeros(2, 2, dtype=torch.long), None, (1, 1), edge_type=torch.zeros(3, dtype=torch.long)
        ),
        ValueError,
        "edge_type has shape (3,); expected (2,): one per edge",
    ),
    "type device": (
        lambda: SparseAffinity(
            torch.zeros(2, 2, dtype=torch.long),
            None,
            (1, 1),
            edge_type=torch.zeros(2, dtype=torch.long, device="meta"),
        ),
        ValueError,
        "edge_type is on meta but edge_index is on cpu; move one of them",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()
