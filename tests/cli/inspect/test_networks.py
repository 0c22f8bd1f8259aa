"""The report on networks of this library: on nodes, graphs and pairs, and what is asked of them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch_geometric.data import Data

from graphattn.analysis import capture, rollout_rows
from graphattn.cli import main
from graphattn.datasets import LinkTask, load
from graphattn.datasets.sequences import periodic_events
from graphattn.engine import Recipe
from graphattn.models import TGAT, AttentionNet, EventHead, EventSequenceModel, GraphHead, LinkHead
from graphattn.tabular import OTClassifier
from graphattn.training import fit, fit_sequences, load_model


def test_a_network_on_a_graph(report, trained: Path) -> None:
    found = report(trained, "--data", "karate", "--node", 3)[0]["models"][0]
    task, model = load("karate"), load_model(trained)
    captured = capture(model, {"x": task.data.x, "edge_index": task.data.edge_index})
    maps = captured.maps()
    assert found["layers"] == maps.num_layers
    relevance = rollout_rows(maps, [3]).relevance[0, 0]
    detail = found["rollout"]["inputs"][0]
    assert_allclose([each["relevance"] for each in detail["tokens"]], relevance, rtol=1e-6, atol=1e-9)
    check = detail["faithfulness"]
    assert 3 not in check["maskable"]
    with torch.no_grad():
        probability = model(task.data.x, task.data.edge_index)[3].softmax(0)
    assert check["deletion"][0] == pytest.approx(float(probability.max()), rel=1e-5)
    alone = [node for node in range(34) if node not in check["maskable"]]
    kept = task.data.subgraph(torch.tensor(alone))
    with torch.no_grad():
        left = model(kept.x, kept.edge_index)[alone.index(3)].softmax(0)
    assert check["deletion"][-1] == pytest.approx(float(left[probability.argmax()]), rel=1e-5)
    assert [len(values) for values in found["control"]["correlation"].values()] == [3, 3, 3]


def test_a_network_on_several_graphs(report, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graphs = [
        Data(
            x=torch.randn(size, 3),
            edge_index=torch.stack([torch.arange(size), (torch.arange(size) + 1) % size]),
            y=torch.tensor([size % 2]),
        )
        for size in (*range(4, 22), 1)
    ]
    torch.save(graphs, tmp_path / "graphs.pt")
    task = load(f"local:{tmp_path / 'graphs.pt'}", split="random-60-20-20:0")
    net = GraphHead(AttentionNet(3, 8, 8), 8, 2)
    fit(net, task, Recipe(epochs=1, batch_size=4, lr=0.02), out=tmp_path / "run", progress=False)
    found = report(tmp_path / "run" / "seed-0.pt", "--data", f"local:{tmp_path / 'graphs.pt'}", "--max-inputs", 19)[0][
        "models"
    ][0]
    assert [each["nodes"] for each in found["inputs"]] == [len(graph.x) for graph in graphs]
    assert found["example"] == 16
    model = load_model(tmp_path / "run" / "seed-0.pt")
    graph = graphs[0]
    with torch.no_grad():
        out = model(x=graph.x, edge_index=graph.edge_index, batch=torch.zeros(4, dtype=torch.long), num_graphs=1)
    check = found["rollout"]["inputs"][0]["faithfulness"]
    assert check["deletion"][0] == pytest.approx(float(out[0].softmax(0).max()), rel=1e-5)
    assert 0 not in check["maskable"]
    assert "curves need at least 2" in found["rollout"]["inputs"][18]["faithfulness"]["missing"]


def test_a_network_that_scores_pairs(report, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ring = torch.arange(30)
    edges = torch.cat([torch.stack([ring, (ring + step) % 30]) for step in (1, 2, 3)], dim=1)
    data = Data(x=torch.randn(30, 3), edge_index=torch.cat([edges, edges.flip(0)], dim=1))
    torch.save(data, tmp_path / "graph.pt")
    where = f"local:{tmp_path / 'graph.pt'}"
    held = torch.stack([ring, (ring + 5) % 30])
    task = LinkTask(
        name="ring",
        data=data,
        split={"train": data.edge_index, "val": held[:, :6], "test": held[:, 6:12]},
        negatives={"val": torch.tensor([[0, 1], [18, 19]]), "test": torch.tensor([[2, 3], [20, 22]])},
        split_name="own",
        metric="roc_auc",
        licence="none",
    )
    net = LinkHead(AttentionNet(3, 8, 8), 8)
    fit(net, task, Recipe(epochs=1, batch_size=16, lr=0.02), out=tmp_path / "run", progress=False)
    path = tmp_path / "run" / "seed-0.pt"
    found = report(path, "--data", where, "--node", 4)[0]["models"][0]
    check = found["rollout"]["inputs"][0]["faithfulness"]
    model = load_model(path)
    with torch.no_grad():
        scores = {
            j: abs(float(model(x=data.x, edge_index=data.edge_index, pairs=torch.tensor([[4], [j]]))[0]))
            for j in (1, 2, 3, 5, 6, 7)
        }
    partner = next(node for node in scores if node not in check["maskable"])
    assert 4 not in check["maskable"]
    assert check["deletion"][0] == pytest.approx(scores[partner], rel=1e-4)


def test_the_check_can_be_left_out(report, trained: Path) -> None:
    found = report(trained, "--data", "karate", "--no-check")[0]["models"][0]
    assert "--no-check" in found["rollout"]["inputs"][0]["faithfulness"]["missing"]
    assert "--no-check" in found["control"]["missing"]


def test_networks_of_events_and_sequences_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequences = periodic_events(num_sequences=10, length=4)
    fit_sequences(
        EventSequenceModel(sequences.num_types, dim=8),
        sequences,
        Recipe(epochs=1, batch_size=8),
        out=tmp_path / "sequences",
        progress=False,
    )
    random = np.random.default_rng(0)
    columns = np.stack([random.integers(0, 8, 60), random.integers(0, 8, 60), 5 * np.arange(60)], axis=1)
    np.savetxt(tmp_path / "talks.csv", columns, fmt="%d", delimiter=",", header="src,dst,t", comments="")
    events = load(f"local:{tmp_path / 'talks.csv'}")
    net = EventHead(TGAT(0, 8, 8, num_layers=1, edge_dim=events.data.msg.size(1)), 8)
    recipe = Recipe(epochs=1, batch_size=20)
    fit(net, events, recipe, num_neighbors=[4], out=tmp_path / "events", progress=False)
    for kind in ("sequence", "event"):
        path = tmp_path / f"{kind}s" / "seed-0.pt"
        assert main(["inspect", str(path), "--data", "karate", "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert f"is about {kind}s, and only networks of nodes, graphs and links are read here" in said
        assert "graphattn.training.load_model" in said


def test_pickled_estimators_of_tables_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.pkl").write_bytes(pickle.dumps(OTClassifier()))
    assert main(["inspect", str(tmp_path / "table.pkl"), "--out", str(tmp_path / "out")]) == 2
    assert "is no checkpoint" in capsys.readouterr().err


def test_a_checkpoint_needs_graphs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(trained)]) == 2
    assert "needs graphs; pass --data" in capsys.readouterr().err
