"""Attention over many hops and over all of them, against powers and inverses of dense matrices in float64."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch_geometric.explain import Explainer, GNNExplainer

from graphattn import Affinity
from graphattn.diffusion import ConvergenceWarning
from graphattn.nn import AttentionConv
from graphattn.ops.inputs import keep_mask
from tests.budget import assert_within_budget
from tests.nn.cases import (
    BIPARTITE,
    CHANNELS,
    EDGE_DIM,
    HEADS,
    NORMALIZE_KINDS,
    SCORE_NAMES,
    SQUARE,
    TARGET_WIDTH,
    WIDTH,
    Graph,
    assert_same_run,
    batched,
    dense,
    features,
    finished,
    gathered,
    largest_saved,
    make,
    messages,
    oracle_hops,
    oracle_series,
    run,
)

KINDS = [kind for kind in NORMALIZE_KINDS if kind != "none"]
every_score = pytest.mark.parametrize("score", SCORE_NAMES)
every_kind = pytest.mark.parametrize("kind", KINDS)
both_paths = pytest.mark.parametrize("path", ["fused", "messages"])
some_hops = pytest.mark.parametrize("hops", [3, math.inf])


def on_path(path: str, conv: AttentionConv) -> Any:
    return messages(conv) if path == "messages" else nullcontext()


def edge_features() -> Tensor:
    return torch.randn(SQUARE.num_edges, EDGE_DIM, dtype=torch.float64)


# The numbers ##########################################################################################################


@pytest.mark.parametrize("series", ["mean", "sum"])
@pytest.mark.parametrize("hops", [1, 2, 5, math.inf])
@every_kind
@every_score
def test_every_path_equals_the_formulas(score: str, kind: str, hops: float, series: str) -> None:
    learned = (hops, series) != (1, "mean")
    conv = make(score, normalize=kind, hops=hops, series=series, learn_decay=learned, edge_dim=EDGE_DIM)
    x, edge_attr = features(SQUARE), edge_features()
    if hops == 1:  # the scale of a single hop needs no bound
        scale = conv.decay.view(-1, 1) if series == "sum" else 1.0
        plain = make(score, normalize=kind, edge_dim=EDGE_DIM)
        plain.load_state_dict(conv.state_dict(), strict=False)
        _, (_, weights) = plain(x, SQUARE.edge_index, edge_attr, return_attention_weights=True)
        expected = finished(conv, x, scale * gathered(conv, x, SQUARE.edge_index, weights, edge_attr))
    else:
        expected, weights = oracle_hops(conv, x, SQUARE, edge_attr)
    for backend in ("auto", "reference"):
        conv.backend = backend
        for path in ("fused", "messages"):
            with on_path(path, conv):
                out, (edges, alpha) = conv(x, SQUARE.edge_index, edge_attr, return_attention_weights=True)
            torch.testing.assert_close(out, expected)
            torch.testing.assert_close(alpha, weights)
            assert torch.equal(edges, SQUARE.edge_index)


@some_hops
@every_kind
@every_score
def test_gradients_equal_those_of_the_dense_formulas(score: str, kind: str, hops: float) -> None:
    """Of every parameter, the decay's among them, the features and the edge features; implicit for all hops."""
    conv = make(score, normalize=kind, hops=hops, learn_decay=True, edge_dim=EDGE_DIM)
    x, edge_attr = features(SQUARE), edge_features()

    class Oracle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
            return oracle_hops(self.conv, x, SQUARE, edge_attr)[0]

    expected = {n.removeprefix("conv."): g for n, g in run(Oracle(), x, SQUARE.edge_index, edge_attr).items()}
    if kind in ("softmax", "sinkhorn", "sigmoid"):  # the others may find no positive score at all
        assert expected["decay_logit"].abs().min() > 0
    for path in ("fused", "messages"):
        with on_path(path, conv):
            assert_same_run(run(conv, x, SQUARE.edge_index, edge_attr), expected)


def test_a_decay_that_is_not_learned() -> None:
    x = features(SQUARE)
    for hops in (3, math.inf):
        conv = make("dot", hops=hops, decay=0.6)
        assert conv.decay == 0.6
        torch.testing.assert_close(conv(x, SQUARE.edge_index), oracle_hops(conv, x, SQUARE)[0])
        other = make("dot", hops=hops, decay=0.7)
        other.load_state_dict(conv.state_dict())
        assert not torch.allclose(other(x, SQUARE.edge_index), conv(x, SQUARE.edge_index), rtol=1e-3)


@pytest.mark.parametrize("decay", [0.1, 0.9])
@every_score
def test_one_hop_is_plain_attention_to_the_bit(score: str, decay: float) -> None:
    conv, plain = make(score, decay=decay, hops=1, edge_dim=EDGE_DIM), make(score, edge_dim=EDGE_DIM)
    plain.load_state_dict(conv.state_dict())
    x, edge_attr = features(SQUARE), edge_features()
    found, expected = (run(layer, x, SQUARE.edge_index, edge_attr) for layer in (conv, plain))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@both_paths
@pytest.mark.parametrize("heads_of_prior", [1, HEADS])
@some_hops
@every_kind
def test_a_prior_holds_in_every_hop(kind: str, hops: float, heads_of_prior: int, path: str) -> None:
    conv = make("dot", normalize=kind, hops=hops)
    x, prior = features(SQUARE), torch.rand(SQUARE.num_edges, heads_of_prior).double()
    prior[3] = 0.0
    with on_path(path, conv):
        out = conv(x, Affinity.from_edge_index(SQUARE.edge_index, prior, 8))
    torch.testing.assert_close(out, oracle_hops(conv, x, SQUARE, prior=prior)[0])


@pytest.mark.parametrize("hops", [1, 2, 4, 8, 16, 32, 64, 512])
def test_the_hops_converge_as_fast_as_theory_says(hops: int) -> None:
    """The weights of K hops and of all differ by 2 c^K in the 1-norm, and rows that sum to 1 enlarge no maximum."""
    few, every = make("gat", hops=hops, decay=0.8, bias=False), make("gat", hops=math.inf, decay=0.8, bias=False)
    few.load_state_dict(every.state_dict())
    x, edges = features(SQUARE), SQUARE.edge_index
    _, _, values, _ = every.score.project(x, x, None)
    bound = 2 * 0.8**hops * values.abs().max()
    solved = 1e-11 * values.abs().max()  # the residual left by the solver, 1.8e-12, over 1 - c
    assert (few(x, edges) - every(x, edges)).abs().max() <= bound + solved


@pytest.mark.parametrize("kind", ["softmax", "sinkhorn"])
@some_hops
@every_score
def test_outputs_lie_between_the_values(score: str, hops: float, kind: str) -> None:
    conv = make(score, normalize=kind, hops=hops, add_self_loops=True, root_weight=False, bias=False)
    x = features(SQUARE)
    _, _, values, _ = conv.score.project(x, x, None)
    out = conv(x, SQUARE.edge_index).view(-1, HEADS, CHANNELS)
    slack = 1e-10 * values.abs().max()  # of the solver
    assert (values.amin(0) - slack <= out).all()
    assert (out <= values.amax(0) + slack).all()


@every_kind
def test_the_spectral_radius_is_at_most_one(kind: str) -> None:
    """Also of five parallel edges both ways, whose Frobenius norm over the edges is no bound."""
    pair = Graph(torch.tensor([[0, 1]] * 5 + [[1, 0]] * 5).T, 2, 2)
    for graph in (SQUARE, pair):
        conv = make("dot", normalize=kind, hops=3)
        x = torch.randn(graph.num_targets, WIDTH).double()
        _, (_, alpha) = conv(x, graph.edge_index, return_attention_weights=True)
        assert torch.linalg.eigvals(dense(alpha, graph)).abs().max() <= 1 + 1e-12
        torch.testing.assert_close(conv(x, graph.edge_index), oracle_hops(conv, x, graph)[0])


def test_relu_frobenius_stays_what_it_is_without_parallel_edges() -> None:
    edges = SQUARE.edge_index.unique(dim=1)
    conv, plain = make("dot", normalize="relu_frobenius", hops=2), make("dot", normalize="relu_frobenius")
    plain.load_state_dict(conv.state_dict())
    x = features(SQUARE)
    weights = [layer(x, edges, return_attention_weights=True)[1][1] for layer in (conv, plain)]
    assert torch.equal(*weights)


@both_paths
@some_hops
@every_kind
def test_batched_equals_looped(kind: str, hops: float, path: str) -> None:
    """Unequal sizes, parallel edges, an edgeless graph in the middle, and ids of graphs that skip one."""
    graphs = [
        Graph(torch.tensor([[0, 1, 0], [1, 0, 1]]), 2, 2),
        Graph(torch.tensor([[0, 4, 2, 1, 3], [1, 0, 4, 3, 3]]), 5, 5),
        Graph(torch.empty(2, 0, dtype=torch.long), 3, 3),
        Graph(torch.tensor([[1, 0, 1, 1], [2, 2, 0, 0]]), 3, 3),
    ]
    whole, batch, _ = batched(graphs)
    conv = make("dot", normalize=kind, hops=hops, series="sum")
    x = torch.randn(whole.num_targets, WIDTH).double()
    parts = x.split([graph.num_targets for graph in graphs])
    expected = torch.cat([conv(part, graph.edge_index) for part, graph in zip(parts, graphs, strict=True)])
    together = 2 * batch if kind in ("sigmoid", "relu_frobenius") else None
    with on_path(path, conv):
        torch.testing.assert_close(conv(x, whole.edge_index, batch=together), expected)
    if together is not None:
        assert not torch.allclose(conv(x, whole.edge_index), expected)


@both_paths
@some_hops
@every_score
def test_relabelled_nodes_and_edges_give_relabelled_outputs(score: str, hops: float, path: str) -> None:
    conv = make(score, hops=hops, edge_dim=EDGE_DIM, add_self_loops=True)
    x, edge_attr, perm = features(SQUARE), edge_features(), torch.randperm(SQUARE.num_edges)
    new = torch.tensor([2, 1, 5, 3, 4, 0, 6, 7])  # 0 -> 2 -> 5 -> 0
    with on_path(path, conv):
        out = conv(x, SQUARE.edge_index, edge_attr)
        moved = conv(torch.empty_like(x).index_copy(0, new, x), new[SQUARE.edge_index[:, perm]], edge_attr[perm])
    torch.testing.assert_close(moved.index_select(0, new), out)


@both_paths
@some_hops
@every_kind
def test_nodes_without_edges_get_the_root_alone(kind: str, hops: float, path: str) -> None:
    conv = make("dot", normalize=kind, hops=hops, learn_decay=True)
    for graph in (SQUARE, *(Graph(torch.empty(2, 0, dtype=torch.long), n, n) for n in (0, 1, 4))):
        x = torch.randn(graph.num_targets, WIDTH).double()
        with on_path(path, conv):
            found = run(conv, x, graph.edge_index)
        assert all(torch.isfinite(value).all() for value in found.values())
        isolated = torch.ones(graph.num_targets, dtype=torch.bool).index_fill(0, graph.edge_index[1], False)
        assert torch.equal(found["out"][isolated], conv.lin_skip(x)[isolated])


def test_the_formulas_see_mistakes() -> None:
    """Known-wrong variants fail: reversed edges, no edge features, a transposed or shuffled matrix, another series."""
    conv = make("dot", hops=3, edge_dim=EDGE_DIM)
    x, edge_attr = features(SQUARE), edge_features()
    expected, weights = oracle_hops(conv, x, SQUARE, edge_attr)
    first = gathered(conv, x, SQUARE.edge_index, weights, edge_attr)
    matrix = dense(weights, SQUARE)
    wrong = [
        conv(x, SQUARE.edge_index.flip(0), edge_attr),
        conv(x, SQUARE.edge_index),
        finished(conv, x, oracle_series(conv, first, matrix.transpose(1, 2))),
        finished(conv, x, oracle_series(conv, first, matrix.flip(0))),
        finished(conv, x, first),
    ]
    conv.series = "sum"
    wrong.append(conv(x, SQUARE.edge_index, edge_attr))
    assert not any(torch.allclose(out, expected, rtol=1e-3) for out in wrong)


# Training #############################################################################################################


@both_paths
@pytest.mark.parametrize("hops", [1, 3, math.inf])
def test_dropout_acts_on_the_first_hop_alone(hops: float, path: str) -> None:
    conv = make("dot", hops=hops, series="sum", dropout=0.4, edge_dim=EDGE_DIM)
    x, edge_attr = features(SQUARE), edge_features()
    with on_path(path, conv):
        torch.manual_seed(5)
        out, (_, weights) = conv(x, SQUARE.edge_index, edge_attr, return_attention_weights=True)
    torch.manual_seed(5)
    keep = keep_mask(SQUARE.num_edges, HEADS, 0.4, torch.device("cpu"))
    assert 0 < keep.sum() < keep.numel()
    first = gathered(conv, x, SQUARE.edge_index, weights * keep / 0.6, edge_attr)
    torch.testing.assert_close(out, finished(conv, x, oracle_series(conv, first, dense(weights, SQUARE))))
    conv.eval()
    torch.testing.assert_close(conv(x, SQUARE.edge_index, edge_attr), oracle_hops(conv, x, SQUARE, edge_attr)[0])


@some_hops
@every_score
def test_gradcheck(score: str, hops: float) -> None:
    conv = make(score, hops=hops, learn_decay=True, heads=2, out_channels=3, edge_dim=EDGE_DIM, normalize="sigmoid")
    names, parameters = zip(*conv.named_parameters(), strict=True)
    x, edge_attr = features(SQUARE), edge_features()

    def function(x: Tensor, edge_attr: Tensor, *values: Tensor) -> Tensor:
        return functional_call(conv, dict(zip(names, values, strict=True)), (x, SQUARE.edge_index, edge_attr))

    leaves = [t.detach().requires_grad_() for t in (x, edge_attr, *parameters)]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def test_second_derivatives_of_the_reference() -> None:
    conv = make("dot", hops=3, learn_decay=True, heads=2, out_channels=2, backend="reference")
    logit = conv.decay_logit.detach().requires_grad_()
    x = features(SQUARE).requires_grad_()
    function = lambda x, c: functional_call(conv, {"decay_logit": c}, (x, SQUARE.edge_index))  # noqa: E731
    assert torch.autograd.gradgradcheck(function, (x, logit), fast_mode=True)


def test_a_learned_decay() -> None:
    conv = AttentionConv(WIDTH, CHANNELS, HEADS, hops=math.inf, decay=0.7, learn_decay=True)
    assert conv.state_dict()["decay_logit"].shape == (HEADS,)
    torch.testing.assert_close(conv.decay, torch.full((HEADS,), 0.7))
    x, target = torch.randn(8, WIDTH), torch.randn(8, HEADS * CHANNELS)
    optimizer = torch.optim.SGD([conv.decay_logit], lr=1.0)
    losses = []
    for _ in range(5):
        loss = (conv(x, SQUARE.edge_index) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert not torch.allclose(conv.decay, torch.full((HEADS,), 0.7))
    conv.reset_parameters()
    torch.testing.assert_close(conv.decay, torch.full((HEADS,), 0.7))


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_a_learned_decay_stays_between_0_and_1(logit: float) -> None:
    conv = make("dot", hops=3, learn_decay=True, dtype=torch.float32)
    with torch.no_grad():
        conv.decay_logit.fill_(logit)
    assert ((conv.decay > 0) & (conv.decay < 1)).all()
    assert torch.isfinite(conv(features(SQUARE, torch.float32), SQUARE.edge_index)).all()


@pytest.mark.parametrize("copied", ["state_dict", "deepcopy", "pickle"])
def test_copies_compute_the_same(copied: str) -> None:
    conv = make("gatv2", hops=math.inf, learn_decay=True)
    if copied == "state_dict":
        other = make("gatv2", hops=math.inf, learn_decay=True)
        other.load_state_dict(conv.state_dict())
    else:
        other = copy.deepcopy(conv) if copied == "deepcopy" else pickle.loads(pickle.dumps(conv))
    x = features(SQUARE)
    assert_same_run(run(other, x, SQUARE.edge_index), run(conv, x, SQUARE.edge_index))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("hops", [4, math.inf])
@pytest.mark.parametrize("score", ["dot", "gat", "gatv2"])
def test_low_precision(score: str, hops: float, dtype: torch.dtype) -> None:
    """At most twice as wrong as plain torch: the message path, then dense matrices in the dtype of the layer."""
    conv, exact = make(score, dtype=dtype, hops=hops), make(score, hops=hops)
    exact.load_state_dict(conv.state_dict())
    one = make(score, dtype=dtype)
    one.load_state_dict(conv.state_dict())
    draws: list[list[Tensor]] = [[], [], []]
    for _ in range(8):
        x = features(SQUARE, dtype)
        with torch.no_grad():
            with messages(one):
                _, (_, weights) = one(x, SQUARE.edge_index, return_attention_weights=True)
            first = gathered(one, x, SQUARE.edge_index, weights, None)
            series = oracle_series(conv, first.float(), dense(weights.float(), SQUARE)).to(dtype)
            found = [conv(x, SQUARE.edge_index), finished(conv, x, series), exact(x.double(), SQUARE.edge_index)]
        for draw, value in zip(draws, found, strict=True):
            draw.append(value)
    result, plain, truth = (torch.stack(draw) for draw in draws)
    assert result.dtype == dtype
    if hops == math.inf:  # what the tolerance of the solver allows comes on top
        result = result.double()
        scale = truth.abs().max()
        eps = torch.finfo(dtype).eps
        solver = torch.finfo(torch.float32).eps ** 0.75 / (1 - 0.9)
        assert (result - truth).abs().max() <= 2 * ((plain.double() - truth).abs().max() + (eps + solver) * scale)
    else:
        assert_within_budget(result, plain, truth)


@some_hops
def test_autocast(hops: float) -> None:
    conv = make("dot", dtype=torch.float32, hops=hops, learn_decay=True)
    x = features(SQUARE, torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x, SQUARE.edge_index)
    for grad in torch.autograd.grad(out.float().square().sum(), [x, *conv.parameters()]):
        assert grad.dtype == torch.float32
        assert torch.isfinite(grad).all()


@some_hops
def test_nothing_of_edges_by_channels_is_kept(hops: float) -> None:
    heads, channels, n, num_edges = 2, 16, 20, 3000
    conv = make("dot", dtype=torch.float32, heads=heads, out_channels=channels, hops=hops, backend="csr")
    x, edge_index = torch.randn(n, WIDTH, requires_grad=True), torch.randint(n, (2, num_edges))
    assert 0 < largest_saved(lambda: conv(x, edge_index)) < num_edges * heads * channels


def test_a_solve_that_does_not_converge_warns() -> None:
    """A ring whose single edges all weigh 1: with a decay of nearly 1 information needs the whole way round."""
    n = 500
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    conv = make("dot", dtype=torch.float32, hops=math.inf, decay=0.999999)
    with pytest.warns(ConvergenceWarning):
        conv(torch.randn(n, WIDTH), ring)


# Messages #############################################################################################################


@some_hops
@pytest.mark.parametrize("apply_sigmoid", [False, True])
def test_an_explainer_masks_the_edges_in_every_hop(hops: float, apply_sigmoid: bool) -> None:
    conv = make("gat", hops=hops, add_self_loops=True)
    x, mask = features(SQUARE), torch.rand(SQUARE.num_edges).double()
    _, (edges, alpha) = conv(x, SQUARE.edge_index, return_attention_weights=True)
    conv.explain, conv._edge_mask, conv._apply_sigmoid = True, mask, apply_sigmoid
    masked = alpha * torch.cat([mask.sigmoid() if apply_sigmoid else mask, torch.ones(8).double()]).unsqueeze(1)
    first = gathered(conv, x, edges, masked, None)
    expected = finished(conv, x, oracle_series(conv, first, dense(masked, Graph(edges, 8, 8))))
    torch.testing.assert_close(conv(x, SQUARE.edge_index), expected)


@pytest.mark.parametrize(("hops", "reached"), [(1, False), (2, True), (math.inf, True)])
def test_gnn_explainer_sees_as_far_as_the_hops(hops: float, reached: bool) -> None:
    """On the path 0 -> 1 -> 2 the first edge matters to node 2 from two hops on."""
    conv = make("dot", dtype=torch.float32, hops=hops, decay=0.5)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(x, edge_index)

    config = {"mode": "regression", "task_level": "node"}
    explainer = Explainer(
        Net(), GNNExplainer(epochs=3), explanation_type="model", edge_mask_type="object", model_config=config
    )
    # PyG's own count of the hops takes one a layer.
    algorithm = explainer.algorithm
    algorithm._num_hops = lambda model: 3
    mask = explainer(torch.randn(4, WIDTH), torch.tensor([[0, 1], [1, 2]]), index=2).edge_mask
    assert mask[1] > 0
    assert (mask[0] > 0) == reached


@some_hops
def test_hooks_change_the_first_hop(hops: float) -> None:
    conv = make("dot", hops=hops, root_weight=False, bias=False)
    x, calls = features(SQUARE), []
    out = conv(x, SQUARE.edge_index)

    def double(module: nn.Module, inputs: Any, messages: Tensor) -> Tensor:
        calls.append(messages.shape)
        return 2 * messages

    handle = conv.register_message_forward_hook(double)
    torch.testing.assert_close(conv(x, SQUARE.edge_index), 2 * out)
    handle.remove()
    assert calls == [(SQUARE.num_edges, HEADS, CHANNELS)]


@some_hops
def test_decomposition_changes_nothing(hops: float) -> None:
    options: dict[str, Any] = {"out_channels": 4, "edge_dim": EDGE_DIM, "hops": hops}
    whole, split = make("dot", **options), make("dot", decomposed_layers=2, **options)
    split.load_state_dict(whole.state_dict())
    x, edge_attr = features(SQUARE), edge_features()
    assert_same_run(run(split, x, SQUARE.edge_index, edge_attr), run(whole, x, SQUARE.edge_index, edge_attr))


# Compiled, on CUDA, refused ###########################################################################################


@pytest.mark.usefixtures("reset_dynamo")
@pytest.mark.parametrize(
    ("score", "kind", "hops", "edges"),
    [
        ("dot", "softmax", 3, "affinity"),
        ("gatv2", "relu_frobenius", math.inf, "tensor"),
        *(
            pytest.param(score, kind, hops, edges, marks=pytest.mark.slow)
            for score in SCORE_NAMES
            for kind in ("softmax", "sigmoid")
            for hops in (3, math.inf)
            for edges in ("tensor", "affinity")
        ),
    ],
)
def test_compiled_equals_eager(score: str, kind: str, hops: float, edges: str) -> None:
    """The whole layer is one graph, and other sizes do not compile it again."""
    conv = make(score, normalize=kind, hops=hops, learn_decay=True)
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, examples)

    compiled = torch.compile(conv, fullgraph=True, dynamic=True, backend=count)
    for i, (num_nodes, num_edges) in enumerate([(8, 11), (5, 17), (13, 30)]):
        x, edge_index = torch.randn(num_nodes, WIDTH).double(), torch.randint(num_nodes, (2, num_edges))
        if edges == "affinity":
            edge_index = Affinity.from_edge_index(edge_index, torch.rand(num_edges).double(), num_nodes)
            edge_index.layout.csc()
        found = run(compiled, x, edge_index)
        assert_same_run({n.removeprefix("_orig_mod."): g for n, g in found.items()}, run(conv, x, edge_index))
        if i == 1:
            warm = len(graphs)
    assert len(graphs) == warm


@pytest.mark.parametrize("learn_decay", [False, True])
@some_hops
@every_kind
@every_score
def test_fake_cuda(score: str, kind: str, hops: float, learn_decay: bool) -> None:
    conv = make(score, normalize=kind, hops=hops, learn_decay=learn_decay).float()
    with FakeTensorMode():
        parameters = {n: torch.empty(p.shape, device="cuda", requires_grad=True) for n, p in conv.named_parameters()}
        x = torch.empty(8, WIDTH, device="cuda", requires_grad=True)
        edge_index = torch.empty(2, SQUARE.num_edges, dtype=torch.long, device="cuda")
        out = functional_call(conv, parameters, (x, edge_index))
    assert out.shape == (8, HEADS * CHANNELS)
    assert out.device.type == "cuda"
    assert out.requires_grad


def test_repr() -> None:
    assert repr(make("gat", hops=3)) == "AttentionConv(7, 5, heads=3, score=GAT, hops=3)"
    assert repr(make("dot", hops=math.inf)) == "AttentionConv(7, 5, heads=3, score=DotProduct, hops=inf)"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"hops": 0}, "hops is 0; expected an integer of at least 1, or math.inf"),
        ({"hops": 2.0}, "hops is 2.0; expected an integer of at least 1"),
        ({"hops": True}, "hops is True; expected an integer"),
        ({"hops": "inf"}, "hops is 'inf'; expected an integer"),
        ({"hops": -math.inf}, "hops is -inf; expected an integer"),
        ({"decay": 0.0}, "decay is 0.0; expected a number between 0 and 1"),
        ({"decay": 1.0}, "decay is 1.0; expected a number between 0 and 1"),
        ({"decay": math.nan}, "decay is nan; expected a number between 0 and 1"),
        ({"series": "max"}, "series is 'max'; expected one of 'mean', 'sum'"),
        ({"hops": 2, "normalize": "none"}, "hops is 2 but normalize is 'none', whose weights have no bound"),
        ({"hops": math.inf, "normalize": "none"}, "hops is inf but normalize is 'none'"),
        ({"hops": 2, "aggr": "max"}, "hops is 2 but aggr is 'max'; further hops are sums"),
        ({"learn_decay": True}, "learn_decay is True, but one hop with series='mean' does not depend on the decay"),
    ],
    ids=str,
)
def test_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        AttentionConv(WIDTH, CHANNELS, **options)


@pytest.mark.parametrize(
    "call",
    [
        lambda conv: conv(features(BIPARTITE), BIPARTITE.edge_index),
        lambda conv: conv(features(BIPARTITE), Affinity.from_edge_index(BIPARTITE.edge_index, num_nodes=(10, 6))),
    ],
    ids=["tensor", "affinity"],
)
@both_paths
@some_hops
def test_bipartite_graphs_are_refused(hops: float, path: str, call: Callable[[AttentionConv], Tensor]) -> None:
    conv = make("dot", hops=hops, in_channels=(WIDTH, TARGET_WIDTH))
    expected = f"hops is {hops} but x has 10 sources and 6 targets; further hops need the targets to be the sources"
    with on_path(path, conv), pytest.raises(ValueError, match=re.escape(expected)):
        call(conv)


def test_bipartite_graphs_have_the_sum_of_one_hop() -> None:
    conv = make("dot", series="sum", decay=0.3, in_channels=(WIDTH, TARGET_WIDTH), root_weight=False)
    plain = make("dot", in_channels=(WIDTH, TARGET_WIDTH), root_weight=False)
    plain.load_state_dict(conv.state_dict())
    x = features(BIPARTITE)
    torch.testing.assert_close(conv(x, BIPARTITE.edge_index), 0.3 * plain(x, BIPARTITE.edge_index))
