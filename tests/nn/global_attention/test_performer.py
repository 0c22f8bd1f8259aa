"""PerformerAttention against softmax attention, the theory of its random features and other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.nn.attention import PerformerAttention as PyGPerformerAttention

from graphattn.nn.global_attention import PerformerAttention, SoftmaxAttention
from tests.nn.global_attention import cases
from tests.nn.global_attention.cases import (
    CHANNELS,
    HEADS,
    SIZES,
    assert_close,
    fill,
    foreign,
    heads_of,
    joined,
    nodes,
    shuffled_batch,
)

FEATURES = ("positive", "hyperbolic")


def make(**options: Any) -> Callable[[], PerformerAttention]:
    return lambda: PerformerAttention(CHANNELS, HEADS, **options)


def plain_features(module: PerformerAttention, x: Tensor) -> Tensor:
    """Features by the formula, nothing subtracted."""
    x = x / module.head_channels**0.25
    u = x @ module.projection.to(x.dtype).T
    u = torch.cat([u, -u], dim=-1) if module.features == "hyperbolic" else u
    return (u - x.square().sum(-1, keepdim=True) / 2).exp() / module.num_features**0.5


def dense(module: PerformerAttention, x: Tensor, context: Tensor | None = None) -> Tensor:
    q, k, v = heads_of(module, x, context)
    scores = plain_features(module, q) @ plain_features(module, k).transpose(-2, -1)
    scores = scores.tril() if module.causal else scores
    return joined(module, scores / scores.sum(-1, keepdim=True) @ v)


@pytest.mark.parametrize(
    "options",
    [{}, {"causal": True}, {"features": "hyperbolic", "causal": True}, {"orthogonal": False}, {"compat": "idiap"}],
    ids=str,
)
def test_shared_checks(options: dict[str, Any]) -> None:
    cases.check_all(make(num_features=8, **options))
    cases.check_content_of_padding(make(num_features=8, **options))


def test_dropout() -> None:
    cases.check_dropout(make())


@pytest.mark.parametrize("causal", [False, True])
def test_forms_no_pairs(causal: bool) -> None:
    cases.check_linear_memory(make(causal=causal, num_features=16), 16_384)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_nodes", [1, 64, 200])
def test_equals_the_formula(num_nodes: int, causal: bool, features: str) -> None:
    """What is subtracted in the exponents cancels, over any number of chunks."""
    module, x = fill(make(causal=causal, features=features, num_features=8)()), nodes(num_nodes)
    assert_close(module(x), dense(module, x))


def test_equals_the_formula_with_other_sources() -> None:
    module, x, y = fill(make()()), nodes(5), nodes(9)
    assert_close(module(x, context=y), dense(module, x, y))


@pytest.mark.parametrize("causal", [False, True])
def test_large_exponents(causal: bool) -> None:
    """Where plain features are 0 or infinite in the dtype the quotient is still right, in every part of a graph."""
    module = make(causal=causal, num_features=8)()
    q, k, v = torch.randn(3, 1, HEADS, 150, 2)
    k = k * torch.linspace(0.1, 30.0, 150).view(-1, 1)[torch.randperm(150)]
    wide = module.attend(q.double(), k.double(), v.double(), None, None)
    assert (plain_features(module, k) == 0).all(-1).any()
    out = module.attend(q, k, v, None, None)
    # An exponent of up to 1000 keeps 4 digits fewer than float32 has.
    assert (out - wide).abs().max() <= 1e4 * torch.finfo(torch.float32).eps * v.abs().max()
    assert (wide <= v.amax(2, keepdim=True) + 1e-12).all()
    assert (wide >= v.amin(2, keepdim=True) - 1e-12).all()


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("features", FEATURES)
def test_features_estimate_the_exponential_kernel(features: str, orthogonal: bool) -> None:
    """Without bias: within five standard errors, which the sample itself gives."""
    module = PerformerAttention(8, num_features=100_000, features=features, orthogonal=orthogonal)
    module.redraw(torch.Generator().manual_seed(0))
    q, k = torch.nn.functional.normalize(torch.randn(2, 6, 8, dtype=torch.float64), dim=-1)
    products = plain_features(module, q).unsqueeze(1) * plain_features(module, k) * module.num_features
    if features == "hyperbolic":
        products = torch.stack(products.chunk(2, dim=-1)).mean(0)
    estimate, spread = products.mean(-1), products.std(-1) / products.size(-1) ** 0.5
    truth = (q @ k.T / 8**0.5).exp()
    assert ((estimate - truth).abs() <= 5 * spread).all()
    assert (spread / truth < 0.02).all()


def estimates(num_features: int, repetitions: int, **options: Any) -> Tensor:
    """Independent estimates of ``exp(1 / sqrt(8))``, the kernel of a vector of norm 1 and itself."""
    x = torch.full((8,), 8**-0.5, dtype=torch.float64)
    module = PerformerAttention(8, num_features=num_features * repetitions, **options)
    module.redraw(torch.Generator().manual_seed(0))
    products = plain_features(module, x).square() * module.num_features
    if module.features == "hyperbolic":
        products = products.view(2, repetitions, -1).transpose(0, 1)
    return products.reshape(repetitions, -1).mean(1)


def test_error_falls_with_the_root_of_the_features() -> None:
    truth = torch.tensor(8**-0.5).exp()
    few, many = ((estimates(m, 1000) - truth).square().mean().sqrt() for m in (16, 256))
    assert 3.5 < few / many < 4.5


def test_orthogonal_and_hyperbolic_features_are_more_precise() -> None:
    independent, orthogonal = (estimates(8, 20_000, orthogonal=flag).var() for flag in (False, True))
    assert orthogonal < 0.9 * independent
    assert estimates(8, 20_000, features="hyperbolic", orthogonal=False).var() < 0.9 * independent


def test_approaches_softmax_attention() -> None:
    module, exact = fill(make(num_features=20_000)(), std=0.2), SoftmaxAttention(CHANNELS, HEADS).double()
    module.redraw(torch.Generator().manual_seed(0))
    exact.load_state_dict(module.state_dict(), strict=False)
    x = nodes(12).tanh()
    off = (module(x) - exact(x)).detach().abs().max()
    assert off < 0.01 * exact(x).detach().abs().max()


def test_rows_are_orthogonal_in_blocks() -> None:
    module = PerformerAttention(4, num_features=10)
    for block in module.projection.split(4):
        product = block @ block.T
        off = product - product.diagonal().diag()
        assert off.abs().max() < 1e-5
    assert module.projection.norm(dim=1).std() > 0.1
    independent = PerformerAttention(4, num_features=10, orthogonal=False).projection
    assert (independent[:4] @ independent[:4].T).fill_diagonal_(0).abs().max() > 0.1


def test_rotations_are_uniform() -> None:
    """Every entry of a row is as often positive as negative, which the bare factor of a QR decomposition is not."""
    module, generator = PerformerAttention(2, num_features=2), torch.Generator().manual_seed(0)
    rows = []
    for _ in range(2000):
        module.redraw(generator)
        rows.append(module.projection.clone())
    share = (torch.stack(rows) > 0).float().mean(0)
    assert ((share - 0.5).abs() < 5 * 0.5 / 2000**0.5).all()


def test_redraw() -> None:
    """Only explicitly, reproducibly, kept with the parameters, and without touching the global generator."""
    module, x = make()(), torch.randn(5, CHANNELS)
    out, state = module(x), torch.get_rng_state()
    assert torch.equal(module.train()(x), out)
    module.redraw(torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    first = module.projection.clone()
    assert not torch.equal(module(x), out)
    other = make()()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))
    module.redraw()
    assert not torch.equal(module.projection, first)
    module.redraw(torch.Generator().manual_seed(5))
    assert torch.equal(module.projection, first)


def test_default_number_of_features() -> None:
    for width, expected in ((1, 1), (2, 1), (8, 16), (64, 266)):
        assert PerformerAttention(width).projection.shape == (expected, width)
        assert PerformerAttention(width, features="hyperbolic").num_features == max(2, expected)


def test_bad_options() -> None:
    cases.check_bad_options(PerformerAttention)
    for message, options in {
        "compat is 'torch'": {"compat": "torch"},
        "features is 'relu'": {"features": "relu"},
        "causal is True, but compat='pyg'": {"compat": "pyg", "causal": True},
        "features is 'positive', but compat='idiap'": {"compat": "idiap", "features": "positive"},
        "orthogonal is False": {"compat": "pyg", "orthogonal": False},
        "num_features is 0; expected a number": {"num_features": 0},
        "num_features is 3; expected an even number": {"num_features": 3, "features": "hyperbolic"},
    }.items():
        with pytest.raises(ValueError, match=message):
            make(**options)()


# Other code bases #####################################################################################################


def padded(x: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Padded batch and its mask."""
    there = torch.arange(max(SIZES)) < torch.tensor(SIZES).unsqueeze(1)
    block = x.new_zeros(len(SIZES), max(SIZES), x.size(1))
    block[there] = x[batch.argsort(stable=True)]
    return block, there


def test_compat_performer_pytorch() -> None:
    theirs = foreign("performer_pytorch").SelfAttention(CHANNELS, heads=HEADS, dim_head=5, nb_features=9).double()
    ours = fill(make(head_channels=5, num_features=9, compat="performer-pytorch")())
    load(theirs, ours, theirs.to_q, theirs.to_k, theirs.to_v, theirs.to_out)
    theirs.fast_attention.projection_matrix.copy_(ours.projection)
    x, batch = nodes(sum(SIZES)), shuffled_batch()
    block, there = padded(x, batch)
    assert_close(ours(x, batch)[batch.argsort(stable=True)], theirs(block, mask=there)[there])
    default = make(head_channels=5, num_features=9)().double()
    default.load_state_dict(ours.state_dict())
    assert (default(x, batch) - ours(x, batch)).abs().max() > 1e-6


def test_compat_pyg() -> None:
    theirs = PyGPerformerAttention(CHANNELS, HEADS, head_channels=6).double()
    ours = fill(make(head_channels=6, compat="pyg")())
    assert ours.projection.shape == theirs.fast_attn.projection_matrix.shape
    assert_close(ours.projection.norm(dim=1), torch.ones(len(ours.projection)).double(), roundings=1e10)
    load(theirs, ours, theirs.q, theirs.k, theirs.v, theirs.attn_out)
    theirs.fast_attn.projection_matrix.copy_(ours.projection)
    x, batch = nodes(sum(SIZES)), shuffled_batch()
    block, there = padded(x, batch)
    assert_close(ours(x, batch)[batch.argsort(stable=True)], theirs(block, there)[there])


def load(theirs: Any, ours: PerformerAttention, q: Any, k: Any, v: Any, out: Any) -> None:
    """Give both the same weights; theirs has no biases before the attention."""
    with torch.no_grad():
        ours.qkv.bias.zero_()
        for linear, weight in zip((q, k, v), ours.qkv.weight.chunk(3), strict=True):
            linear.weight.copy_(weight)
        out.load_state_dict(ours.proj.state_dict())
    theirs.eval()


def test_compat_idiap() -> None:
    ours = fill(make(head_channels=4, num_features=10, compat="idiap")())
    features = foreign("fast_transformers.feature_maps").Favor(4, n_dims=10).double()
    features.omega.copy_(ours.projection.T)
    x, batch = nodes(sum(SIZES)), shuffled_batch()
    for graph in (0, 3):
        own = x[batch == graph]
        q, k, v = heads_of(ours, own)
        scores = features(q) @ features(k).transpose(-2, -1)
        assert_close(ours(x, batch)[batch == graph], joined(ours, scores / (scores.sum(-1, keepdim=True) + 1e-6) @ v))


def test_constant_of_performer_pytorch_biases() -> None:
    """What is added to the features shifts the result from exact attention by more than chance does."""
    q, k, v = torch.randn(3, 1, 1, 40, 8, dtype=torch.float64)
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    ours, theirs = (PerformerAttention(8, num_features=100_000, compat=c) for c in (None, "performer-pytorch"))
    theirs.load_state_dict(ours.state_dict())
    found, biased = (module.attend(q, k, v, None, None) for module in (ours, theirs))
    assert (biased - exact).square().mean() > 2 * (found - exact).square().mean()
