"""Networks over events against the recursion and PyG's example written out, and what their output depends on."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data, TemporalData
from torch_geometric.nn import TGNMemory, TransformerConv
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader

from graphattn.models import TGAT, TGN, EventHead, EventNetwork, MessagePassingNet, StaticNet, TemporalNet, from_config
from graphattn.nn.encodings.time import TGATEncoding
from graphattn.training import TemporalSampler
from tests.models.event_cases import EDGE_DIM, NODES, embedding, fill, stream

EPS = torch.finfo(torch.float64).eps
HIDDEN, OUT, COUNT = 6, 4, 3
NETWORKS: dict[str, Callable[[], EventNetwork]] = {
    "tgat": lambda: TGAT(0, HIDDEN, OUT, 2, edge_dim=EDGE_DIM),
    "tgat-map": lambda: TGAT(0, HIDDEN, OUT, 1, edge_dim=EDGE_DIM, mode="map", heads=3, time_channels=5),
    "temporal": lambda: TemporalNet(NODES, 0, HIDDEN, OUT, 2, edge_dim=EDGE_DIM),
    "temporal-mercer": lambda: TemporalNet(NODES, 0, HIDDEN, OUT, edge_dim=EDGE_DIM, time_encoding="mercer"),
    "tgn": lambda: TGN(NODES, HIDDEN, edge_dim=EDGE_DIM),
    "static": lambda: StaticNet(MessagePassingNet("gat", HIDDEN, HIDDEN, OUT, heads=2), NODES, HIDDEN),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
over_pairs = pytest.mark.parametrize("name", ["tgat", "tgat-map", "temporal", "temporal-mercer"])


def filled(name: str) -> EventNetwork:
    """A network with drawn weights, which remembers the first 40 events if it can."""
    net, events = fill(NETWORKS[name]()), stream()
    if isinstance(getattr(net, "memory", None), nn.Module):
        first = slice(0, 40)
        net.update_state(events.src[first], events.dst[first], events.t[first], events.msg[first])
    return net


def sampler(net: EventNetwork, events: TemporalData, count: int = COUNT) -> TemporalSampler:
    return TemporalSampler(events, [count] * net.num_layers, num_nodes=NODES)


def asked() -> tuple[Tensor, Tensor]:
    """Every node at two times of events and one after all, one pair twice, and a node that never meets anyone."""
    events = stream()
    times = torch.stack([events.t[30], events.t[45], events.t[-1] + 1])
    nodes = torch.cat([torch.arange(NODES).repeat(3), torch.tensor([2])])
    return nodes, torch.cat([times.repeat_interleave(NODES), times[1:2]])


def sample_for(net: EventNetwork) -> Data:
    """What a network of any kind sees."""
    events = stream()
    if net.past == "pairs":
        return sampler(net, events).sample(*asked())
    past = Data(n_id=torch.arange(NODES), edge_index=torch.stack([events.src, events.dst]), num_nodes=NODES)
    past.edge_t, past.msg = events.t, events.msg
    return past


def assert_close(found: Tensor, expected: Tensor, steps: int = 1) -> None:
    """Compare float64 results to a thousand roundings of the largest value for each step whose errors they carry."""
    atol = 1e3 * steps * EPS * max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# The same numbers as written out ######################################################################################


@pytest.mark.parametrize("options", [{}, {"mode": "map", "heads": 3}, {"num_layers": 3, "time_channels": 4}])
def test_tgat_is_the_recursion_with_nothing_shared(options: dict[str, Any]) -> None:
    net = fill(TGAT(0, HIDDEN, OUT, **{"num_layers": 2, "edge_dim": EDGE_DIM, **options}))
    with torch.no_grad():  # elapsed times are thousands of seconds: frequencies far below 1 keep the roundings small
        net.stack.time_encoding.weight.mul_(1e-4)
    events = stream(30)
    nodes, times = asked()
    batch = sampler(net, events).sample(nodes, times)
    assert len(batch.n_id) < sum(batch.num_sampled_edges), "pairs come up more than once"
    found = net(batch)[batch.input_row]
    for row in range(0, len(nodes), 5):
        expected = embedding(net, events, int(nodes[row]), int(times[row]), COUNT, net.num_layers)
        assert_close(found[row], expected)


class _Example(nn.Module):
    """``GraphAttentionEmbedding`` of PyG's example of TGN, as it stands there."""

    def __init__(self, in_channels: int, out_channels: int, msg_dim: int, time_enc: nn.Module) -> None:
        super().__init__()
        self.time_enc = time_enc
        self.conv = TransformerConv(
            in_channels, out_channels // 2, heads=2, dropout=0.1, edge_dim=msg_dim + time_enc.out_channels
        )

    def forward(self, x: Tensor, last_update: Tensor, edge_index: Tensor, t: Tensor, msg: Tensor) -> Tensor:
        rel_t = last_update[edge_index[0]] - t
        return self.conv(x, edge_index, torch.cat([self.time_enc(rel_t.to(x.dtype)), msg], dim=-1))


class _InPlaceOfOurs(nn.Module):
    """PyG's layer where TemporalNet has its own."""

    def __init__(self, net: TemporalNet, conv: nn.Module) -> None:
        super().__init__()
        self.parts = (net.memory,)  # a tuple, so that the memory is not registered twice
        self.conv, self.time_encoding = conv, net.stack.time_encoding

    def forward(self, h: Tensor, past: Data) -> Tensor:
        elapsed = self.parts[0].of(past.n_id)[1][past.edge_index[0]] - past.edge_t
        return self.conv(h, past.edge_index, torch.cat([self.time_encoding(elapsed), past.msg], dim=1))


@pytest.mark.parametrize("which", ["TGN", "TemporalNet with PyG's layer"])
def test_memory_networks_are_pygs_example(which: str) -> None:
    """Embeddings and gradients of every batch, over two epochs with steps between them, and in evaluation."""
    events = stream()
    events.t = (events.t - events.t[0]) // 1000  # gradients of frequencies grow with time
    message = IdentityMessage(EDGE_DIM, HIDDEN, HIDDEN)
    memory = TGNMemory(NODES, EDGE_DIM, HIDDEN, HIDDEN, message, LastAggregator()).double()
    gnn = _Example(HIDDEN, HIDDEN, EDGE_DIM, memory.time_enc).double()
    memory.reset_state()  # its empty messages in float64
    gnn.conv.dropout = 0.0
    net: Any = TGN(NODES, HIDDEN, edge_dim=EDGE_DIM, dropout=0.0).double()
    if which != "TGN":
        net = TemporalNet(NODES, 0, HIDDEN, HIDDEN, edge_dim=EDGE_DIM, time_encoding="pyg_tgn").double()
        net.stack = _InPlaceOfOurs(net, TransformerConv(HIDDEN, HIDDEN // 2, 2, edge_dim=EDGE_DIM + HIDDEN).double())
        net.stack.time_encoding.weight.data = memory.time_enc.lin.weight.data.flatten().clone()
        net.stack.time_encoding.bias.data = memory.time_enc.lin.bias.data.clone()
        net.stack.conv.load_state_dict(gnn.conv.state_dict())
    else:
        net.memory.time_enc.load_state_dict(memory.time_enc.state_dict())
        net.conv.load_state_dict(gnn.conv.state_dict())
    net.memory.gru.load_state_dict(memory.gru.state_dict())
    ours = torch.optim.SGD(net.parameters(), lr=0.01)
    theirs = torch.optim.SGD({*memory.parameters(), *gnn.parameters()}, lr=0.01)
    loader, helper = LastNeighborLoader(NODES, 4), LastNeighborLoader(NODES, 4)
    steps = 1
    for training in (True, True, False):
        for each in (memory, gnn, net):
            each.train(training)
        if training:
            memory.reset_state(), net.reset_state(), loader.reset_state(), helper.reset_state()
        for rows in torch.arange(60).split(7):
            src, dst, t, msg = events.src[rows], events.dst[rows], events.t[rows], events.msg[rows]
            with torch.set_grad_enabled(training):
                n_id, edge_index, e_id = loader(torch.cat([src, dst]).unique())
                z, last_update = memory(n_id)
                expected = gnn(z, last_update, edge_index, events.t[e_id % 60], events.msg[e_id % 60])
                past = Data(n_id=n_id, edge_index=edge_index, edge_t=events.t[e_id % 60], msg=events.msg[e_id % 60])
                found = net(past)
            assert_close(found, expected, steps)
            memory.update_state(src, dst, t, msg)
            net.update_state(src, dst, t, msg)
            loader.insert(src, dst)
            if training:
                ours.zero_grad(), theirs.zero_grad()
                expected.square().sum().backward()
                found.square().sum().backward()
                for name, parameter in memory.gru.named_parameters():
                    assert_close(net.memory.gru.get_parameter(name).grad, parameter.grad, steps)
                ours.step(), theirs.step()
                memory.detach()
                steps += 1
        assert_close(net.memory.memory, memory.memory.detach(), steps)
        assert torch.equal(net.memory.last_update, memory.last_update.double())


def test_memory_follows_its_formula() -> None:
    """One event a batch: a GRU of both memories, the message and the time since the event before."""
    events = stream(12)
    net = fill(TemporalNet(NODES, 0, HIDDEN, OUT, edge_dim=EDGE_DIM))
    state, last = torch.zeros(NODES, HIDDEN).double(), torch.zeros(NODES).double()
    for e in range(12):
        row = slice(e, e + 1)
        net.update_state(events.src[row], events.dst[row], events.t[row], events.msg[row])
        i, j, t = int(events.src[e]), int(events.dst[e]), events.t[e]
        new = state.clone()
        for one, other in ((i, j), (j, i)):
            encoded = net.stack.time_encoding((t - last[one]).reshape(1))[0]
            message = torch.cat([state[one], state[other], events.msg[e], encoded])
            new[one] = net.memory.gru(message.unsqueeze(0), state[one : one + 1])[0].detach()
        state, last[i], last[j] = new, t, t
        assert torch.equal(net.memory.last_update, last)
        assert_close(net.memory.memory, state)


def test_static_network_is_its_backbone_on_the_vectors_of_nodes() -> None:
    net = filled("static")
    past = sample_for(net)
    assert torch.equal(net(past), net.backbone(net.embedding.weight, past.edge_index))
    past.edge_t = past.edge_t.flip(0)
    assert torch.equal(net(past), net.backbone(net.embedding.weight, past.edge_index)), "of times it knows nothing"


def test_head_is_its_formula() -> None:
    backbone = filled("tgat")
    past = sample_for(backbone)
    h, src, dst = backbone(past), torch.tensor([0, 3, 3]), torch.tensor([1, 1, 4])
    pairs = fill(EventHead(backbone, OUT))
    h = backbone(past)
    first, last = pairs.lins
    hidden = (h[src] @ first.weight[:, :OUT].T + h[dst] @ first.weight[:, OUT:].T + first.bias).relu()
    assert_close(pairs(past, src, dst), (hidden @ last.weight.T + last.bias)[:, 0])
    classes = fill(EventHead(filled("tgat"), OUT, 5))
    h, (first, last) = classes.backbone(past), classes.lins
    assert_close(classes(past, src), (h[src] @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias)


# What the output depends on ###########################################################################################


@over_pairs
def test_a_batch_of_one_is_a_row_of_a_batch(name: str) -> None:
    net, events = filled(name), stream()
    nodes, times = asked()
    draw = sampler(net, events)
    batch = draw.sample(nodes, times)
    together = net(batch)[batch.input_row]
    alone = torch.cat([net(draw.sample(nodes[k : k + 1], times[k : k + 1])) for k in range(len(nodes))])
    assert_close(alone, together)


@over_pairs
def test_nothing_from_the_future(name: str) -> None:
    """Events at the time asked for or later may be anything, and may be left out."""
    net, events = filled(name), stream()
    nodes, times = asked()
    kept = times <= events.t[45]
    nodes, times = nodes[kept], times[kept]
    batch = sampler(net, events).sample(nodes, times)
    expected = net(batch)[batch.input_row]
    late = events.t >= times.max()
    assert late.sum() > 10
    other = copy.copy(stream(seed=5))
    other.t = torch.where(late, events.t, 0)
    for key in ("src", "dst", "msg", "t"):
        value = other[key].clone()
        value[~late] = events[key][~late]
        other[key] = value
    fewer = TemporalData(**{key: events[key][~late] for key in ("src", "dst", "t", "msg")})
    for changed in (other, fewer):
        batch = sampler(net, changed).sample(nodes, times)
        assert torch.equal(net(batch)[batch.input_row], expected)


@pytest.mark.parametrize("name", ["tgat", "tgat-map"])
def test_a_shift_of_all_times_changes_nothing(name: str) -> None:
    net, events = filled(name), stream()
    nodes, times = asked()
    past = sampler(net, events).sample(nodes, times)
    events.t += 123_456_789
    shifted = sampler(net, events).sample(nodes, times + 123_456_789)
    assert torch.equal(net(shifted), net(past))


@over_pairs
def test_room_for_more_events_than_there_are_changes_nothing(name: str) -> None:
    net, events = filled(name), stream(20)
    nodes, times = asked()
    rows = [draw.sample(nodes, times) for draw in (sampler(net, events, 60), sampler(net, events, -1))]
    assert torch.equal(*(net(batch)[batch.input_row] for batch in rows))


@pytest.mark.parametrize("name", ["temporal", "tgn"])
def test_memory_counts_and_can_be_forgotten(name: str) -> None:
    net = filled(name)
    past = sample_for(net)
    before = net(past)
    net.update_state(torch.tensor([0]), torch.tensor([1]), stream().t[-1:], torch.ones(1, EDGE_DIM))
    assert not torch.allclose(net(past), before)
    net.reset_state()
    fresh = fill(NETWORKS[name]())
    assert torch.equal(net(past), fresh(past))


def test_without_features_and_without_a_past() -> None:
    """Messages of no columns are no messages; a node that has met nobody has an embedding."""
    events = stream(edge_dim=0)
    bare = TemporalData(src=events.src, dst=events.dst, t=events.t)
    for net in (TGAT(0, HIDDEN, OUT, 1), TemporalNet(NODES, 0, HIDDEN, OUT), TGN(NODES, HIDDEN)):
        net = fill(net)
        net.update_state(events.src, events.dst, events.t)
        if net.past == "pairs":
            pasts = [sampler(net, each).sample(*asked()) for each in (events, bare)]
        else:
            pasts = [sample_for(net), sample_for(net)]
            pasts[0].msg, pasts[1].msg = torch.zeros(60, 0), None
        outputs = [net(past) for past in pasts]
        assert torch.equal(*outputs)
        assert bool(outputs[0].isfinite().all())


def test_features_of_nodes_are_read() -> None:
    events = stream()
    for net in (TGAT(5, HIDDEN, OUT, 1, edge_dim=EDGE_DIM), TemporalNet(NODES, 5, HIDDEN, OUT, edge_dim=EDGE_DIM)):
        net = fill(net)
        past = sampler(net, events).sample(*asked())
        features = torch.randn(NODES, 5).double()
        past.x = features[past.n_id]
        out = net(past)
        past.x = past.x + (past.n_id == 2).unsqueeze(1)
        moved = (net(past) != out).any(dim=1)
        touched = (past.n_id[: past.batch_size] == 2).clone()
        source, target = past.edge_index
        touched[target[past.n_id[source] == 2]] = True
        assert torch.equal(moved, touched)


# What every network can ###############################################################################################


@every_network
def test_a_config_builds_the_network_again(name: str) -> None:
    net = EventHead(filled(name), HIDDEN if name == "tgn" else OUT, dropout=0.2).double().eval()
    again = from_config(json.loads(json.dumps(net.config, allow_nan=False))).double().eval()
    again.load_state_dict(net.state_dict())
    past = sample_for(net)
    inputs = (past, torch.tensor([0, 1]), torch.tensor([2, 2]))
    for other in (again, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert (other.config, other.past, other.num_layers) == (net.config, net.past, net.num_layers)
        assert torch.equal(other(*inputs), net(*inputs))


@every_network
def test_gradients_reach_every_parameter(name: str) -> None:
    net = filled(name).train()
    events = stream()
    # In training the memory is that of the messages of the batch before.
    net.update_state(events.src[40:], events.dst[40:], events.t[40:], events.msg[40:])
    net(sample_for(net)).square().sum().backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.isfinite().all()), parameter_name
        assert bool((parameter.grad != 0).any()), parameter_name


@every_network
def test_reset_draws_all_parameters_anew_and_forgets(name: str) -> None:
    net = filled(name)
    before = {key: value.clone() for key, value in net.named_parameters()}
    net.reset_parameters()
    for key, value in net.named_parameters():
        assert not torch.equal(value, before[key]), key
    for key, value in net.named_buffers():
        assert key.endswith("_assoc") or not value.any(), key


@every_network
def test_dropout_only_in_training(name: str) -> None:
    config = NETWORKS[name]().config
    part = config["backbone"] if name == "static" else config
    part["dropout"] = 0.5
    net = fill(from_config(config))
    past = sample_for(net)
    assert torch.equal(net(past), net(past))
    net.train()
    assert not torch.equal(net(past), net(past))


def test_times_of_the_memory_stay_exact_in_any_precision() -> None:
    net = filled("temporal")
    exact = net.memory.last_update.clone()
    assert exact.max() > 2**24
    for changed in (net.float(), net.half(), net.double()):
        assert changed.memory.memory.dtype == next(changed.parameters()).dtype
        assert torch.equal(changed.memory.last_update, exact)


def test_state_that_is_loaded_leaves_no_messages() -> None:
    net, other = filled("temporal"), filled("temporal")
    state = copy.deepcopy(net.state_dict())
    late = stream().t[-1:]
    other.update_state(torch.tensor([0]), torch.tensor([1]), late, torch.ones(1, EDGE_DIM))
    for each in (net, other):
        each.load_state_dict(state)
        each.update_state(torch.tensor([3]), torch.tensor([0]), late, torch.zeros(1, EDGE_DIM))
    assert torch.equal(net.memory.memory, other.memory.memory)


def test_memory_is_the_same_after_a_change_of_mode() -> None:
    net = filled("temporal")
    before = net.memory.memory.clone()
    assert torch.equal(net.train().eval().memory.memory, before)
    fresh = NETWORKS["temporal"]()
    assert not fresh.train().eval().memory.memory.any()


def test_layers_and_memory_share_one_encoding_of_time() -> None:
    net = TemporalNet(NODES, 0, HIDDEN, OUT, 3, edge_dim=EDGE_DIM)
    assert isinstance(net.stack.time_encoding, TGATEncoding)
    assert all(conv.time_encoding is net.stack.time_encoding for conv in net.stack.convs)
    assert net.memory.time_enc.time_encoding is net.stack.time_encoding


@pytest.mark.parametrize(
    ("name", "channels"), [("bochner", 6), ("mercer", 11), ("mercer_sum", 5), ("tgat", 5), ("graphmixer", 5)]
)
def test_encodings_of_time_have_a_width_that_they_can_have(name: str, channels: int) -> None:
    net = TGAT(0, 5, OUT, 2, time_encoding=name, edge_dim=EDGE_DIM)
    assert net.stack.time_encoding.channels == channels
    assert all(conv.width % conv.heads == 0 for conv in net.stack.convs)


# Bad input ############################################################################################################


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TGAT(0, 8, 4, 0), "num_layers is 0; expected at least 1"),
        (lambda: TGAT(-1, 8, 4), "in_channels is -1 and hidden_channels is 8; expected at least 0 and 1"),
        (lambda: TGAT(0, 8, 4, edge_dim=-1), "edge_dim is -1; expected at least 0"),
        (lambda: TGAT(0, 8, 4, heads=0), "heads is 0; expected at least 1"),
        (lambda: TGAT(0, 8, 4, time_encoding="fourier"), "'fourier'"),
        (lambda: TGAT(0, 8, 4, time_encoding="mercer", time_channels=12), "channels is 12"),
        (lambda: TGAT(0, 8, 4, dropout=2.0), "dropout is 2.0"),
        (lambda: TemporalNet(0, 0, 8, 4), "num_nodes is 0; expected at least 1"),
        (lambda: TGN(5, 9), "channels is 9 and heads is 2; expected a multiple of heads"),
        (lambda: EventHead(TGAT(0, 8, 4), 4, 0), "out_channels is 0; expected at least 1, or None"),
        (lambda: TGAT.from_config({"in_channels": 0, "hidden_channels": 8}), "config lacks 'out_channels'"),
    ],
)
def test_bad_options(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_samples_that_do_not_fit() -> None:
    net, events = filled("tgat"), stream()
    nodes, times = asked()
    with pytest.raises(ValueError, match="past has 1 hops, but the network 2 layers"):
        net(TemporalSampler(events, [3]).sample(nodes[:3], times[:3]))
    del events.msg
    past = TemporalSampler(events, [3, 3]).sample(nodes[:3], times[:3])
    with pytest.raises(ValueError, match="msg of the events has 0 columns, but edge_dim is 3"):
        net(past)
    past.x = torch.ones(len(past.n_id), 2)
    with pytest.raises(ValueError, match="x of the nodes has 2 columns, but in_channels is 0"):
        net(past)
    for wide in (TGAT(5, HIDDEN, OUT, 2), TemporalNet(NODES, 5, HIDDEN, OUT, 2)):
        del past.x
        with pytest.raises(ValueError, match="x of the nodes has 0 columns, but in_channels is 5; make the network"):
            wide(past)
        past.x = torch.ones(len(past.n_id), 2)
    small = TemporalNet(3, 0, HIDDEN, OUT)
    with pytest.raises(ValueError, match="n_id has node 8, but num_nodes is 3"):
        small(TemporalSampler(events, [3], num_nodes=NODES).sample(torch.tensor([8]), times[:1]))
    with pytest.raises(ValueError, match="msg has 2 columns, but edge_dim is 0"):
        small.update_state(nodes[:1], nodes[:1], times[:1], torch.ones(1, 2))


def test_pairs_and_classes_ask_for_different_rows() -> None:
    past, row = sample_for(filled("tgat")), torch.tensor([0])
    with pytest.raises(ValueError, match="dst is missing, but pairs are scored; out_channels of the head is None"):
        EventHead(filled("tgat"), OUT)(past, row)
    with pytest.raises(ValueError, match="dst is given, but events are classified; out_channels of the head is 3"):
        EventHead(filled("tgat"), OUT, 3)(past, row, row)
