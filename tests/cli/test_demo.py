"""``graphattn demo`` with two epochs, two sizes and few queries: what it measures, writes, draws, keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.datasets import load_digits
from sklearn.feature_selection import SelectKBest
from sklearn.model_selection import train_test_split

from graphattn.cli import _demo_attention as attention
from graphattn.cli import _demo_features as features
from graphattn.cli import _demo_rerank as reranking
from graphattn.cli import main
from graphattn.cli._demo_rerank_figure import draw
from graphattn.datasets import load
from graphattn.models import AttentionNet
from graphattn.selection import InfFS, InfFSSupervised
from graphattn.training import Recipe, fit

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is not installed")

CPU = torch.device("cpu")
FILES = ["demo.png", "features.png", "reranking.png", "results.json"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "EPOCHS", 2)
    monkeypatch.setattr(features, "SIZES", (2, features.KEPT))
    monkeypatch.setattr(reranking, "QUERIES", 30)
    monkeypatch.setattr(reranking, "LENGTH", 60)


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def interrupt_second_call(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    run_seed, calls = module.run_seed, []

    def run(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_seed(*args)

    monkeypatch.setattr(module, "run_seed", run)


def test_results_and_pictures(tmp_path: Path, drawn: dict[str, Figure], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seeds", "2", "--seed", "3", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    found = results(tmp_path)
    assert list(found) == ["attention", "features", "reranking", "seconds", "device", "versions"]

    part = found["attention"]
    assert [run["seed"] for run in part["seeds"]] == [3, 4]
    for name in attention.METHODS:
        values = [run["accuracy"][name] for run in part["seeds"]]
        assert part["mean"][name] == pytest.approx(np.mean(values), rel=1e-12)
        assert part["std"][name] == pytest.approx(np.std(values), rel=1e-12)
        assert all(0 <= value <= 1 for value in values)
    assert part["mean"]["label propagation"] > 0.9  # it needs no epochs
    bars, graph = drawn["demo"].axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([part["mean"][m] for m in attention.METHODS])
    shown = part["seeds"][-1]
    assert 9 <= len(shown["neighbors"]) <= 13
    assert sum(shown["weights"]) < 1  # the rest is what the digit draws on itself
    written = [text.get_text() for text in graph.texts if text.get_text()]
    assert written == [f"{weight:.2f}" for weight in shown["weights"]]

    part = found["features"]
    assert part["sizes"] == [2, 16]
    assert [run["seed"] for run in part["seeds"]] == [3, 4]
    for name in features.METHODS:
        values = np.array([run["accuracy"][name] for run in part["seeds"]])
        np.testing.assert_allclose(part["mean"][name], values.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(part["std"][name], values.std(axis=0), rtol=0, atol=1e-12)
        assert all(len(set(run["pixels"][name])) == features.KEPT for run in part["seeds"])
        assert part["mean"][name][1] > part["mean"][name][0] > 0.1

    for name in ("demo", "features", "reranking"):
        assert imread(tmp_path / f"{name}.png").std() > 0
    curves, *panels = drawn["features"].axes
    assert [line.get_label() for line in curves.lines] == list(features.METHODS)
    for line, name in zip(curves.lines, features.METHODS, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([part["sizes"], part["mean"][name]]))
    by_title = {panel.get_title(): panel.images[0].get_array() for panel in panels}
    assert list(by_title) == [*features.METHODS, "mean image"]
    for name in features.METHODS:
        share = np.zeros(64)
        for run in part["seeds"]:
            share[run["pixels"][name]] += 0.5
        np.testing.assert_array_equal(by_title[name], share.reshape(8, 8))
    said = capsys.readouterr().out
    assert f"{part['mean']['Inf-FS'][1]:.3f} ± {part['std']['Inf-FS'][1]:.3f} test accuracy from 16 pixels" in said


def test_a_seed_gives_the_same_numbers_wherever_it_stands(tmp_path: Path) -> None:
    for out, seed, seeds in [("both", 0, 2), ("second", 1, 1)]:
        assert main(["demo", "--seed", str(seed), "--seeds", str(seeds), "--out", str(tmp_path / out)]) == 0
    both, second = results(tmp_path / "both"), results(tmp_path / "second")
    assert both["attention"]["seeds"][1] == second["attention"]["seeds"][0]
    assert both["features"]["seeds"][1] == second["features"]["seeds"][0]
    assert both["reranking"]["seeds"][1] == second["reranking"]["seeds"][0]


def test_interrupted_in_the_first_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_second_call(monkeypatch, attention)
    assert main(["demo", "--seeds", "3", "--out", str(tmp_path)]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.png", "results.json"]
    assert [run["seed"] for run in results(tmp_path)["attention"]["seeds"]] == [0]
    assert "interrupted: 1 of 3 seeds are finished and kept" in capsys.readouterr().err


def test_interrupted_in_the_second_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_second_call(monkeypatch, features)
    assert main(["demo", "--seeds", "2", "--out", str(tmp_path)]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.png", "features.png", "results.json"]
    found = results(tmp_path)
    assert len(found["attention"]["seeds"]) == 2
    assert [run["seed"] for run in found["features"]["seeds"]] == [0]
    assert "interrupted: 1 of 2 seeds are finished and kept" in capsys.readouterr().err


def test_interrupted_in_the_third_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_second_call(monkeypatch, reranking)
    assert main(["demo", "--seeds", "2", "--out", str(tmp_path)]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    found = results(tmp_path)
    assert len(found["features"]["seeds"]) == 2
    assert [run["seed"] for run in found["reranking"]["seeds"]] == [0]


def test_interrupted_before_anything_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(attention, "run_seed", interrupt)
    assert main(["demo", "--out", str(tmp_path)]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "--seeds is 0; expected at least 1"),
        (["--device", "toaster"], "--device toaster cannot be used"),
        (["--out", "file"], "--out file cannot be made"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["demo", *options]) == 2
    assert capsys.readouterr().err.startswith(f"graphattn demo: {message}")


def test_attention_on_one_digit_is_that_of_the_first_layer() -> None:
    run = attention.run_seed(5, CPU)
    task = load("digits-knn", split="random-20:5")
    recipe = Recipe(2, batch_size=None, lr=0.01, optimizer="adamw", weight_decay=0.01, warmup=0.0)
    network = AttentionNet(64, 64, 10, heads=4, score="dot", act="elu", dropout=0.3)
    assert fit(network, task, recipe, seed=5, device="cpu", progress=False).test == run["accuracy"]["attention"]
    with torch.no_grad():
        h = torch.nn.functional.elu(network.encoder(task.data.x))
        _, (edges, alpha) = network.convs[0](h, task.data.edge_index, return_attention_weights=True)
    dense = torch.zeros(1797, 1797).index_put((edges[1], edges[0]), alpha.mean(dim=1))
    torch.testing.assert_close(dense.sum(dim=1), torch.ones(1797))
    torch.testing.assert_close(torch.tensor(run["weights"]), dense[run["digit"], run["neighbors"]])


def test_rankings_are_those_of_the_estimators() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[:300], y[:300]
    varying = np.flatnonzero(np.ptp(x, axis=0))
    orders = features.rank(x, y, 0, CPU)
    assert list(orders) == list(features.METHODS)
    for name, order in orders.items():
        assert sorted(order) == varying.tolist(), name
    best = SelectKBest(k=10).fit(x[:, varying], y)
    assert set(orders["ANOVA F"][:10]) == set(varying[best.get_support()])
    np.testing.assert_array_equal(orders["Inf-FS"], InfFS().fit(x).order_[: len(varying)])
    np.testing.assert_array_equal(orders["Inf-FS supervised"], InfFSSupervised().fit(x, y).order_[: len(varying)])
    assert (np.diff(x[:, orders["variance"]].var(axis=0)) <= 0).all()


def test_the_images_that_are_read_choose_no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    rank = features.rank
    monkeypatch.setattr(features, "rank", lambda x, *rest: seen.append(x) or rank(x, *rest))
    features.run_seed(5, CPU)
    x, y = load_digits(return_X_y=True)
    train, _ = train_test_split(x, test_size=0.5, stratify=y, random_state=5)
    np.testing.assert_array_equal(seen, [train])


def test_lists_before_and_after(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    x = load_digits().data
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    run = reranking.run_seed(7, CPU)
    assert len(set(run["queries"])) == 30
    for query, *lists in zip(run["queries"], *(run["lists"][name] for name in reranking.METHODS), strict=True):
        nearest = [i for i in np.argsort(-(x @ x[query]), kind="stable") if i not in run["queries"]][:60]
        assert lists[0] == nearest[:10]
        for items in lists:
            assert len(set(items)) == 10
            assert set(items) <= set(nearest)

    part = reranking.summary([run])
    change = np.subtract(run["average_precision"]["Auto"], run["average_precision"]["cosine"])
    assert [part[name] for name in ("worse", "same", "better")] == [(np.sign(change) == s).sum() for s in (-1, 0, 1)]
    draw(tmp_path / "reranking.png", part)
    bars, curve = drawn["reranking"].subfigs[0].axes
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([part["mean"][m] for m in reranking.METHODS])
    assert curve.get_title() == f"Auto: {part['better']} queries better, {part['worse']} worse"
    best, worst = int(change.argmax()), int(change.argmin())
    panels = np.array(drawn["reranking"].subfigs[1].axes).reshape(6, 11)
    images = load_digits().images
    for row, query, name in [(0, best, "cosine"), (1, best, "Auto"), (4, worst, "cosine"), (5, worst, "Auto")]:
        items = [run["queries"][query], *run["lists"][name][query]]
        for panel, item in zip(panels[row], items, strict=True):
            np.testing.assert_array_equal(panel.images[0].get_array(), images[item])


def test_average_precision_of_lists() -> None:
    found = reranking._average_precision(np.array([1, 2]), np.array([[1, 0, 1, 0], [0, 0, 0, 2]]))
    assert found == pytest.approx([(1 + 2 / 3) / 2, 1 / 4])
