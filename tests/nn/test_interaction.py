"""Interaction attention: sums written out, the identities of its theory, and tasks that it can and cannot represent."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor, nn

from graphattn.nn import HyperAttention, HyperFeatureAttention
from tests.nn.global_attention import cases
from tests.nn.global_attention.cases import CHANNELS, SIZES, assert_close, fill, nodes, shuffled_batch

METHODS: dict[str, Callable[[], Any]] = {
    "feature": partial(HyperFeatureAttention, CHANNELS, CHANNELS),
    "feature-rank": partial(HyperFeatureAttention, CHANNELS, CHANNELS, order=3, rank=2),
    "feature-softmax": partial(HyperFeatureAttention, CHANNELS, CHANNELS, rank=3, normalize="softmax"),
    "feature-sinkhorn": partial(HyperFeatureAttention, CHANNELS, CHANNELS, rank=3, normalize="sinkhorn"),
    "feature-causal": partial(HyperFeatureAttention, CHANNELS, CHANNELS, causal=True),
    # Of order 1, whose scores are small enough that no weight vanishes by rounding.
    "feature-softmax-causal": partial(
        HyperFeatureAttention, CHANNELS, CHANNELS, order=1, rank=1, normalize="softmax", causal=True
    ),
    "pairs": partial(HyperAttention, CHANNELS, CHANNELS, rank=3, value_rank=2),
    "pairs-causal": partial(HyperAttention, CHANNELS, CHANNELS, rank=3, causal=True),
    "pairs-ordered": partial(HyperAttention, CHANNELS, CHANNELS, rank=2, value_rank=4, pairs="ordered"),
    "pairs-ordered-causal": partial(HyperAttention, CHANNELS, CHANNELS, rank=2, pairs="ordered", causal=True),
}
every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_graphs(name: str) -> None:
    cases.check_batched_equals_looped(METHODS[name])
    cases.check_nothing_leaks(METHODS[name])
    cases.check_no_nodes(METHODS[name])


@every_method
def test_gradients(name: str) -> None:
    cases.check_gradients(METHODS[name])


@every_method
def test_order_of_the_nodes(name: str) -> None:
    if "causal" in name:
        cases.check_causal(METHODS[name])
    elif "ordered" in name:
        with pytest.raises(AssertionError):
            cases.check_permutation(METHODS[name])
    else:
        cases.check_permutation(METHODS[name])


@every_method
def test_devices_and_dtypes(name: str) -> None:
    cases.check_fake_cuda(METHODS[name])
    module, x, batch = fill(METHODS[name]()), nodes(sum(SIZES)), shuffled_batch()
    exact = module(x, batch).detach()
    for dtype in (torch.float32, torch.bfloat16):
        found = METHODS[name]().to(dtype)
        found.load_state_dict(module.state_dict())
        out = found(x.to(dtype), batch)
        assert out.dtype == dtype
        # A product of up to nine factors, each rounded where it is made and where it comes from.
        assert (out.double() - exact).abs().max() <= 64 * torch.finfo(dtype).eps * exact.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert METHODS[name]().float()(x.float(), batch).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["feature-softmax", "pairs", "pairs-ordered-causal"])
def test_compile(name: str) -> None:
    cases.check_compile(METHODS[name])


def test_pairs_are_never_listed() -> None:
    cases.check_linear_memory(METHODS["pairs"])
    cases.check_linear_memory(METHODS["pairs-ordered-causal"])


# Formulas #############################################################################################################


def linear_attention(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
    return (x @ c @ x.T) @ x @ w


def set_forms(module: HyperFeatureAttention, *forms: tuple[Tensor, Tensor]) -> HyperFeatureAttention:
    """Put bilinear forms and value maps into a module of full forms, whose scores are x (x K)^T."""
    with torch.no_grad():
        for factor, (c, w) in enumerate(forms):
            module.key[factor] = c.T
            module.value[factor] = w
    return module


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_order_one_is_linear_attention() -> None:
    x, c, w = nodes(9), random(CHANNELS, CHANNELS), random(CHANNELS, 4)
    full = set_forms(HyperFeatureAttention(CHANNELS, 4, order=1).double(), (c, w))
    assert_close(full(x), linear_attention(x, c, w))
    low = fill(HyperFeatureAttention(CHANNELS, 4, order=1, rank=2))
    assert_close(low(x), linear_attention(x, low.query[0] @ low.key[0].T, low.value[0]))


@pytest.mark.parametrize("order", [2, 3])
def test_low_rank_forms_are_full_ones(order: int) -> None:
    low = fill(HyperFeatureAttention(CHANNELS, 4, order, rank=2))
    forms = [(low.query[a] @ low.key[a].T, low.value[a]) for a in range(order)]
    full = set_forms(HyperFeatureAttention(CHANNELS, 4, order).double(), *forms)
    x = nodes(8)
    assert_close(low(x), full(x))


def test_product_of_affinities_is_linear_attention_over_products_of_features() -> None:
    """Over all products of two features, the form is the Kronecker product, the value map its columnwise relative."""
    x, d = nodes(9), CHANNELS
    (c1, w1), (c2, w2) = [(random(d, d), random(d, 4)) for _ in range(2)]
    hyper = set_forms(HyperFeatureAttention(d, 4).double(), (c1, w1), (c2, w2))
    z = torch.einsum("na,nb->nab", x, x).flatten(1)
    w = torch.einsum("at,bt->abt", w1, w2).flatten(0, 1)
    assert_close(hyper(x), linear_attention(z, torch.kron(c1, c2), w), roundings=1e4)


def test_softmax_of_the_product() -> None:
    module = fill(METHODS["feature-softmax"]())
    x = nodes(7)
    scores = torch.ones(7, 7, dtype=torch.float64)
    values = torch.ones(7, CHANNELS, dtype=torch.float64)
    for query, key, value in zip(module.query, module.key, module.value, strict=True):
        scores, values = scores * (x @ query @ key.T @ x.T), values * (x @ value)
    assert_close(module(x), scores.softmax(1) @ values)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pairs", ["all", "ordered"])
def test_pairs_are_the_full_tensors(pairs: str, causal: bool) -> None:
    module = fill(HyperAttention(CHANNELS, 4, rank=3, value_rank=2, pairs=pairs, causal=causal))
    x, n = nodes(8), 8
    c = torch.einsum("ar,br,cr->abc", module.query, *module.key)
    w = torch.einsum("bs,cs,st->bct", *module.value, module.proj)
    affinity = torch.einsum("ia,jb,lc,abc->ijl", x, x, x, c)
    values = torch.einsum("jb,lc,bct->jlt", x, x, w)
    i, j, k = torch.meshgrid(*[torch.arange(n)] * 3, indexing="ij")
    allowed = torch.ones(n, n, n, dtype=torch.bool)
    if pairs == "ordered":
        allowed &= j <= k
    if causal:
        allowed &= torch.maximum(j, k) <= i
    assert_close(module(x), torch.einsum("ijl,jlt->it", affinity * allowed, values), roundings=1e4)


def test_homogeneity() -> None:
    """Twice the nodes, a power of two times the output to the last bit: 3^L for L layers of linear attention."""
    x = nodes(6)
    for layers in (1, 2):
        net = nn.Sequential(*[fill(HyperFeatureAttention(CHANNELS, CHANNELS, order=1)) for _ in range(layers)])
        assert torch.equal(net(2 * x), 2.0 ** (3**layers) * net(x))
    for module, degree in ((fill(METHODS["feature-rank"]()), 9), (fill(METHODS["pairs-ordered"]()), 5)):
        assert torch.equal(module(2 * x), 2.0**degree * module(x))


def test_parameters_of_the_same_function() -> None:
    """On one-hot nodes only the products of form and value map count: a factor may move from one to the other."""
    size = 5
    tokens = torch.eye(size, dtype=torch.float64)
    c, w, factor = random(size, size), random(size, 3), torch.rand(size, dtype=torch.float64) + 0.5
    one = set_forms(HyperFeatureAttention(size, 3, order=1).double(), (c, w))
    other = set_forms(HyperFeatureAttention(size, 3, order=1).double(), (c * factor, w / factor.unsqueeze(1)))
    x = tokens[torch.randint(size, (12,))]
    assert_close(one(x), other(x))
    # A value that has a channel is told from others wherever the products differ.
    different = set_forms(HyperFeatureAttention(size, 3, order=1).double(), (c, w + 1))
    assert (one(x) - different(x)).abs().max() > 0.1


# Representation #######################################################################################################


def fitted(module: Any, inputs: Tensor, truth: Callable[[Tensor], Tensor]) -> Any:
    """Fit sequences [B, L, D] by the method of Levenberg and Marquardt in float64."""
    batch = torch.arange(len(inputs)).repeat_interleave(inputs.size(1))
    x = inputs.flatten(0, 1)
    wanted = torch.cat([truth(sequence) for sequence in inputs])
    names, parameters = zip(*module.named_parameters(), strict=True)
    shapes = [parameter.shape for parameter in parameters]

    def residual(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return (torch.func.functional_call(module, values, (x, batch)) - wanted).flatten() / wanted.std()

    jacobian = torch.func.jacfwd(residual)
    result = least_squares(
        lambda flat: residual(torch.from_numpy(flat)).detach().numpy(),
        nn.utils.parameters_to_vector(parameters).detach().numpy(),
        lambda flat: jacobian(torch.from_numpy(flat)).detach().numpy(),
        method="lm",
        max_nfev=100,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    nn.utils.vector_to_parameters(torch.from_numpy(result.x), parameters)
    return module


def relative_error(module: Any, sequence: Tensor, truth: Callable[[Tensor], Tensor]) -> float:
    wanted = truth(sequence)
    return float((module(sequence).detach() - wanted).abs().max() / wanted.abs().max())


def one_hot(sizes: tuple[int, ...], *shape: int) -> Tensor:
    """Random values of several features, one-hot each, side by side."""
    return torch.cat([torch.eye(size, dtype=torch.float64)[torch.randint(size, shape)] for size in sizes], dim=-1)


def test_pairwise_interactions_generalize_over_length() -> None:
    """Fitted on sequences of 10, exact on sequences of 40; with fewer channels than values that cannot be."""
    size, mixed = 4, 2
    table, weights, narrow = random(size, size), random(size, 3), random(size, mixed)

    def truth(x: Tensor) -> Tensor:
        return x @ table @ x.T @ x @ weights

    def truth_of_narrow(x: Tensor) -> Tensor:
        return truth(torch.eye(size, dtype=x.dtype)[torch.cdist(x, narrow).argmin(1)])

    inputs, long = one_hot((size,), 30, 10), one_hot((size,), 40)
    module = fitted(HyperFeatureAttention(size, 3, order=1).double(), inputs, truth)
    assert relative_error(module, long, truth) < 1e-6
    blind = fitted(HyperFeatureAttention(mixed, 3, order=1).double(), inputs @ narrow, truth_of_narrow)
    assert relative_error(blind, long @ narrow, truth_of_narrow) > 0.1


def products_of_features(sizes: tuple[int, int]) -> tuple[Callable[[Tensor], Tensor], HyperFeatureAttention]:
    """A task in which the weight of a pair is a product over two features, and the module that is this task."""
    tables, weights = [random(size, size) for size in sizes], [random(size, 2) for size in sizes]

    def truth(x: Tensor) -> Tensor:
        parts = x.split(sizes, dim=1)
        scores = [part @ table @ part.T for part, table in zip(parts, tables, strict=True)]
        values = [part @ weight for part, weight in zip(parts, weights, strict=True)]
        return (scores[0] * scores[1]) @ (values[0] * values[1])

    first, second = sizes
    pad = nn.functional.pad
    forms = [
        (pad(tables[0], (0, second, 0, second)), pad(weights[0], (0, 0, 0, second))),
        (pad(tables[1], (first, 0, first, 0)), pad(weights[1], (0, 0, first, 0))),
    ]
    return truth, set_forms(HyperFeatureAttention(first + second, 2).double(), *forms)


def test_products_of_features_need_a_channel_per_value_only() -> None:
    """Features of 3 and 4 values: 7 channels, not 12, are exact at any length."""
    truth, module = products_of_features((3, 4))
    for length in (10, 40):
        x = one_hot((3, 4), length)
        assert_close(module(x), truth(x))


def test_products_of_features_generalize_over_length() -> None:
    """Two factors are fitted on sequences of 10, from some of three starts, and exact at 40; one is not enough."""
    sizes = (2, 2)
    truth, _ = products_of_features(sizes)
    inputs, long = one_hot(sizes, 30, 10), one_hot(sizes, 40)
    starts = (fitted(HyperFeatureAttention(4, 2, order=2).double(), inputs, truth) for _ in range(3))
    assert any(relative_error(module, long, truth) < 1e-6 for module in starts)
    plain = fitted(HyperFeatureAttention(4, 2, order=1).double(), inputs, truth)
    assert relative_error(plain, long, truth) > 0.1


def test_three_way_interactions_generalize_over_length() -> None:
    """A weight that depends on three nodes is fitted on sequences of 10 and exact at 40, as none of pairs is."""
    size = 3
    a, b, c, u, w = [random(size, 2) for _ in range(5)]
    t = random(2, 2)

    def truth(x: Tensor) -> Tensor:
        affinity = torch.einsum("ir,jr,lr->ijl", x @ a, x @ b, x @ c)
        return torch.einsum("ijl,js,ls,st->it", affinity, x @ u, x @ w, t)

    inputs, long = one_hot((size,), 30, 10), one_hot((size,), 40)
    module = fitted(HyperAttention(size, 2, rank=4).double(), inputs, truth)
    assert relative_error(module, long, truth) < 1e-6
    plain = fitted(HyperFeatureAttention(size, 2, order=1).double(), inputs, truth)
    assert relative_error(plain, long, truth) > 0.1


# Errors ###############################################################################################################

X = torch.rand(3, CHANNELS)
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "order": (lambda: HyperFeatureAttention(4, 4, 0), ValueError, "order is 0; expected at least 1"),
    "rank": (lambda: HyperFeatureAttention(4, 4, rank=0), ValueError, "rank is 0; expected at least 1"),
    "in_channels": (lambda: HyperFeatureAttention(0, 4), ValueError, "in_channels is 0; expected at least 1"),
    "normalize": (
        lambda: HyperFeatureAttention(4, 4, normalize="max"),
        ValueError,
        "normalize is 'max'; expected one of 'softmax', 'row'",
    ),
    "causal": (
        lambda: HyperFeatureAttention(4, 4, normalize="sinkhorn", causal=True),
        ValueError,
        "causal is True but normalize is 'sinkhorn', which mixes rows; expected one of 'none', 'softmax', 'row'",
    ),
    "pair rank": (lambda: HyperAttention(4, 4, 0), ValueError, "rank is 0; expected at least 1"),
    "value_rank": (lambda: HyperAttention(4, 4, 2, 0), ValueError, "value_rank is 0; expected at least 1"),
    "out_channels": (lambda: HyperAttention(4, 0, 2), ValueError, "out_channels is 0; expected at least 1"),
    "pairs": (
        lambda: HyperAttention(4, 4, 2, pairs="different"),
        ValueError,
        "pairs is 'different'; expected one of 'all', 'ordered'",
    ),
    **{
        f"{name} {what}": call
        for name in ("feature", "pairs")
        for what, call in {
            "shape": (
                lambda name=name: METHODS[name]()(X[:, :5]),
                ValueError,
                "x has shape (3, 5); expected [nodes, 6]",
            ),
            "dtype": (lambda name=name: METHODS[name]()(X.long()), TypeError, "x has dtype torch.int64"),
            "batch": (
                lambda name=name: METHODS[name]()(X, torch.tensor([0, 1])),
                ValueError,
                "expected [3], a graph for each node",
            ),
            "bounds": (lambda name=name: METHODS[name]()(X, max_nodes=2), ValueError, "neither batch nor ptr"),
        }.items()
    },
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_representations() -> None:
    assert repr(METHODS["feature-rank"]()) == "HyperFeatureAttention(6, 6, order=3, rank=2)"
    assert repr(METHODS["pairs"]()) == "HyperAttention(6, 6, rank=3, value_rank=2)"
