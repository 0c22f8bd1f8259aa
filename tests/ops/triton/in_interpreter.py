"""Every kernel in Triton's interpreter against the float64 reference: outputs and all gradients.

Run by ``test_interpreter.py`` in a process of its own, where ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.nn import AttentionConv
from graphattn.ops import Layout, additive_attention, edge_aggregate, edge_attention, reference
from graphattn.ops.triton import backward, calls, kernels, launch
from tests.budget import assert_within_budget
from tests.ops.cases import GRAPHS, HEADS, OPS, Graph, Op, random_graph, run


def _additive(x: dict[str, Tensor], graph: Graph, edges: Any, **options: Any) -> Any:
    return additive_attention(**x, edge_index=edges, return_weights="bias" in x, **options)


def _pair_shapes(
    channels: int, width: int, *, bias: bool = False, edge_dim: int = 0
) -> Callable[[Graph], dict[str, tuple[int, ...]]]:
    def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
        nodes = {n: (graph.num_rows if n == "q" else graph.num_cols, HEADS, channels) for n in "qk"}
        nodes |= {"v": (graph.num_cols, HEADS, width), "vector": (HEADS, channels)}
        if edge_dim:
            nodes |= {"edge_attr": (graph.num_edges, edge_dim), "edge_proj": (HEADS, channels, edge_dim)}
        return nodes | ({"bias": (graph.num_edges, HEADS)} if bias else {})

    return shapes


ADDITIVE = {
    "gat": Op(_pair_shapes(1, 5), _additive),
    "gat_edge_attr": Op(_pair_shapes(1, 5, edge_dim=3), _additive),
    "gatv2": Op(_pair_shapes(5, 5), _additive),
    "gatv2_edge_attr": Op(_pair_shapes(5, 5, edge_dim=2), _additive),
    "gatv2_all": Op(_pair_shapes(5, 3, bias=True, edge_dim=2), _additive),
}


def assert_agrees(op: Op, inputs: dict[str, Tensor], graph: Graph, edges: Any = None, **options: Any) -> None:
    """Compare outputs and all gradients with the float64 reference, within the error budget."""
    found = run(op, inputs, graph, edges, backend="triton", **options)
    same_dtype = run(op, inputs, graph, backend="reference", **options)
    truth = run(op, {n: x.double() for n, x in inputs.items()}, graph, backend="reference", **options)
    for name in truth:
        assert_within_budget(found[name], same_dtype[name], truth[name], longest_row=graph.longest, name=name)


@pytest.mark.parametrize("op", ["attention_bias", "gatv2_all"])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_every_graph(graph: Graph, op: str) -> None:
    table = {**OPS, **ADDITIVE}
    assert_agrees(table[op], table[op].inputs(graph), graph)


@pytest.mark.parametrize("op", [*OPS, *ADDITIVE])
def test_every_op(op: str) -> None:
    graph = GRAPHS["duplicates" if op in ADDITIVE else "isolated_rows"]
    table = {**OPS, **ADDITIVE}
    assert_agrees(table[op], table[op].inputs(graph), graph)


@pytest.mark.parametrize("seed", [0, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", ["attention_all", "gatv2_all"])
def test_every_dtype(op: str, dtype: torch.dtype, seed: int) -> None:
    """Among the seeds are those where a rounded sum of a row, taken from every gradient of its scores, shows most."""
    graph = GRAPHS["self_loops"]
    table = {**OPS, **ADDITIVE}
    assert_agrees(table[op], table[op].inputs(graph, dtype, seed), graph)


@pytest.mark.parametrize("segment", [1024, 2])
def test_scores_of_any_size_give_exact_weights(segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the backward keeps of a softmax is exact where the scores are: it depends on their differences alone."""
    monkeypatch.setattr(launch, "SEGMENT", segment)
    graph, op = GRAPHS["self_loops"], OPS["aggregate_all"]
    inputs = op.inputs(graph, torch.float32)
    inputs["scores"] = inputs["scores"].round() + 4096
    assert_agrees(op, inputs, graph)


@pytest.mark.parametrize("channels", [1, 8, 20, 33, 72, 129, 256])
def test_every_width(channels: int) -> None:
    """Every block of channels: full, ragged, and of no power of two."""
    graph = GRAPHS["isolated_rows"]
    shapes = {n: (graph.num_rows if n == "q" else graph.num_cols, 1, channels) for n in "qkv"}
    op = Op(lambda _: shapes, OPS["attention"].call)
    found, truth = (run(op, op.inputs(graph), graph, backend=b) for b in ("triton", "reference"))
    for name in truth:
        assert_within_budget(found[name], truth[name], truth[name], longest_row=2 * channels, name=name)


@pytest.mark.parametrize(("channels", "edge_dim"), [(1, 1), (20, 9), (33, 96), (256, 256)])
def test_every_width_of_edge_features(channels: int, edge_dim: int) -> None:
    """Beside the channels in one block, also the widest, and in several blocks of a column's channels."""
    graph = GRAPHS["isolated_rows"]
    shapes: dict[str, tuple[int, ...]]
    shapes = {n: (graph.num_rows if n == "q" else graph.num_cols, 2, channels) for n in "qkv"}
    shapes |= {"edge_attr": (graph.num_edges, edge_dim), "edge_proj": (2, channels, edge_dim)}
    op = Op(lambda _: shapes, OPS["attention"].call)
    found, truth = (run(op, op.inputs(graph), graph, backend=b) for b in ("triton", "reference"))
    longest = graph.num_edges + 2 * (channels + edge_dim)
    for name in truth:
        assert_within_budget(found[name], truth[name], truth[name], longest_row=longest, name=name)


@pytest.mark.parametrize(
    ("channels", "edge_dim"), [(1, 1), (9, 40), (72, 3), pytest.param(3, 256, marks=pytest.mark.slow)]
)
def test_every_width_of_edge_features_inside_a_score(channels: int, edge_dim: int) -> None:
    """Fewer features than channels, and more, up to a block of their own width."""
    graph = GRAPHS["isolated_rows"]
    op = Op(_pair_shapes(channels, 3, edge_dim=edge_dim), _additive)
    found, truth = (run(op, op.inputs(graph), graph, backend=b) for b in ("triton", "reference"))
    longest = graph.num_edges + 2 * (channels + edge_dim) + HEADS
    for name in truth:
        assert_within_budget(found[name], truth[name], truth[name], longest_row=longest, name=name)


@pytest.mark.parametrize("slots", [1, 7, 17])
def test_a_projection_is_multiplied_by_some_edges_at_a_time(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot at a time, and chunks that end within a row and within a tile."""
    graph, op = GRAPHS["duplicates"], ADDITIVE["gatv2_all"]
    monkeypatch.setattr(backward, "CHUNK_BYTES", slots * HEADS * 8 * 8)  # of eight channels in float64
    assert_agrees(op, op.inputs(graph), graph)


def test_the_only_neighbour_has_no_gradient_of_its_score() -> None:
    """Not the rounding of one: its weight is 1 whatever the score."""
    graph = Graph(torch.stack([torch.zeros(50, dtype=torch.long), torch.arange(50)]), 50, 3)
    for op in (OPS["attention_all"], ADDITIVE["gatv2_all"]):
        found = run(op, op.inputs(graph, torch.float32), graph, backend="triton")
        assert (found["gradient of q"] == 0).all()
        assert (found["gradient of bias"] == 0).all()


@pytest.mark.parametrize("fixed", ["edge_attr", "edge_proj"])
def test_edge_features_and_their_projection_can_be_constants(fixed: str) -> None:
    graph, full = GRAPHS["self_loops"], ADDITIVE["gatv2_all"]
    inputs = full.inputs(graph)
    constant = inputs.pop(fixed)
    assert_agrees(
        Op(
            full.shapes,
            lambda x, *rest, **options: full.call({**x, fixed: constant.to(x["q"].dtype)}, *rest, **options),
        ),
        inputs,
        graph,
    )


def test_indices_of_64_bits() -> None:
    graph = GRAPHS["self_loops"]
    layout = Layout(graph.edge_index, graph.num_rows, graph.num_cols)
    rowptr, col, perm = layout.csr()
    colptr, row, slot = layout.csc()
    assert rowptr.dtype == torch.int32
    wide = Layout(graph.edge_index, 4, 4, (rowptr.long(), col.long(), perm), (colptr.long(), row.long(), slot))
    assert_agrees(OPS["attention_all"], OPS["attention_all"].inputs(graph), graph, wide)


@pytest.mark.parametrize("op", ["attention_bias", "attention_all", "sddmm", "spmm", "gatv2_all"])
def test_long_rows_and_columns_are_split(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of less than a segment, exactly one, several and a ragged last; the same for columns."""
    monkeypatch.setattr(launch, "SEGMENT", 4)
    rows = [0] * 3 + [1] * 4 + [2] * 8 + [4] * 11 + [5] * 2
    cols = [0, 1, 2, 0, 0, 0, 0, *range(3, 11), *([0] * 7), 1, 1, 1, 1, 2, 2]
    graph = Graph(torch.tensor([cols, rows]), 6, 11)
    table = {**OPS, **ADDITIVE}
    inputs = table[op].inputs(graph)
    if "bias" in inputs:
        inputs["bias"][7:11] = -torch.inf  # a whole segment without a score
    assert_agrees(table[op], inputs, graph)


@pytest.mark.parametrize("neighbours", [2500, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_hub_of_many_neighbours(neighbours: int) -> None:
    """More neighbours than one segment and one tile hold, with the constants as they are."""
    edges = torch.stack([torch.arange(neighbours) % 40, torch.zeros(neighbours, dtype=torch.long)])
    graph = Graph(edges, 2, 40)
    shapes = {"q": (2, 1, 3), "k": (40, 1, 3), "v": (40, 1, 3)}
    op = Op(lambda _: shapes, OPS["attention"].call)
    assert_agrees(op, op.inputs(graph), graph)


def test_masked_rows_are_empty_and_their_gradients_exactly_zero() -> None:
    graph = GRAPHS["self_loops"]
    inputs = OPS["attention_bias"].inputs(graph)
    masked = graph.edge_index[1] == 1
    inputs["bias"][masked] = -torch.inf
    found = run(OPS["attention_bias"], inputs, graph, backend="triton")
    assert all(torch.isfinite(x).all() for x in found.values())
    assert (found["output 0"][1] == 0).all()
    assert (found["output 1"][masked] == 0).all()
    assert (found["gradient of bias"][masked] == 0).all()
    assert (found["gradient of q"][1] == 0).all()
    assert_agrees(OPS["attention_bias"], inputs, graph)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_score_spoils_its_own_row_and_head_alone(bad: float) -> None:
    graph = GRAPHS["self_loops"]
    inputs = OPS["attention_bias"].inputs(graph)
    edge = 4
    target = graph.edge_index[1, edge]
    inputs["bias"][edge, 2] = bad
    out, weights = OPS["attention_bias"].call(inputs, graph, graph.edge_index, backend="triton")
    expected = torch.zeros(graph.num_rows, HEADS, dtype=torch.bool)
    expected[target, 2] = True
    assert torch.equal(out.isnan().all(dim=2), expected)
    assert torch.equal(out.isnan().any(dim=2), expected)
    assert torch.equal(weights.isnan(), expected[graph.edge_index[1]])


# Dropout #############################################################################################################


def attention_with_mask(x: dict[str, Tensor], graph: Graph, keep: Tensor) -> tuple[Tensor, Tensor | None]:
    """Attend by the reference with a mask that is given."""
    layout = Layout(graph.edge_index, graph.num_rows, graph.num_cols)
    edges = x.get("edge_attr"), x.get("edge_proj")
    if "vector" not in x:
        scale = x["k"].size(2) ** -0.5
        return reference.attention(x["q"], x["k"], x["v"], layout, scale, x["bias"], keep, *edges, True)
    source, target = graph.edge_index
    total = x["q"][target] + x["k"][source] + torch.einsum("ed,hcd->ehc", *edges)
    scores = (torch.nn.functional.leaky_relu(total, 0.2) * x["vector"]).sum(dim=2) + x["bias"]
    return reference.aggregate(scores, x["v"], layout, keep, None, None, True)


@pytest.mark.parametrize("which", ["attention_bias", "attention_all", "gatv2_all"])
def test_dropout_is_replayed_by_the_backward(which: str) -> None:
    """Read the mask off a call whose values name their source, then differentiate the reference with that mask."""
    graph = random_graph(4, 8, 20)
    op = {**OPS, **ADDITIVE}[which]
    inputs = op.inputs(graph)
    names = torch.eye(graph.num_cols, dtype=torch.float64).unsqueeze(1).expand(-1, HEADS, -1)
    named = {n: names if n == "v" else x for n, x in inputs.items() if n not in ("edge_attr", "edge_proj")}
    source, target = graph.edge_index

    torch.manual_seed(5)
    shown, _ = op.call(named, graph, graph.edge_index, dropout=0.5, backend="triton")
    keep = shown[target, :, source] != 0
    assert 0 < keep.sum() < keep.numel()

    torch.manual_seed(5)
    found = run(op, inputs, graph, backend="triton", dropout=0.5)
    truth = run(Op(op.shapes, lambda x, *_: attention_with_mask(x, graph, keep * 2.0)), inputs, graph)
    for name in truth:
        assert_within_budget(found[name], truth[name], truth[name], longest_row=graph.longest, name=name)


def test_dropout_drops_its_share_and_everything_at_one() -> None:
    edges = torch.stack([torch.arange(800), torch.zeros(800, dtype=torch.long)])
    scores, v = torch.zeros(800, 2), torch.ones(800, 2, 1)
    out = edge_aggregate(scores, v, edges, num_rows=1, dropout=0.25, backend="triton")
    # A mean of 800 draws of 0 or 4/3, within five standard deviations.
    assert (out - 1).abs().max() < 5 * (0.25 / 0.75 / 800) ** 0.5
    assert out[0, 0] != out[0, 1]
    again = edge_aggregate(scores, v, edges, num_rows=1, dropout=0.25, backend="triton")
    assert not torch.equal(out, again)
    assert (edge_aggregate(scores, v, edges, num_rows=1, dropout=1.0, backend="triton") == 0).all()


# What else an operator must do #######################################################################################


@pytest.mark.parametrize("op", [OPS["attention_all"], ADDITIVE["gatv2_all"]], ids=["dot", "gatv2"])
def test_the_same_bits_twice(op: Op) -> None:
    graph = GRAPHS["duplicates"]
    inputs = op.inputs(graph, torch.float32)
    first, second = (run(op, inputs, graph, backend="triton") for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


def _of_edges(found: list[Any], graph: Graph) -> set[tuple[int, ...]]:
    """Shapes of the arrays of numbers an edge."""
    arrays = [x for x in found if isinstance(x, Tensor) and x.is_floating_point()]
    return {tuple(x.shape) for x in arrays if graph.num_edges in x.shape}


@pytest.mark.parametrize(
    ("op", "width"), [("attention", 0), ("attention_edge_attr", 8), ("gatv2", 0), ("gatv2_edge_attr", 2)]
)
def test_nothing_of_the_size_of_edges_is_saved(op: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the edges' own features, filled up where they lie beside channels, and their numbers.

    Nor does a kernel of the backward read or write more of an edge.
    """
    graph = random_graph(3, 50, 150)
    called = {**OPS, **ADDITIVE}[op]
    inputs = {n: x.requires_grad_() for n, x in called.inputs(graph, torch.float32).items()}
    saved: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    layout = Layout(graph.edge_index, graph.num_rows, graph.num_cols)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = called.call(inputs, graph, layout, backend="triton")
    expected = {(graph.num_edges, width)} if width else set()
    assert saved
    assert _of_edges(saved, graph) == expected
    given: list[Any] = []
    monkeypatch.setattr(launch, "_kernels", lambda: _Watched(given.append))
    monkeypatch.setattr(backward, "CHUNK_BYTES", 2048)  # of gradients that edges have some at a time
    torch.autograd.grad(out.sum(), list(inputs.values()))
    assert given
    assert _of_edges(given, graph) == expected


def test_double_backward_is_refused() -> None:
    x = torch.randn(2, 1, 3, requires_grad=True)
    out = edge_attention(x, x, x, torch.tensor([[0, 1], [1, 0]]), backend="triton")
    (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="backend 'triton' has no double backward"):
        grad.sum().backward()


@pytest.mark.parametrize("op", ["attention_bias", "attention_edge_attr", "gatv2_all"])
def test_compiled_equals_eager(op: str, reset_dynamo: None) -> None:
    graph = GRAPHS["self_loops"]
    table = {**OPS, **ADDITIVE}
    inputs = table[op].inputs(graph)

    def function(x: dict[str, Tensor], edges: Tensor) -> Any:
        return table[op].call(x, Graph(edges, graph.num_rows, graph.num_cols), edges, backend="triton")

    compiled = Op(
        table[op].shapes, lambda x, _, edges: torch.compile(function, fullgraph=True, backend="aot_eager")(x, edges)
    )
    found, expected = run(compiled, inputs, graph), run(table[op], inputs, graph, backend="triton")
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def _operators() -> list[tuple[str, tuple[Any, ...]]]:
    """Every operator with and without its optional arguments."""
    graph = GRAPHS["duplicates"]
    layout = Layout(graph.edge_index, graph.num_rows, graph.num_cols)
    (rowptr, col, _), csc = layout.csr(), layout.csc()
    none = (None, None, None)
    q, k, v = (torch.randn(n, HEADS, c) for n, c in ((7, 8), (11, 8), (11, 16)))
    bias, vector, seed = torch.randn(graph.num_edges, HEADS), torch.randn(HEADS, 8), torch.ones(1, dtype=torch.int64)
    edges = torch.randn(graph.num_edges, 2), torch.randn(2, HEADS, 8)
    plain = (q, k, v, *[None] * 6, 0.5, 0.0, 0.0, False, rowptr, col)
    full = (q, k, v, vector, *edges, None, bias, seed, 0.5, 0.2, 0.5, True, rowptr, col)
    features, edge_query = torch.randn(graph.num_edges, 8), torch.randn(7, HEADS, 8)
    dot = (q, k, v, None, features, None, edge_query, bias, seed, 0.5, 0.0, 0.5, True, rowptr, col)
    samples = [("triton_attention", (*plain, *none)), *(("triton_attention", (*x, *csc)) for x in (full, dot))]
    for x in (plain, full, dot):
        out, edge_sums, normalizer, weights = torch.ops.graphattn.triton_attention(*x, *csc)
        grads = (None, None, None) if x is plain else (out, edge_sums, weights)
        kept, flags = (out, edge_sums, normalizer, weights), (x is not plain, x is not plain)
        samples.append(("triton_attention_backward", (*grads, *x[:9], *kept, *x[9:12], *flags, *x[13:], *csc)))
    samples += [("triton_sddmm", (q, k, rowptr, col, *csc)), ("triton_spmm", (bias, v, rowptr, col, *none))]
    return samples + [("triton_spmm_transposed", (bias, q, *csc, flag)) for flag in (False, True)]


def test_every_operator_describes_itself() -> None:
    registered = {n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if n.startswith("graphattn::triton")}
    samples = _operators()
    assert {name for name, _ in samples} == registered
    for name, args in samples:
        op = getattr(torch.ops.graphattn, name).default
        torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))


@dataclass(frozen=True)
class _Watched:
    """The kernels, none of which may get an argument that it does not take: the interpreter leaves those out."""

    show: Callable[[Any], None]

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(kernels, name)

        def checked(grid: tuple[int, ...]) -> Any:
            def call(*args: Any, **named: Any) -> None:
                assert {*kernel.arg_names[: len(args)], *named} - {"num_warps", "maxnreg"} == {*kernel.arg_names}
                for x in (*args, *named.values()):
                    self.show(x)
                kernel[grid](*args, **named)

            return call

        return _Subscript(checked)


@dataclass(frozen=True)
class _Subscript:
    function: Callable[[Any], Any]

    def __getitem__(self, key: Any) -> Any:
        return self.function(key)


def test_kernels_are_given_the_arguments_that_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SEGMENT", 4)  # so that rows are joined, too
    monkeypatch.setattr(launch, "_kernels", lambda: _Watched(lambda _: None))
    for name, args in _operators():
        getattr(torch.ops.graphattn, name)(*args)


@pytest.mark.parametrize(
    ("score", "edge_dim", "hops"), [("dot", None, 3), ("dot", 3, 3), ("gat", None, 3), ("gat", 3, 3), ("gatv2", 3, 3)]
)
def test_layers_fuse_their_scores(score: str, edge_dim: int | None, hops: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hop and the further ones, none of which stores a weight."""
    graph = GRAPHS["self_loops"]
    layers = [
        AttentionConv(6, 5, heads=2, score=score, edge_dim=edge_dim, hops=hops, backend=b).double()
        for b in ("triton", "reference")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    edge_attr = None if edge_dim is None else torch.randn(graph.num_edges, edge_dim, dtype=torch.float64)
    called: list[str] = []
    original = calls.triton_attention

    def counted(*args: Any) -> Any:
        called.append(score)
        results = original(*args)
        assert results[3].numel() == 0, "the weights were stored"
        return results

    monkeypatch.setattr(calls, "triton_attention", counted)
    monkeypatch.setattr(AttentionConv, "_scores", lambda *_: pytest.fail("the scores were stored"))
    x = torch.randn(4, 6, dtype=torch.float64)
    found = layers[0](x, graph.edge_index, edge_attr)
    monkeypatch.undo()
    truth = layers[1](x, graph.edge_index, edge_attr)
    assert called == [score] * hops
    found_grads, grads = (
        torch.autograd.grad(y.square().sum(), list(layer.parameters()), allow_unused=True)
        for y, layer in zip((found, truth), layers, strict=True)
    )
    for a, b in zip((found.detach(), *found_grads), (truth.detach(), *grads), strict=True):
        # Weights sum to 1 whatever the keys' bias is, so its true gradient is 0 up to rounding.
        one = torch.ones_like(b)
        assert_within_budget(one + a, one + b, one + b, longest_row=100)
