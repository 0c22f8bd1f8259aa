"""Experiments from names and plain settings: networks for every kind of task, merged settings, runs, and the search."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import Batch, Data

from graphattn.datasets import GraphTask, LinkTask, load, transform
from graphattn.datasets.tasks import Task
from graphattn.engine import Recipe
from graphattn.models import AttentionNet, GraphHead, LinkHead
from graphattn.training import Result, fit, loading
from graphattn.training import search as searching
from graphattn.training._batches import GraphBatches, WholeGraph
from graphattn.training._links import Links
from graphattn.training.experiment import (
    MODELS,
    BudgetError,
    Settings,
    as_plain,
    default_settings,
    kind_of,
    prepare,
    run,
)
from graphattn.training.loading import Tasks, split_of
from graphattn.training.networks import make_network, without_edge_features
from graphattn.training.search import search

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is not installed")

SHORT = {"recipe": {"epochs": 2}}


def molecules(folder: Path) -> str:
    """Graphs with categories on nodes and edges, saved as one's own."""
    generator = torch.Generator().manual_seed(0)
    graphs = []
    for number in range(20):
        size = 2 + number % 4
        edge_index = torch.randint(0, size, (2, 2 * size), generator=generator)
        x = torch.randint(0, 3, (size, 2), generator=generator)
        x[0, 1] = number % 5
        edge_attr = torch.randint(0, 4, (2 * size, 1), generator=generator)
        graphs.append(Data(x=x, edge_index=edge_index, edge_attr=edge_attr, y=torch.tensor([number % 2])))
    torch.save(graphs, folder / "molecules.pt")
    return f"local:{folder / 'molecules.pt'}"


def links() -> LinkTask:
    ring = Data(edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), num_nodes=6)
    parts = {"train": [[0, 1], [1, 2]], "val": [[4], [0]], "test": [[4], [1]]}
    return LinkTask(
        name="ring",
        data=ring,
        split={part: torch.tensor(ends) for part, ends in parts.items()},
        negatives={"val": torch.tensor([[5], [0]]), "test": torch.tensor([[5], [1]])},
        split_name="own",
        metric="roc_auc",
        licence="generated",
    )


def written(task: Task) -> list[Any]:
    """All that a task holds, as plain values."""
    graphs = task.graphs if isinstance(task, GraphTask) else [task.data]
    parts = [getattr(task, name, {}) for name in ("split", "negatives")]
    values = [graph.to_dict() for graph in graphs] + [dict(part) for part in parts]
    return [{key: torch.as_tensor(value).tolist() for key, value in each.items()} for each in values]


class TestNetworks:
    @pytest.mark.parametrize("model", MODELS)
    def test_nodes(self, model: str) -> None:
        network, task = prepare(load("sbm"), model, default_settings("node", model))
        assert (network.config["in_channels"], network.config["out_channels"]) == (task.num_features, task.num_classes)
        out = network(task.data.x, task.data.edge_index)
        assert out.shape == (task.data.num_nodes, task.num_classes)
        assert bool(out.isfinite().all())

    @pytest.mark.parametrize("model", MODELS)
    def test_graphs_of_categories(self, model: str, tmp_path: Path) -> None:
        network, task = prepare(load(molecules(tmp_path)), model, default_settings("graph", model))
        backbone = network.config["backbone"]
        assert isinstance(network, GraphHead)
        assert backbone["vocabulary"] == [3, 5]
        edges = model not in ("GCN", "SAGE", "APPNP", "SGFormer", "InfDiffusionNet")
        assert (backbone.get("edge_vocabulary") == [4]) is edges
        batch = Batch.from_data_list(task.graphs)
        options = {"edge_attr": batch.edge_attr} if edges else {}
        assert (batch.edge_attr is not None) is edges
        out = network.eval()(batch.x, batch.edge_index, batch=batch.batch, **options)
        assert out.shape == (20, 2)
        if model != "SGFormer":  # its attention counts padding
            first = task.graphs[0]
            alone = network(first.x, first.edge_index, **({"edge_attr": first.edge_attr} if edges else {}))
            torch.testing.assert_close(out[:1], alone, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("model", MODELS)
    def test_links_of_a_graph_without_features(self, model: str) -> None:
        task = transform(links(), {"NodeIds": {}})
        network = make_network(model, task, default_settings("link", model).network)
        assert isinstance(network, LinkHead)
        assert network.config["backbone"]["vocabulary"] == [6]
        pairs = torch.tensor([[0, 4], [1, 5]])
        network.eval()
        scores = network(task.data.x, task.data.edge_index, pairs=pairs)
        torch.testing.assert_close(network(task.data.x, task.data.edge_index, pairs=pairs.flip(0)), scores)

    def test_widths_of_edge_features_and_encodings(self) -> None:
        task = load("karate")
        task = transform(task, {"AddRandomWalkPE": {"walk_length": 3, "attr_name": "pe"}})
        task.data.edge_attr = torch.rand(task.data.num_edges, 2)
        options = {"hidden_channels": 8, "heads": 2, "encoding": "random_walk"}
        config = make_network("GraphTransformer", task, options).config
        assert (config["encoding_dim"], config["edge_dim"]) == (3, 2)
        assert "encoding_dim" not in make_network("GAT", task, {"hidden_channels": 8}).config
        assert make_network("InfDiffusionNet", task, {"hidden_channels": 8}).config["edge_dim"] is None
        learned = {"hidden_channels": 8, "affinity": "learned"}
        assert make_network("InfDiffusionNet", task, learned).config["edge_dim"] == 2

    def test_edge_features_are_taken_away_from_a_copy(self) -> None:
        task = load("karate")
        task.data.edge_attr = torch.rand(task.data.num_edges, 2)
        assert without_edge_features(task).data.edge_attr is None
        assert task.data.edge_attr is not None

    def test_unknown_names(self) -> None:
        with pytest.raises(ValueError, match=r"model is 'GTA'; did you mean 'GAT'"):
            make_network("GTA", load("karate"), {})
        with pytest.raises(ValueError, match=r"'hiden_channels'.*did you mean 'hidden_channels'"):
            make_network("GAT", load("karate"), {"hiden_channels": 8})


class TestSettings:
    def test_options_are_merged_one_by_one(self) -> None:
        settings = Settings({"heads": 2, "head": {"pool": "mean", "dropout": 0.1}}, transform={"SparseFeatures": {}})
        changed = settings.updated(
            {"network": {"head": {"pool": "max"}}, "transform": {"NormalizeFeatures": {}}, "recipe": {"lr": 0.1}}
        )
        assert changed.network == {"heads": 2, "head": {"pool": "max", "dropout": 0.1}}
        assert changed.transform == {"NormalizeFeatures": {}}
        assert changed.recipe == {"lr": 0.1}
        assert settings.network["head"]["pool"] == "mean"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"netwrok": {}}, "settings has 'netwrok', which is unknown; did you mean 'network'"),
            ({"recipe": {"learning_rate": 1}}, "recipe has 'learning_rate'"),
            ({"training": {"neighbors": [1]}}, "training has 'neighbors', which is unknown; did you mean"),
            ({"recipe": 3}, "settings have recipe of type int; expected a mapping"),
        ],
    )
    def test_unknown_names(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Settings().updated(changes)

    def test_plain_values_make_the_same_settings(self) -> None:
        settings = default_settings("graph", "GAT")
        plain = json.loads(json.dumps(as_plain(settings)))
        assert Settings().updated(plain) == settings
        with pytest.raises(ValueError, match="kind is 'edge'"):
            default_settings("edge", "GAT")

    def test_a_task_is_read_once_for_all_that_share_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[Any] = []

        def count(*asked: Any) -> Any:
            read.append(asked)
            return load(*asked)

        monkeypatch.setattr(loading, "load", count)
        tasks = Tasks("there")
        first = tasks.load("karate", "one-per-class:0")
        assert all(tasks.load("karate", "one-per-class:0", seed) is first for seed in range(3))
        assert read == [("karate", "there", "one-per-class:0")]
        for seed in range(2):
            assert tasks.load("karate", "one-per-class:{seed}", seed).split_name == f"one-per-class:{seed}"
        assert [asked[2] for asked in read[1:]] == ["one-per-class:1"]  # that of seed 0 was there
        with pytest.raises(ValueError, match="'carate'"):
            tasks.load("carate")
        assert tasks.load("karate").name == "karate"

    def test_the_seed_stands_in_the_name_of_the_split(self) -> None:
        assert split_of("random-20:{seed}", 7) == "random-20:7"
        assert split_of(None, 7) is None
        assert [kind_of(task) for task in (load("karate"), links())] == ["node", "link"]


class TestRun:
    def test_equals_the_parts_put_together(self) -> None:
        settings = default_settings("node", "GCN").updated({"recipe": {"epochs": 4}})
        task = Tasks().load("sbm", "random-60-20-20:{seed}", 2)
        result = run(task, "GCN", settings, seed=2, device="cpu", progress=False)
        task = load("sbm", split="random-60-20-20:2")
        network = make_network("GCN", task, settings.network)
        same = fit(network, task, Recipe(**settings.recipe), seed=2, device="cpu", progress=False)
        assert [epoch["loss"] for epoch in result.epochs] == [epoch["loss"] for epoch in same.epochs]
        assert (result.val, result.test) == (same.val, same.test)
        assert result.config["split"] == "random-60-20-20:2"

    def test_options_of_the_training_arrive(self) -> None:
        training = {"consistency": {"runs": 3, "temperature": 0.2}}
        settings = default_settings("node", "GCN").updated({**SHORT, "training": training})
        result = run(load("karate"), "GCN", settings, device="cpu", progress=False)
        assert result.config["consistency"] == {"runs": 3, "weight": 1.0, "temperature": 0.2}
        settings = default_settings("node", "GCN").updated(
            {"recipe": {"epochs": 2, "batch_size": 16}, "training": {"num_neighbors": [2, 2]}}
        )
        assert run(load("karate"), "GCN", settings, device="cpu", progress=False).config["num_neighbors"] == [2, 2]

    @pytest.mark.parametrize(
        ("kind", "changes"),
        [
            ("node", {}),
            ("node", {"recipe": {"batch_size": 32}, "training": {"num_neighbors": [2, 2], "eval_neighbors": [3, 3]}}),
            ("graph", {}),
            ("link", {}),
            ("link", {"training": {"num_neighbors": [2, 2], "eval_neighbors": [3, 3]}}),
        ],
    )
    def test_runs_leave_nothing_behind_in_the_task_that_they_share(
        self, kind: str, changes: dict[str, Any], tmp_path: Path
    ) -> None:
        name = molecules(tmp_path)
        make = {"node": lambda: load("sbm"), "graph": lambda: load(name), "link": links}[kind]
        shared, untouched = make(), make()
        for model in ("AttentionNet", "GCN"):  # the second one reads no edge features
            settings = default_settings(kind, model).updated(SHORT).updated(changes)
            for seed in range(2):
                result = run(shared, model, settings, seed=seed, device="cpu", progress=False)
                alone = run(make(), model, settings, seed=seed, device="cpu", progress=False)
                assert (result.epochs, result.val, result.test) == (alone.epochs, alone.val, alone.test)
        assert written(shared) == written(untouched)
        assert dict(shared.transform) == {}

    @pytest.mark.parametrize("kind", [WholeGraph, Links, GraphBatches])
    def test_what_moves_to_a_device_is_a_copy(self, kind: Any, tmp_path: Path) -> None:
        task = links() if kind is Links else load("sbm" if kind is WholeGraph else molecules(tmp_path))
        model = LinkHead(AttentionNet(4, 8, 8), 8) if kind is Links else AttentionNet(4, 8, task.out_channels)
        more = (20,) if kind is GraphBatches else ()
        batches = kind(task, model, torch.device("meta"), *more)
        moved = batches._batch(torch.arange(20)) if kind is GraphBatches else batches.data
        assert moved.edge_index.is_meta
        graphs = task.graphs if isinstance(task, GraphTask) else [task.data]
        assert not any(graph.edge_index.is_meta for graph in graphs)

    def test_budget_of_parameters(self) -> None:
        with pytest.raises(BudgetError, match=r"GCN has \d+ parameters, the budget is 10"):
            run(load("karate"), "GCN", default_settings("node", "GCN"), max_parameters=10, progress=False)


class TestSearch:
    @pytest.fixture(autouse=True)
    def optuna(self) -> None:
        pytest.importorskip("optuna", reason="Optuna, of the extra search, is not installed")

    def search(self, out: Path, trials: int, **options: Any) -> Settings:
        settings = default_settings("node", "AttentionNet").updated(SHORT)
        return search(
            load("sbm"), "AttentionNet", settings, trials=trials, out=out, device="cpu", progress=False, **options
        )

    def test_returns_what_validates_best(self, tmp_path: Path) -> None:
        best = self.search(tmp_path, 4)
        trials = json.loads((tmp_path / "search.json").read_text())
        assert len(trials) == 4
        start, first = as_plain(default_settings("node", "AttentionNet").updated(SHORT)), trials[0]["settings"]
        for group, options in start.items():
            assert options.items() <= first[group].items()
        top = max(trials, key=lambda trial: (trial["validation"], -trial["val_loss"]))
        assert Settings().updated(top["settings"]) == best
        again = run(load("sbm"), "AttentionNet", best, device="cpu", progress=False)
        assert again.val == top["validation"]
        assert not any("test" in trial for trial in trials)

    def test_of_equal_scores_the_lower_loss_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        losses = iter([0.5, 0.2, 0.4])

        def same_score(*_: Any, **__: Any) -> Result:
            epochs = [{"loss": 1.0, "score": 0.75, "val_loss": next(losses)}]
            return Result({}, epochs, best_epoch=0, val=0.75, test=0.0, parameters=1, stopped="epochs")

        monkeypatch.setattr(searching, "run", same_score)
        best = self.search(tmp_path, 3)
        trials = json.loads((tmp_path / "search.json").read_text())
        assert as_plain(best) == as_plain(Settings().updated(trials[1]["settings"]))

    def test_goes_on_where_it_was(self, tmp_path: Path) -> None:
        self.search(tmp_path / "whole", 4)
        self.search(tmp_path / "parts", 2)
        self.search(tmp_path / "parts", 4)
        whole, parts = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("whole", "parts"))
        assert parts == whole

    @pytest.mark.parametrize("at", [0, 2])
    @pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
    def test_tries_again_what_was_stopped(
        self, stop: type[BaseException], at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = itertools.count()

        def stopped(*args: Any, **options: Any) -> Any:
            if next(calls) == at:
                raise stop
            return run(*args, **options)

        self.search(tmp_path / "whole", 3)
        with monkeypatch.context() as patch:
            patch.setattr(searching, "run", stopped)
            with pytest.raises(stop):
                self.search(tmp_path / "parts", 3)
        self.search(tmp_path / "parts", 3)
        whole, parts = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("whole", "parts"))
        assert parts == whole

    def test_too_large_networks_do_not_count(self, tmp_path: Path) -> None:
        settings = default_settings("node", "AttentionNet").updated(SHORT)
        sizes = [
            sum(p.numel() for p in prepare(load("sbm"), "AttentionNet", settings.updated(change))[0].parameters())
            for change in ({"network": {"hidden_channels": 48}}, {})
        ]
        limit = (sizes[0] + sizes[1]) // 2
        best = self.search(tmp_path, 2, max_parameters=limit)
        trials = json.loads((tmp_path / "search.json").read_text())
        assert sum(trial["validation"] is not None for trial in trials) == 2
        assert trials[0]["state"] == "pruned"
        assert asdict(best)["network"]["hidden_channels"] < 64

    def test_no_score_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no settings of AttentionNet on sbm came to a score"):
            self.search(tmp_path, 1, max_parameters=1)
        with pytest.raises(ValueError, match="trials is 0"):
            self.search(tmp_path, 0)
