"""Fitting streams of events: PyG's example written out, resumed runs to the bit, what the future may change, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.data import TemporalData
from torch_geometric.nn import TGNMemory, TransformerConv
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader

from graphattn.datasets import EventTask, load
from graphattn.engine import Recipe, seeded, train
from graphattn.models import AttentionNet, EventHead, StaticNet, TemporalNet
from graphattn.training import EventResult, TemporalSampler, fit, load_model
from graphattn.training._events import Events
from graphattn.training.event_networks import EVENT_MODELS, make_event_network
from graphattn.training.experiment import default_settings, kind_of, prepare, run
from graphattn.training.search import _usual_space
from tests.training.test_fit import interrupt, same_weights

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is not installed")

RECIPE = Recipe(
    epochs=3, batch_size=20, lr=0.064, optimizer="adam", weight_decay=0.0, schedule="constant", warmup=0.0, seed=3
)
NODES = 14
MODELS = ("TGAT", "TemporalNet", "TGN", "GAT")
every_model = pytest.mark.parametrize("model", MODELS)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def events(count: int = 150, kind: str = "link") -> TemporalData:
    """Conversations: a pair of nodes meets four times in short order. The label says that the source is new to it."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randperm(NODES, generator=generator)[:2] for _ in range(-(-count // 4))])
    src, dst = pairs.repeat_interleave(4, dim=0)[:count].t().contiguous()
    first = torch.arange(count) % 4 == 0
    t = torch.where(first, 1000, 10).cumsum(0) + 1_600_000_000
    y = {"y": first.long()} if kind == "node" else {}
    return TemporalData(src=src, dst=dst, t=t, msg=torch.randn(count, 2, generator=generator), **y)


def make_task(data: TemporalData | None = None, **changes: Any) -> EventTask:
    """The events with two nodes hidden from the training."""
    kind = changes.get("kind", "link")
    data = events(kind=kind) if data is None else data
    ids = torch.arange(data.num_events)
    seen = (data.src < NODES - 2) & (data.dst < NODES - 2)
    options: dict[str, Any] = {
        "name": "talks",
        "data": data,
        "num_nodes": NODES,
        "split": {"train": ids[:90][seen[:90]], "val": ids[90:120], "test": ids[120:]},
        "split_name": "own",
        "licence": "generated",
        "metric": "average_precision" if kind == "link" else "roc_auc",
    }
    return EventTask(**(options | changes))


def make(model: str, task: EventTask, **changes: Any) -> EventHead:
    settings = default_settings("event", model).updated({"network": {"hidden_channels": 8, **changes}})
    return make_event_network(model, task, settings.network)


def fitted(model: str, task: EventTask, net: nn.Module | None = None, **changes: Any) -> tuple[nn.Module, EventResult]:
    net = net or make(model, task)
    return net, fit(net, task, **({"recipe": RECIPE, "device": "cpu", "progress": False} | changes))


def predictions(model: str, task: EventTask, part: str = "val") -> torch.Tensor:
    """Scores of a part and its negatives by a network that training has not touched, after the training events."""
    net = make(model, task)
    with seeded(0), torch.no_grad():
        net.reset_parameters()
        net.double()
        seen = Events(task, net, torch.device("cpu"), [5] * net.num_layers, 7)
        for rows in torch.arange(seen.num_samples).split(7):
            seen.losses(rows)
        net.eval()
        if task.kind == "node":
            return seen._predict_labels(part)
        return torch.stack(seen._predict_links(part))


# What a run is ########################################################################################################


@pytest.mark.parametrize("kind", ["link", "node"])
@pytest.mark.parametrize("model", ["TGAT", "TemporalNet"])
def test_conversations_are_learned(model: str, kind: str) -> None:
    """Who talked last talks next, and how long ago says whether a talk begins: both far above chance."""
    task = make_task(kind=kind)
    _, result = fitted(model, task, recipe=replace(RECIPE, epochs=12))
    assert result.epochs[-1]["loss"] < 0.9 * result.epochs[0]["loss"]
    assert result.test > 0.75
    assert result.config["kind"] == "event"
    if kind == "link":
        assert result.inductive is not None
        assert [0 <= epoch["inductive"] <= 1 for epoch in result.epochs]
    else:
        assert result.inductive is None


def test_tgn_is_pygs_example_written_out() -> None:
    """Losses of two epochs, and scores after each, of PyG's loop as it stands in its example."""
    stream, recipe = events(), replace(RECIPE, epochs=2, lr=0.0128, clip=None)
    stream.t = torch.arange(150) + 20  # gradients of frequencies, and with them all roundings, grow with time
    task = make_task(stream)
    net = make("TGN", task, dropout=0.0)
    with seeded(3, 0):
        net.reset_parameters()
    data, ids = task.data, task.split["train"]
    memory = TGNMemory(NODES, 2, 8, 8, IdentityMessage(2, 8, 8), LastAggregator())
    conv = TransformerConv(8, 4, heads=2, edge_dim=10)
    theirs = (net.backbone.memory.gru, net.backbone.memory.time_enc, net.backbone.conv)
    for ours, one in zip((memory.gru, memory.time_enc, conv), theirs, strict=True):
        ours.load_state_dict(one.state_dict())
    predict = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))
    predict[0].load_state_dict(net.lins[0].state_dict())
    predict[2].load_state_dict(net.lins[1].state_dict())
    modules = nn.ModuleList([memory, conv, predict]).double()
    optimizer = torch.optim.Adam(modules.parameters(), lr=0.0128 * 20 / 256)
    choices = torch.cat([data.src[ids], data.dst[ids]]).unique()
    t, msg = data.t - data.t[0], data.msg.double()

    def scores(loader: LastNeighborLoader, known: torch.Tensor, rows: torch.Tensor, negatives: torch.Tensor) -> Any:
        src, dst = data.src[rows], data.dst[rows]
        n_id, edge_index, e_id = loader(torch.cat([src, dst, negatives]).unique())
        z, last_update = memory(n_id)
        rel_t = last_update[edge_index[0]] - t[known[e_id]]
        z = conv(z, edge_index, torch.cat([memory.time_enc(rel_t.to(z.dtype)), msg[known[e_id]]], dim=-1))
        place = torch.full((NODES,), -1).scatter(0, n_id, torch.arange(len(n_id)))
        pairs = [torch.cat([z[place[src]], z[place[other]]], dim=1) for other in (dst, negatives)]
        memory.update_state(src, dst, t[rows], msg[rows])
        loader.insert(src, dst)
        return [predict(pair)[:, 0] for pair in pairs]

    losses, found = [], []
    for epoch in range(2):
        modules.train()
        memory.reset_state()
        loader, total = LastNeighborLoader(NODES, 10), 0.0
        loader.reset_state()
        with seeded(3, 1 + epoch):
            for rows in ids.split(20):
                negatives = choices[torch.randint(len(choices), rows.shape)]
                positive, negative = scores(loader, ids, rows, negatives)
                loss = F.binary_cross_entropy_with_logits(positive, torch.ones_like(positive))
                loss = loss + F.binary_cross_entropy_with_logits(negative, torch.zeros_like(negative))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                memory.detach()
                total += loss.item() * len(rows)
        losses.append(total / len(ids))
        with torch.no_grad():
            modules.eval()
            everything = torch.arange(data.num_events)
            loader.reset_state()
            for rows in everything[:90].split(20):
                loader.insert(data.src[rows], data.dst[rows])
            parts = []
            for rows, negatives in zip(task.split["val"].split(20), task.negatives("val").split(20), strict=True):
                parts.append(scores(loader, everything, rows, negatives))
            found.append(task.evaluate(*(torch.cat(each) for each in zip(*parts, strict=True)), "val"))
    # The loop of fit without Fabric, which rounds outputs to float32.
    ours = Events(task, net.double(), torch.device("cpu"), [10], 20)
    log = train(net, ours.num_samples, ours.losses, recipe, evaluate=lambda: ours.evaluate("val"), shuffle=False)
    assert [epoch["loss"] for epoch in log.epochs] == pytest.approx(losses, rel=1e-9)
    assert [epoch["score"] for epoch in log.epochs] == pytest.approx(found, rel=1e-9)


@every_model
def test_a_seed_is_a_result(model: str) -> None:
    task = make_task()
    net, result = fitted(model, task)
    assert fitted(model, task, net)[1] == result  # whatever the weights and the memory are
    other, again = fitted(model, task)
    assert result == again
    assert same_weights(net, other)
    assert fitted(model, task, seed=4)[1].epochs != result.epochs


@every_model
@pytest.mark.parametrize("kind", ["link", "node"])
@pytest.mark.parametrize("stop_after", [2, 8])
def test_a_stopped_run_goes_on_to_the_same_bits(model: str, kind: str, stop_after: int, tmp_path: Path) -> None:
    """Stopped within the first epoch and within the second, the second time once more when all was over."""
    if kind == "node" and model in ("TGN", "GAT"):
        pytest.skip("peers differ from ours in nothing that the kind of task touches")
    task = make_task(kind=kind)
    whole, result = fitted(model, task, out=tmp_path / "whole")
    stopped = interrupt(make(model, task), stop_after, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fitted(model, task, stopped, out=tmp_path / "parts")
    for _ in range(2):
        net, again = fitted(model, task, out=tmp_path / "parts", resume=True)
        assert again == result
        assert same_weights(net, whole)
    written = [json.loads((tmp_path / name / "seed-3.json").read_text()) for name in ("whole", "parts")]
    assert {**written[0], "measured": None} == {**written[1], "measured": None}
    assert written[0]["inductive"] == result.inductive


@every_model
def test_a_network_can_be_loaded(model: str, tmp_path: Path) -> None:
    """Its weights, and its memory of the training and the validation, from which the test follows on."""
    task = make_task()
    _, result = fitted(model, task, out=tmp_path)
    net = load_model(tmp_path / "seed-3.pt")
    count = [] if isinstance(net.backbone, StaticNet) else [10] * net.num_layers
    with torch.no_grad():
        found = Events(task, net, torch.device("cpu"), count, 20).evaluate("test")
    assert found == {"score": result.test, "inductive": result.inductive}


# What the future may change ###########################################################################################


@every_model
@pytest.mark.parametrize("kind", ["link", "node"])
def test_nothing_from_the_future(model: str, kind: str) -> None:
    """Other events from the 105th on, or other labels, leave every prediction before it as it was."""
    task = make_task(kind=kind)
    data, other = task.data, events(kind=kind)
    late = torch.arange(data.num_events) >= 105
    generator = torch.Generator().manual_seed(9)
    for key in ("src", "dst"):
        other[key] = torch.where(late, torch.randint(0, NODES, late.shape, generator=generator), data[key])
    other.msg = torch.where(late.unsqueeze(1), data.msg + 1, data.msg)
    other.t = data.t + 5 * late.cumsum(0) ** 2
    if kind == "node":
        other.y = torch.where(late, 1 - data.y, data.y)
    changed = make_task(other, kind=kind)
    before, after = predictions(model, task), predictions(model, changed)
    known = torch.arange(15)
    if kind == "link":
        assert torch.equal(task.negatives("val")[known], changed.negatives("val")[known])
        before, after = before.t(), after.t()
    # Sums over other nodes of the batch may be rounded otherwise.
    torch.testing.assert_close(before[known], after[known], rtol=0, atol=1e-13)
    assert not torch.allclose(before, after)


def test_the_test_set_changes_no_epoch() -> None:
    task, other = make_task(), events()
    other.src, other.dst = other.src.clone(), other.dst.clone()
    other.src[120:], other.dst[120:] = other.dst[120:].clone(), other.src[120:].clone()
    for model in MODELS:
        ours, theirs = fitted(model, task)[1], fitted(model, make_task(other))[1]
        assert ours.epochs == theirs.epochs
        if model != "GAT":  # for which a pair has no direction in its graph, but one in the head
            assert ours.test != theirs.test


@pytest.mark.parametrize("model", ["TGAT", "TemporalNet", "TGN"])
def test_later_parts_see_the_events_before_them(model: str) -> None:
    """Events of hidden nodes are no part of the training, but of the past of the validation."""
    task = make_task()
    hidden = torch.arange(90)[~torch.isin(torch.arange(90), task.split["train"])]
    assert len(hidden) > 4
    other = events()
    other.msg = other.msg.clone()
    other.msg[hidden] += 1
    before, after = predictions(model, task), predictions(model, make_task(other))
    assert not torch.equal(before, after)
    assert fitted(model, task)[1].epochs[0]["loss"] == fitted(model, make_task(other))[1].epochs[0]["loss"]


def test_training_sees_its_own_events_alone() -> None:
    task = make_task()
    net = make("TGAT", task)
    seen = Events(task, net, torch.device("cpu"), [5], 20)
    stream = TemporalData(**{key: task.data[key][task.split["train"]] for key in ("src", "dst", "t", "msg")})
    rows = torch.arange(40, 60)
    nodes, t = stream.src[rows], stream.t[rows]
    expected = TemporalSampler(stream, [5], num_nodes=NODES).sample(nodes, t)
    found = seen.seen.sample(nodes, seen.train.t[rows])
    assert torch.equal(found.edge_time, expected.edge_time)
    assert torch.equal(found.n_id, expected.n_id)
    assert int(seen.choices.max()) < NODES - 2, "negatives are nodes that the training knows"


def test_scores_are_those_of_the_task() -> None:
    """Events in batches of any size, for a network without a memory, and those with several negatives each."""
    task = make_task()
    net = make("TGAT", task).eval()
    views = [Events(task, net, torch.device("cpu"), [5], size) for size in (7, 30)]
    with torch.no_grad():
        one, two = (view._predict_links("val") for view in views)
        for first, second in zip(one, two, strict=True):
            torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
        found = views[1].evaluate("val")
    loss = F.softplus(-two[0]).mean() + F.softplus(two[1]).mean()
    assert found["score"] == task.evaluate(*two, "val")
    assert found["inductive"] == task.evaluate(*two, "val", inductive=True)
    assert found["val_loss"] == pytest.approx(loss.item(), rel=1e-6)

    several = torch.stack([task.negatives("val"), (task.data.dst[90:120] + 1) % NODES, torch.full((30,), -1)], dim=1)
    brought = make_task(
        given_negatives={"val": several},
        evaluator=lambda positive, negative: float((positive.unsqueeze(1) > negative).double().mean()),
        metric="wins",
    )
    with torch.no_grad():
        view = Events(brought, net, torch.device("cpu"), [5], 30)
        positive, negative = view._predict_links("val")
        torch.testing.assert_close(positive, two[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(negative[:, 0], two[1], atol=1e-5, rtol=0)
        loss = F.softplus(-positive).mean() + F.softplus(negative[:, :2]).mean()
        assert view.evaluate("val")["val_loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_events_without_a_label_are_remembered() -> None:
    task = make_task(kind="node")
    ids = torch.arange(150)
    known = ids % 3 == 0
    split = {part: rows[known[rows]] for part, rows in task.split.items()}
    fewer = make_task(kind="node", split={**split, "train": task.split["train"]})
    whole, part = predictions("TemporalNet", task), predictions("TemporalNet", fewer)
    # Batches differ, and with them what the memory has seen; the first batch has seen the same.
    torch.testing.assert_close(part[:3], whole[[0, 3, 6]], rtol=0, atol=1e-13)
    net = make("TemporalNet", fewer).eval()
    view = Events(fewer, net, torch.device("cpu"), [5], 4)
    with torch.no_grad():
        view._predict_labels("val")
    last = int(fewer.split["val"][-1])
    between = task.data.src[last - 1]
    assert net.backbone.memory.last_update[between] >= (task.data.t[last - 1] - task.data.t[0])


# Names and commands ###################################################################################################


@pytest.mark.parametrize("model", EVENT_MODELS)
def test_every_name_makes_a_network(model: str) -> None:
    task = make_task()
    net = make(model, task)
    assert (kind_of(task), net.out_channels) == ("event", None)
    assert set(_usual_space("event", model, default_settings("event", model))) >= {"network.hidden_channels"}
    assert fitted(model, task, net, recipe=replace(RECIPE, epochs=1))[1].stopped == "epochs"


@pytest.mark.parametrize("model", ["TGAT", "TGN", "GCN"])
def test_runs_leave_nothing_behind_in_the_stream_that_they_share(model: str) -> None:
    shared = make_task()
    for seed in range(2):
        _, result = fitted(model, shared, seed=seed)
        _, alone = fitted(model, make_task(), seed=seed)
        assert (result.epochs, result.test) == (alone.epochs, alone.test)
    untouched = make_task()
    for name in ("src", "dst", "t", "msg"):
        assert torch.equal(shared.data[name], untouched.data[name])


def test_a_file_of_events_is_an_experiment(tmp_path: Path) -> None:
    data = events()
    columns = np.stack([data.src, data.dst, data.t], axis=1)
    np.savetxt(tmp_path / "talks.csv", columns, fmt="%d", delimiter=",", header="src,dst,t", comments="")
    name = f"local:{tmp_path / 'talks.csv'}"
    settings = default_settings("event", "TemporalNet").updated(
        {"recipe": {"epochs": 1}, "network": {"hidden_channels": 8}}
    )
    network, task = prepare(load(name), "TemporalNet", settings)
    assert isinstance(task, EventTask)
    assert network.backbone.config["num_nodes"] == task.num_nodes
    result = run(load(name), "TemporalNet", settings, progress=False, device="cpu")
    assert len(result.epochs) == 1
    with pytest.raises(ValueError, match=r"transform is SparseFeatures, but talks is a stream of events"):
        prepare(load(name), "TGAT", settings.updated({"transform": {"SparseFeatures": {}}}))


def test_bad_runs() -> None:
    task, net = make_task(), make("TGAT", make_task())
    cases: list[tuple[dict[str, Any], str]] = [
        ({"recipe": replace(RECIPE, batch_size=None)}, "batch_size is None, but events of talks come in batches"),
        ({"num_neighbors": [5, 5]}, r"num_neighbors is \[5, 5\], but model has 1 layers"),
        ({"eval_neighbors": [5]}, r"eval_neighbors is \[5\], but events are predicted as they are learned"),
        ({"devices": 2}, "2 devices are asked for, but each batch of events needs what the one before has left"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            fitted("TGAT", task, net, **changes)
    with pytest.raises(ValueError, match="model sees the whole graph of the training; leave it out"):
        fitted("GAT", task, num_neighbors=[5])
    with pytest.raises(ValueError, match="model sees the last events; expected 1 or more"):
        fitted("TGN", task, num_neighbors=[-1])
    with pytest.raises(ValueError, match="num_nodes is 5"):
        fitted("TemporalNet", task, EventHead(TemporalNet(5, 0, 8, 8, edge_dim=2), 8))
    with pytest.raises(ValueError, match=r"model returns \(20, 3\), but talks needs \[rows, 1\]"):
        fitted("TGAT", make_task(kind="node"), EventHead(net.backbone, 8, 3))


def test_networks_and_tasks_of_different_kinds() -> None:
    with pytest.raises(TypeError, match="model is a AttentionNet, but talks is about events; pass an EventHead"):
        fit(AttentionNet(3, 4, 2), make_task(), RECIPE, progress=False)
    with pytest.raises(TypeError, match="model is a EventHead, but karate is about nodes; pass a network for nodes"):
        fit(make("TGAT", make_task()), load("karate"), RECIPE, progress=False)
    for kind, model, known in (("event", "APPNP", "events"), ("node", "TGN", "graphs")):
        with pytest.raises(ValueError, match=f"model is '{model}'; .*for {known}"):
            default_settings(kind, model)


def test_a_broken_message_is_found() -> None:
    task = make_task()
    data = events()
    data.msg = data.msg.clone()
    broken = make_task(data)
    data.msg[60] = float("nan")  # after the task has been checked
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 0"):
        fitted("TGAT", broken)
    net: Callable[..., Any] = make("TGAT", task)
    with torch.no_grad():
        net.lins[1].bias.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="the output for 'val' of talks is not finite; lower lr"):
            Events(task, net.eval(), torch.device("cpu"), [5], 20).evaluate("val")
