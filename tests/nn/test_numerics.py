"""Derivatives, dtypes, bits and memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from graphattn import Affinity
from graphattn.nn import AttentionConv
from tests.budget import assert_within_budget
from tests.nn.cases import (
    BIPARTITE,
    CHANNELS,
    EDGE_DIM,
    HEADS,
    NORMALIZE_KINDS,
    SCORE_NAMES,
    SQUARE,
    WIDTH,
    features,
    largest_saved,
    make,
    messages,
    oracle,
    rebuild,
    run,
    width,
)

every_score = pytest.mark.parametrize("score", SCORE_NAMES)
LOW = [torch.float16, torch.bfloat16, torch.float32]


def _away_from_kinks(conv: AttentionConv, x: Any, edge_attr: Tensor | None) -> bool:
    """Whether nothing within reach of a finite difference crosses the zero of a ReLU or an absolute value."""
    bends: list[Tensor] = []

    class _Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in (torch.nn.functional.leaky_relu, Tensor.abs, torch.relu):
                bends.append(args[0])
            return function(*args, **(kwargs or {}))

    with _Watch():
        conv(x, BIPARTITE.edge_index, edge_attr)
    return all((bend.abs() > 1e-4).all() for bend in bends)


@pytest.mark.parametrize("path", ["fused", "messages", "reference"])
@pytest.mark.parametrize("add_self_loops", [False, True])
@every_score
def test_gradcheck(score: str, add_self_loops: bool, path: str) -> None:
    """With respect to features, edge features and every parameter, against finite differences."""
    options: dict[str, Any] = {"edge_dim": EDGE_DIM, "add_self_loops": add_self_loops, "heads": 2, "out_channels": 3}
    conv = make(score, in_channels=width(BIPARTITE), **options)
    x, edge_attr = features(BIPARTITE), torch.randn(BIPARTITE.num_edges, EDGE_DIM).double()
    while not _away_from_kinks(conv, x, edge_attr):
        x = features(BIPARTITE)
    conv.backend = "reference" if path == "reference" else "auto"
    if path == "messages":
        conv.register_message_forward_hook(lambda module, inputs, output: None)
    names, parameters = zip(*conv.named_parameters(), strict=True)

    def function(x_src: Tensor, x_dst: Tensor, edge_attr: Tensor, *values: Tensor) -> Tensor:
        inputs = (x_src, x_dst), BIPARTITE.edge_index, edge_attr
        return functional_call(conv, dict(zip(names, values, strict=True)), inputs)

    leaves = [t.detach().requires_grad_() for t in (*x, edge_attr, *parameters)]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
@every_score
def test_gradcheck_of_every_normalization(score: str, kind: str) -> None:
    conv = make(score, normalize=kind, in_channels=width(BIPARTITE), heads=2, out_channels=3)
    x = features(BIPARTITE)
    while not _away_from_kinks(conv, x, None):
        x = features(BIPARTITE)
    leaves = [t.requires_grad_() for t in x]
    assert torch.autograd.gradcheck(lambda a, b: conv((a, b), BIPARTITE.edge_index), leaves, fast_mode=True)


@every_score
def test_second_derivatives_of_the_reference(score: str) -> None:
    conv = make(score, in_channels=width(BIPARTITE), heads=2, out_channels=3, backend="reference", edge_dim=EDGE_DIM)
    x, edge_attr = features(BIPARTITE), torch.randn(BIPARTITE.num_edges, EDGE_DIM).double()
    while not _away_from_kinks(conv, x, edge_attr):
        x = features(BIPARTITE)
    leaves = [t.requires_grad_() for t in (*x, edge_attr)]
    function = lambda a, b, e: conv((a, b), BIPARTITE.edge_index, e)  # noqa: E731
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", LOW)
# Not row and symmetric: they divide by sums that come as close to 0 as chance will have it.
@pytest.mark.parametrize(
    ("score", "kind"),
    [(score, "softmax") for score in SCORE_NAMES]
    + [("dot", kind) for kind in NORMALIZE_KINDS if kind not in ("softmax", "row", "symmetric")],
)
def test_low_precision(score: str, kind: str, dtype: torch.dtype) -> None:
    """At most twice as wrong as the message path (plain torch) in the same dtype; the truth is float64."""
    options: dict[str, Any] = {"normalize": kind, "edge_dim": EDGE_DIM, "add_self_loops": True}
    conv, exact = make(score, dtype=dtype, **options), make(score, **options)
    exact.load_state_dict(conv.state_dict())
    runs: list[list[dict[str, Tensor]]] = [[], [], []]
    for _ in range(8):  # with one draw the luck of single roundings decides
        x, edge_attr = features(SQUARE, dtype), torch.randn(SQUARE.num_edges, EDGE_DIM).to(dtype)
        found = run(conv, x, SQUARE.edge_index, edge_attr)
        truth = run(exact, x.double(), SQUARE.edge_index, edge_attr.double())
        for _ in range(4):
            perm = torch.randperm(SQUARE.num_edges)
            with messages(conv):
                plain = run(conv, x, SQUARE.edge_index[:, perm], edge_attr[perm])
            plain["edge_attr"] = plain["edge_attr"][perm.argsort()]
            for draws, draw in zip(runs, (found, plain, truth), strict=True):
                draws.append(draw)
    # The gradients of biases and of a score's scale are sums that cancel, often to 0: nothing but rounding is left.
    names = [name for name in runs[0][0] if name in ("out", "x[0]", "edge_attr") or name.endswith(".weight")]
    for name in names:
        result, reference, exactly = (torch.stack([draw[name] for draw in draws]) for draws in runs)
        assert result.dtype == dtype
        assert_within_budget(result, reference, exactly, name=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_score
def test_a_hub_in_low_precision(score: str, dtype: torch.dtype) -> None:
    """65,520 equal logits overflow a sum in float16: PyG's layers return zeros here, without a word."""
    n = 70_000
    conv = make(score, dtype=dtype, heads=2, out_channels=2, root_weight=False, bias=False)
    x = torch.randn(1, WIDTH).to(dtype).expand(n, -1)
    edge_index = torch.stack([torch.arange(n), torch.zeros(n, dtype=torch.long)])
    with torch.no_grad():
        out = conv(x, edge_index)[0]
        alone = conv(x[:1], torch.zeros(2, 1, dtype=torch.long))[0]  # one of n equal values is their mean
    truth = make(score, heads=2, out_channels=2, root_weight=False, bias=False)
    truth.load_state_dict(conv.state_dict())
    expected = truth(x[:1].double(), torch.zeros(2, 1, dtype=torch.long))[0].detach()
    assert_within_budget(out, alone, expected)


@pytest.mark.parametrize("path", ["fused", "messages"])
@pytest.mark.parametrize("with_edge_attr", [False, True])
@pytest.mark.parametrize("add_self_loops", [False, True])
@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
@every_score
def test_autocast(score: str, kind: str, add_self_loops: bool, with_edge_attr: bool, path: str) -> None:
    """Forward and backward, the backward outside the region, as training loops do it."""
    conv = make(score, dtype=torch.float32, normalize=kind, edge_dim=EDGE_DIM, add_self_loops=add_self_loops)
    x = features(SQUARE, torch.float32)
    edge_attr = torch.randn(SQUARE.num_edges, EDGE_DIM, requires_grad=True) if with_edge_attr else None
    x.requires_grad_()
    if path == "messages":
        conv.register_message_forward_hook(lambda module, inputs, output: None)
    exact = conv(x, SQUARE.edge_index, edge_attr)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x, SQUARE.edge_index, edge_attr)
    leaves = [x, *conv.parameters(), *([] if edge_attr is None else [edge_attr])]
    found = torch.autograd.grad(out.float().square().sum(), leaves, allow_unused=True)
    expected = torch.autograd.grad(exact.square().sum(), leaves, allow_unused=True)
    for grad, other in zip(found, expected, strict=True):
        assert (grad is None) == (other is None)
        assert grad is None or (grad.dtype == torch.float32 and torch.isfinite(grad).all())


@pytest.mark.parametrize("with_edge_attr", [False, True])
@pytest.mark.parametrize("add_self_loops", [False, True])
@every_score
def test_autocast_is_as_precise_as_plain_torch(score: str, add_self_loops: bool, with_edge_attr: bool) -> None:
    conv = make(score, dtype=torch.float32, edge_dim=EDGE_DIM, add_self_loops=add_self_loops)
    exact = make(score, edge_dim=EDGE_DIM, add_self_loops=add_self_loops)
    exact.load_state_dict(conv.state_dict())
    outs: list[list[Tensor]] = [[], [], []]
    for _ in range(8):
        x = features(SQUARE, torch.float32)
        edge_attr = torch.randn(SQUARE.num_edges, EDGE_DIM) if with_edge_attr else None
        with torch.no_grad():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outs[0].append(conv(x, SQUARE.edge_index, edge_attr))
                with messages(conv):
                    outs[1].append(conv(x, SQUARE.edge_index, edge_attr))
            double = None if edge_attr is None else edge_attr.double()
            outs[2].append(exact(x.double(), SQUARE.edge_index, double))
    assert_within_budget(*(torch.stack(draws) for draws in outs))


@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
@every_score
def test_the_same_bits_twice(score: str, kind: str) -> None:
    conv = make(score, dtype=torch.float32, normalize=kind, edge_dim=EDGE_DIM, add_self_loops=True)
    n, num_edges = 50, 2000
    x, edge_index = torch.randn(n, WIDTH), torch.randint(n, (2, num_edges))
    edge_attr = torch.randn(num_edges, EDGE_DIM)
    first = run(conv, x, edge_index, edge_attr)
    torch.use_deterministic_algorithms(True)
    try:
        second = run(conv, x, edge_index, edge_attr)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("backend", ["csr", "reference"])
@every_score
def test_non_contiguous_inputs(score: str, backend: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM, backend=backend)
    x, edge_attr = features(SQUARE), torch.randn(SQUARE.num_edges, EDGE_DIM).double()
    expected = run(conv, x, SQUARE.edge_index, edge_attr)
    strided = [x.t().contiguous().t(), SQUARE.edge_index.t().contiguous().t(), edge_attr.repeat(1, 2)[:, ::3][:, :1]]
    assert not strided[0].is_contiguous()
    assert not strided[1].is_contiguous()
    strided[2] = torch.stack([edge_attr, edge_attr], dim=2)[..., 0]
    assert not strided[2].is_contiguous()
    found = conv(*strided)
    torch.testing.assert_close(found, expected["out"])


@pytest.mark.parametrize("with_edge_attr", [False, True])
@pytest.mark.parametrize("score", ["dot", "gat", "gatv2"])
def test_nothing_of_edges_by_channels_is_kept(score: str, with_edge_attr: bool) -> None:
    heads, channels, n, num_edges, edge_dim = 2, 16, 20, 3000, 3
    conv = make(score, dtype=torch.float32, heads=heads, out_channels=channels, edge_dim=edge_dim)
    x, edge_index = torch.randn(n, WIDTH, requires_grad=True), torch.randint(n, (2, num_edges))
    edge_attr = torch.randn(num_edges, edge_dim, requires_grad=True) if with_edge_attr else None
    limit = num_edges * heads * channels
    assert 0 < largest_saved(lambda: conv(x, edge_index, edge_attr)) < limit
    with messages(conv):  # the measure sees what the message path keeps
        assert largest_saved(lambda: conv(x, edge_index, edge_attr)) >= limit


@every_score
def test_backends_agree_under_a_prior(score: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM, add_self_loops=True)
    x, edge_attr = features(SQUARE), torch.randn(SQUARE.num_edges, EDGE_DIM).double()
    affinity = Affinity.from_edge_index(SQUARE.edge_index, torch.rand(SQUARE.num_edges, HEADS).double(), 8)
    outs = []
    for backend in ("csr", "reference"):
        conv.backend = backend
        outs.append(run(conv, x, affinity, edge_attr))
    for name in outs[0]:
        torch.testing.assert_close(outs[0][name], outs[1][name], msg=lambda m, name=name: f"{name}: {m}")


def test_the_oracle_sees_mistakes() -> None:
    """Known-wrong variants fail: the transposed graph, swapped ends, a missing edge term, a dropped prior."""
    conv = make("dot", edge_dim=EDGE_DIM)
    x, edge_attr = features(SQUARE), torch.randn(SQUARE.num_edges, EDGE_DIM).double()
    expected, weights = oracle(conv, x, SQUARE, edge_attr)
    wrong = [
        conv(x, SQUARE.edge_index.flip(0), edge_attr),
        conv(x, SQUARE.edge_index),
        conv(x, SQUARE.edge_index, edge_attr.flip(0)),
        rebuild(conv, x, SQUARE.edge_index, weights.flip(1), edge_attr),
        oracle(conv, x, SQUARE, edge_attr, prior=torch.rand(SQUARE.num_edges, 1).double())[0],
    ]
    assert expected.shape == (8, HEADS * CHANNELS)
    assert not any(torch.allclose(out, expected, rtol=1e-3) for out in wrong)
