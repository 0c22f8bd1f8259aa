"""Attention over edges with times: a dense formula for each fusion, what the output depends on, and every path."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.nn import TransformerConv
from torch_geometric.nn.models.tgn import TimeEncoder

from graphattn import Affinity
from graphattn.nn import AttentionConv, from_pyg
from graphattn.nn.encodings import RotaryEncoding
from graphattn.nn.encodings.time import BochnerEncoding, NormalBochnerEncoding, TGATEncoding
from tests.nn.cases import (
    BIPARTITE,
    EDGE_DIM,
    HEADS,
    NORMALIZE_KINDS,
    SQUARE,
    WIDTH,
    Graph,
    assert_same_run,
    features,
    make,
    messages,
    oracle_scores,
    oracle_weights,
    rebuild,
    run,
    width,
)

EPS = torch.finfo(torch.float64).eps
FUSIONS = ["concat", "add", "kernel"]


def _conv(fusion: str, score: str = "dot", **options: Any) -> AttentionConv:
    channels = EDGE_DIM if fusion == "add" else 6
    encoding = TGATEncoding(channels) if fusion == "add" else BochnerEncoding(channels)
    options = {"edge_dim": EDGE_DIM, "time_encoding": encoding, "time_fusion": fusion, **options}
    return make(score, **options)


def _times(graph: Graph, high: int = 40) -> Tensor:
    return torch.randint(0, high, (graph.num_edges,))


def _encoded(conv: AttentionConv, edge_time: Tensor) -> Tensor:
    """The encodings of the times by their formulas."""
    encoding, t = conv.time_encoding, edge_time.double().unsqueeze(1)
    if isinstance(encoding, TGATEncoding):
        return (t * encoding.weight + encoding.bias).cos()
    angle = t * 10**-encoding.theta
    return torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1) / math.sqrt(encoding.channels / 2)


def _oracle(
    conv: AttentionConv, x: Any, graph: Graph, edge_time: Tensor, edge_attr: Tensor | None, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output and weights from edge features that hold the time, or from scores that do."""
    bias: Tensor | float = 0.0
    if conv.time_fusion == "kernel":
        bias = (edge_time.double().unsqueeze(1) * 10**-conv.time_encoding.theta).cos().mean(1, keepdim=True)
        bias = conv.time_weight * bias
    else:
        attr = torch.zeros(graph.num_edges, EDGE_DIM).double() if edge_attr is None else edge_attr
        encoded = _encoded(conv, edge_time)
        edge_attr = attr + encoded if conv.time_fusion == "add" else torch.cat([attr, encoded], dim=1)
    scores = oracle_scores(conv, x, graph.edge_index, edge_attr) + bias
    weights = oracle_weights(conv.normalize, scores, graph, prior, None)
    return rebuild(conv, x, graph.edge_index, weights, edge_attr), weights


@pytest.mark.parametrize("score", ["dot", "cosine"])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])
def test_is_its_formula(graph: Graph, fusion: str, score: str) -> None:
    for with_attr in (True, False):
        conv = _conv(fusion, score, in_channels=width(graph))
        x, edge_time = features(graph), _times(graph)
        edge_attr = torch.randn(graph.num_edges, EDGE_DIM).double() if with_attr else None
        expected, alpha = _oracle(conv, x, graph, edge_time, edge_attr)
        options = {"edge_attr": edge_attr, "edge_time": edge_time, "return_attention_weights": True}
        with torch.no_grad():
            found, (_, weights) = conv(x, graph.edge_index, **options)
            with messages(conv):
                single, (_, single_weights) = conv(x, graph.edge_index, **options)
        scale = expected.abs().max().item()
        for out, w in ((found, weights), (single, single_weights)):
            torch.testing.assert_close(out, expected, rtol=0, atol=2048 * EPS * scale)
            torch.testing.assert_close(w, alpha, rtol=0, atol=2048 * EPS)


@pytest.mark.parametrize("normalize", NORMALIZE_KINDS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_normalization_with_a_prior(fusion: str, normalize: str) -> None:
    conv = _conv(fusion, normalize=normalize)
    x, edge_time = features(SQUARE), _times(SQUARE)
    edge_attr, prior = torch.randn(SQUARE.num_edges, EDGE_DIM).double(), torch.rand(SQUARE.num_edges).double()
    graph = Affinity.from_edge_index(SQUARE.edge_index, prior, num_nodes=8)
    expected, _ = _oracle(conv, x, SQUARE, edge_time, edge_attr, prior.unsqueeze(1))
    found = conv(x, graph, edge_attr, edge_time=edge_time)
    torch.testing.assert_close(found, expected, rtol=0, atol=2048 * EPS * expected.abs().max().item())


@pytest.mark.parametrize("options", [{}, {"add_self_loops": True}, {"hops": 3}, {"backend": "reference"}], ids=str)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_single_messages_give_the_same_gradients(fusion: str, options: dict[str, Any]) -> None:
    conv = _conv(fusion, **options)
    x, edge_time = features(SQUARE), _times(SQUARE)
    edge_attr = torch.randn(SQUARE.num_edges, EDGE_DIM).double()
    fused = run(conv, x, SQUARE.edge_index, edge_attr, edge_time=edge_time)
    with messages(conv):
        assert_same_run(run(conv, x, SQUARE.edge_index, edge_attr, edge_time=edge_time), fused)
    learned = "time_encoding.theta" if fusion != "add" else "time_encoding.weight"
    assert bool((fused[learned] != 0).any())


def test_a_kernel_weight_of_0_is_the_layer_without_time() -> None:
    plain = make("dot", edge_dim=EDGE_DIM)
    conv = AttentionConv(
        WIDTH,
        plain.out_channels,
        HEADS,
        edge_dim=EDGE_DIM,
        time_encoding=BochnerEncoding(6),
        time_fusion="kernel",
    ).double()
    missing = conv.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["time_weight", "time_encoding.theta"]
    assert conv.time_weight.tolist() == [0.0] * HEADS
    x, edge_attr = features(SQUARE), torch.randn(SQUARE.num_edges, EDGE_DIM).double()
    found = conv(x, SQUARE.edge_index, edge_attr, edge_time=_times(SQUARE))
    expected = plain(x, SQUARE.edge_index, edge_attr)
    torch.testing.assert_close(found, expected, rtol=0, atol=64 * EPS * expected.abs().max().item())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_shift_of_all_times_changes_nothing(fusion: str) -> None:
    conv = _conv(fusion)
    x, t = features(SQUARE), torch.randint(0, 1000, (8,))
    source, target = SQUARE.edge_index

    def call(t: Tensor) -> Tensor:
        return conv(x, SQUARE.edge_index, edge_time=t[target] - t[source])

    assert torch.equal(call(t + 1_600_000_000 * 10**9), call(t))
    assert not torch.allclose(call(2 * t), call(t))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_permutations_of_edges_and_nodes(fusion: str) -> None:
    conv = _conv(fusion)
    x, edge_time = features(SQUARE), _times(SQUARE)
    edge_attr = torch.randn(SQUARE.num_edges, EDGE_DIM).double()
    expected = conv(x, SQUARE.edge_index, edge_attr, edge_time=edge_time)
    order, nodes = torch.randperm(SQUARE.num_edges), torch.tensor([3, 0, 1, 2, 6, 4, 5, 7])
    place = nodes.argsort()
    found = conv(x[nodes], place[SQUARE.edge_index[:, order]], edge_attr[order], edge_time=edge_time[order])
    torch.testing.assert_close(found, expected[nodes], rtol=0, atol=1024 * EPS * expected.abs().max().item())


def test_a_loop_has_time_0() -> None:
    for fusion in FUSIONS:
        conv = _conv(fusion, add_self_loops=True, fill_value=0.0)
        x, edge_time = features(SQUARE), _times(SQUARE)
        edge_attr = torch.randn(SQUARE.num_edges, EDGE_DIM).double()
        found = conv(x, SQUARE.edge_index, edge_attr, edge_time=edge_time)
        kept = SQUARE.edge_index[0] != SQUARE.edge_index[1]
        loops = torch.arange(8).expand(2, 8)
        whole = Graph(torch.cat([SQUARE.edge_index[:, kept], loops], dim=1), 8, 8)
        whole_attr = torch.cat([edge_attr[kept], torch.zeros(8, EDGE_DIM).double()])
        expected, _ = _oracle(conv, x, whole, torch.cat([edge_time[kept], torch.zeros(8).long()]), whole_attr)
        torch.testing.assert_close(found, expected, rtol=0, atol=2048 * EPS * expected.abs().max().item())


def test_is_the_attention_of_pygs_tgn() -> None:
    """TransformerConv over [time encoder; message], as in PyG's example of TGN."""
    encoder = TimeEncoder(6).double()
    theirs = TransformerConv(WIDTH, 5, heads=2, edge_dim=6 + EDGE_DIM).double()
    encoding = TGATEncoding(6).double()
    encoding.weight.data, encoding.bias.data = encoder.lin.weight.detach().flatten(), encoder.lin.bias.detach()
    ours = AttentionConv(WIDTH, 5, heads=2, edge_dim=EDGE_DIM, time_encoding=encoding).double()
    ours.load_state_dict(from_pyg(theirs).state_dict(), strict=False)
    weight = theirs.lin_edge.weight.detach()
    ours.score.lin_edge.weight.data = torch.cat([weight[:, 6:], weight[:, :6]], dim=1)
    x, edge_attr, t = features(SQUARE), torch.randn(SQUARE.num_edges, EDGE_DIM).double(), _times(SQUARE).double()
    expected = theirs(x, SQUARE.edge_index, torch.cat([encoder(t), edge_attr], dim=1))
    found = ours(x, SQUARE.edge_index, edge_attr, edge_time=t)
    torch.testing.assert_close(found, expected, rtol=0, atol=1024 * EPS * expected.abs().max().item())


def test_without_edge_features() -> None:
    x, edge_time = features(SQUARE), _times(SQUARE)
    concat = _conv("concat", edge_dim=None)
    add = AttentionConv(
        WIDTH, concat.out_channels, HEADS, time_encoding=concat.time_encoding, time_fusion="add"
    ).double()
    add.load_state_dict(concat.state_dict())
    assert torch.equal(
        concat(x, SQUARE.edge_index, edge_time=edge_time), add(x, SQUARE.edge_index, edge_time=edge_time)
    )


def test_kernels_go_with_rotary_positions() -> None:
    conv = _conv("kernel", edge_dim=None, out_channels=4, rotary=RotaryEncoding(4))
    x, edge_time, pos = features(SQUARE), _times(SQUARE), torch.randn(8).double()
    with_time = conv(x, SQUARE.edge_index, edge_time=edge_time, pos=pos)
    conv.time_weight.data.zero_()
    without = conv(x, SQUARE.edge_index, edge_time=edge_time, pos=pos)
    assert not torch.allclose(with_time, without)


def test_resetting_leaves_the_encoding_to_its_owner() -> None:
    encoding = BochnerEncoding(6)
    encoding.theta.data.fill_(2.5)
    conv = AttentionConv(WIDTH, 4, time_encoding=encoding)
    conv.reset_parameters()
    assert conv.time_encoding is encoding
    assert encoding.theta.tolist() == [2.5] * 3


def test_drawn_frequencies_repeat_in_evaluation() -> None:
    for fusion in ("concat", "kernel"):
        conv = _conv(fusion, time_encoding=NormalBochnerEncoding(6), edge_dim=None)
        x, edge_time = features(SQUARE), _times(SQUARE)
        assert not torch.equal(
            conv(x, SQUARE.edge_index, edge_time=edge_time), conv(x, SQUARE.edge_index, edge_time=edge_time)
        )
        conv.eval()
        assert torch.equal(
            conv(x, SQUARE.edge_index, edge_time=edge_time), conv(x, SQUARE.edge_index, edge_time=edge_time)
        )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients(fusion: str) -> None:
    conv = _conv(fusion, edge_dim=None if fusion != "add" else EDGE_DIM)
    x, edge_time = features(SQUARE).requires_grad_(), torch.rand(SQUARE.num_edges).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: conv(x, SQUARE.edge_index, edge_time=t), (x, edge_time))


def test_bfloat16_stays_bfloat16() -> None:
    for fusion in FUSIONS:
        conv = _conv(fusion).bfloat16()
        x, edge_attr = torch.randn(8, WIDTH).bfloat16(), torch.randn(SQUARE.num_edges, EDGE_DIM).bfloat16()
        assert conv(x, SQUARE.edge_index, edge_attr, edge_time=_times(SQUARE)).dtype == torch.bfloat16
        conv.time_encoding.float()
        assert conv(x, SQUARE.edge_index, edge_attr, edge_time=_times(SQUARE)).dtype == torch.bfloat16


def test_no_edges() -> None:
    for fusion in FUSIONS:
        conv = _conv(fusion)
        x = features(SQUARE)
        found = conv(x, torch.zeros(2, 0).long(), edge_time=torch.zeros(0).long())
        assert torch.equal(found, conv.lin_skip(x))


def test_an_explainer_sees_the_messages() -> None:
    conv = _conv("concat", edge_dim=None).float()
    explainer = Explainer(
        conv,
        GNNExplainer(epochs=2),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node"},
    )
    explanation = explainer(torch.randn(8, WIDTH), SQUARE.edge_index, edge_time=_times(SQUARE))
    assert explanation.edge_mask.shape == (SQUARE.num_edges,)
    assert bool((explanation.edge_mask > 0).any())


@pytest.mark.usefixtures("reset_dynamo")
def test_compiled_equals_eager() -> None:
    conv = _conv("kernel", edge_dim=None)
    compiled = torch.compile(conv, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, num_edges in ((8, 11), (5, 17)):
        x, edge_index = torch.randn(n, WIDTH).double(), torch.randint(n, (2, num_edges))
        edge_time = torch.randint(0, 99, (num_edges,))
        expected = conv(x, edge_index, edge_time=edge_time)
        atol = 1024 * EPS * expected.abs().max().item()
        torch.testing.assert_close(compiled(x, edge_index, edge_time=edge_time), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_runs_on_cuda(fusion: str) -> None:
    conv = _conv(fusion).float()
    with FakeTensorMode(allow_non_fake_inputs=True):
        parameters = {name: torch.empty(p.shape, device="cuda") for name, p in conv.named_parameters()}
        x, edge_attr = torch.empty(8, WIDTH, device="cuda"), torch.empty(11, EDGE_DIM, device="cuda")
        edge_index = torch.empty(2, 11, dtype=torch.long, device="cuda")
        edge_time = torch.empty(11, dtype=torch.long, device="cuda")
        out = functional_call(conv, parameters, (x, edge_index, edge_attr), {"edge_time": edge_time})
    assert out.device.type == "cuda"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"time_fusion": "gate"}, "time_fusion is 'gate'; expected one of 'concat', 'add', 'kernel'"),
        ({"time_encoding": None, "time_fusion": "add"}, "time_fusion is 'add', but time_encoding is None"),
        ({"score": "gat"}, "time_encoding needs a score of products, 'dot' or 'cosine'; GAT takes edge_attr only"),
        ({"score": "gatv2", "time_fusion": "kernel"}, "time_encoding needs a score of products, .*; GATv2 takes"),
        ({"score": "gaussian"}, "time_encoding needs a score of products, .*; Gaussian takes"),
        ({"rotary": RotaryEncoding(4)}, "rotary and time_fusion='concat' are both given"),
        ({"edge_dim": -1}, "edge_dim is -1, but time_encoding needs to know it"),
        ({"edge_dim": 3, "time_fusion": "add"}, "edge_dim is 3 and time_encoding has 6 channels; .* equal widths"),
    ],
)
def test_bad_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        AttentionConv(WIDTH, 4, **{"time_encoding": BochnerEncoding(6), **options})


def test_an_encoding_of_another_kind() -> None:
    with pytest.raises(TypeError, match="time_encoding is a RotaryEncoding; expected a TimeEncoding or None"):
        AttentionConv(WIDTH, 4, time_encoding=RotaryEncoding(4))


@pytest.mark.parametrize(
    ("edge_time", "error", "expected"),
    [
        (None, ValueError, "edge_time is None, but the layer has a time encoding; pass both or neither"),
        (3.0, TypeError, "edge_time is a float; expected a Tensor, int64 or float64"),
        (torch.zeros(10).long(), ValueError, r"edge_time has shape \(10,\); expected \(11,\): edges"),
        (torch.zeros(11, 1).long(), ValueError, r"edge_time has shape \(11, 1\); expected \(11,\): edges"),
        (torch.zeros(11), TypeError, r"t has dtype torch.float32; expected int64 or float64"),
        (torch.full((11,), math.nan).double(), ValueError, "t contains NaN or infinity"),
        (torch.zeros(11, device="meta").long(), ValueError, "edge_time is on meta but edge_index is on cpu"),
    ],
)
def test_bad_times(edge_time: Any, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        _conv("concat")(features(SQUARE), SQUARE.edge_index, edge_time=edge_time)


def test_times_that_nothing_reads() -> None:
    with pytest.raises(ValueError, match="edge_time is given, but time_encoding is None; pass both or neither"):
        make("dot")(features(SQUARE), SQUARE.edge_index, edge_time=_times(SQUARE))
