"""Attention by co-occurrence: its two limits, lookups against the dense matrix, heads, sequences side by side."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.affinity import Affinity, SparseAffinity, cooccurrence
from graphattn.nn import CooccurrenceAttention
from tests.nn.global_attention.cases import SIZES, Largest, assert_close, nodes, run, shuffled_batch

V = 8
IDS = torch.tensor([3, 0, 5, 3, 7, 1, 1, 6])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def counts(directed: bool = False) -> Tensor:
    """Counts with zeros, and token 4, which stands near nothing."""
    matrix = torch.randint(0, 4, (V, V)).double()
    matrix[4] = matrix[:, 4] = 0.0
    return matrix if directed else matrix + matrix.T


# Limits ###############################################################################################################


def test_gram_matrix_gives_the_gram_matrix_of_the_sequence() -> None:
    b = random(V, 3)
    x = b[IDS]
    module = CooccurrenceAttention(b @ b.T, transform="raw", normalize="none")
    assert_close(module.influence(IDS)[0], x @ x.T)
    assert_close(module(IDS, x), x @ x.T @ x)


@pytest.mark.parametrize("heads", [1, 3])
def test_bilinear_form_of_embeddings_gives_dot_product_attention(heads: int) -> None:
    """With S = B W_q W_k' B' / sqrt(d) the rows are those of softmax attention over the embeddings."""
    b, w_q, w_k, w_v = random(V, 5), random(5, 4), random(5, 4), random(5, 6)
    x = b[IDS]
    module = CooccurrenceAttention(b @ w_q @ w_k.T @ b.T / 2, transform="raw", normalize="softmax", heads=heads)
    truth = F.scaled_dot_product_attention((x @ w_q)[None], (x @ w_k)[None], (x @ w_v)[None])[0]
    if heads == 1:
        assert_close(module(IDS, x @ w_v), truth)
    assert_close(module.influence(IDS).sum(0), (x @ w_q) @ (x @ w_k).T / 2)


# Lookups ##############################################################################################################


@pytest.mark.parametrize("normalize", ["row", "softmax", "none", "symmetric"])
@pytest.mark.parametrize("directed", [False, True])
def test_dense_formula(directed: bool, normalize: str) -> None:
    s = counts(directed)
    module = CooccurrenceAttention(s, normalize=normalize)
    influence = s.log1p()[IDS][:, IDS]
    assert torch.equal(module.influence(IDS)[0], influence)
    weights = Affinity.from_dense(influence).normalize(normalize).matrix
    x = nodes(len(IDS))
    assert_close(module(IDS, x), weights @ x)
    assert_close(module(IDS), weights @ s.log1p()[IDS])  # the rows of the vocabulary by default


@pytest.mark.parametrize("transform", ["raw", "log1p", "ppmi"])
def test_transforms_are_those_of_counting(transform: str) -> None:
    sequences = [torch.randint(0, V, (30,)).tolist() for _ in range(5)]
    raw = cooccurrence(sequences, window=2, num_tokens=V).to(torch.float64)
    expected = cooccurrence(sequences, window=2, num_tokens=V, transform=transform)
    module = CooccurrenceAttention(raw, transform=transform, normalize="none")
    found = module.influence(torch.arange(V))[0]
    # Counting in float64 and storing in float32 differ by one rounding.
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(found, expected.to_dense().matrix.double(), rtol=4 * eps, atol=4 * eps)


def test_every_storage_is_read_alike() -> None:
    """A matrix, a dense affinity, edges, and edges with parallel ones, in any order."""
    s = counts(directed=True)
    expected = CooccurrenceAttention(s)(IDS)
    target, source = s.nonzero(as_tuple=True)
    order = torch.randperm(target.numel())
    edges = torch.stack([source, target])[:, order]
    weight = s[target, source][order]
    halves = SparseAffinity(edges.repeat(1, 2), weight.repeat(2) / 2, (V, V))
    for storage in (Affinity.from_dense(s), SparseAffinity(edges, weight, (V, V)), halves):
        assert torch.equal(CooccurrenceAttention(storage)(IDS), expected)
    assert "value" in dict(CooccurrenceAttention(s).named_buffers())
    assert not list(CooccurrenceAttention(s).parameters()), "nothing is learned"


def test_symmetry_and_permutation() -> None:
    module = CooccurrenceAttention(counts())
    influence = module.influence(IDS)[0]
    assert torch.equal(influence, influence.T)
    directed = CooccurrenceAttention(counts(directed=True)).influence(IDS)[0]
    assert not torch.equal(directed, directed.T)
    order = torch.tensor([2, 0, 4, 6, 1, 5, 3, 7])
    assert torch.equal(module.influence(IDS[order])[0], influence[order][:, order])
    x = nodes(len(IDS))
    assert_close(module(IDS[order], x[order]), module(IDS, x)[order])


@pytest.mark.parametrize("normalize", ["row", "softmax", "none"])
def test_a_token_without_neighbours_gets_nothing(normalize: str) -> None:
    module = CooccurrenceAttention(counts(), normalize=normalize)
    ids = torch.tensor([4, 3, 5, 4])
    found = run(_Of(module, ids), nodes(4))
    assert torch.equal(found["out"][[0, 3]], torch.zeros(2, 6, dtype=torch.float64))
    assert torch.equal(found["x"][[0, 3]], torch.zeros(2, 6, dtype=torch.float64))
    assert found["out"].isfinite().all()
    nothing = CooccurrenceAttention(torch.zeros(V, V))
    assert torch.equal(nothing(ids, torch.rand(4, 2)), torch.zeros(4, 2))


# Heads ################################################################################################################


@pytest.mark.parametrize("heads", [2, 3, V])
def test_heads_share_the_singular_triplets(heads: int) -> None:
    s = counts(directed=True)
    module = CooccurrenceAttention(s, transform="raw", normalize="none", heads=heads)
    influence = module.influence(IDS)
    assert_close(influence.sum(0), s[IDS][:, IDS])
    u, sigma, v = np.linalg.svd(s.numpy())
    for head, triplets in enumerate(np.array_split(np.arange(V), heads)):
        share = torch.from_numpy((u[:, triplets] * sigma[triplets]) @ v[triplets])
        assert_close(influence[head], share[IDS][:, IDS])
    x = nodes(len(IDS), 2 * heads)
    expected = (influence * (s[IDS][:, IDS] != 0)) @ x.view(-1, heads, 2).transpose(0, 1)
    assert_close(module(IDS, x), expected.transpose(0, 1).flatten(1))


# Sequences side by side ###############################################################################################


@pytest.mark.parametrize(
    "options", [{}, {"normalize": "softmax", "heads": 3}, {"normalize": "relu_frobenius"}], ids=str
)
def test_sequences_come_out_as_they_would_alone(options: dict[str, Any]) -> None:
    module = CooccurrenceAttention(counts(directed=True), **options)
    batch = shuffled_batch()
    ids = torch.randint(0, V, batch.shape)
    x = nodes(len(ids))
    found = run(_Of(module, ids), x, batch=batch)
    wider = run(_Of(module, ids), x, batch=batch, num_graphs=len(SIZES), max_nodes=max(SIZES) + 2)
    for graph in range(len(SIZES)):
        own = batch == graph
        alone = module(ids[own], x[own])
        assert_close(found["out"][own], alone)
        assert_close(wider["out"][own], alone)
        # The gradient of one sequence is that of the sequence alone, and 0 elsewhere.
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(module(ids, leaf, batch)[own].square().sum(), leaf)
        part = x[own].clone().requires_grad_()
        (grad_alone,) = torch.autograd.grad(module(ids[own], part).square().sum(), part)
        assert_close(grad[own], grad_alone)
        assert (grad[~own] == 0).all()
    order = batch.argsort(stable=True)
    ptr = torch.tensor((0, *SIZES)).cumsum(0)
    assert_close(module(ids[order], x[order], ptr=ptr), found["out"][order])


def test_gradients() -> None:
    module = CooccurrenceAttention(counts(), normalize="softmax", heads=2)
    x = nodes(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(torch.tensor([1, 4, 2, 1]), x, torch.tensor([0, 1, 0, 0])), (x,))


def test_no_places() -> None:
    module = CooccurrenceAttention(counts())
    nobody = torch.empty(0, dtype=torch.long)
    assert module(nobody).shape == (0, V)
    assert module(nobody, nodes(0), nobody, num_graphs=2).shape == (0, 6)


def test_the_vocabulary_is_never_squared() -> None:
    """A vocabulary of 30,000 tokens: no tensor has more elements than there are entries or pairs of places."""
    size = 30_000
    edges = torch.randint(0, size, (2, 50_000))
    with Largest() as largest:
        module = CooccurrenceAttention(SparseAffinity(edges, torch.rand(50_000), (size, size)))
        module(edges[0, :100], torch.rand(100, 4))
    assert largest.elements <= 2 * 50_000


def test_dtypes() -> None:
    s, x = counts(), nodes(len(IDS))
    module = CooccurrenceAttention(s)
    exact = module(IDS, x)
    for dtype in (torch.float32, torch.bfloat16):
        out = CooccurrenceAttention(s).to(dtype)(IDS, x.to(dtype))
        assert out.dtype == dtype
        assert (out.double() - exact).abs().max() <= 8 * torch.finfo(dtype).eps * exact.abs().max()
    assert torch.equal(module(IDS.int(), x), exact)


# Errors ###############################################################################################################


class _Of(torch.nn.Module):
    """The module of fixed tokens, as a function of the features."""

    def __init__(self, module: CooccurrenceAttention, ids: Tensor) -> None:
        super().__init__()
        self.module = module
        self.ids = ids

    def forward(self, x: Tensor, **graphs: Any) -> Tensor:
        return self.module(self.ids, x, **graphs)


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "unknown id": (
        lambda: CooccurrenceAttention(counts())(torch.tensor([1, V])),
        ValueError,
        "ids contains 8; expected tokens in [0, 8)",
    ),
    "negative id": (
        lambda: CooccurrenceAttention(counts()).influence(torch.tensor([-1])),
        ValueError,
        "ids contains -1; expected tokens in [0, 8)",
    ),
    "ids dtype": (
        lambda: CooccurrenceAttention(counts())(torch.tensor([1.0])),
        TypeError,
        "ids has dtype torch.float32; expected int64 or int32",
    ),
    "ids shape": (
        lambda: CooccurrenceAttention(counts())(torch.tensor([[1]])),
        ValueError,
        "ids has shape (1, 1); expected [places]",
    ),
    "x rows": (
        lambda: CooccurrenceAttention(counts())(IDS, torch.rand(3, 2)),
        ValueError,
        "x has shape (3, 2); expected [8, channels]",
    ),
    "x heads": (
        lambda: CooccurrenceAttention(counts(), heads=3)(IDS, torch.rand(8, 4)),
        ValueError,
        "x has shape (8, 4); expected [8, a multiple of 3 heads]",
    ),
    "x dtype": (
        lambda: CooccurrenceAttention(counts())(IDS, torch.ones(8, 4, dtype=torch.long)),
        TypeError,
        "x has dtype torch.int64",
    ),
    "heads": (
        lambda: CooccurrenceAttention(counts(), heads=9),
        ValueError,
        "heads is 9; expected 1 to 8, the number of tokens",
    ),
    "transform": (
        lambda: CooccurrenceAttention(counts(), transform="log"),
        ValueError,
        "transform is 'log'; expected one of 'raw', 'log1p', 'ppmi'",
    ),
    "normalize": (
        lambda: CooccurrenceAttention(counts(), normalize="max"),
        ValueError,
        "normalize is 'max'; expected one of 'softmax'",
    ),
    "negative counts": (
        lambda: CooccurrenceAttention(-torch.eye(2)),
        ValueError,
        "affinity has the entry -1 but transform is 'log1p', of counts; pass 'raw'",
    ),
    "rectangular": (
        lambda: CooccurrenceAttention(torch.rand(2, 3)),
        ValueError,
        "affinity is 2 x 3; expected a square one without heads",
    ),
    "affinity heads": (
        lambda: CooccurrenceAttention(torch.rand(4, 2, 2)),
        ValueError,
        "affinity is 2 x 2 with 4 heads; expected a square one without heads",
    ),
    "affinity type": (
        lambda: CooccurrenceAttention([[1.0]]),
        TypeError,
        "affinity is a list; expected an Affinity or a floating-point Tensor",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_representation() -> None:
    module = CooccurrenceAttention(counts(), heads=2)
    assert repr(module) == "CooccurrenceAttention(8, transform='log1p', normalize='row', heads=2)"
