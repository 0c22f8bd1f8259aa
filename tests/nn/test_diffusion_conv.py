"""Diffusion layers against dense matrix functions in float64, PyG's APPNP and SGConv, and the layer contract."""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from scipy.stats import poisson
from torch import Tensor, nn
from torch_geometric.edge_index import EdgeIndex
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.nn import APPNP, SGConv

from graphattn import Affinity
from graphattn.diffusion import ConvergenceWarning
from graphattn.nn import DiffusionConv
from graphattn.nn.diffusion_kernel import poisson_weights
from tests.budget import assert_within_budget
from tests.nn.cases import SQUARE, assert_same_run, largest_saved, messages, randomize, run

N, WIDTH, OUT = 8, 7, 3
EDGES = SQUARE.edge_index  # parallel edges, loops, and a node that is isolated
SIMPLE = EDGES[:, [0, 1, 2, 3, 4, 5, 6, 8, 9]]  # one loop a node, as PyG's gcn_norm leaves open which of two counts

# Every kernel with few and with all hops; numbers away from the defaults.
KERNELS: list[dict[str, Any]] = [
    {"kernel": "ppr", "hops": 1, "decay": 0.8},
    {"kernel": "ppr", "hops": 5, "decay": 0.8},
    {"kernel": "ppr", "hops": math.inf, "decay": 0.8},
    {"kernel": "sgc", "hops": 3},
    {"kernel": "katz", "hops": 1, "decay": 0.7},
    {"kernel": "katz", "hops": 4, "decay": 0.7},
    {"kernel": "katz", "hops": math.inf, "decay": 0.7},
    {"kernel": "heat", "time": 2.5},
]
FINITE = [options for options in KERNELS if options.get("hops") != math.inf]
NORMALIZATIONS = ["symmetric", "row", "none"]
every_kernel = pytest.mark.parametrize("options", KERNELS, ids=lambda o: "-".join(map(str, o.values())))
finite_kernels = pytest.mark.parametrize("options", FINITE, ids=lambda o: "-".join(map(str, o.values())))
both_paths = pytest.mark.parametrize("path", ["fused", "messages"])


def features(num_nodes: int = N) -> Tensor:
    return torch.randn(num_nodes, WIDTH, dtype=torch.float64)


def weights(num_edges: int = EDGES.size(1)) -> Tensor:
    return torch.rand(num_edges, dtype=torch.float64) + 0.1


def transition(
    edge_index: Tensor, weight: Tensor | None, normalize: str, add_self_loops: bool, num_nodes: int = N
) -> Tensor:
    """The dense normalized affinity; a node that has a loop gets no other."""
    weight = torch.ones(edge_index.size(1), dtype=torch.float64) if weight is None else weight
    source, target = edge_index
    A = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    A = A.index_put((target, source), weight, accumulate=True)
    if add_self_loops:
        has_loop = torch.zeros(num_nodes, dtype=torch.bool).index_fill(0, source[source == target], True)
        A = A + torch.diag((~has_loop).double())
    degree = A.sum(1)
    inverse = torch.where(degree > 0, 1 / torch.where(degree > 0, degree, 1.0), 0.0)
    if normalize == "symmetric":
        return inverse.sqrt().unsqueeze(1) * A * inverse.sqrt()
    return inverse.unsqueeze(1) * A if normalize == "row" else A


def oracle(A: Tensor, x: Tensor, kernel: str, hops: float = 0, decay: Any = 0.0, time: float = 0.0) -> Tensor:
    """Matrix functions written out."""
    identity = torch.eye(A.size(0), dtype=A.dtype)
    if kernel == "heat":
        return torch.linalg.matrix_exp(-time * (identity - A)) @ x
    if kernel == "sgc":
        return torch.linalg.matrix_power(A, int(hops)) @ x
    if hops == math.inf:
        inverse = torch.linalg.inv(identity - decay * A)
        return (1 - decay) * inverse @ x if kernel == "ppr" else (inverse - identity) @ x
    powers = [torch.linalg.matrix_power(decay * A, t) for t in range(int(hops) + 1)]
    if kernel == "katz":
        return sum(powers[1:]) @ x
    return (1 - decay) * sum(powers[:-1]) @ x + powers[-1] @ x


# The numbers ##########################################################################################################


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("add_self_loops", [False, True])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@every_kernel
def test_every_path_equals_the_dense_formulas(
    options: dict[str, Any], normalize: str, add_self_loops: bool, weighted: bool
) -> None:
    edges, weight, x = SIMPLE, weights(9) if weighted else None, features()
    if normalize == "none":
        weight, add_self_loops = 0.2 * weights(9), False
        assert transition(edges, weight, normalize, False).sum(1).max() < 1
    conv = DiffusionConv(**options, normalize=normalize, add_self_loops=add_self_loops)
    expected = oracle(transition(edges, weight, normalize, add_self_loops), x, **options)
    torch.testing.assert_close(conv(x, edges, weight), expected)
    if options.get("hops") != math.inf:
        with messages(conv):
            torch.testing.assert_close(conv(x, edges, weight), expected)


@every_kernel
def test_gradients_equal_those_of_the_dense_formulas(options: dict[str, Any]) -> None:
    """Of the features, the weights, the linear map and the decay; implicit where there is no last hop."""
    learned = "decay" in options
    conv = DiffusionConv(WIDTH, OUT, **options, learn_decay=learned).double()
    randomize(conv)

    class Oracle(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
            own = options | {"decay": conv.decay} if learned else options
            A = transition(edge_index, edge_attr[:, 0], "symmetric", True)
            return oracle(A, x, **own) @ conv.lin.weight.T + conv.bias

        def named_parameters(self) -> Any:
            return conv.named_parameters()

    class Layer(Oracle):
        def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
            return conv(x, edge_index, edge_attr[:, 0])

    x, weight = features(), weights(9).unsqueeze(1)
    expected = run(Oracle(), x, SIMPLE, weight)
    assert all(grad.abs().max() > 0 for grad in expected.values())
    assert_same_run(run(Layer(), x, SIMPLE, weight), expected)
    if options.get("hops") != math.inf:
        with messages(conv):
            assert_same_run(run(Layer(), x, SIMPLE, weight), expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 0.45])
def test_ppr_is_appnp(alpha: float, weighted: bool) -> None:
    edges, x = SIMPLE, features()
    weight = weights(9) if weighted else None
    expected = APPNP(6, alpha)(x, edges, weight)
    torch.testing.assert_close(DiffusionConv(hops=6, decay=1 - alpha)(x, edges, weight), expected)
    bare = APPNP(6, alpha, add_self_loops=False)(x, edges, weight)
    torch.testing.assert_close(DiffusionConv(hops=6, decay=1 - alpha, add_self_loops=False)(x, edges, weight), bare)
    raw = APPNP(6, alpha, normalize=False)(x, edges, weight)
    torch.testing.assert_close(DiffusionConv(hops=6, decay=1 - alpha, normalize="none")(x, edges, weight), raw)


def test_of_several_loops_the_first_counts() -> None:
    edges, x = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1]]), features(2)
    found = DiffusionConv(hops=3)(x, edges, torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    expected = DiffusionConv(hops=3)(x, edges[:, :3], torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("out_channels", [3, 11])
def test_sgc_is_sgconv(out_channels: int, bias: bool, weighted: bool) -> None:
    """Narrower outputs are mapped first and wider ones last, with the same result."""
    edges, x = SIMPLE, features()
    weight = weights(9) if weighted else None
    theirs = SGConv(WIDTH, out_channels, K=3, bias=bias).double()
    randomize(theirs)
    ours = DiffusionConv(WIDTH, out_channels, kernel="sgc", hops=3, bias=bias).double()
    ours.lin.weight = theirs.lin.weight
    assert (ours.bias is None) == (not bias)
    if bias:
        ours.bias = theirs.lin.bias
    torch.testing.assert_close(ours(x, edges, weight), theirs(x, edges, weight))


def test_the_narrower_features_are_spread() -> None:
    for out_channels, expected in ((3, 3), (11, WIDTH)):
        conv, seen = DiffusionConv(WIDTH, out_channels, hops=1).double(), []
        conv.register_message_forward_hook(lambda module, inputs, out, seen=seen: seen.append(out.size(1)))
        conv(features(), EDGES)
        assert seen == [expected]


@pytest.mark.parametrize("hops", [1, 2, 4, 8, 16, 32, 64, 512])
def test_the_hops_converge_as_fast_as_theory_says(hops: int) -> None:
    """A row-stochastic affinity enlarges no maximum: what K hops leave out is at most 2 c^K of it."""
    x = features()
    few, every = (DiffusionConv(hops=k, decay=0.8, normalize="row")(x, EDGES) for k in (hops, math.inf))
    assert (few - every).abs().max() <= (2 * 0.8**hops + 1e-11) * x.abs().max()


@every_kernel
def test_constant_features_stay_constant_where_the_kernel_sums_to_one(options: dict[str, Any]) -> None:
    x = torch.ones(N, 1, dtype=torch.float64)
    decay = options.get("decay", 0.0)
    hops = options.get("hops")
    total = sum(decay**t for t in range(1, hops + 1)) if hops not in (None, math.inf) else decay / (1 - decay)
    expected = (total if options["kernel"] == "katz" else 1.0) * x
    torch.testing.assert_close(DiffusionConv(**options, normalize="row")(x, EDGES), expected)


@pytest.mark.parametrize("tol", [1e-6, 1e-12])
@pytest.mark.parametrize("time", [0.0, 0.3, 1.0, 5.0, 50.0, 900.0])
def test_poisson_weights(time: float, tol: float) -> None:
    """They leave out at most the tolerance, in hardly more terms than that takes."""
    found = poisson_weights(time, tol)
    torch.testing.assert_close(found, poisson.pmf(range(len(found)), time).tolist(), atol=1e-13, rtol=0)
    assert poisson.sf(len(found) - 1, time) <= tol
    assert len(found) == 1 or poisson.sf(len(found) - 3, time) > tol


def test_heat_does_not_mind_a_hub() -> None:
    """The row sum of the hub is 70, on which a bound of the exponential would depend; the answer does not."""
    leaves = torch.arange(1, 10_000)
    edges = torch.cat([torch.stack([leaves, 0 * leaves]), torch.stack([0 * leaves, leaves])], dim=1)
    x = torch.randn(10_000, 2, dtype=torch.float64)
    conv = DiffusionConv(kernel="heat", time=5.0)
    symmetric = Affinity.from_edge_index(edges, num_nodes=10_000, symmetric=True)
    torch.testing.assert_close(conv(x, edges), conv(x, symmetric))
    # By symmetry all leaves act as one: a star is two nodes.
    degree = torch.tensor([10_000.0, 2.0], dtype=torch.float64)
    A = (
        torch.tensor([[1.0, 9_999.0**0.5], [9_999.0**0.5, 1.0]], dtype=torch.float64)
        / degree.sqrt()
        / degree.sqrt()[:, None]
    )
    start = torch.stack([x[0], x[1:].sum(0) / 9_999**0.5])
    end = torch.linalg.matrix_exp(-5.0 * (torch.eye(2, dtype=torch.float64) - A)) @ start
    out = conv(x, edges)
    torch.testing.assert_close(torch.stack([out[0], out[1:].sum(0) / 9_999**0.5]), end, atol=1e-9, rtol=1e-9)


@every_kernel
def test_a_symmetric_affinity_takes_other_solvers_to_the_same_result(options: dict[str, Any]) -> None:
    both_ways = torch.cat([EDGES, EDGES.flip(0)], dim=1)
    x = features()
    marked = Affinity.from_edge_index(both_ways, num_nodes=N, symmetric=True)
    conv = DiffusionConv(**options)
    torch.testing.assert_close(conv(x, marked), conv(x, both_ways))


@every_kernel
def test_formats_of_the_edges(options: dict[str, Any]) -> None:
    edges = EDGES.unique(dim=1)
    edges = edges[:, (edges[1] * N + edges[0]).argsort()]
    weight, x = weights(edges.size(1)), features()
    coo = torch.sparse_coo_tensor(edges.flip(0), weight, (N, N)).coalesce()
    conv = DiffusionConv(**options)
    expected = conv(x, edges, weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the beta state of its sparse layouts
        csr = coo.to_sparse_csr()
    formats = {
        "int32": (edges.int(), weight),
        "EdgeIndex": (EdgeIndex(edges, sparse_size=(N, N)), weight),
        "sorted EdgeIndex": (EdgeIndex(edges, sparse_size=(N, N), sort_order="col"), weight),
        "Affinity": (Affinity.from_edge_index(edges, weight, N), None),
        "Affinity of one head": (Affinity.from_edge_index(edges, weight.unsqueeze(1), N), None),
        "DenseAffinity": (Affinity.from_dense(coo.to_dense()), None),
        "COO": (coo, None),
        "CSR": (csr, None),
    }
    for name, (given, own) in formats.items():
        torch.testing.assert_close(conv(x, given, own), expected, msg=lambda m, name=name: f"{name}: {m}")


@both_paths
@pytest.mark.parametrize("width", [2, 9])  # narrower and wider than the features
def test_features_in_csr(width: int, path: str) -> None:
    conv = DiffusionConv(WIDTH, width, hops=3).double()
    x = features().relu()
    with messages(conv) if path == "messages" else nullcontext():
        found, expected = (conv(form, EDGES) for form in (x.to_sparse_csr(), x))
    torch.testing.assert_close(found, expected)
    grads, wanted = (torch.autograd.grad(out.square().sum(), list(conv.parameters())) for out in (found, expected))
    torch.testing.assert_close(grads, wanted)


@every_kernel
def test_an_affinity_may_be_normalized_once(options: dict[str, Any]) -> None:
    x, weight = features(), weights()
    ready = Affinity.from_edge_index(EDGES, weight, N).normalize("symmetric")
    found = DiffusionConv(**options, normalize="none")(x, ready)
    torch.testing.assert_close(found, DiffusionConv(**options, add_self_loops=False)(x, EDGES, weight))


@every_kernel
def test_relabelled_nodes_and_edges_give_relabelled_outputs(options: dict[str, Any]) -> None:
    conv, x, weight, perm = DiffusionConv(**options, add_self_loops=False), features(), weights(), torch.randperm(11)
    new = torch.tensor([2, 1, 5, 3, 4, 0, 6, 7])  # 0 -> 2 -> 5 -> 0
    moved = conv(torch.empty_like(x).index_copy(0, new, x), new[EDGES[:, perm]], weight[perm])
    torch.testing.assert_close(moved.index_select(0, new), conv(x, EDGES, weight))


@both_paths
@pytest.mark.parametrize("add_self_loops", [False, True])
@every_kernel
def test_nodes_without_edges(options: dict[str, Any], add_self_loops: bool, path: str) -> None:
    conv = DiffusionConv(**options, add_self_loops=add_self_loops)
    if path == "messages" and options.get("hops") == math.inf:
        path = "fused"
    for num_nodes in (0, 1, 4):
        x = features(num_nodes).requires_grad_()
        edges = torch.empty(2, 0, dtype=torch.long)
        with messages(conv) if path == "messages" else nullcontext():
            out = conv(x, edges)
        A = transition(edges, None, "symmetric", add_self_loops, num_nodes)
        torch.testing.assert_close(out, oracle(A, x, **options))
        out.sum().backward()
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@every_kernel
def test_low_precision(options: dict[str, Any], dtype: torch.dtype) -> None:
    """Within rounding of the dense formula, computed as the layer is: in float32, and rounded once."""
    conv, x = DiffusionConv(**options), features().to(dtype)
    truth = oracle(transition(SIMPLE, None, "symmetric", True), x.double(), **options)
    A = transition(SIMPLE, None, "symmetric", True).float()
    plain = oracle(A, x.float(), **options).to(dtype)
    found = conv(x, SIMPLE)
    assert found.dtype == dtype
    if options.get("hops") == math.inf or options["kernel"] == "heat":  # the tolerance of the layer comes on top
        slack = torch.finfo(torch.float32).eps ** 0.75 / (1 - options.get("decay", 0.0)) * truth.norm()
        eps = torch.finfo(dtype).eps * truth.abs().max()
        assert (found.double() - truth).abs().max() <= 2 * ((plain.double() - truth).abs().max() + eps) + slack
    else:
        assert_within_budget(found, plain, truth)


# The module ###########################################################################################################


def test_repr() -> None:
    assert repr(DiffusionConv()) == "DiffusionConv(kernel='ppr', hops=10, decay=0.9)"
    assert repr(DiffusionConv(kernel="katz", hops=math.inf)) == "DiffusionConv(kernel='katz', hops=inf, decay=0.9)"
    assert repr(DiffusionConv(7, 3, kernel="sgc")) == "DiffusionConv(7, 3, kernel='sgc', hops=2)"
    assert repr(DiffusionConv(7, 3, kernel="heat")) == "DiffusionConv(7, 3, kernel='heat', time=1.0)"


@pytest.mark.parametrize("hops", [4, math.inf])
@pytest.mark.parametrize("kernel", ["ppr", "katz"])
def test_a_learned_decay(kernel: str, hops: float) -> None:
    conv = DiffusionConv(kernel=kernel, hops=hops, decay=0.7, learn_decay=True)
    assert list(conv.state_dict()) == ["decay_logit"]
    torch.testing.assert_close(conv.decay, torch.tensor(0.7))
    x, target = features().float(), features().float()
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        loss = (conv(x, EDGES) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    conv.reset_parameters()
    torch.testing.assert_close(conv.decay, torch.tensor(0.7))


def test_the_decay_is_readable() -> None:
    assert DiffusionConv(decay=0.3).decay == 0.3
    assert DiffusionConv(kernel="sgc").decay is None


def test_reset_parameters() -> None:
    conv = DiffusionConv(WIDTH, OUT)
    before = conv.lin.weight.clone()
    with torch.no_grad():
        conv.bias.fill_(1.0)
    conv.reset_parameters()
    assert not torch.equal(conv.lin.weight, before)
    assert torch.equal(conv.bias, torch.zeros(OUT))
    assert list(DiffusionConv().parameters()) == []


def test_lazy_channels() -> None:
    x = features()
    lazy = DiffusionConv(-1, OUT).double()
    lazy(x, EDGES)
    full = DiffusionConv(WIDTH, OUT).double()
    full.load_state_dict(lazy.state_dict())
    assert torch.equal(full(x, EDGES), lazy(x, EDGES))


@pytest.mark.parametrize("copied", ["state_dict", "deepcopy", "pickle"])
def test_copies_compute_the_same(copied: str) -> None:
    conv = DiffusionConv(WIDTH, OUT, hops=math.inf, learn_decay=True).double()
    randomize(conv)
    if copied == "state_dict":
        other = DiffusionConv(WIDTH, OUT, hops=math.inf, learn_decay=True).double()
        other.load_state_dict(conv.state_dict())
    else:
        other = copy.deepcopy(conv) if copied == "deepcopy" else pickle.loads(pickle.dumps(conv))
    x = features()
    assert torch.equal(other(x, EDGES), conv(x, EDGES))


def test_forward_keeps_nothing_and_edits_nothing() -> None:
    conv = DiffusionConv(WIDTH, OUT).double()
    inputs = [features(), EDGES.clone(), weights()]
    copies, before = [x.clone() for x in inputs], dict(vars(conv))
    conv(*inputs)
    assert dict(vars(conv)) == before
    assert all(torch.equal(x, y) for x, y in zip(inputs, copies, strict=True))


@every_kernel
def test_the_same_bits_twice(options: dict[str, Any]) -> None:
    conv = DiffusionConv(**options)
    x, edges = torch.randn(50, WIDTH), torch.randint(50, (2, 600))
    assert torch.equal(conv(x, edges), conv(x, edges))


@every_kernel
def test_autocast(options: dict[str, Any]) -> None:
    conv = DiffusionConv(WIDTH, OUT, **options)
    x = features().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x, EDGES)
    for grad in torch.autograd.grad(out.float().square().sum(), [x, *conv.parameters()]):
        assert grad.dtype == torch.float32
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("hops", [10, math.inf])
def test_memory_of_edges_by_channels_is_never_kept(hops: float) -> None:
    conv, x = DiffusionConv(hops=hops), torch.randn(20, 32, requires_grad=True)
    edges = torch.randint(20, (2, 3000))
    assert 0 < largest_saved(lambda: conv(x, edges)) < 3000 * 32


def test_a_solve_that_does_not_converge_warns() -> None:
    n = 500
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    conv = DiffusionConv(hops=math.inf, decay=0.999999, add_self_loops=False)
    with pytest.warns(ConvergenceWarning):
        conv(torch.randn(n, 2), ring)


# Messages #############################################################################################################


class _Net(nn.Module):
    def __init__(self, conv: DiffusionConv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(x, edge_index)


@pytest.mark.parametrize("apply_sigmoid", [False, True])
@finite_kernels
def test_an_explainer_masks_every_hop(options: dict[str, Any], apply_sigmoid: bool) -> None:
    """The mask scales the normalized weights of the caller's edges; the loops of the layer keep theirs."""
    edges = torch.tensor([[0, 1, 2, 3, 3], [1, 2, 0, 0, 3]])
    conv, x, mask = DiffusionConv(**options), features(4), torch.rand(5, dtype=torch.float64)
    conv.explain, conv._edge_mask, conv._apply_sigmoid = True, mask, apply_sigmoid
    A = transition(edges, None, "symmetric", True, 4)
    factors = torch.ones(4, 4, dtype=torch.float64)
    factors[edges[1], edges[0]] = mask.sigmoid() if apply_sigmoid else mask
    torch.testing.assert_close(conv(x, edges), oracle(A * factors, x, **options))


@pytest.mark.parametrize(("hops", "reached"), [(1, False), (2, True)])
def test_gnn_explainer_sees_as_far_as_the_hops(hops: int, reached: bool) -> None:
    explainer = Explainer(
        _Net(DiffusionConv(hops=hops)),
        GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node"},
    )
    explainer.algorithm._num_hops = lambda model: 3  # PyG counts one hop a layer
    mask = explainer(torch.randn(4, WIDTH), torch.tensor([[0, 1], [1, 2]]), index=2).edge_mask
    assert mask[1] > 0
    assert (mask[0] > 0) == reached


@finite_kernels
def test_hooks_see_every_hop(options: dict[str, Any]) -> None:
    conv, calls = DiffusionConv(**options), []
    conv.register_propagate_forward_hook(lambda *args: calls.append(1))
    conv(features(), EDGES)
    assert len(calls) >= 10 if options["kernel"] == "heat" else len(calls) == options["hops"]


def test_hooks_can_change_messages() -> None:
    """Doubled messages are a doubled affinity."""
    conv, x = DiffusionConv(kernel="sgc", hops=3), features()
    out = conv(x, EDGES)
    conv.register_message_forward_hook(lambda module, inputs, messages: 2 * messages)
    torch.testing.assert_close(conv(x, EDGES), 8 * out)


def test_a_subclass_is_honoured() -> None:
    class Doubled(DiffusionConv):
        def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
            return 2 * super().message(x_j, edge_weight)

    x = features()
    options: dict[str, Any] = {"kernel": "sgc", "hops": 2}
    torch.testing.assert_close(Doubled(**options)(x, EDGES), 4 * DiffusionConv(**options)(x, EDGES))


@finite_kernels
def test_decomposition_changes_nothing(options: dict[str, Any]) -> None:
    x = torch.randn(N, 6, dtype=torch.float64)
    found = DiffusionConv(**options, decomposed_layers=2)(x, EDGES)
    torch.testing.assert_close(found, DiffusionConv(**options)(x, EDGES))


@pytest.mark.parametrize("kernel", ["ppr", "katz"])
def test_all_hops_make_no_messages(kernel: str) -> None:
    conv = DiffusionConv(kernel=kernel, hops=math.inf)
    with messages(conv), pytest.raises(ValueError, match="hops is inf, whose solver makes no single messages"):
        conv(features(), EDGES)


# Compiled, on CUDA, refused ###########################################################################################


@pytest.mark.usefixtures("reset_dynamo")
@pytest.mark.parametrize(
    ("options", "edges"),
    [
        ({"kernel": "ppr", "hops": math.inf, "learn_decay": True}, "tensor"),
        ({"kernel": "heat", "time": 2.5}, "affinity"),
        *(
            pytest.param(options, edges, marks=pytest.mark.slow)
            for options in [*KERNELS, {"kernel": "ppr", "hops": 3, "learn_decay": True}]
            for edges in ("tensor", "affinity")
        ),
    ],
    ids=str,
)
def test_compiled_equals_eager(options: dict[str, Any], edges: str) -> None:
    conv = DiffusionConv(WIDTH, OUT, **options).double()
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, examples)

    compiled = torch.compile(conv, fullgraph=True, dynamic=True, backend=count)
    for i, (num_nodes, num_edges) in enumerate([(8, 11), (5, 17), (13, 30)]):
        given: Any = torch.randint(num_nodes, (2, num_edges))
        if edges == "affinity":
            given = Affinity.from_edge_index(given, weights(num_edges), num_nodes)
            given.layout.csc()
            given.layout.with_self_loops()[0].csc()
        leaf = features(num_nodes).requires_grad_()
        found, expected = ((layer(leaf, given), list(conv.parameters())) for layer in (compiled, conv))
        torch.testing.assert_close(found[0], expected[0])
        grads = [torch.autograd.grad(out.square().sum(), [leaf, *p]) for out, p in (found, expected)]
        torch.testing.assert_close(*grads)
        if i == 1:
            warm = len(graphs)
    assert len(graphs) == warm


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kernel": "appnp"}, "kernel is 'appnp'; expected one of 'ppr', 'sgc', 'katz', 'heat'"),
        ({"hops": 0}, "hops is 0; expected an integer of at least 1, or math.inf"),
        ({"hops": 1.5}, "hops is 1.5; expected an integer"),
        ({"decay": 1.0}, "decay is 1.0; expected a number between 0 and 1"),
        ({"kernel": "sgc", "hops": math.inf}, "hops is inf, but kernel 'sgc' takes one power of the affinity"),
        ({"kernel": "sgc", "decay": 0.5}, "decay is 0.5, which kernel 'sgc' does not have; leave it out"),
        ({"kernel": "ppr", "time": 1.0}, "time is 1.0, which kernel 'ppr' does not have"),
        ({"kernel": "heat", "hops": 5}, "hops is 5, which kernel 'heat' does not have"),
        ({"kernel": "heat", "decay": 0.5}, "decay is 0.5, which kernel 'heat' does not have"),
        ({"kernel": "heat", "time": -1.0}, "time is -1.0; expected a finite number of at least 0"),
        ({"kernel": "heat", "time": math.inf}, "time is inf; expected a finite number"),
        ({"kernel": "heat", "learn_decay": True}, "learn_decay is True, but kernel 'heat' has no decay"),
        ({"normalize": "softmax"}, "normalize is 'softmax'; expected one of 'symmetric', 'row', 'none'"),
        ({"in_channels": 4}, "in_channels is 4 and out_channels is None; pass both"),
        ({"out_channels": 4}, "in_channels is None and out_channels is 4; pass both"),
        ({"in_channels": 4, "out_channels": 0}, "out_channels is 0; expected at least 1"),
        ({"aggr": "max"}, "aggr is 'max'; a diffusion sums over neighbours"),
        ({"flow": "target_to_source"}, "flow is 'target_to_source'; pass edge_index.flip(0)"),
    ],
    ids=str,
)
def test_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        DiffusionConv(**options)


X = torch.randn(N, WIDTH).double()
CALLS: dict[str, tuple[Callable[[DiffusionConv], Any], type[Exception], str]] = {
    "x of one dimension": (
        lambda c: c(X[0], EDGES),
        ValueError,
        "x has shape (7,); expected a Tensor [nodes, channels]",
    ),
    "x in a list": (lambda c: c(X.tolist(), EDGES), ValueError, "x has type list; expected a Tensor"),
    "x of integers": (lambda c: c(X.long(), EDGES), TypeError, "x has dtype torch.int64; expected a floating-point"),
    "sparse x without a map": (
        lambda c: c(X.to_sparse_csr(), EDGES),
        TypeError,
        "x has layout torch.sparse_csr; expected",
    ),
    "x in COO": (
        lambda c: DiffusionConv(X.size(1), 2)(X.to_sparse_coo(), EDGES),
        TypeError,
        "dense or, in a layer with ch",
    ),
    "no edges": (lambda c: c(X, None), TypeError, "edge_index is a NoneType; expected"),
    "source too large": (
        lambda c: c(X[:5], EDGES),
        ValueError,
        "edge_index[0] contains 7, but there are 5 source nodes",
    ),
    "affinity of another size": (
        lambda c: c(X[:5], Affinity.from_edge_index(EDGES, num_nodes=8)),
        ValueError,
        "edge_index is 8 x 8, but x has 5 rows; expected as many",
    ),
    "rectangular affinity": (
        lambda c: c(X, Affinity.from_edge_index(EDGES, num_nodes=(9, 8))),
        ValueError,
        "edge_index is 8 x 9, but x has 8 rows",
    ),
    "two heads": (
        lambda c: c(X, Affinity.from_edge_index(EDGES, torch.ones(11, 2), 8)),
        ValueError,
        "edge_index has weights for 2 heads; expected one weight per edge",
    ),
    "weights given twice": (
        lambda c: c(X, Affinity.from_edge_index(EDGES, torch.ones(11), 8), torch.ones(11)),
        ValueError,
        "edge_weight is given, but edge_index has weights of its own; pass one of them",
    ),
    "too few weights": (lambda c: c(X, EDGES, torch.ones(5)), ValueError, "weight has shape (5,); expected [11]"),
    "integer weights": (lambda c: c(X, EDGES, torch.ones(11).long()), TypeError, "weight has dtype torch.int64"),
    "negative weights": (
        lambda c: c(X, EDGES, torch.linspace(-1, 1, 11)),
        ValueError,
        "edge_weight contains -1; normalize='symmetric' takes no negatives",
    ),
    "x on another device": (
        lambda c: c(X.to("meta"), EDGES),
        ValueError,
        "x is on meta but edge_index is on cpu; move one of them",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls(case: str) -> None:
    call, error, expected = CALLS[case]
    with pytest.raises(error, match=re.escape(expected)):
        call(DiffusionConv())


def test_signed_weights_serve_where_nothing_is_normalized() -> None:
    weight = 0.2 * torch.linspace(-1, 1, 11).double()
    x = features()
    expected = oracle(transition(EDGES, weight, "none", False), x, "katz", 4, 0.7)
    torch.testing.assert_close(
        DiffusionConv(kernel="katz", hops=4, decay=0.7, normalize="none")(x, EDGES, weight), expected
    )
