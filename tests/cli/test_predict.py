"""Predictions from a checkpoint: the table, the score, and what does not fit the network."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import graphattn
from graphattn.cli import main
from graphattn.datasets import GraphTask, LinkTask, NodeTask, load, transform
from graphattn.engine import Recipe, load_checkpoint, save_checkpoint
from graphattn.models import AttentionNet, GraphHead, GraphTransformer, InfDiffusionNet, LinkHead
from graphattn.training import NeighborSampler, fit, load_model

WORDS = ("blue", "green", "red")
WALK = {"AddRandomWalkPE": {"walk_length": 4, "attr_name": "pe"}}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_folder(folder: Path, columns: str = "id,y,a,b,split", words: tuple[str, ...] = WORDS, rows: int = 18) -> Path:
    """A ring of nodes whose features tell their class, in a folder of tables."""
    folder.mkdir()
    parts = ["train"] * 9 + ["val"] * 3 + ["test"] * 5 + [""]
    lines = [columns]
    for node in range(rows):
        word = words[node % len(words)]
        cells = {
            "id": f"n{node}",
            "y": "" if node == 17 else word,
            "a": str(WORDS.index(word) - 1 + 0.1 * (node % 4)),
            "b": str((node * 7 % 5) / 5),
            "split": parts[node],
        }
        lines.append(",".join(cells[name] for name in columns.split(",")))
    (folder / "nodes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    links = [f"n{node},n{(node + 3) % rows}" for node in range(rows)]
    (folder / "edges.csv").write_text("source,target\n" + "\n".join(links) + "\n", encoding="utf-8")
    return folder


def train(net: nn.Module, task: NodeTask | GraphTask | LinkTask, out: Path, epochs: int = 3, **options: Any) -> float:
    size = None if isinstance(task, NodeTask) else 8
    recipe = Recipe(epochs=epochs, batch_size=size, lr=0.02, optimizer="adamw")
    return fit(net, task, recipe, out=out, progress=False, **options).test


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """A checkpoint of a network for nodes, the folder it was trained on, and its test score."""
    home = tmp_path_factory.mktemp("trained")
    folder = write_folder(home / "mine")
    task = transform(load(f"local:{folder}"), WALK)
    assert isinstance(task, NodeTask)
    net = GraphTransformer(2, 8, 3, heads=2, encoding="random_walk", encoding_dim=4)
    return home / "seed-0.pt", folder, train(net, task, home, epochs=40)


def test_every_node_gets_its_class_by_name(
    trained: tuple[Path, Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, folder, score = trained
    out = tmp_path / "predictions.csv"
    assert main(["predict", str(checkpoint), "--data", f"local:{folder}", "--out", str(out)]) == 0
    data = transform(load(f"local:{folder}"), WALK).data
    with torch.no_grad():
        expected = load_model(checkpoint)(data.x, data.edge_index, pe=data.pe).softmax(dim=1)
    rows = table(out)
    assert list(rows[0]) == ["id", "prediction", "probability_blue", "probability_green", "probability_red"]
    assert [row["id"] for row in rows] == [f"n{node}" for node in range(18)]
    assert [row["prediction"] for row in rows] == [WORDS[label] for label in expected.argmax(dim=1).tolist()]
    found = torch.tensor([[float(row[f"probability_{word}"]) for word in WORDS] for row in rows])
    assert (found - expected).abs().max() <= 1e-6
    said = capsys.readouterr()
    assert f"mine: 18 nodes, predicted by GraphTransformer of {checkpoint}" in said.out
    assert f"accuracy {score:.4f} on the test part's 5 known labels" in said.out
    counts = expected.argmax(dim=1).bincount(minlength=3).tolist()
    assert all(f"  {word:<5}  {count:>8}\n" in said.out for word, count in zip(WORDS, counts, strict=True))
    assert said.err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_labels_may_be_missing(
    trained: tuple[Path, Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, folder, _ = trained
    bare = write_folder(tmp_path / "bare", "id,a,b")
    for source, out in ((folder, "with.csv"), (bare, "without.csv")):
        command = ["predict", str(checkpoint), "--data", f"local:{source}", "--out", str(tmp_path / out)]
        assert main(command) == 0
    assert (tmp_path / "with.csv").read_bytes() == (tmp_path / "without.csv").read_bytes()
    assert capsys.readouterr().out.count("accuracy") == 1


def test_classes_are_known_by_their_names(
    trained: tuple[Path, Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels of other data are numbered in another way: green and red would be 0 and 1."""
    checkpoint, _, _ = trained
    others = write_folder(tmp_path / "others", "id,y,a,b", words=("red", "green"), rows=12)
    out = tmp_path / "predictions.csv"
    assert main(["predict", str(checkpoint), "--data", f"local:{others}", "--out", str(out)]) == 0
    truth = [("red", "green")[node % 2] for node in range(12)]
    right = np.mean([row["prediction"] == word for row, word in zip(table(out), truth, strict=True)])
    said = capsys.readouterr().out
    assert f"accuracy {right:.4f} on all 12 known labels" in said
    assert "--split" not in said


def test_data_without_a_split_are_scored_on_the_split_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "mine", "id,y,a,b")
    task = load(f"local:{folder}", split="random-60-20-20:2")
    score = train(AttentionNet(2, 4, 3), task, tmp_path)
    out = tmp_path / "predictions.csv"
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data", f"local:{folder}", "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "on all 17 known labels\nif this is what it was trained on, --split random-60-20-20:2 scores" in said
    before = out.read_bytes()
    assert main([*command, "--split", "random-60-20-20:2"]) == 0
    said = capsys.readouterr().out
    assert f"accuracy {score:.4f} on the test part's 4 known labels\nwrote" in said
    assert out.read_bytes() == before


def test_a_set_is_scored_as_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = load("karate", split="random-60-20-20:3")
    assert isinstance(task, NodeTask)
    score = train(AttentionNet(task.num_features, 8, 4), transform(task, {"SparseFeatures": {}}), tmp_path, epochs=10)
    out = tmp_path / "predictions.csv"
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data", "Karate", "--out", str(out)]
    assert main(command) == 0
    assert f"accuracy {score:.4f} on the test part's {len(task.split['test'])} known" in capsys.readouterr().out
    assert [row["id"] for row in table(out)] == list(map(str, range(34)))
    labels = torch.tensor([int(row["prediction"]) for row in table(out)])
    assert task.evaluate(labels[task.split["test"]]) == score
    assert main([*command, "--split", "one-per-class:1"]) == 0
    assert "on the test part's 20 known labels" in capsys.readouterr().out


def test_known_labels_are_shown_to_networks_that_take_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "mine")
    task = load(f"local:{folder}")
    assert isinstance(task, NodeTask)
    net = InfDiffusionNet(2, 8, 3, label_input=True)
    score = train(net, task, tmp_path, epochs=20)
    out = tmp_path / "predictions.csv"
    command = ["predict", str(tmp_path / "seed-0.pt"), "--out", str(out), "--data"]
    assert main([*command, f"local:{folder}"]) == 0
    assert f"accuracy {score:.4f} on the test part's 5 known labels" in capsys.readouterr().out
    data = task.data
    shown = torch.where(torch.arange(18) < 9, data.y, -1)
    _agrees(table(out), load_model(tmp_path / "seed-0.pt")(data.x, data.edge_index, labels=shown))
    unsplit = write_folder(tmp_path / "unsplit", "id,y,a,b")
    assert main([*command, f"local:{unsplit}"]) == 0
    assert "no score: the network has seen all known labels" in capsys.readouterr().out
    _agrees(table(out), load_model(tmp_path / "seed-0.pt")(data.x, data.edge_index, labels=data.y))
    bare = write_folder(tmp_path / "bare", "id,a,b")
    assert main([*command, f"local:{bare}"]) == 0
    _agrees(table(out), load_model(tmp_path / "seed-0.pt")(data.x, data.edge_index, labels=torch.full((18,), -1)))


def _agrees(rows: list[dict[str, str]], out: Tensor) -> None:
    found = torch.tensor([[float(row[f"probability_{word}"]) for word in WORDS] for row in rows])
    assert (found - out.detach().softmax(dim=1)).abs().max() <= 1e-6


def _graphs(count: int = 12) -> list[Data]:
    generator = torch.Generator().manual_seed(0)
    return [
        Data(
            x=torch.randn(k % 4 + 2, 3, generator=generator) + k % 2,
            edge_index=torch.tensor([[0, 1], [1, 0]]),
            edge_attr=torch.ones(2, 1),
            y=torch.tensor([k % 2]),
        )
        for k in range(count)
    ]


def _graph_task(graphs: list[Data], **changes: Any) -> GraphTask:
    split = {"train": torch.arange(6), "val": torch.arange(6, 9), "test": torch.arange(9, len(graphs))}
    given = {"metric": "accuracy", "num_classes": 2, "split": split, "split_name": "own", "licence": "none"}
    return GraphTask(name="pairs", graphs=graphs, **{**given, **changes})


def test_graphs_in_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = _graphs()
    net = GraphHead(AttentionNet(3, 8, 8, edge_dim=1), 8, 2)
    train(net, _graph_task(graphs), tmp_path, epochs=8)
    torch.save(graphs, tmp_path / "pairs.pt")
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data", f"local:{tmp_path}/pairs.pt", "--out"]
    assert main([*command, str(tmp_path / "one.csv"), "--batch-size", "5"]) == 0
    with torch.no_grad():
        whole = Batch.from_data_list(graphs)
        expected = load_model(tmp_path / "seed-0.pt")(whole.x, whole.edge_index, whole.edge_attr, whole.batch)
    rows = table(tmp_path / "one.csv")
    found = torch.tensor([[float(row["probability_0"]), float(row["probability_1"])] for row in rows])
    assert (found - expected.softmax(dim=1)).abs().max() <= 1e-6
    right = (expected.argmax(dim=1) == whole.y).double().mean().item()
    said = capsys.readouterr().out
    assert "pairs: 12 graphs, predicted by GraphHead" in said
    assert f"accuracy {right:.4f} on all 12 known labels" in said
    split = {"train": torch.arange(8), "val": torch.tensor([8]), "test": torch.arange(9, 12)}
    torch.save({"graphs": graphs, "split": split}, tmp_path / "pairs.pt")
    assert main([*command, str(tmp_path / "two.csv"), "--split", "given"]) == 0
    right = (expected.argmax(dim=1) == whole.y)[9:].double().mean().item()
    assert f"accuracy {right:.4f} on the test part's 3 known labels" in capsys.readouterr().out


def test_nodes_of_many_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = _graphs()
    for graph in graphs:
        graph.y = torch.arange(graph.num_nodes) % 2
        del graph.edge_attr
    task = _graph_task(graphs)
    score = train(AttentionNet(3, 4, 2), task, tmp_path)
    split = dict(task.split)
    torch.save({"graphs": graphs, "split": split}, tmp_path / "pairs.pt")
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data", f"local:{tmp_path}/pairs.pt", "--split", "given"]
    assert main([*command, "--out", str(tmp_path / "rows.csv")]) == 0
    names = [f"{number}:{node}" for number, graph in enumerate(graphs) for node in range(graph.num_nodes)]
    assert [row["id"] for row in table(tmp_path / "rows.csv")] == names
    count = len(task.target("test"))
    assert f"accuracy {score:.4f} on the test part's {count} known labels" in capsys.readouterr().out


def test_values_of_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = _graphs()
    for number, graph in enumerate(graphs):
        graph.y = torch.tensor([number / 4])
    task = _graph_task(graphs, metric="mae", num_classes=None)
    score = train(GraphHead(AttentionNet(3, 4, 4, edge_dim=1), 4, 1), task, tmp_path)
    torch.save({"graphs": graphs, "split": dict(task.split)}, tmp_path / "pairs.pt")
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data", f"local:{tmp_path}/pairs.pt", "--split", "given"]
    assert main([*command, "--out", str(tmp_path / "rows.csv")]) == 0
    rows = table(tmp_path / "rows.csv")
    values = torch.tensor([float(row["value"]) for row in rows])
    assert list(rows[0]) == ["id", "value"]
    assert task.evaluate(values[task.split["test"]]) == pytest.approx(score, rel=1e-4)
    said = capsys.readouterr().out
    assert f"value: {values.min():.4g} to {values.max():.4g}, on average {values.mean():.4g}" in said
    assert f"mae {score:.4f} on the test part's 3 known labels" in said  # not the rmse of other local regressions


def test_several_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = _graphs()
    for number, graph in enumerate(graphs):
        graph.y = torch.tensor([[float(number % 2), float(number % 3 == 0)]])
    train(GraphHead(AttentionNet(3, 4, 4, edge_dim=1), 4, 2), _graph_task(graphs, metric="roc_auc"), tmp_path)
    torch.save(graphs, tmp_path / "pairs.pt")
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data", f"local:{tmp_path}/pairs.pt"]
    assert main([*command, "--out", str(tmp_path / "rows.csv")]) == 0
    whole = Batch.from_data_list(graphs)
    with torch.no_grad():
        expected = load_model(tmp_path / "seed-0.pt")(whole.x, whole.edge_index, whole.edge_attr, whole.batch).sigmoid()
    rows = table(tmp_path / "rows.csv")
    found = torch.tensor([[float(row["probability_0"]), float(row["probability_1"])] for row in rows])
    assert (found - expected).abs().max() <= 1e-6
    said = capsys.readouterr().out
    assert f"probability_1 above 0.5: {int((expected[:, 1] > 0.5).sum())}" in said
    assert "roc_auc" in said


@pytest.mark.parametrize(("options", "batch_size"), [([], 256), (["--batch-size", "5"], 5)])
def test_surroundings_are_sampled_as_in_the_evaluations_of_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], batch_size: int
) -> None:
    folder = write_folder(tmp_path / "mine")
    task = load(f"local:{folder}")
    recipe = Recipe(epochs=2, batch_size=4, lr=0.02, optimizer="adamw")
    near = {"num_neighbors": [1, 1], "eval_neighbors": [-1]}  # two layers see less than without
    fit(AttentionNet(2, 4, 3), task, recipe, out=tmp_path, progress=False, **near)
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data", f"local:{folder}", *options, "--out"]
    assert main([*command, str(tmp_path / "rows.csv")]) == 0
    assert "on the test part's 5 known labels" in capsys.readouterr().out
    assert isinstance(task, NodeTask)
    net, sampler = load_model(tmp_path / "seed-0.pt"), NeighborSampler(task.data, [-1])
    batches = sampler.batches(torch.arange(18), batch_size)
    with torch.no_grad():
        expected = torch.cat([net(batch.x, batch.edge_index)[: batch.batch_size] for batch in batches])
        differs = (net(task.data.x, task.data.edge_index) - expected).abs().max() > 1e-3
    assert differs == (batch_size < 18)  # with all nodes in one batch nothing is cut off
    _agrees(table(tmp_path / "rows.csv"), expected)


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a network for links, and the folder of its graph."""
    home = tmp_path_factory.mktemp("linked")
    folder = write_folder(home / "mine", "id,a,b")
    task = load(f"local:{write_folder(home / 'labelled')}")
    assert isinstance(task, NodeTask)
    edges = task.data.edge_index
    links = LinkTask(
        name="ring",
        data=Data(x=task.data.x, edge_index=edges[:, :12]),
        split={"train": edges[:, :12], "val": edges[:, 12:15], "test": edges[:, 15:]},
        negatives={"val": torch.tensor([[0, 1], [8, 9]]), "test": torch.tensor([[2, 3], [10, 12]])},
        split_name="own",
        metric="roc_auc",
        licence="none",
    )
    train(LinkHead(AttentionNet(2, 4, 4), 4), links, home)
    return home / "seed-0.pt", folder


def test_pairs_get_scores(linked: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, folder = linked
    (tmp_path / "pairs.csv").write_text("target,source\nn3,n0\nn17, n5\n")
    command = ["predict", str(checkpoint), "--data", f"local:{folder}", "--out", str(tmp_path / "scores.csv")]
    assert main([*command, "--pairs", str(tmp_path / "pairs.csv")]) == 0
    data = load(f"local:{folder.parent}/labelled").data
    with torch.no_grad():
        expected = load_model(checkpoint)(data.x, data.edge_index, torch.tensor([[0, 5], [3, 17]]))
    rows = table(tmp_path / "scores.csv")
    assert [(row["source"], row["target"]) for row in rows] == [("n0", "n3"), ("n5", "n17")]
    assert torch.tensor([float(row["score"]) for row in rows]) == pytest.approx(expected, rel=1e-5)
    assert torch.tensor([float(row["probability"]) for row in rows]) == pytest.approx(expected.sigmoid(), rel=1e-5)
    assert "mine: 2 pairs, predicted by LinkHead" in capsys.readouterr().out


def test_pairs_are_scored_from_their_surroundings(linked: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, folder = linked
    state = load_checkpoint(checkpoint)
    config = {**state.pop("config"), "eval_neighbors": [-1, -1]}
    save_checkpoint(tmp_path / "seed-0.pt", config, **{key: value for key, value in state.items() if key != "version"})
    (tmp_path / "pairs.csv").write_text("source,target\nn3,n0\nn17,n5\nn3,n3\nn4,n3\nn0,n9\n")
    common = ["--data", f"local:{folder}", "--pairs", str(tmp_path / "pairs.csv"), "--out"]
    assert main(["predict", str(checkpoint), *common, str(tmp_path / "whole.csv")]) == 0
    assert main(["predict", str(tmp_path / "seed-0.pt"), "--batch-size", "2", *common, str(tmp_path / "cut.csv")]) == 0
    whole, cut = table(tmp_path / "whole.csv"), table(tmp_path / "cut.csv")
    assert [row["target"] for row in cut] == ["n0", "n5", "n3", "n3", "n9"]
    scores = [[float(row["score"]) for row in rows] for rows in (whole, cut)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (None, "scores pairs of nodes; name them with --pairs, in columns source, target"),
        ("source,target\nn0,n3\nn4,m4\n", "pairs.csv, line 3, column 'target': 'm4' is no node of mine"),
        ("source,target\n", "pairs.csv names no pairs; expected a row for each"),
        ("from,to\nn0,n1\n", "source, target is missing"),
    ],
)
def test_pairs_that_are_refused(
    linked: tuple[Path, Path], tmp_path: Path, pairs: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, folder = linked
    command = ["predict", str(checkpoint), "--data", f"local:{folder}", "--out", str(tmp_path / "scores.csv")]
    if pairs is not None:
        (tmp_path / "pairs.csv").write_text(pairs)
        command += ["--pairs", str(tmp_path / "pairs.csv")]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "scores.csv").exists()


def _refused(command: list[str], capsys: pytest.CaptureFixture[str], message: str) -> None:
    assert main(command) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("graphattn predict: ")
    assert said.out == ""


def test_data_that_do_not_fit_the_network(
    trained: tuple[Path, Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _, _ = trained
    command = ["predict", str(checkpoint), "--out", str(tmp_path / "out.csv"), "--data"]

    def refuse(source: str, message: str, *options: str) -> None:
        _refused([*command, source, *options], capsys, message)

    narrow = write_folder(tmp_path / "narrow", "id,y,a")
    refuse(f"local:{narrow}", "narrow has 1 features, but the network reads 2")
    none = write_folder(tmp_path / "none", "id,y")
    refuse(f"local:{none}", "none has no features, but the network reads 2")
    torch.save(_graphs(), tmp_path / "graphs.pt")
    refuse(f"local:{tmp_path}/graphs.pt", "holds 12 graphs, but the network is about the nodes of one")
    odd = write_folder(tmp_path / "odd", "id,y,a,b")
    (odd / "nodes.csv").write_text((odd / "nodes.csv").read_text().replace("blue", "grey"))
    refuse(f"local:{odd}", "has the class 'grey'; the network knows blue, green, red")
    data = Data(x=torch.ones(4, 2), edge_index=torch.tensor([[0], [1]]), y=torch.tensor([0, 1, 3, -1]))
    torch.save(data, tmp_path / "many.pt")
    refuse(f"local:{tmp_path}/many.pt", "has the class 3; the network knows 3: blue, green, red")
    masks = {f"{part}_mask": torch.zeros(4, 2, dtype=torch.bool) for part in ("train", "val", "test")}
    torch.save(Data(x=torch.ones(4, 2), edge_index=torch.tensor([[0], [1]]), **masks), tmp_path / "masks.pt")
    refuse(f"local:{tmp_path}/masks.pt", "has several splits; choose one, such as --split given:0")
    torch.save(Data(x=torch.full((4, 2), torch.nan), edge_index=torch.tensor([[0], [1]])), tmp_path / "nan.pt")
    refuse(f"local:{tmp_path}/nan.pt", "hold 8 NaN or infinite values, the first in row 0, column 0")
    refuse(f"local:{tmp_path}/nothing", "does not exist")
    refuse(f"local:{odd}", "split is 'public'; local:", "--split", "public")
    refuse("Kora", "name is 'Kora', which is no known set (near: 'Cora'")
    refuse(f"local:{odd}", "--pairs has no meaning", "--pairs", "pairs.csv")
    refuse(f"local:{odd}", "--batch-size has no meaning", "--batch-size", "4")
    assert not (tmp_path / "out.csv").exists()


def test_encodings_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "mine")
    task = load(f"local:{folder}")
    assert isinstance(task, NodeTask)
    task.data.pe = torch.rand(18, 4)  # not by a transform, so that nothing is recorded
    train(GraphTransformer(2, 8, 3, heads=2, encoding="random_walk", encoding_dim=4), task, tmp_path)
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data"]
    _refused([*command, f"local:{folder}"], capsys, "mine has no positional encodings pe, but the network reads 4")
    data = Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0], [1]]), pe=torch.ones(3, 5))
    torch.save(data, tmp_path / "other.pt")
    _refused(
        [*command, f"local:{tmp_path}/other.pt"], capsys, "other has 5 positional encodings pe, but the network reads 4"
    )


def test_graphs_that_do_not_fit_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = _graphs()
    train(GraphHead(AttentionNet(3, 4, 4, edge_dim=1), 4, 2), _graph_task(graphs), tmp_path)
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data"]
    torch.save(graphs[0], tmp_path / "one.pt")
    _refused([*command, f"local:{tmp_path}/one.pt"], capsys, "is one graph, but the network is about whole graphs")
    graphs[7].x = torch.ones(2, 5)
    torch.save(graphs, tmp_path / "wide.pt")
    _refused([*command, f"local:{tmp_path}/wide.pt"], capsys, "graph 7 of wide has 5 features, but the network reads 3")
    graphs = _graphs()
    del graphs[2].edge_attr
    torch.save(graphs, tmp_path / "bare.pt")
    _refused(
        [*command, f"local:{tmp_path}/bare.pt"], capsys, "graph 2 of bare has no edge features, but the network reads 1"
    )


def test_edge_features_that_are_not_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = _graphs()
    plain = [Data(x=graph.x, edge_index=graph.edge_index, y=graph.y) for graph in graphs]
    train(GraphHead(AttentionNet(3, 4, 4), 4, 2), _graph_task(plain), tmp_path)
    torch.save(graphs, tmp_path / "more.pt")
    command = ["predict", str(tmp_path / "seed-0.pt"), "--data", f"local:{tmp_path}/more.pt"]
    assert main([*command, "--out", str(tmp_path / "out.csv")]) == 0
    assert capsys.readouterr().err == "note: the network reads no edge features; those of more are left out\n"


def test_checkpoints_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(tmp_path / "run.pt"), "--data", "karate"]
    _refused(command, capsys, "run.pt cannot be used: No such file or directory")
    (tmp_path / "run.pt").write_bytes(b"nothing")
    _refused(command, capsys, "run.pt is no checkpoint (")
    save_checkpoint(tmp_path / "run.pt", {"model": "Sequential()"}, best={})
    _refused(command, capsys, "holds the weights of Sequential(); expected a network of graphattn.models")
    net = AttentionNet(34, 4, 4)
    save_checkpoint(tmp_path / "run.pt", {"model": net.config, "metric": "accuracy"}, best=net.state_dict())
    _refused(command, capsys, "run.pt does not tell the task, kind, classes, transform, split of its training")


def test_a_place_that_cannot_be_written(trained: tuple[Path, Path, float], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, folder, _ = trained
    out = folder / "none" / "predictions.csv"
    command = ["predict", str(checkpoint), "--data", f"local:{folder}", "--out", str(out)]
    assert main(command) == 2
    assert f"{out} cannot be written: No such file or directory" in capsys.readouterr().err


def test_networks_are_loaded_from_the_top_level() -> None:
    assert graphattn.load_model is load_model
    with pytest.raises(AttributeError, match="module 'graphattn' has no attribute 'load_net'"):
        graphattn.load_net  # noqa: B018
