"""Fitting nodes and graphs: a loop written out, resumed runs to the bit, what the test set may change, and errors."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCN

from graphattn.affinity import SparseAffinity
from graphattn.datasets import GraphTask, LinkTask, NodeTask
from graphattn.engine import Recipe, load_checkpoint, seeded
from graphattn.models import (
    AttentionNet,
    GraphHead,
    InfDiffusionNet,
    LinkHead,
    MessagePassingNet,
    consistency_loss,
)
from graphattn.training import Consistency, Result, fit, load_model
from graphattn.training._batches import GraphBatches, make_loss
from graphattn.training._links import Links, SampledLinks
from graphattn.training._surroundings import Surroundings
from tests.engine.test_report import scalars

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is not installed")

WHOLE = Recipe(epochs=6, batch_size=None, lr=0.02, optimizer="adamw", weight_decay=1e-3, seed=3)
BATCHES = replace(WHOLE, batch_size=10, lr=0.5)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def node_task(**changes: Any) -> NodeTask:
    """Two noisy communities of 30 nodes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    source, target = torch.randint(0, 60, (2, 600), generator=generator)
    within = y[source] == y[target]
    x = torch.randn(60, 4, generator=generator) + 0.7 * y.unsqueeze(1)
    order = torch.randperm(60, generator=generator)
    options: dict[str, Any] = {
        "name": "communities",
        "data": Data(x=x, edge_index=torch.stack([source, target])[:, within], y=y),
        "split": {"train": order[:25], "val": order[25:40], "test": order[40:]},
        "split_name": "own",
        "metric": "accuracy",
        "licence": "generated",
        "num_classes": 2,
    }
    return NodeTask(**(options | changes))


def graph_task(**changes: Any) -> GraphTask:
    """Graphs of 1 to 6 nodes, told apart by the mean of their features; the last one has no nodes."""
    generator = torch.Generator().manual_seed(1)
    graphs = []
    for number in range(40):
        size = 0 if number == 39 else 1 + number % 6
        edges = torch.randint(0, max(size, 1), (2, 2 * size), generator=generator)
        x = torch.randn(size, 4, generator=generator) + 2 * (number % 2)
        graphs.append(Data(x=x, edge_index=edges, y=torch.tensor([number % 2])))
    options: dict[str, Any] = {
        "name": "bags",
        "graphs": graphs,
        "split": {"train": torch.arange(24), "val": torch.arange(24, 32), "test": torch.arange(32, 40)},
        "split_name": "own",
        "metric": "accuracy",
        "licence": "generated",
        "num_classes": 2,
    }
    return GraphTask(**(options | changes))


def link_task(**changes: Any) -> LinkTask:
    """Which nodes of two communities are joined: 120 pairs within one to train on, others to be told apart."""
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(40) % 2
    pairs = torch.combinations(torch.arange(40)).t()
    pairs = pairs[:, torch.randperm(pairs.size(1), generator=generator)]
    within = y[pairs[0]] == y[pairs[1]]
    links, others = pairs[:, within][:, :200], pairs[:, ~within][:, :120]
    x = torch.randn(40, 4, generator=generator) + 0.5 * y.unsqueeze(1)
    options: dict[str, Any] = {
        "name": "joined",
        "data": Data(x=x, edge_index=torch.cat([links[:, :120], links[:, :120].flip(0)], dim=1)),
        "split": {"train": links[:, :120], "val": links[:, 120:160], "test": links[:, 160:]},
        "negatives": {"val": others[:, :60], "test": others[:, 60:]},
        "split_name": "own",
        "metric": "roc_auc",
        "licence": "generated",
    }
    return LinkTask(**(options | changes))


def node_net(out_channels: int = 2) -> AttentionNet:
    return AttentionNet(4, 8, out_channels, heads=2, dropout=0.3, norm="batch")


def graph_net(out_channels: int = 2) -> GraphHead:
    return GraphHead(AttentionNet(4, 8, 8, norm="batch", dropout=0.3), 8, out_channels)


def link_net() -> LinkHead:
    return LinkHead(AttentionNet(4, 8, 8, norm="batch", dropout=0.3), 8, decoder="mlp")


# The network, the task and the options of a run of each kind.
RUNS: dict[str, Callable[[], tuple[nn.Module, Any, dict[str, Any]]]] = {
    "nodes": lambda: (node_net(), node_task(), {"recipe": WHOLE}),
    "sampled": lambda: (node_net(), node_task(), {"recipe": BATCHES, "num_neighbors": [3, 2]}),
    "predicted": lambda: (
        node_net(),
        node_task(),
        {"recipe": BATCHES, "num_neighbors": [3, 2], "eval_neighbors": [6, 6]},
    ),
    "graphs": lambda: (graph_net(), graph_task(), {"recipe": BATCHES}),
    "links": lambda: (link_net(), link_task(), {"recipe": replace(BATCHES, batch_size=50, lr=0.1)}),
    "ends": lambda: (
        link_net(),
        link_task(),
        {"recipe": replace(BATCHES, batch_size=50, lr=0.1), "num_neighbors": [6, 6], "eval_neighbors": [8, 8]},
    ),
    "labels": lambda: (InfDiffusionNet(4, 8, 2, label_input=True, dropout=0.3), node_task(), {"recipe": WHOLE}),
    "average": lambda: (node_net(), node_task(), {"recipe": replace(WHOLE, ema=0.7)}),
    "half": lambda: (node_net(), node_task(), {"recipe": WHOLE, "precision": "bf16-mixed"}),
}
every_run = pytest.mark.parametrize("kind", RUNS)


def run(kind: str, model: nn.Module | None = None, **changes: Any) -> tuple[nn.Module, Result]:
    net, task, options = RUNS[kind]()
    model = model or net
    return model, fit(model, task, **({"progress": False, "device": "cpu", **options} | changes))


def interrupt(model: nn.Module, step: int, error: BaseException) -> nn.Module:
    """Make a network raise at a training step, counted from 0."""
    seen: list[int] = []

    def hook(module: nn.Module, args: Any) -> None:
        if module.training:
            if len(seen) == step:
                raise error
            seen.append(1)

    model.register_forward_pre_hook(hook)
    return model


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# What a run is ########################################################################################################


@every_run
def test_the_loss_falls_and_the_classes_are_found(kind: str) -> None:
    recipe = RUNS[kind]()[2]["recipe"]
    recipe = replace(recipe, epochs=60 if recipe.batch_size is None else 30)
    model, result = run(kind, recipe=recipe)
    # Of links no network gets below 0.95 of 1.39: half of the random pairs are as alike as they are.
    fraction = 0.95 if kind in ("links", "ends") else 0.9
    assert result.epochs[-1]["loss"] < fraction * result.epochs[0]["loss"]
    assert result.test >= 0.75
    assert not model.training


def test_equals_steps_written_out() -> None:
    """Full-batch training of nodes with AdamW, dropout, schedule and clipping, to the bit."""
    task, recipe = node_task(), replace(WHOLE, epochs=3, warmup=0.0, clip=0.5)
    x, edges, y = task.data.x, task.data.edge_index, task.data.y
    net = node_net()
    with seeded(3, 0):
        net.reset_parameters()
    matrices = [p for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 1e-3}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.999)
    )
    epochs = []
    for epoch in range(3):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(epoch)
        net.train()
        with seeded(3, 1 + epoch):
            ids = task.split["train"][torch.randperm(25)]
            loss = F.cross_entropy(net(x, edges)[ids], y[ids])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*matrices, *vectors], 0.5)
        optimizer.step()
        net.eval()
        with torch.no_grad():
            out = net(x, edges)[task.split["val"]]
            right, val_loss = out.argmax(1) == y[task.split["val"]], F.cross_entropy(out, y[task.split["val"]]).item()
        # Of a loss the mean over samples is logged, which is rounded once more.
        weights = {k: v.clone() for k, v in net.state_dict().items()}
        epochs.append((loss.item(), right.double().mean().item(), val_loss, weights))
    model, result = run("nodes", recipe=recipe)
    assert [epoch["loss"] for epoch in result.epochs] == pytest.approx([loss for loss, *_ in epochs], rel=1e-15)
    assert [(epoch["score"], epoch["val_loss"]) for epoch in result.epochs] == [each[1:3] for each in epochs]
    best = max(range(3), key=lambda epoch: (epochs[epoch][1], -epochs[epoch][2]))
    assert result.best_epoch == best
    assert all(torch.equal(value, epochs[best][3][key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert result.test == task.evaluate(model(x, edges)[task.split["test"]])
    assert result.val == epochs[best][1]


@every_run
def test_a_seed_is_a_result(kind: str) -> None:
    model, task, options = RUNS[kind]()
    state = torch.get_rng_state()
    result = fit(model, task, device="cpu", progress=False, **options)
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"
    again = run(kind, model)[1]  # whatever the weights are
    fresh, third = run(kind)
    assert result == again == third
    assert same_weights(model, fresh)
    other = run(kind, seed=4)[1]
    assert other.config["recipe"]["seed"] == 4
    assert other.epochs != result.epochs


@every_run
@pytest.mark.parametrize("stop_after", [0, 4])
def test_a_stopped_run_goes_on_to_the_same_bits(kind: str, stop_after: int, tmp_path: Path) -> None:
    steps = {"sampled": 3, "predicted": 3, "graphs": 3, "links": 3, "ends": 3}.get(kind, 1)
    whole, result = run(kind, out=tmp_path / "whole")
    # In the middle of an epoch, where it has several steps.
    model = interrupt(RUNS[kind]()[0], stop_after * steps + steps // 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(kind, model, out=tmp_path / "parts")
    torch.rand(3)  # what happens in between does not matter
    resumed, again = run(kind, out=tmp_path / "parts", resume=True)
    assert again == result
    assert same_weights(whole, resumed)
    folders = tmp_path / "whole", tmp_path / "parts"
    lines, results = ([(folder / f"seed-3.{end}").read_text() for folder in folders] for end in ("jsonl", "json"))
    assert lines[0] == lines[1]
    first, second = map(json.loads, results)
    assert {**first, "measured": None} == {**second, "measured": None}
    assert first["measured"]["versions"] == second["measured"]["versions"]
    left = sorted(path.name for path in (tmp_path / "parts").iterdir() if path.is_file())
    assert left == ["seed-3.json", "seed-3.jsonl", "seed-3.pt"]
    # A run that is over is read, not repeated.
    read, finished = run(kind, interrupt(RUNS[kind]()[0], 0, AssertionError()), out=tmp_path / "parts", resume=True)
    assert finished == result
    assert finished.measured == again.measured, "what was measured while it was trained"
    assert (tmp_path / "parts" / "seed-3.json").read_text() == results[1]
    assert same_weights(whole, read)


def test_files(tmp_path: Path) -> None:
    model, result = run("graphs", out=tmp_path, seed=5)
    lines = [json.loads(line) for line in (tmp_path / "seed-5.jsonl").read_text().splitlines()]
    assert lines == [{"epoch": number, **epoch} for number, epoch in enumerate(result.epochs)]
    stored = json.loads((tmp_path / "seed-5.json").read_text())
    assert (stored["test"], stored["val"], stored["best_epoch"]) == (result.test, result.val, result.best_epoch)
    assert stored["config"]["model"]["backbone"]["hidden_channels"] == 8
    loaded = load_model(tmp_path / "seed-5.pt")
    assert same_weights(loaded, model)
    assert not loaded.training
    graph = graph_task().graphs[5]
    assert torch.equal(loaded(graph.x, graph.edge_index), model(graph.x, graph.edge_index))


def test_what_was_asked_and_what_was_measured(tmp_path: Path) -> None:
    model, result = run("links", out=tmp_path, max_minutes=60.0)
    config = result.config
    assert (config["task"], config["kind"], config["metric"], config["max_minutes"]) == (
        "joined",
        "link",
        "roc_auc",
        60.0,
    )
    assert config["recipe"]["optimizer"] == "adamw"
    assert [run(kind)[1].config["kind"] for kind in ("nodes", "graphs")] == ["node", "graph"]
    assert result.parameters == sum(p.numel() for p in model.parameters())
    assert result.stopped == "epochs"
    measured = result.measured
    assert measured["versions"]["torch"] == torch.__version__
    assert 0 < 6 * measured["seconds_per_epoch"] / 4 < 2 * measured["seconds"] < 120
    assert measured["peak_memory_mib"] is None or measured["peak_memory_mib"] > 50
    assert json.loads((tmp_path / "seed-3.json").read_text())["measured"] == measured
    state = load_checkpoint(tmp_path / "seed-3.pt")
    assert state["config"] == {name: value for name, value in config.items() if name != "max_minutes"}
    assert len(state["seconds"]) == 6


def test_classes_and_transform_of_a_task_are_kept(tmp_path: Path) -> None:
    task = node_task(classes=("left", "right"), transform={"gdc": {"k": 4}})
    fit(node_net(), task, WHOLE, out=tmp_path, device="cpu", progress=False)
    stored = json.loads((tmp_path / "seed-3.json").read_text())["config"]
    for config in (stored, load_checkpoint(tmp_path / "seed-3.pt")["config"]):
        assert (config["classes"], config["transform"]) == (["left", "right"], {"gdc": {"k": 4}})
    with pytest.raises(ValueError, match="belongs to another run; classes is"):
        fit(node_net(), node_task(), WHOLE, out=tmp_path, resume=True, device="cpu", progress=False)


def test_time_that_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of a minute each: training ends after the third, and stays ended until there is more time."""
    clock = itertools.count(step=60.0)
    monkeypatch.setattr("graphattn.engine.loop.time.perf_counter", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt):
        run("nodes", interrupt(node_net(), 1, KeyboardInterrupt()), out=tmp_path, max_minutes=2.5)
    first = run("nodes", out=tmp_path, max_minutes=2.5, resume=True)[1]
    assert (len(first.epochs), first.stopped, first.measured["seconds"]) == (3, "time", 180.0)
    again = run("nodes", interrupt(node_net(), 0, AssertionError()), out=tmp_path, max_minutes=2.5, resume=True)[1]
    assert again == first
    longer = run("nodes", out=tmp_path, max_minutes=60.0, resume=True)[1]
    assert (len(longer.epochs), longer.stopped) == (6, "epochs")
    assert replace(longer, config=first.config) == replace(run("nodes")[1], config=first.config)
    with pytest.raises(ValueError, match="max_minutes is 0; expected a positive number, or None"):
        run("nodes", max_minutes=0)


def test_finished_seeds_are_kept(tmp_path: Path) -> None:
    first = run("nodes", out=tmp_path, seed=0)[1]
    with pytest.raises(KeyboardInterrupt):
        run("nodes", interrupt(node_net(), 2, KeyboardInterrupt()), out=tmp_path, seed=1)
    again = [run("nodes", out=tmp_path, seed=seed, resume=True)[1] for seed in (0, 1)]
    assert again == [first, run("nodes", seed=1)[1]]


# Validation and test ##################################################################################################


@pytest.mark.parametrize("kind", ["nodes", "graphs"])
def test_test_labels_change_the_test_score_alone(kind: str) -> None:
    net, task, options = RUNS[kind]()
    recipe = replace(options["recipe"], epochs=40, patience=4)
    model, result = run(kind, recipe=recipe)
    if isinstance(task, NodeTask):
        task.data.y[task.split["test"]] = 1 - task.data.y[task.split["test"]]
    else:
        for number in task.split["test"].tolist():
            task.graphs[number].y = 1 - task.graphs[number].y
    other = fit(net, task, recipe, device="cpu", progress=False)
    assert other == replace(result, test=other.test)
    assert other.test == pytest.approx(1 - result.test)
    assert other.test != result.test
    assert same_weights(net, model)


def test_stops_when_validation_does_not_improve(tmp_path: Path) -> None:
    recipe = replace(WHOLE, epochs=200, patience=5)
    result = run("nodes", recipe=recipe, out=tmp_path)[1]
    scores = [epoch["score"] for epoch in result.epochs]
    assert len(scores) == result.best_epoch + 6 < 200
    assert result.stopped == "patience"
    best = min((-epoch["score"], epoch["val_loss"], number) for number, epoch in enumerate(result.epochs))
    assert result.best_epoch == best[2]
    stopped = interrupt(node_net(), 0, AssertionError("a run that has stopped early is over"))
    assert run("nodes", stopped, recipe=recipe, out=tmp_path, resume=True)[1] == result


def test_an_error_is_better_when_it_is_smaller() -> None:
    task = node_task()
    data = task.data.clone()
    data.y = data.x.sum(1)
    task = node_task(data=data, metric="mae", num_classes=None)
    net = node_net(1)
    result = fit(net, task, replace(WHOLE, epochs=30), device="cpu", progress=False)
    scores = [epoch["score"] for epoch in result.epochs]
    assert result.val == min(scores) < scores[0]
    assert result.best_epoch == scores.index(min(scores))
    with torch.no_grad():
        out = net(data.x, data.edge_index)[task.split["test"], 0]
    assert result.test == pytest.approx((out - data.y[task.split["test"]]).abs().mean().item(), rel=1e-6)


# Steps ################################################################################################################


def test_gradients_are_clipped() -> None:
    """A step of plain gradient descent is as long as the gradient, or as the clip of it."""
    recipe = Recipe(epochs=1, batch_size=None, lr=1.0, momentum=0.0, weight_decay=0.0, warmup=0.0, clip=None, seed=3)
    start = AttentionNet(4, 8, 2)
    with seeded(3, 0):
        start.reset_parameters()

    def moved(clip: float | None) -> float:
        model, _ = run("nodes", AttentionNet(4, 8, 2), recipe=replace(recipe, clip=clip), precision="64-true")
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return torch.cat([(p - q).detach().flatten() for p, q in pairs]).norm().item()

    norm = moved(None)
    assert norm > 0.1
    for clip in (norm / 2, norm / 100):
        assert moved(clip) == pytest.approx(clip * norm / (norm + 1e-6), rel=1e-10)
    assert moved(2 * norm) == pytest.approx(norm, rel=1e-12)


def test_sampling_all_neighbors_is_training_on_the_whole_graph() -> None:
    net = AttentionNet(4, 8, 2, heads=2)
    results = [
        run("nodes", net, recipe=replace(WHOLE, batch_size=size), num_neighbors=hops, precision="64-true")[1]
        for size, hops in ((None, None), (256, [-1, -1]))
    ]
    losses = [[epoch["loss"] for epoch in result.epochs] for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert results[0].test == results[1].test


@pytest.mark.parametrize("kind", ["sampled", "ends"])
def test_predictions_from_all_neighbors_are_those_of_the_whole_graph(kind: str) -> None:
    """In batches of ten nodes or pairs, of which the last has fewer."""
    results = []
    for neighbors in (None, [-1, -1]):
        net, task, options = RUNS[kind]()
        net, task = net.double(), copy.copy(task)
        options = options | {"num_neighbors": [-1, -1], "eval_neighbors": neighbors, "precision": "64-true"}
        options["recipe"] = replace(options["recipe"], batch_size=11, epochs=2)
        results.append(fit(net, task, device="cpu", progress=False, **options))
    for whole, sampled in zip(results[0].epochs, results[1].epochs, strict=True):
        assert sampled == pytest.approx(whole, rel=16 * torch.finfo(torch.float32).eps)
    assert results[0].test == results[1].test


def test_sampled_links_see_the_whole_graph_if_all_neighbors_are_drawn() -> None:
    """The same pairs have the same scores, whichever nodes are cut out with them."""
    task, net = link_task(), link_net().double().eval()
    task.data.x = task.data.x.double()
    pairs = torch.randint(0, 40, (2, 30))
    whole = Links(task, net, torch.device("cpu"))
    sampled = SampledLinks(task, net, torch.device("cpu"), Surroundings(task.data, [-1, -1], None, 50))
    expected = net(task.data.x, task.data.edge_index, pairs)
    torch.testing.assert_close(sampled._train_scores(pairs), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole._train_scores(pairs), expected, rtol=0, atol=1e-12)


def test_predictions_draw_the_same_neighbors_again() -> None:
    """A run that is over scores the test set anew, from the same surroundings."""
    first, second = (run("predicted", eval_neighbors=[1, 1])[1] for _ in range(2))
    assert first == second
    assert first.config["eval_neighbors"] == [1, 1]
    assert first.test != run("predicted", eval_neighbors=[-1, -1])[1].test or first.epochs != run("sampled")[1].epochs


@pytest.mark.parametrize("kind", ["predicted", "ends"])
def test_the_graph_is_never_seen_as_a_whole(kind: str) -> None:
    """Nor moved anywhere: features may lie in a file that is larger than memory."""
    net, task, options = RUNS[kind]()
    options["recipe"] = replace(options["recipe"], batch_size=3, epochs=1)
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda module, args, inputs: sizes.append(len(inputs["x"])), with_kwargs=True)
    moved = []

    class Watched(Data):
        def to(self, *args: Any, **kwargs: Any) -> Data:
            moved.append(self)
            return super().to(*args, **kwargs)

    object.__setattr__(task, "data", Watched(**task.data.to_dict()))
    options |= {"num_neighbors": [1, 1], "eval_neighbors": [1, 1]}
    fit(net, task, device="cpu", progress=False, **options)
    assert max(sizes) < task.data.num_nodes
    assert not moved


def test_features_in_a_file(tmp_path: Path) -> None:
    """Features that are mapped from a file give the bits that the same ones in memory give."""
    task = node_task()
    np.save(tmp_path / "x.npy", task.data.x.numpy())
    mapped = node_task()
    mapped.data.x = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="r+"))
    options = RUNS["predicted"]()[2]
    results = [fit(node_net(), each, device="cpu", progress=False, **options) for each in (task, mapped)]
    assert results[0] == results[1]


def test_many_pairs_are_decoded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block by itself, with the nodes embedded once for all."""
    task, net = link_task(), link_net()
    found, embedded = [], []
    net.backbone.register_forward_hook(lambda module, args, out: embedded.append(module.training))
    for size in (2**18, 7):
        monkeypatch.setattr("graphattn.models.heads._PAIRS", size)
        embedded.clear()
        found.append(fit(net, task, replace(WHOLE, epochs=1), device="cpu", precision="64-true", progress=False))
        assert embedded == [True, False, False]
    first, second = ([result.epochs[0]["val_loss"], result.test] for result in found)
    assert first == pytest.approx(second, rel=16 * torch.finfo(torch.float32).eps)
    h = torch.randn(5, 8, dtype=torch.float64)
    assert net.decode(h, torch.zeros(2, 0, dtype=torch.long)).shape == (0,)


def test_tensorboard_gets_the_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    result = run("nodes", out=tmp_path)[1]
    seen = scalars(tmp_path / "tensorboard" / "seed-3")
    assert seen.keys() == result.epochs[0].keys()
    for name, points in seen.items():
        values = torch.tensor([epoch[name] for epoch in result.epochs]).tolist()
        assert points == list(enumerate(values))


def test_graphs_in_batches_are_graphs_one_by_one() -> None:
    """The graph without nodes, which is the last of its batch, included."""
    task, net = graph_task(), graph_net().double().eval()
    graphs = [graph.clone() for graph in task.graphs]
    for graph in graphs:
        graph.x = graph.x.double()
    task = graph_task(graphs=graphs)
    predictions = GraphBatches(task, net, torch.device("cpu"), 3).predict("test")
    alone = torch.cat([net(graph.x, graph.edge_index, num_graphs=1) for graph in graphs[32:]])
    torch.testing.assert_close(predictions, alone, rtol=0, atol=1e-13)


def test_weights_of_edges_count() -> None:
    results = []
    for weight in (None, 1.0, 0.0):
        task = node_task()
        if weight is not None:
            task.data.edge_weight = torch.full((task.data.num_edges,), weight)
        for edge in (0, 1):
            if weight == 0.0:
                task.data.edge_weight[edge] = 1.0
        results.append(fit(node_net(), task, WHOLE, device="cpu", progress=False).epochs)
    losses = [torch.tensor([epoch["loss"] for epoch in epochs]) for epochs in results]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
    assert float((losses[0] - losses[2]).abs().max()) > 1e-2


def test_labels_that_are_an_input() -> None:
    """Some training labels are shown while others are learned, all are shown to predict, and no other label ever is."""
    task = node_task()
    net = InfDiffusionNet(4, 8, 2, label_input=True)
    train = task.split["train"]
    shown: list[tuple[bool, Tensor]] = []
    net.register_forward_pre_hook(
        lambda module, args, inputs: shown.append((module.training, inputs["labels"])), with_kwargs=True
    )
    fit(net, task, WHOLE, device="cpu", progress=False)
    others = torch.ones(60, dtype=torch.bool).index_fill(0, train, False)
    for training, labels in shown:
        seen = labels[train] >= 0
        assert (labels[others] == -1).all()
        assert torch.equal(labels[train][seen], task.data.y[train][seen])
        assert 0 < int(seen.sum()) < 25 if training else bool(seen.all())
    assert [training for training, _ in shown] == [True, False] * 6 + [False]
    assert len({tuple(labels.tolist()) for training, labels in shown if training}) == 6


def test_a_label_alone_is_learned() -> None:
    """Of one training node, the label is hidden in every step: there would be nothing to learn otherwise."""
    split = node_task().split
    task = node_task(split={**split, "train": split["train"][:1]})
    result = fit(InfDiffusionNet(4, 8, 2, label_input=True), task, WHOLE, device="cpu", progress=False)
    assert all(epoch["loss"] > 0 for epoch in result.epochs)


def test_features_may_be_sparse() -> None:
    net, results = AttentionNet(4, 8, 2, heads=2), []
    for sparse in (False, True):
        task = node_task()
        task.data.x = task.data.x.relu().to_sparse_csr() if sparse else task.data.x.relu()
        results.append(fit(net, task, WHOLE, device="cpu", precision="64-true", progress=False))
    losses = [[epoch["loss"] for epoch in result.epochs] for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert results[0].test == results[1].test


def test_sampled_features_may_be_sparse() -> None:
    results = []
    for sparse in (False, True):
        task = node_task()
        task.data.x = task.data.x.relu().to_sparse_csr() if sparse else task.data.x.relu()
        options: dict[str, Any] = {"num_neighbors": [3, 2], "precision": "64-true", "progress": False}
        results.append(fit(AttentionNet(4, 8, 2, heads=2), task, BATCHES, device="cpu", **options))
    losses = [[epoch["loss"] for epoch in result.epochs] for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=64 * torch.finfo(torch.float32).eps)


def test_networks_of_pyg() -> None:
    net = GCN(4, 8, 2, 2)
    result = fit(net, node_task(), replace(WHOLE, epochs=60), device="cpu", progress=False)
    assert result.epochs[-1]["loss"] < 0.6 * result.epochs[0]["loss"]
    assert result.config["model"] == str(net)


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    run("nodes")
    assert "epochs" not in capsys.readouterr().err
    run("nodes", progress=True)
    out, err = capsys.readouterr()
    assert "epochs" not in out
    assert "6/6" in err


def test_scores_of_links() -> None:
    """Those of a network in evaluation mode, for negatives that all links share and for negatives of each."""
    net = link_net().eval()
    for shape in ((60,), (12, 5)):
        negatives = {part: pairs.reshape(2, *shape) for part, pairs in link_task().negatives.items()}
        task = link_task(negatives=negatives)
        with torch.no_grad():
            found = Links(task, net, torch.device("cpu")).predict("test")
            h = net.backbone(task.data.x, task.data.edge_index)
            expected = [net.decode(h, pairs.reshape(2, -1)) for pairs in (task.split["test"], negatives["test"])]
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1].reshape(shape))


def test_loss_of_links() -> None:
    """Half of the pairs are the links that were asked for, the others are drawn anew from all pairs."""
    task, net = link_task(), link_net().double().eval()
    task.data.x = task.data.x.double()
    links, seen = Links(task, net, torch.device("cpu")), []
    forward = net.forward

    def watched(x: Tensor, edge_index: Any, pairs: Tensor) -> Tensor:
        seen.append((pairs, forward(x, edge_index, pairs)))
        return seen[-1][1]

    net.forward = watched
    rows = torch.arange(100)
    losses = [links.losses(rows)["loss"] for _ in range(2)]
    for loss, (pairs, scores) in zip(losses, seen, strict=True):
        assert torch.equal(pairs[:, :100], task.split["train"][:, :100])
        p = scores.sigmoid()
        torch.testing.assert_close(loss, -p[:100].log().mean() - (1 - p[100:]).log().mean())
    drawn = torch.cat([pairs[:, 100:] for pairs, _ in seen], dim=1)
    assert drawn.unique().numel() == 40, "all nodes come up"
    assert not torch.equal(seen[0][0][:, 100:], seen[1][0][:, 100:])


@pytest.mark.parametrize("kind", ["nodes", "links", "graphs"])
def test_validation_loss(kind: str) -> None:
    """That of the kept network in evaluation mode, from the probabilities."""
    model, result = run(kind)
    task = RUNS[kind]()[1]
    with torch.no_grad():
        if isinstance(task, LinkTask):
            h = model.backbone(task.data.x, task.data.edge_index)
            linked, other = (model.decode(h, pairs["val"]).double().sigmoid() for pairs in (task.split, task.negatives))
            expected = -linked.log().mean() - (1 - other).log().mean()
        else:
            if isinstance(task, NodeTask):
                out = model(task.data.x, task.data.edge_index)[task.split["val"]]
            else:
                out = torch.cat([model(task.graphs[i].x, task.graphs[i].edge_index) for i in range(24, 32)])
            expected = -out.double().log_softmax(1).gather(1, task.target("val").unsqueeze(1)).mean()
    assert result.epochs[result.best_epoch]["val_loss"] == pytest.approx(expected.item(), rel=1e-6)


# Edges ################################################################################################################


@pytest.mark.parametrize("kind", ["nodes", "predicted", "graphs", "links", "ends", "labels"])
def test_sorted_edges_are_the_edges(kind: str) -> None:
    """A network of ours gets them sorted, which changes no result beyond the rounding of sums in another order."""
    losses, seen = [], []
    for takes in (True, False):
        model = RUNS[kind]()[0]
        model.takes_affinity = takes
        model.register_forward_pre_hook(
            lambda module, args, inputs: seen.append(type(inputs["edge_index"])), with_kwargs=True
        )
        losses.append([epoch["loss"] for epoch in run(kind, model, precision="64-true")[1].epochs])
    assert set(seen[: len(seen) // 2]) == {SparseAffinity}
    assert set(seen[len(seen) // 2 :]) == {Tensor}
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_the_whole_graph_is_sorted_once() -> None:
    net, seen = node_net(), []
    net.register_forward_pre_hook(lambda module, args, inputs: seen.append(inputs["edge_index"]), with_kwargs=True)
    fit(net, node_task(), WHOLE, device="cpu", progress=False)
    assert len({id(edges) for edges in seen}) == 1
    assert seen[0].weight is None


@pytest.mark.parametrize(
    "net", [MessagePassingNet("gcn", 4, 8, 2), LinkHead(MessagePassingNet("gcn", 4, 8, 8), 8), GCN(4, 8, 2, 2)]
)
def test_networks_of_pyg_get_plain_edges(net: nn.Module) -> None:
    seen: list[Any] = []
    net.register_forward_pre_hook(lambda module, args, inputs: seen.append(inputs["edge_index"]), with_kwargs=True)
    task = link_task() if isinstance(net, LinkHead) else node_task()
    fit(net, task, WHOLE, device="cpu", progress=False)
    assert all(torch.equal(edges, task.data.edge_index) for edges in seen)


# Consistency ##########################################################################################################


@pytest.mark.parametrize("kind", ["nodes", "labels"])
def test_loss_with_consistency(kind: str) -> None:
    """The runs of a step, as they came out of the network, give both parts of its loss."""
    model, task, _ = RUNS[kind]()
    outputs: list[Tensor] = []
    shown: list[Tensor] = []

    def watch(module: nn.Module, args: Any, inputs: dict[str, Any], out: Tensor) -> None:
        if module.training:
            outputs.append(out.detach())
            shown.append(inputs.get("labels", torch.full((60,), -1)))

    model.register_forward_hook(watch, with_kwargs=True)
    consistency = Consistency(runs=3, weight=0.7, temperature=0.4)
    result = fit(model, task, WHOLE, consistency=consistency, device="cpu", progress=False)
    assert len(outputs) == 3 * 6
    assert result.config["consistency"] == {"runs": 3, "weight": 0.7, "temperature": 0.4}
    for number, epoch in enumerate(result.epochs):
        runs, labels = outputs[3 * number : 3 * number + 3], shown[3 * number : 3 * number + 3]
        assert all(torch.equal(label, labels[0]) for label in labels)
        assert not torch.equal(runs[0], runs[1])
        ids = task.split["train"][labels[0][task.split["train"]] < 0]
        supervised = torch.stack([F.cross_entropy(run[ids], task.data.y[ids]) for run in runs]).mean().item()
        inconsistency = consistency_loss(runs, 0.4).item()
        assert epoch["supervised"] == pytest.approx(supervised, rel=1e-6)
        assert epoch["consistency"] == pytest.approx(inconsistency, rel=1e-6)
        assert epoch["loss"] == pytest.approx(supervised + 0.7 * inconsistency, rel=1e-6)


def test_consistency_moves_the_weights() -> None:
    without, light, heavy = (
        run("nodes", consistency=consistency)[1].epochs[-1]["loss"]
        for consistency in (None, Consistency(), Consistency(weight=5.0))
    )
    assert len({without, light, heavy}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 1}, "runs is 1; expected an integer, at least 2"),
        ({"weight": 0.0}, "weight is 0.0; expected a positive number"),
        ({"temperature": torch.inf}, "temperature is inf; expected a positive number"),
    ],
)
def test_bad_consistency(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Consistency(**options)


# Losses ###############################################################################################################


def test_loss_of_several_targets_leaves_out_what_is_not_known() -> None:
    graphs = [Data(x=torch.ones(1, 1), y=torch.tensor([[1.0, torch.nan, 0.0]])) for _ in range(3)]
    split = {part: torch.tensor([number]) for number, part in enumerate(("train", "val", "test"))}
    task = graph_task(graphs=graphs, split=split, metric="roc_auc")
    assert task.out_channels == 3
    out = torch.tensor([[0.3, 100.0, -0.7], [2.0, 0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[1.0, torch.nan, 0.0], [0.0, 1.0, torch.nan]])
    loss = make_loss(task)(out, target)
    p = out.sigmoid()
    expected = -(p[0, 0].log() + (1 - p[0, 2]).log() + (1 - p[1, 0]).log() + p[1, 1].log()) / 4
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert out.grad is not None
    assert out.grad[0, 1] == out.grad[1, 2] == 0
    assert make_loss(task)(out, torch.full((2, 3), torch.nan)) == 0


@pytest.mark.parametrize(("metric", "expected"), [("mae", 1.5), ("rmse", 2.5)])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_loss_of_a_regression(metric: str, expected: float, shape: tuple[int, ...]) -> None:
    data = Data(x=torch.ones(3, 1), edge_index=torch.zeros(2, 1, dtype=torch.long), y=torch.zeros(3))
    split = {part: torch.tensor([number]) for number, part in enumerate(("train", "val", "test"))}
    task = node_task(data=data, split=split, metric=metric, num_classes=None)
    loss = make_loss(task)(torch.tensor([[1.0], [5.0]]), torch.tensor([2.0, 3.0]).reshape(shape))
    assert loss.item() == expected


# Errors ###############################################################################################################


@pytest.mark.parametrize(
    ("kind", "changes", "error", "message"),
    [
        ("nodes", {"recipe": BATCHES}, ValueError, r"batch_size is 10, but all nodes of communities are trained"),
        (
            "graphs",
            {"num_neighbors": [2]},
            ValueError,
            r"num_neighbors is \[2\], but bags is about graphs; leave it",
        ),
        ("links", {"model": node_net()}, TypeError, "model takes no pairs, which joined is about; pass a LinkHead"),
        (
            "labels",
            {"recipe": BATCHES, "num_neighbors": [2]},
            ValueError,
            r"num_neighbors is \[2\], but model has label_input; leave one of them out",
        ),
        ("graphs", {"consistency": Consistency()}, ValueError, "consistency is given, but bags is not about one class"),
        ("links", {"consistency": Consistency()}, ValueError, "consistency is given, but joined is not about one"),
        ("sampled", {"consistency": Consistency()}, ValueError, r"consistency is given, and num_neighbors is \[3, 2\]"),
        ("graphs", {"eval_neighbors": [2]}, ValueError, r"eval_neighbors is \[2\], but bags is about graphs; leave it"),
        (
            "nodes",
            {"eval_neighbors": [2]},
            ValueError,
            r"eval_neighbors is \[2\], but training is over the",
        ),
        (
            "links",
            {"eval_neighbors": [2]},
            ValueError,
            r"eval_neighbors is \[2\], but training is over the",
        ),
        (
            "labels",
            {"eval_neighbors": [2]},
            ValueError,
            r"eval_neighbors is \[2\], but model has label_input; leave one of them out",
        ),
        ("sampled", {"num_neighbors": [-2]}, ValueError, r"num_neighbors is \[-2\]; expected a number for each hop"),
        ("nodes", {"resume": True}, ValueError, "resume is True, but there is no out; pass the folder"),
        ("nodes", {"model": nn.Sequential(nn.Linear(4, 2))}, TypeError, r"Sequential without reset_parameters\(\)"),
        (
            "nodes",
            {"model": node_net(3)},
            ValueError,
            r"model returns \(60, 3\), but communities needs \[rows, 2\]; set",
        ),
        ("nodes", {"precision": "16-mixed"}, ValueError, "'16-mixed', which needs an accelerator; .*'bf16-mixed'"),
        ("nodes", {"precision": "8-bit"}, ValueError, "'8-bit'"),
    ],
)
def test_bad_arguments(kind: str, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(kind, **changes)


def test_what_cannot_be_learned() -> None:
    with pytest.raises(TypeError, match="task is a str; expected a NodeTask, a GraphTask, a LinkTask or an EventTask"):
        fit(node_net(), "Cora", WHOLE)  # type: ignore[arg-type]
    task = node_task()
    task.data.x = None
    with pytest.raises(ValueError, match="the graphs of communities have no x; add features"):
        fit(node_net(), task, WHOLE, device="cpu", progress=False)


def test_a_run_is_not_overwritten_or_mixed_with_another(tmp_path: Path) -> None:
    run("nodes", out=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"seed-3\.pt exists; pass resume=True to go on with it, or another out"):
        run("nodes", out=tmp_path)
    for changes, named in (
        ({"recipe": replace(WHOLE, epochs=7)}, "recipe is"),
        ({"model": AttentionNet(4, 8, 2)}, "model is"),
        ({"precision": "64-true"}, "precision is '64-true' but was '32-true'"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run; {named}"):
            run("nodes", out=tmp_path, resume=True, **changes)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    def broken(net: nn.Module, epoch: int) -> nn.Module:
        steps = []

        def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            steps.extend([1] if module.training else [])
            return out * torch.nan if len(steps) > epoch else out

        net.register_forward_hook(hook)
        return net

    with pytest.raises(
        FloatingPointError, match=r"in epoch 2, step 0; lower lr.* are kept in .*; changed settings need"
    ):
        run("nodes", broken(node_net(), 2), out=tmp_path)
    assert len((tmp_path / "seed-3.jsonl").read_text().splitlines()) == 2
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 0, step 0; lower lr[^;]*$"):
        run("nodes", broken(node_net(), 0))


def test_an_output_that_is_not_finite() -> None:
    net = node_net()
    net.register_forward_hook(lambda module, args, out: out if module.training else out / 0)
    with pytest.raises(FloatingPointError, match="the output for 'val' of communities is not finite; lower lr"):
        run("nodes", net)


@pytest.mark.parametrize(
    ("kind", "changes", "advice"),
    [
        (
            "nodes",
            {},
            "pass num_neighbors, such as [10, 10], and a batch_size, or take a narrower network or precision=",
        ),
        ("labels", {}, "take a narrower network or precision='bf16-mixed'"),
        (
            "sampled",
            {},
            "lower batch_size, which is 10, or lower num_neighbors, which is [3, 2], or pass eval_neighbors, if it "
            "ran out in a prediction, or take a narrower",
        ),
        ("predicted", {}, "lower batch_size, which is 10, or lower num_neighbors, which is [3, 2], or take a narrower"),
        ("links", {}, "pass num_neighbors, such as [10, 10], and a batch_size, or lower batch_size, which is 50, or "),
        ("graphs", {}, "lower batch_size, which is 10, or take a narrower network or precision='bf16-mixed'"),
        ("graphs", {"recipe": WHOLE}, "set a batch_size in the recipe, or take a narrower network or precision="),
    ],
)
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate"), MemoryError()]
)
def test_memory_that_runs_out(kind: str, changes: dict[str, Any], advice: str, error: Exception) -> None:
    with pytest.raises(MemoryError, match=re.escape(f"memory ran out; {advice}")):
        run(kind, interrupt(RUNS[kind]()[0], 1, error), **changes)


def test_memory_that_runs_out_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def move(data: Data, device: torch.device) -> Data:
        raise torch.OutOfMemoryError("CUDA")

    monkeypatch.setattr(Data, "to", move)
    with pytest.raises(MemoryError, match="memory ran out; pass num_neighbors"):
        run("nodes")


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^something else$"):
        run("nodes", interrupt(node_net(), 1, RuntimeError("something else")))


def test_weights_without_a_config_are_not_loaded(tmp_path: Path) -> None:
    fit(GCN(4, 8, 2, 2), node_task(), WHOLE, out=tmp_path, device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"holds the weights of GCN\(4, 2, num_layers=2\); expected a network"):
        load_model(tmp_path / "seed-3.pt")


def test_batches_of_graphs_are_those_of_pyg() -> None:
    """What the network is given is PyG's own batch."""
    task = graph_task()
    seen: list[Data] = []
    batches = GraphBatches(task, graph_net(), torch.device("cpu"), 8)
    batches.call = lambda data: (seen.append(data), torch.zeros(data.num_graphs, 2))[1]
    batches.predict("val")
    expected = Batch.from_data_list([task.graphs[number] for number in range(24, 32)])
    assert torch.equal(seen[0].x, expected.x)
    assert torch.equal(seen[0].edge_index, expected.edge_index)
    assert torch.equal(seen[0].batch, expected.batch)
