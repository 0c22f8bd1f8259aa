"""TGAT's layer against a dense formula and the released code, what its output depends on, and every path."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import TemporalData
from torch_geometric.explain import Explainer, GNNExplainer

from graphattn import Affinity
from graphattn.nn import TemporalAttentionConv
from graphattn.nn.encodings.time import BochnerEncoding, MercerEncoding, NormalBochnerEncoding, TGATEncoding
from graphattn.training import TemporalSampler
from tests.nn.cases import (
    BIPARTITE,
    EDGE_DIM,
    HEADS,
    SQUARE,
    WIDTH,
    Graph,
    assert_same_run,
    largest_saved,
    messages,
    randomize,
)

EPS = torch.finfo(torch.float64).eps
TIME_DIM, OUT = 6, 4  # 7 + 2 + 6 = 15 channels in three heads of 5
MODES = ["product", "map"]


def make(mode: str = "product", *, encoding: Any = None, **options: Any) -> TemporalAttentionConv:
    options = {"edge_dim": EDGE_DIM, "heads": HEADS, **options}
    conv = TemporalAttentionConv(WIDTH, OUT, encoding or TGATEncoding(TIME_DIM), mode=mode, **options)
    randomize(conv)
    return conv.double().eval()


def case(graph: Graph) -> tuple[Any, Tensor, Tensor]:
    x = torch.randn(graph.num_targets, WIDTH).double()
    pair = x if graph is SQUARE else (torch.randn(graph.num_sources, WIDTH).double(), x)
    return pair, torch.randint(1, 50, (graph.num_edges,)), torch.randn(graph.num_edges, EDGE_DIM).double()


def run(conv: TemporalAttentionConv, x: Tensor, edge_time: Tensor, edge_attr: Tensor) -> dict[str, Tensor]:
    """Output of one call on the square graph and the gradient of everything it depends on, by name."""
    leaves = {"x": x.clone().requires_grad_(), "edge_attr": edge_attr.clone().requires_grad_()}
    out = conv(leaves["x"], SQUARE.edge_index, edge_time, leaves["edge_attr"])
    leaves |= dict(conv.named_parameters())
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).double()
    found = torch.autograd.grad(out, list(leaves.values()), cotangent)
    return {"out": out.detach(), **dict(zip(leaves, found, strict=True))}


def oracle(
    conv: TemporalAttentionConv, x: Any, graph: Graph, edge_time: Tensor, edge_attr: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Output and weights target by target and head by head, with keys and values of every event."""
    x_src, x_dst = x if isinstance(x, tuple) else (x, x)
    source, target = graph.edge_index
    phi = (edge_time.double().unsqueeze(1) * conv.time_encoding.weight + conv.time_encoding.bias).cos()
    now = conv.time_encoding.bias.cos().expand(graph.num_targets, -1)
    attr = torch.zeros(graph.num_edges, EDGE_DIM).double() if edge_attr is None else edge_attr
    z = torch.cat([x_dst, torch.zeros(graph.num_targets, EDGE_DIM).double(), now], dim=1)
    events = torch.cat([x_src[source], attr, phi], dim=1)
    size, weights = conv.width // conv.heads, torch.zeros(graph.num_edges, conv.heads).double()
    attended = torch.zeros(graph.num_targets, conv.width).double()
    for i in range(graph.num_targets):
        own = target == i
        if not own.any():
            continue
        for h in range(conv.heads):
            part = slice(h * size, (h + 1) * size)
            key = events[own] @ conv.lin_key.weight[part].T
            if conv.mode == "product":
                scores = key @ (conv.lin_query.weight[part] @ z[i]) / math.sqrt(size)
            else:
                scores = key @ conv.att
            weights[own, h] = scores.softmax(0)
            attended[i, part] = weights[own, h].clone() @ (events[own] @ conv.lin_value.weight[part].T)
    out = attended @ conv.lin_out.weight.T + conv.lin_out.bias
    out = out if conv.mode == "product" else torch.where(out > 0, out, 0.2 * out)
    out = F.layer_norm(out + z, (conv.width,), conv.norm.weight, conv.norm.bias)
    first, _, second = conv.merge
    hidden = (torch.cat([out, x_dst], dim=1) @ first.weight.T + first.bias).clamp(min=0)
    return hidden @ second.weight.T + second.bias, weights


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", ["auto", "reference", "csr"])
@pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])
def test_is_its_formula(graph: Graph, backend: str, mode: str) -> None:
    conv = make(mode, backend=backend)
    x, edge_time, edge_attr = case(graph)
    for attr in (edge_attr, None):
        expected, alpha = oracle(conv, x, graph, edge_time, attr)
        scale = expected.abs().max().item()
        found, (edges, weights) = conv(x, graph.edge_index, edge_time, attr, return_attention_weights=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=4096 * EPS * scale)
        torch.testing.assert_close(weights, alpha, rtol=0, atol=1024 * EPS)
        assert torch.equal(edges, graph.edge_index)
        with messages(conv):
            single = conv(x, graph.edge_index, edge_time, attr)
        torch.testing.assert_close(single, expected, rtol=0, atol=4096 * EPS * scale)


def released(conv: TemporalAttentionConv, weight_map: Tensor | None, **given: Tensor) -> Tensor:
    """AttnModel of the released code in evaluation: padded neighbours [B, N, *], mask true at padding."""
    batch, slots, _ = given["seq"].shape
    zeros = torch.zeros(batch, 1, given["seq_e"].size(2)).double()
    q = torch.cat([given["src"].unsqueeze(1), zeros, given["src_t"].unsqueeze(1)], dim=2)
    k = torch.cat([given["seq"], given["seq_e"], given["seq_t"]], dim=2)

    def split(linear: Tensor, x: Tensor) -> Tensor:
        return (x @ linear.T).view(batch, x.size(1), conv.heads, -1).transpose(1, 2)

    keys, values = split(conv.lin_key.weight, k), split(conv.lin_value.weight, k)
    if weight_map is None:
        scores = split(conv.lin_query.weight, q) @ keys.transpose(2, 3) / math.sqrt(keys.size(3))
    else:
        queries = split(torch.randn(conv.width, conv.width).double(), q)
        pairs = torch.cat([queries.expand(-1, -1, slots, -1), keys], dim=3)
        scores = (pairs @ weight_map).unsqueeze(2)
    scores = scores.masked_fill(given["mask"].view(batch, 1, 1, slots), -1e10)
    out = conv.lin_out((scores.softmax(3) @ values).transpose(1, 2).reshape(batch, 1, -1))
    out = out if weight_map is None else F.leaky_relu(out, 0.2)
    return conv.merge(torch.cat([conv.norm(out + q).squeeze(1), given["src"]], dim=1))


@pytest.mark.parametrize("mode", MODES)
def test_is_the_released_layer(mode: str) -> None:
    """Padded slots against edges: rows of 20, 3 and 1 events in 20 slots; in map mode any weights of the queries."""
    conv, counts = make(mode), torch.tensor([20, 3, 1])
    mask = torch.arange(20).unsqueeze(0) >= counts.unsqueeze(1)
    given = {
        "src": torch.randn(3, WIDTH).double(),
        "seq": torch.randn(3, 20, WIDTH).double(),
        "seq_e": torch.randn(3, 20, EDGE_DIM).double(),
    }
    elapsed = torch.randint(1, 50, (3, 20))
    encoded = {"src_t": conv.time_encoding(torch.zeros(3).long()), "seq_t": conv.time_encoding(elapsed)}
    weight_map = None if mode == "product" else torch.cat([torch.randn(conv.att.numel()).double(), conv.att])
    expected = released(conv, weight_map, **given, **encoded, mask=mask)
    row, slot = (~mask).nonzero().T
    edge_index = torch.stack([torch.arange(len(row)), row])
    sources = given["seq"][row, slot]
    found = conv((sources, given["src"]), edge_index, elapsed[row, slot], given["seq_e"][row, slot])
    torch.testing.assert_close(found, expected, rtol=0, atol=4096 * EPS * expected.abs().max().item())
    alone = conv((sources[-1:], given["src"][-1:]), torch.zeros(2, 1).long(), elapsed[2:, 0], given["seq_e"][2:, 0])
    torch.testing.assert_close(alone, found[2:], rtol=0, atol=1024 * EPS * expected.abs().max().item())


def test_initial_weights_are_of_xavier() -> None:
    """Normal numbers of variance 2 / (rows + columns) where the paper has them; the mean of squares is that."""
    conv = TemporalAttentionConv(40, 30, TGATEncoding(20), heads=2)
    for linear in (conv.lin_out, conv.merge[0], conv.merge[2]):
        rows, columns = linear.weight.shape
        expected = 2 / (rows + columns)
        error = 4 * math.sqrt(2 / linear.weight.numel())
        assert linear.weight.square().mean().item() == pytest.approx(expected, rel=error)
    assert conv.lin_query.bias is conv.lin_key.bias is conv.lin_value.bias is None
    assert (conv.heads, conv.dropout) == (2, 0.1)


def test_one_event_has_weight_1() -> None:
    conv = make()
    x, edge_attr = torch.randn(2, WIDTH).double(), torch.randn(1, EDGE_DIM).double()
    edge_index = torch.tensor([[1], [0]])
    _, (_, alpha) = conv(x, edge_index, torch.tensor([7]), edge_attr, return_attention_weights=True)
    assert torch.equal(alpha, torch.ones(1, HEADS).double())


def test_a_row_without_a_past_attends_to_nothing() -> None:
    conv = make()
    x = torch.randn(4, WIDTH).double()
    found = conv(x, torch.zeros(2, 0).long(), torch.zeros(0).long())
    now = conv.time_encoding(torch.zeros(4).long())
    z = torch.cat([x, torch.zeros(4, EDGE_DIM).double(), now], dim=1)
    expected = conv.merge(torch.cat([conv.norm(conv.lin_out.bias + z), x], dim=1))
    torch.testing.assert_close(found, expected, rtol=0, atol=64 * EPS * expected.abs().max().item())
    assert conv(x[:0], torch.zeros(2, 0).long(), torch.zeros(0).long()).shape == (0, OUT)


@pytest.mark.parametrize("mode", MODES)
def test_single_messages_give_the_same_gradients(mode: str) -> None:
    conv = make(mode)
    inputs = case(SQUARE)
    fused = run(conv, *inputs)
    with messages(conv):
        assert_same_run(run(conv, *inputs), fused)
    assert all(bool((gradient != 0).any()) for gradient in fused.values())


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode: str) -> None:
    conv = make(mode, encoding=MercerEncoding(TIME_DIM, harmonics=1))
    x, edge_time, edge_attr = case(SQUARE)

    def call(x: Tensor, edge_time: Tensor, edge_attr: Tensor) -> Tensor:
        return conv(x, SQUARE.edge_index, edge_time, edge_attr)

    assert torch.autograd.gradcheck(
        call, (x.requires_grad_(), edge_time.double().requires_grad_(), edge_attr.requires_grad_())
    )


def test_permutations_of_edges_and_nodes() -> None:
    conv = make()
    x, edge_time, edge_attr = case(SQUARE)
    expected = conv(x, SQUARE.edge_index, edge_time, edge_attr)
    order, nodes = torch.randperm(SQUARE.num_edges), torch.tensor([3, 0, 1, 2, 6, 4, 5, 7])
    place = nodes.argsort()
    found = conv(x[nodes], place[SQUARE.edge_index[:, order]], edge_time[order], edge_attr[order])
    torch.testing.assert_close(found, expected[nodes], rtol=0, atol=1024 * EPS * expected.abs().max().item())


def test_a_prior_multiplies_exponentials() -> None:
    """An event of prior 2 is two events, one of prior 0 is none."""
    conv = make()
    x, edge_time, edge_attr = case(SQUARE)
    prior = torch.ones(SQUARE.num_edges).double()
    prior[1], prior[4] = 2.0, 0.0
    found = conv(x, Affinity.from_edge_index(SQUARE.edge_index, prior, num_nodes=8), edge_time, edge_attr)
    pick = torch.tensor([0, 1, 1, 2, 3, 5, 6, 7, 8, 9, 10])
    expected = conv(x, SQUARE.edge_index[:, pick], edge_time[pick], edge_attr[pick])
    torch.testing.assert_close(found, expected, rtol=0, atol=1024 * EPS * expected.abs().max().item())


def stream() -> TemporalData:
    source = torch.Generator().manual_seed(4)
    ends = torch.randint(0, 7, (2, 50), generator=source)
    t = torch.randint(0, 40, (50,), generator=source)
    return TemporalData(src=ends[0], dst=ends[1], t=t, msg=torch.randn(50, EDGE_DIM, generator=source).double())


def two_layers(events: TemporalData, time: Tensor) -> Tensor:
    """Embeddings of all nodes at some times by two layers that share a time encoding."""
    torch.manual_seed(0)
    first = make()
    second = TemporalAttentionConv(OUT, 2, first.time_encoding, edge_dim=EDGE_DIM, heads=2).double().eval()
    features = torch.randn(7, WIDTH).double()
    batch = TemporalSampler(events, [3, 3], num_nodes=7).sample(torch.arange(7), time)
    h = first(features[batch.n_id], batch.edge_index, batch.edge_time, batch.msg)
    return second(h, batch.edge_index, batch.edge_time, batch.msg)[batch.input_row]


def test_the_future_moves_nothing() -> None:
    """Events at the times that are asked about and later are changed or dropped: two layers on samples see neither."""
    events, now = stream(), torch.full((7,), 25)
    expected = two_layers(events, now)
    future = events.t >= 25
    changed = events.clone()
    changed.msg[future] = 1e3
    changed.src = torch.where(future, 0, events.src)
    changed.t = torch.where(future, 25, events.t)
    assert torch.equal(two_layers(changed, now), expected)
    assert torch.equal(two_layers(events[(~future).nonzero().squeeze(1)], now), expected)
    assert not torch.equal(two_layers(events, now + 1), expected)


def test_a_shift_of_all_times_changes_nothing() -> None:
    events, now = stream(), torch.randint(10, 45, (7,))
    expected = two_layers(events, now)
    shifted = events.clone()
    shifted.t = events.t + 1_600_000_000 * 10**9
    assert torch.equal(two_layers(shifted, now + 1_600_000_000 * 10**9), expected)


def test_a_batch_is_its_rows() -> None:
    events, now = stream(), torch.randint(10, 45, (7,))
    torch.manual_seed(0)
    conv, features = make(), torch.randn(7, WIDTH).double()
    sampler = TemporalSampler(events, [-1], num_nodes=7)

    def embed(nodes: Tensor) -> Tensor:
        batch = sampler.sample(nodes, now[nodes])
        return conv(features[batch.n_id], batch.edge_index, batch.edge_time, batch.msg)[batch.input_row]

    whole = embed(torch.arange(7))
    looped = torch.cat([embed(torch.tensor([i])) for i in range(7)])
    torch.testing.assert_close(looped, whole, rtol=0, atol=1024 * EPS * whole.abs().max().item())


def test_drawn_frequencies_are_the_same_for_now_and_the_past() -> None:
    conv = make(encoding=NormalBochnerEncoding(TIME_DIM)).train()
    conv.dropout = 0.0
    x, _, edge_attr = case(SQUARE)
    still = torch.zeros(SQUARE.num_edges).long()
    torch.manual_seed(1)
    first = conv(x, SQUARE.edge_index, still, edge_attr)
    # cos(0) and sin(0) do not depend on the draw, so that two draws agree if no other time is encoded.
    assert torch.equal(conv(x, SQUARE.edge_index, still, edge_attr), first)
    assert not torch.equal(
        conv(x, SQUARE.edge_index, still + 3, edge_attr), conv(x, SQUARE.edge_index, still + 3, edge_attr)
    )


def test_dropout_is_the_same_on_both_paths() -> None:
    conv = make(dropout=0.5).train()
    x, edge_time, edge_attr = case(SQUARE)
    torch.manual_seed(2)
    fused = conv(x, SQUARE.edge_index, edge_time, edge_attr)
    torch.manual_seed(2)
    with messages(conv):
        single = conv(x, SQUARE.edge_index, edge_time, edge_attr)
    torch.testing.assert_close(single, fused, rtol=0, atol=4096 * EPS * fused.abs().max().item())
    assert not torch.allclose(conv(x, SQUARE.edge_index, edge_time, edge_attr), fused)


def test_no_event_has_a_tensor_of_channels() -> None:
    """What the backward keeps of 4,000 events of 40 + 8 channels is what came in, encoded: no keys, no values."""
    conv = TemporalAttentionConv(88, 4, BochnerEncoding(8), heads=2, dropout=0.0)
    x, edge_index = torch.randn(200, 88), torch.randint(0, 200, (2, 4000))
    edge_time = torch.randint(0, 99, (4000,))
    assert largest_saved(lambda: conv(x, edge_index, edge_time)) <= max(4001 * 8, 200 * 2 * 96)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrow_dtypes(dtype: torch.dtype) -> None:
    wide = make()
    x, edge_time, edge_attr = case(SQUARE)
    truth = wide(x, SQUARE.edge_index, edge_time, edge_attr)
    narrow = copy.deepcopy(wide).to(dtype)
    narrow.time_encoding.double()
    found = narrow(x.to(dtype), SQUARE.edge_index, edge_time, edge_attr.to(dtype))
    assert found.dtype == dtype
    # Rounded inputs and parameters go through six matrix products of up to 22 terms.
    error = (found.double() - truth).abs().max().item()
    assert error <= 6 * 22 * torch.finfo(dtype).eps * truth.abs().max().item()


def test_autocast() -> None:
    conv = make().float()
    x, edge_time, edge_attr = case(SQUARE)
    expected = conv(x.float(), SQUARE.edge_index, edge_time, edge_attr.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv(x.float(), SQUARE.edge_index, edge_time, edge_attr.float())
    error = (found.float() - expected).abs().max().item()
    assert error <= 6 * 22 * torch.finfo(torch.bfloat16).eps * expected.abs().max().item()


def test_an_explainer_sees_the_messages() -> None:
    conv = make().float()
    x, edge_time, edge_attr = case(SQUARE)
    explainer = Explainer(
        conv,
        GNNExplainer(epochs=2),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node"},
    )
    explanation = explainer(x.float(), SQUARE.edge_index, edge_time=edge_time, edge_attr=edge_attr.float())
    assert bool((explanation.edge_mask > 0).any())


def test_repr_state_and_copies() -> None:
    conv = make()
    assert repr(conv) == "TemporalAttentionConv(7, 4, heads=3, time_encoding=TGATEncoding)"
    x, edge_time, edge_attr = case(SQUARE)
    expected = conv(x, SQUARE.edge_index, edge_time, edge_attr)
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(other(x, SQUARE.edge_index, edge_time, edge_attr), expected)
    other = make()
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other(x, SQUARE.edge_index, edge_time, edge_attr), expected)
    frequencies = conv.time_encoding.weight.clone()
    conv.reset_parameters()
    assert not torch.equal(conv(x, SQUARE.edge_index, edge_time, edge_attr), expected)
    assert torch.equal(conv.time_encoding.weight, frequencies)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mode": "sum"}, "mode is 'sum'; expected one of 'product', 'map'"),
        ({"backend": "cuda"}, "backend is 'cuda'; expected one of 'auto'"),
        ({"dropout": 1.5}, r"dropout is 1\.5; expected a probability"),
        ({"heads": 0}, "heads is 0; expected at least 1"),
        ({"heads": 7}, "time channels is 15 and heads is 7; expected a multiple of heads"),
        ({"edge_dim": -1}, "edge_dim is -1; expected at least 1, or None"),
    ],
)
def test_bad_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make(**options)


def test_an_encoding_of_another_kind() -> None:
    with pytest.raises(TypeError, match="time_encoding is a Linear; expected a TimeEncoding"):
        TemporalAttentionConv(4, 4, torch.nn.Linear(1, 4))


def test_bad_inputs() -> None:
    conv, plain = make(), make(edge_dim=None, heads=1)
    x, edge_time, edge_attr = case(SQUARE)
    with pytest.raises(ValueError, match=r"edge_time has shape \(10,\); expected \(11,\): edges"):
        conv(x, SQUARE.edge_index, edge_time[1:], edge_attr)
    with pytest.raises(TypeError, match=r"t has dtype torch.float32; expected int64 or float64"):
        conv(x, SQUARE.edge_index, edge_time.float(), edge_attr)
    with pytest.raises(ValueError, match="edge_time is None, but the layer has a time encoding"):
        conv(x, SQUARE.edge_index, None, edge_attr)
    with pytest.raises(ValueError, match=r"edge_attr has shape \(11, 2\) but edge_dim is None; pass edge_dim=2"):
        plain(x, SQUARE.edge_index, edge_time, edge_attr)
    with pytest.raises(ValueError, match="x of the sources has 2 channels; expected 7"):
        conv(x[:, :2], SQUARE.edge_index, edge_time, edge_attr)
    with pytest.raises(ValueError, match="x of the targets has 2 channels; expected 7"):
        conv((x, x[:, :2]), SQUARE.edge_index, edge_time, edge_attr)
