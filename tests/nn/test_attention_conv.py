"""The layer contract, for every score and both paths: what any layer must do whatever it computes."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.edge_index import EdgeIndex
from torch_geometric.loader import NeighborLoader
from torch_geometric.nn import to_hetero
from torch_geometric.testing import assert_module
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE

from graphattn import Affinity
from graphattn.nn import AttentionConv
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
    Manhattan,
    assert_same_run,
    batched,
    features,
    make,
    messages,
    oracle,
    run,
    width,
)

every_score = pytest.mark.parametrize("score", SCORE_NAMES)
both_graphs = pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])
both_paths = pytest.mark.parametrize("path", ["fused", "messages"])


def on_path(path: str, conv: AttentionConv) -> Any:
    return messages(conv) if path == "messages" else nullcontext()


def edge_features(graph: Graph, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(graph.num_edges, EDGE_DIM, dtype=dtype)


# The numbers ##########################################################################################################


@pytest.mark.parametrize("with_edge_attr", [False, True])
@both_graphs
@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
@every_score
def test_both_paths_equal_the_formulas(score: str, kind: str, graph: Graph, with_edge_attr: bool) -> None:
    conv = make(score, in_channels=width(graph), normalize=kind, edge_dim=EDGE_DIM if with_edge_attr else None)
    x, edge_attr = features(graph), edge_features(graph) if with_edge_attr else None
    expected, weights = oracle(conv, x, graph, edge_attr)
    for backend in ("auto", "reference"):
        conv.backend = backend
        for path in ("fused", "messages"):
            with on_path(path, conv):
                out, (edges, alpha) = conv(x, graph.edge_index, edge_attr, return_attention_weights=True)
            torch.testing.assert_close(out, expected)
            torch.testing.assert_close(alpha, weights)
            assert torch.equal(edges, graph.edge_index)


@pytest.mark.parametrize("add_self_loops", [False, True])
@both_graphs
@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
@every_score
def test_both_paths_have_the_same_gradients(score: str, kind: str, graph: Graph, add_self_loops: bool) -> None:
    conv = make(
        score, in_channels=width(graph), normalize=kind, edge_dim=EDGE_DIM, add_self_loops=add_self_loops, concat=False
    )
    x, edge_attr = features(graph), edge_features(graph)
    fused = run(conv, x, graph.edge_index, edge_attr)
    with messages(conv):
        assert_same_run(run(conv, x, graph.edge_index, edge_attr), fused)


@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
@every_score
def test_batched_equals_looped(score: str, kind: str) -> None:
    """Unequal sizes and an edgeless graph in the middle; the norm of relu_frobenius is one per graph."""
    graphs = [
        Graph(torch.tensor([[0], [1]]), 2, 1),
        Graph(torch.tensor([[0, 4, 2, 1], [1, 0, 0, 1]]), 2, 5),
        Graph(torch.empty(2, 0, dtype=torch.long), 3, 2),
        Graph(torch.tensor([[1, 0, 1, 1], [4, 2, 2, 0]]), 5, 2),
    ]
    whole, batch, _ = batched(graphs)
    conv = make(score, in_channels=(WIDTH, TARGET_WIDTH), normalize=kind)
    x = torch.randn(whole.num_sources, WIDTH).double(), torch.randn(whole.num_targets, TARGET_WIDTH).double()
    expected, rows, cols = [], 0, 0
    for graph in graphs:
        part = x[0][cols : cols + graph.num_sources], x[1][rows : rows + graph.num_targets]
        expected.append(conv(part, graph.edge_index))
        rows, cols = rows + graph.num_targets, cols + graph.num_sources
    together = batch if kind == "relu_frobenius" else None
    if kind == "symmetric":  # side by side the graphs may be square, which one by one they are not
        assert whole.num_targets != whole.num_sources
    torch.testing.assert_close(conv(x, whole.edge_index, batch=together), torch.cat(expected))
    with messages(conv):
        torch.testing.assert_close(conv(x, whole.edge_index, batch=together), torch.cat(expected))


def test_the_frobenius_norm_without_batch_mixes_graphs() -> None:
    """Without ``batch`` the graphs share one norm: the test above would not see a batch that is ignored."""
    conv = make("dot", normalize="relu_frobenius")
    x = features(SQUARE)
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    assert not torch.allclose(conv(x, SQUARE.edge_index), conv(x, SQUARE.edge_index, batch=batch))


@both_paths
@both_graphs
@every_score
def test_edge_order_does_not_matter(score: str, graph: Graph, path: str) -> None:
    conv = make(score, in_channels=width(graph), edge_dim=EDGE_DIM, add_self_loops=True)
    x, edge_attr, perm = features(graph), edge_features(graph), torch.randperm(graph.num_edges)
    with on_path(path, conv):
        out, (edges, alpha) = conv(x, graph.edge_index, edge_attr, return_attention_weights=True)
        moved, (moved_edges, moved_alpha) = conv(
            x, graph.edge_index[:, perm], edge_attr[perm], return_attention_weights=True
        )
    torch.testing.assert_close(moved, out)
    kept = (edges[0] != edges[1])[: graph.num_edges]  # which of two equal loops carries the weight depends on the order
    assert torch.equal(moved_edges[:, : graph.num_edges], edges[:, perm])
    torch.testing.assert_close(moved_alpha[: graph.num_edges][kept[perm]], alpha[perm][kept[perm]])


@both_paths
@every_score
def test_relabelled_nodes_give_relabelled_outputs(score: str, path: str) -> None:
    """By a 3-cycle, which is not its own inverse: a wrong direction does not pass."""
    conv = make(score, edge_dim=EDGE_DIM, add_self_loops=True)
    x, edge_attr = features(SQUARE), edge_features(SQUARE)
    new = torch.tensor([2, 1, 5, 3, 4, 0, 6, 7])  # 0 -> 2 -> 5 -> 0
    with on_path(path, conv):
        out = conv(x, SQUARE.edge_index, edge_attr)
        moved = conv(torch.empty_like(x).index_copy(0, new, x), new[SQUARE.edge_index], edge_attr)
    torch.testing.assert_close(moved.index_select(0, new), out)


# The module ###########################################################################################################


@every_score
def test_repr(score: str) -> None:
    cls = type(make(score).score).__name__
    assert repr(make(score)) == f"AttentionConv(7, 5, heads=3, score={cls})"
    assert repr(make(score, in_channels=(7, 9))) == f"AttentionConv((7, 9), 5, heads=3, score={cls})"


@every_score
def test_reset_parameters_draws_everything_anew(score: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM, root_weight=True, beta=True)
    before = {name: p.clone() for name, p in conv.named_parameters()}
    conv.reset_parameters()
    assert before
    for name, parameter in conv.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    again = {name: p.clone() for name, p in conv.named_parameters()}
    constant = {"bias", "score.beta", "score.log_sigma"}
    conv.reset_parameters()
    for name, parameter in conv.named_parameters():
        assert torch.equal(parameter, again[name]) == (name in constant), name


def test_initial_sharpness() -> None:
    assert torch.equal(AttentionConv(4, 9, heads=2, score="cosine").score.beta, torch.ones(2))
    sigma = AttentionConv(4, 9, heads=2, score="gaussian").score.log_sigma.exp()
    torch.testing.assert_close(sigma.square(), torch.full((2,), 3.0))


@both_graphs
@every_score
def test_lazy_channels(score: str, graph: Graph) -> None:
    lazy = make(score, in_channels=-1 if graph is SQUARE else (-1, -1), edge_dim=-1, residual=True, root_weight=False)
    x, edge_attr = features(graph), edge_features(graph)
    lazy(x, graph.edge_index, edge_attr)
    full = make(score, in_channels=width(graph), edge_dim=EDGE_DIM, residual=True, root_weight=False)
    full.load_state_dict(lazy.state_dict())
    assert_same_run(run(full, x, graph.edge_index, edge_attr), run(lazy, x, graph.edge_index, edge_attr))


@pytest.mark.parametrize("copied", ["state_dict", "deepcopy", "pickle"])
@every_score
def test_copies_compute_the_same(score: str, copied: str) -> None:
    options: dict[str, Any] = {"edge_dim": EDGE_DIM, "add_self_loops": True, "normalize": "sinkhorn"}
    conv = make(score, **options)
    x, edge_attr = features(SQUARE), edge_features(SQUARE)
    conv(x, SQUARE.edge_index, edge_attr)
    if copied == "state_dict":
        other = make(score, **options)
        other.load_state_dict(conv.state_dict())
    else:
        other = copy.deepcopy(conv) if copied == "deepcopy" else pickle.loads(pickle.dumps(conv))
    expected = run(conv, x, SQUARE.edge_index, edge_attr)
    assert_same_run(run(other, x, SQUARE.edge_index, edge_attr), expected)
    with torch.no_grad():  # a copy has parameters of its own
        for parameter in other.parameters():
            parameter.zero_()
    assert_same_run(run(conv, x, SQUARE.edge_index, edge_attr), expected)


@both_paths
@every_score
def test_return_attention_weights_absent_false_true(score: str, path: str) -> None:
    conv = make(score)
    x, edge_index = torch.randn(2, WIDTH).double(), torch.tensor([[0], [1]])
    with on_path(path, conv):
        absent = conv(x, edge_index)
        no = conv(x, edge_index, return_attention_weights=False)
        yes = conv(x, edge_index, return_attention_weights=True)
    assert isinstance(absent, Tensor)
    assert isinstance(no, Tensor)
    assert torch.equal(absent, no)
    out, (edges, alpha) = yes
    torch.testing.assert_close(out, absent)
    assert torch.equal(edges, edge_index)
    torch.testing.assert_close(alpha, torch.ones(1, HEADS).double())


@both_paths
@every_score
def test_edge_features_matter_and_learn(score: str, path: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM)
    x, edge_attr = features(SQUARE), edge_features(SQUARE)
    with on_path(path, conv):
        found = run(conv, x, SQUARE.edge_index, edge_attr)
        other = run(conv, x, SQUARE.edge_index, edge_attr + 1.0)
        none = conv(x, SQUARE.edge_index)
        zero = conv(x, SQUARE.edge_index, torch.zeros_like(edge_attr))
    assert not torch.allclose(found["out"], other["out"])
    assert found["edge_attr"].abs().sum() > 0
    assert found["score.lin_edge.weight"].abs().sum() > 0
    torch.testing.assert_close(none, zero)  # no features are features of zero


@every_score
def test_edge_features_of_one_dimension(score: str) -> None:
    conv = make(score, edge_dim=1)
    x, edge_attr = features(SQUARE), torch.randn(SQUARE.num_edges).double()
    assert torch.equal(conv(x, SQUARE.edge_index, edge_attr), conv(x, SQUARE.edge_index, edge_attr.unsqueeze(1)))


class _Model(nn.Module):
    def __init__(self, score: str) -> None:
        super().__init__()
        self.conv1 = make(score, in_channels=(-1, -1), normalize="softmax")
        self.conv2 = make(score, in_channels=(-1, -1), heads=2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


@every_score
def test_to_hetero(score: str) -> None:
    types = ["a", "b"], [("a", "to", "b"), ("b", "back", "a"), ("a", "self", "a")]
    x = {"a": torch.randn(6, WIDTH).double(), "b": torch.randn(10, TARGET_WIDTH).double()}
    edges = {
        ("a", "to", "b"): torch.tensor([[0, 5, 5], [9, 1, 1]]),
        ("b", "back", "a"): BIPARTITE.edge_index,
        ("a", "self", "a"): torch.tensor([[0, 3, 4], [1, 3, 0]]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.fx, on its own use of a deprecated function
        model = to_hetero(_Model(score), types, aggr="sum")
    found = model(x, edges)

    def layer(convs: nn.ModuleDict, x: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {"a": 0.0, "b": 0.0}
        for (source, name, target), edge_index in edges.items():
            out[target] = out[target] + convs[f"{source}__{name}__{target}"]((x[source], x[target]), edge_index)
        return out

    hidden = {name: h.relu() for name, h in layer(model.conv1, x).items()}
    for name, expected in layer(model.conv2, hidden).items():
        torch.testing.assert_close(found[name], expected)


@pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])
@every_score
def test_pyg_assert_module(score: str, graph: Graph) -> None:
    """PyG's own contract: edge permutation, and torch sparse layouts as edges."""
    conv = make(score, in_channels=width(graph))
    layouts = [torch.sparse_csc, torch.sparse_coo, *(["torch_sparse"] if WITH_TORCH_SPARSE else [])]
    size = (graph.num_sources, graph.num_targets)
    options = {"expected_size": (graph.num_targets, HEADS * CHANNELS), "test_sparse_layouts": layouts}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the beta state of its sparse layouts
        assert_module(conv, features(graph), graph.edge_index, sparse_size=size, **options)


# What may be passed as edges ##########################################################################################


@both_graphs
@every_score
def test_formats_of_the_edges(score: str, graph: Graph) -> None:
    """Each format gives the same numbers and the weights in the order of its own edges."""
    source, target = graph.edge_index
    key = (target * graph.num_sources + source).unique()
    edge_index = torch.stack([key % graph.num_sources, key // graph.num_sources])  # simple, in the order of a CSR
    conv = make(score, in_channels=width(graph), edge_dim=EDGE_DIM, add_self_loops=True)
    x, edge_attr = features(graph), torch.randn(key.numel(), EDGE_DIM).double()
    expected, (_, alpha) = conv(x, edge_index, edge_attr, return_attention_weights=True)
    size = (graph.num_sources, graph.num_targets)
    ones = torch.ones(key.numel())
    coo = torch.sparse_coo_tensor(edge_index.flip(0), ones, size[::-1]).coalesce()
    dense = coo.to_dense()
    formats = {
        "int32": edge_index.int(),
        "non-contiguous": edge_index.t().contiguous().t(),
        "EdgeIndex": EdgeIndex(edge_index, sparse_size=size),
        "sorted EdgeIndex": EdgeIndex(edge_index, sparse_size=size, sort_order="col"),
        "Affinity": Affinity.from_edge_index(edge_index, num_nodes=size),
        "Affinity of ones": Affinity.from_edge_index(edge_index, ones, num_nodes=size),
        "DenseAffinity": Affinity.from_dense(dense),
        "COO": coo,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        formats |= {"CSR": dense.to_sparse_csr(), "CSC": dense.to_sparse_csc()}
    rows_first = torch.arange(key.numel())
    columns_first = (edge_index[0] * graph.num_targets + edge_index[1]).argsort()  # how CSC stores its values
    for name, edges in formats.items():
        order = columns_first if name == "CSC" else rows_first
        out, (edges_out, found) = conv(x, edges, edge_attr[order], return_attention_weights=True)
        loops = rows_first.numel() + torch.arange(alpha.size(0) - order.numel())
        torch.testing.assert_close(out, expected, msg=lambda m, name=name: f"{name}: {m}")
        torch.testing.assert_close(found, alpha[torch.cat([order, loops])], msg=lambda m, name=name: f"{name}: {m}")
        assert torch.equal(edges_out.long()[:, : key.numel()], edge_index[:, order]), name


@both_paths
@every_score
def test_mini_batch_of_the_first_rows(score: str, path: str) -> None:
    """A loader's bipartite view (x, x[:k]) gives the first k rows of the whole graph."""
    conv = make(score, in_channels=(WIDTH, WIDTH), edge_dim=EDGE_DIM)
    x, edge_attr, k = features(SQUARE), edge_features(SQUARE), 4
    inside = SQUARE.edge_index[1] < k
    with on_path(path, conv):
        full = conv(x, SQUARE.edge_index, edge_attr)
        out = conv((x, x[:k]), SQUARE.edge_index[:, inside], edge_attr[inside])
        sized = conv((x, x[:k]), SQUARE.edge_index[:, inside], edge_attr[inside], size=(8, k))
    torch.testing.assert_close(out, full[:k])
    assert torch.equal(sized, out)


@pytest.mark.skipif(
    not (WITH_PYG_LIB or WITH_TORCH_SPARSE), reason="NeighborLoader needs pyg-lib or torch-sparse, and neither imports"
)
def test_neighbor_loader() -> None:
    conv = make("gatv2")
    x = features(SQUARE)
    full = conv(x, SQUARE.edge_index)
    loader = NeighborLoader(Data(x=x, edge_index=SQUARE.edge_index), num_neighbors=[-1], batch_size=3)
    for batch in loader:
        out = conv(batch.x, batch.edge_index)[: batch.batch_size]
        torch.testing.assert_close(out, full[batch.n_id[: batch.batch_size]])


# Small and odd graphs #################################################################################################


@both_paths
@pytest.mark.parametrize("add_self_loops", [False, True])
@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
@every_score
def test_nodes_without_edges_get_the_root_alone(score: str, kind: str, add_self_loops: bool, path: str) -> None:
    conv = make(score, normalize=kind, edge_dim=EDGE_DIM, add_self_loops=add_self_loops, root_weight=True)
    for num_nodes in (0, 1, 4):
        x, edge_index = torch.randn(num_nodes, WIDTH).double(), torch.empty(2, 0, dtype=torch.long)
        edge_attr = torch.empty(0, EDGE_DIM).double()
        with on_path(path, conv):
            found = run(conv, x, edge_index, edge_attr)
            out, (_, alpha) = conv(x, edge_index, edge_attr, return_attention_weights=True)
        assert all(torch.isfinite(value).all() for value in found.values())
        assert alpha.shape == (num_nodes if add_self_loops else 0, HEADS)
        if not add_self_loops:
            alone = conv.lin_skip(x) if conv.bias is None else conv.lin_skip(x) + conv.bias
            torch.testing.assert_close(out, alone)
        elif kind in ("softmax", "sinkhorn"):
            torch.testing.assert_close(alpha, torch.ones_like(alpha))


@every_score
def test_one_allowed_source_gives_its_value(score: str) -> None:
    conv = make(score, in_channels=(WIDTH, TARGET_WIDTH), root_weight=False, bias=False)
    x = torch.randn(5, WIDTH).double(), torch.randn(3, TARGET_WIDTH).double()
    out = conv(x, torch.tensor([[4, 1], [0, 2]]))
    _, _, values, _ = conv.score.project(*x, None)
    expected = torch.stack([values[4], torch.zeros_like(values[0]), values[1]]).flatten(1)
    torch.testing.assert_close(out, expected)


@every_score
def test_outputs_lie_between_the_values(score: str) -> None:
    conv = make(score, root_weight=False, bias=False)
    x = features(SQUARE)
    _, _, values, _ = conv.score.project(x, x, None)
    out = conv(x, SQUARE.edge_index).view(-1, HEADS, CHANNELS)
    for i in SQUARE.edge_index[1].unique():
        mine = values[SQUARE.edge_index[0][SQUARE.edge_index[1] == i]]
        eps = 4 * torch.finfo(torch.float64).eps * mine.abs().max()
        assert ((mine.amin(0) - eps <= out[i]) & (out[i] <= mine.amax(0) + eps)).all()


def _rankings(conv: AttentionConv, x: Tensor) -> Tensor:
    """Order of all sources by weight, for each target of the complete graph."""
    n = x.size(0)
    _, (_, alpha) = conv(x, torch.cartesian_prod(torch.arange(n), torch.arange(n)).T, return_attention_weights=True)
    return alpha.view(n, n).T.argsort(dim=1)


def test_gat_ranks_all_sources_alike_and_gatv2_need_not() -> None:
    """GAT's attention is static (Brody et al., 2022): the order of the sources is the same for every target."""
    order = _rankings(make("gat", heads=1), torch.randn(6, WIDTH).double())
    assert (order == order[0]).all()
    conv = make("gatv2", heads=1, in_channels=3, out_channels=3, bias=False)
    with torch.no_grad():
        conv.score.lin_l.weight.copy_(-torch.eye(3))
        conv.score.lin_r.weight.copy_(torch.eye(3))
        conv.score.att.fill_(1.0)
    # Node i scores 1 - 0.2 with every other node and 0 with itself, which it thus ranks last.
    assert _rankings(conv, torch.eye(3).double())[:, 0].tolist() == [0, 1, 2]


def test_gaussian_is_dot_for_keys_of_equal_norm() -> None:
    gaussian, dot = make("gaussian", heads=1, bias=False), make("dot", heads=1, bias=False)
    x = torch.nn.functional.normalize(torch.randn(8, CHANNELS)).double()
    for conv in (gaussian, dot):
        for linear in (conv.score.lin_query, conv.score.lin_key, conv.score.lin_value):
            linear.weight = nn.Parameter(torch.eye(CHANNELS).double())
        conv.lin_skip = None
    dot.score._scale = gaussian.score.log_sigma.exp().square().reciprocal().item()
    torch.testing.assert_close(gaussian(x, SQUARE.edge_index), dot(x, SQUARE.edge_index))


# State ################################################################################################################


def test_a_score_serves_one_layer() -> None:
    score = Manhattan()
    AttentionConv(4, 2, score=score)
    with pytest.raises(ValueError, match="score is a Manhattan that already belongs to a layer"):
        AttentionConv(4, 2, score=score)


@both_paths
@every_score
def test_forward_keeps_nothing_on_the_module(score: str, path: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM, add_self_loops=True)
    with on_path(path, conv):
        before = [(name, dict(vars(module))) for name, module in conv.named_modules()]
        conv(features(SQUARE), SQUARE.edge_index, edge_features(SQUARE), return_attention_weights=True)
        assert [(name, dict(vars(module))) for name, module in conv.named_modules()] == before


@every_score
def test_inputs_are_not_edited(score: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM, add_self_loops=True)
    inputs = [features(SQUARE), SQUARE.edge_index.clone(), edge_features(SQUARE)]
    before = [x.clone() for x in inputs]
    conv(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@every_score
def test_threads_can_share_a_layer(score: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM, add_self_loops=True)
    calls = [(features(SQUARE), edge_features(SQUARE)) for _ in range(4)]
    affinity = Affinity.from_edge_index(SQUARE.edge_index, num_nodes=8)
    expected = [run(conv, x, affinity, e)["out"] for x, e in calls]
    found: dict[int, list[Tensor]] = {i: [] for i in range(4)}

    def work(i: int) -> None:
        for _ in range(5):
            found[i].append(conv(calls[i][0], affinity, calls[i][1]).detach())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, outs in found.items():
        assert len(outs) == 5
        assert all(torch.equal(out, expected[i]) for out in outs)
