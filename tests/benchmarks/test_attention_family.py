"""The benchmark of the attention family: tasks with right answers, networks that see what they should, exponents."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch_geometric.data import Batch

from graphattn.nn.global_attention import PrimalAttention, SoftmaxAttention

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def family(scripts: Path) -> ModuleType:
    """The script with its folder on the path."""
    import attention_family

    return attention_family


@pytest.fixture
def tasks(family: ModuleType) -> ModuleType:
    return sys.modules["_family_tasks"]


@pytest.fixture
def networks(family: ModuleType) -> ModuleType:
    return sys.modules["_family_networks"]


def run(family: ModuleType, out: Path, *options: str) -> dict:
    return family.run(
        family.parse(["--quick", "--seeds", "1", "--repeats", "1", "--threads", "1", "--out", str(out), *options])
    )


def test_quick_run_measures_everything_and_resumes(
    family: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []
    fit = family.fit
    monkeypatch.setattr(family, "fit", lambda *args, **seed: trained.append(args[1]) or fit(*args, **seed))
    run(family, tmp_path)
    text = (tmp_path / "attention_family.json").read_text()
    results = json.loads(text)
    assert str(FOLDER.parent) not in text
    for part in ("long_range", "vowels", "digits"):
        for name, runs in results[part]["networks"].items():
            assert runs["0"]["status"] == "ok", (part, name, runs)
            assert 0 <= runs["0"]["accuracy"] <= 1
    for name, records in results["scaling"]["attentions"].items():
        assert set(records) == {"32", "64"}
        # Other libraries may be missing.
        assert " " in name or "-" in name or all(record["status"] == "ok" for record in records.values()), records
    for name, record in results["spectrum"]["networks"].items():
        for layer in record["layers"]:
            values = layer["singular_values"]
            assert values[0] == 1.0, name
            assert values == sorted(values, reverse=True)
            assert 1 <= layer["directions"]["0.9"] <= layer["directions"]["0.99"] <= 64
    report = (tmp_path / "attention_family.md").read_text()
    assert report in capsys.readouterr().out
    assert "mean nothing" in report
    assert (tmp_path / "attention_family.png").stat().st_size > 0
    assert not list(tmp_path.glob("*.partial"))

    trained.clear()
    resumed = run(family, tmp_path, "--resume", "--seeds", "2", "--parts", "vowels", "spectrum")
    assert trained == list(family.CANDIDATES["vowels"].values())  # the second seed alone
    for name, runs in resumed["vowels"]["networks"].items():
        assert runs["0"] == results["vowels"]["networks"][name]["0"]
    with pytest.raises(SystemExit, match="other settings"):
        run(family, tmp_path, "--resume", "--repeats", "2")
    monkeypatch.setattr(family, "QUICK", replace(family.QUICK, channels=8))
    with pytest.raises(SystemExit, match="trained otherwise"):
        run(family, tmp_path, "--resume", "--parts", "vowels")


def test_class_of_a_tree_is_the_value_of_the_leaf_that_the_root_asks_for(tasks: ModuleType) -> None:
    split = tasks.draw_trees(20, 3, seed=0)
    for x, label in zip(split.inputs, split.labels, strict=True):
        assert x.shape == (15, 24)
        assert not x[1:7].any()  # inner nodes know nothing
        asked = int(x[0, 16:].argmax())
        (leaf,) = [node for node in range(7, 15) if x[node, asked] == 1]
        assert x[leaf, 8 + int(label)] == 1
        for part in (x[7:, :8], x[7:, 8:16]):  # every key and every value once
            torch.testing.assert_close(part.sum(0), torch.ones(8))
    assert len(set(split.labels.tolist())) > 4
    assert not torch.equal(tasks.draw_trees(20, 3, seed=1).labels, split.labels)


def test_edges_of_a_tree_join_parents_and_children(tasks: ModuleType) -> None:
    A = tasks.tree(15).to_dense().matrix
    expected = torch.eye(15)
    for node in range(7):
        for child in (2 * node + 1, 2 * node + 2):
            expected[node, child] = expected[child, node] = 1
    torch.testing.assert_close(A, expected)


SERIES = """#a comment: with colons
@problemName Two
@classLabel true a b
@data
1.5,2:3,4:b
5:-6:a

7,8,9:10,11,12:a
"""


def test_series_of_unequal_length_are_read(tasks: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "Two_TRAIN.ts"
    path.write_text(SERIES)
    split = tasks.read_ts(path)
    assert [x.tolist() for x in split.inputs] == [[[1.5, 3], [2, 4]], [[5, -6]], [[7, 10], [8, 11], [9, 12]]]
    assert split.labels.tolist() == [1, 0, 0]


def test_vowels_are_the_published_ones(tasks: ModuleType) -> None:
    if importlib.util.find_spec("aeon") is None:
        pytest.skip("aeon, whose files are read, is not installed")
    task = tasks.make_vowels(quick=False)
    assert [len(task.train.inputs), len(task.test.inputs), task.max_nodes, task.num_classes] == [270, 370, 29, 9]
    assert torch.bincount(task.train.labels).tolist() == [30] * 9
    assert {x.size(1) for x in task.test.inputs} == {12}
    steps = torch.cat(task.train.inputs)
    torch.testing.assert_close(steps.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(steps.std(0), torch.ones(12))


def test_missing_vowels_say_what_to_install(tasks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps aeon"):
        tasks.make_vowels(quick=False)


def test_digits_keep_every_image_once(tasks: ModuleType) -> None:
    task = tasks.make_digits(quick=False)
    assert len(task.train.labels) + len(task.test.labels) == 1797
    (graph,) = task.graphs(task.test.take(torch.tensor([3])), None)
    image = task.test.inputs[3, 0]
    assert graph.x[5].tolist() == image[2:4, 2:4].flatten().tolist()  # second patch of the second row
    assert graph.y == task.test.labels[3]
    assert graph.edge_index.tolist() == [list(range(16))] * 2


def classifier(networks: ModuleType, task: object, name: str, part: str) -> tuple[torch.nn.Module, Batch]:
    """A network that nothing has trained, in evaluation, and four graphs."""
    candidate = networks.CANDIDATES[part][name]
    graphs = task.graphs(task.test, candidate.pattern)[:4]
    torch.manual_seed(0)
    return networks.Classifier(task, graphs[0].num_features, candidate, networks.QUICK).eval(), graphs


@pytest.mark.parametrize(
    ("name", "far"), [("softmax", True), ("primal", True), ("linear", True), ("window", False), ("edges", True)]
)
def test_root_sees_as_far_as_its_attention_reaches(
    tasks: ModuleType, networks: ModuleType, name: str, far: bool
) -> None:
    task = tasks.make_long_range(quick=True)
    network, graphs = classifier(networks, task, name, "long_range")
    batch = Batch.from_data_list(graphs)
    batch.x.requires_grad_()
    network(batch)[0][0].sum().backward()
    gradient = batch.x.grad.view(4, 7, -1).abs().sum(2)
    # Two layers of a window of two see the nodes 0 to 4; no graph sees another.
    assert (gradient[0] > 0).tolist() == [True] * 5 + [far] * 2
    assert not gradient[1:].any()


@pytest.mark.parametrize("name", ["softmax", "primal", "nystrom", "window"])
def test_graphs_come_out_of_a_batch_as_they_do_alone(tasks: ModuleType, networks: ModuleType, name: str) -> None:
    task = tasks.make_vowels(quick=True)
    network, graphs = classifier(networks, task, name, "vowels")
    assert len({graph.num_nodes for graph in graphs}) > 1
    with torch.no_grad():
        together = network(Batch.from_data_list(graphs))[0]
        alone = torch.cat([network(Batch.from_data_list([graph]))[0] for graph in graphs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_primal_in_the_last_layer_follows_softmax_and_its_loss_counts(tasks: ModuleType, networks: ModuleType) -> None:
    task = tasks.make_vowels(quick=True)
    network, graphs = classifier(networks, task, "primal, last layer", "vowels")
    assert [type(layer.attention) for layer in network.layers] == [SoftmaxAttention, PrimalAttention]
    batch = Batch.from_data_list(graphs)
    _, penalty = network(batch)
    inputs = []
    network.layers[1].attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    network(batch)
    assert penalty == network.layers[1].attention(inputs[0], batch.batch, return_loss=True)[1] > 0
    assert classifier(networks, task, "softmax", "vowels")[0](batch)[1] == 0


def test_training_never_looks_at_the_test(tasks: ModuleType, networks: ModuleType) -> None:
    task = tasks.make_vowels(quick=True)
    other = replace(task, test=tasks.Split([x + 100 for x in task.test.inputs], 8 - task.test.labels))
    candidate = networks.CANDIDATES["vowels"]["primal"]
    setting = replace(networks.QUICK, recipe=replace(networks.QUICK.recipe, epochs=6))
    (one, record), (two, _) = (networks.fit(t, candidate, setting, seed=1) for t in (task, other))
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert record["epochs"] == 6
    third, _ = networks.fit(task, candidate, setting, seed=2)
    assert not torch.equal(next(one.parameters()), next(third.parameters()))


def test_softmax_learns_the_vowels_of_the_quick_run(tasks: ModuleType, networks: ModuleType) -> None:
    task = tasks.make_vowels(quick=True)
    recipe = replace(networks.QUICK.recipe, epochs=40, lr=0.1)
    candidate = networks.CANDIDATES["vowels"]["softmax"]
    _, record = networks.fit(task, candidate, replace(networks.QUICK, recipe=recipe), seed=0)
    assert record["accuracy"] == 1.0
    assert record["cross_entropy"] < 0.5


def test_softmax_matrix_is_what_the_attention_multiplies_by(family: ModuleType) -> None:
    spectrum = sys.modules["_family_spectrum"]
    torch.manual_seed(0)
    attention = SoftmaxAttention(8, heads=2).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    v = attention.qkv(x).unflatten(-1, (3, 2, 4))[:, :, 2].transpose(1, 2)
    gathered = spectrum.attention_matrix(attention, x) @ v
    out = attention.proj(gathered.transpose(1, 2).flatten(2))
    torch.testing.assert_close(out[0], attention(x[0]), atol=1e-14, rtol=1e-12)


def test_primal_kernel_is_that_of_its_scores(family: ModuleType) -> None:
    spectrum = sys.modules["_family_spectrum"]
    torch.manual_seed(0)
    attention = PrimalAttention(8, heads=2, low_rank=3, rows=9).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    rows = spectrum.evenly_spaced(attention, x)
    q, k = (part.squeeze(2).transpose(1, 2) for part in attention.qk(x).unflatten(-1, (2, 2, 4)).split(1, dim=2))
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    # The rows are those of the attention: both scores, computed with them, give its output.
    scores = torch.cat([q @ (rows @ attention.weight_e), k @ (rows @ attention.weight_r)], dim=-1)
    out = attention.proj(attention.join(scores.transpose(1, 2)).flatten(2))
    torch.testing.assert_close(out[0], attention(x[0]), atol=1e-14, rtol=1e-12)
    K = spectrum.attention_matrix(attention, x)
    for head in range(2):
        for i in range(6):
            for j in range(6):
                f = rows[0, head].t()
                torch.testing.assert_close(K[0, head, i, j], (f @ q[0, head, i]) @ (f @ k[0, head, j]))


def test_exponents_are_those_of_the_large_sizes_that_were_measured(family: ModuleType) -> None:
    def record(nodes: int) -> dict:
        small = nodes < 4096  # as if fixed costs ruled there
        return {
            "status": "ok",
            "training": {"median": 1.0 if small else 1e-6 * nodes**1.5},
            "peak_extra_bytes": 1 if small else 100 * nodes,
        }

    exponents = family.scaling.exponents
    records = {str(n): record(n) for n in family.scaling.SIZES}
    found = exponents(records)
    assert math.isclose(found["time"], 1.5, rel_tol=1e-12)
    assert math.isclose(found["memory"], 1.0, rel_tol=1e-12)
    assert (found["from"], found["to"]) == (4096, 65536)
    records["65536"] = {"status": "failed", "reason": "too slow"}
    assert exponents(records)["to"] == 16384
    records["16384"] = {"status": "failed", "reason": "too slow"}
    assert exponents(records) == {}


def test_sizes_beyond_the_first_failure_are_skipped(
    family: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def too_large(num_nodes: int):
        if num_nodes > 32 and num_nodes != family.scaling.SIZES[0]:
            raise RuntimeError(f"no memory for {num_nodes} nodes in /some/where/file.cpp")
        return family.scaling.CANDIDATES["linear"](num_nodes)

    candidates = {
        "linear": family.scaling.CANDIDATES["linear"],
        "softmax": too_large,
        "other": family.scaling._library("a_library_that_is_missing", "Attention"),
    }
    monkeypatch.setattr(family.scaling, "CANDIDATES", candidates)
    monkeypatch.setattr(family.scaling, "QUICK_SIZES", (32, 64, 128))
    found = run(family, tmp_path, "--parts", "scaling")["scaling"]["attentions"]
    assert [record["status"] for record in found["linear"].values()] == ["ok"] * 3
    assert [record["status"] for record in found["softmax"].values()] == ["ok", "failed", "skipped"]
    assert found["softmax"]["64"]["reason"] == "RuntimeError: no memory for 64 nodes in file.cpp"
    assert found["softmax"]["128"]["reason"] == "failed at 64 nodes"
    assert "a_library_that_is_missing" in found["other"]["32"]["reason"]
    report = (tmp_path / "attention_family.md").read_text()
    assert "- softmax, 64 nodes: RuntimeError: no memory for 64 nodes in file.cpp" in report


def test_report_compares_with_the_published_and_softmax_with_primal(family: ModuleType, tmp_path: Path) -> None:
    results = run(family, tmp_path, "--parts", "vowels", "scaling")
    runs = results["vowels"]["networks"]["primal"]
    runs["0"]["accuracy"], runs["1"] = 0.974, {**runs["0"], "accuracy": 0.99}
    runs["2"] = {"status": "failed", "reason": "no time"}
    for name, seconds, peak in (("softmax", 0.06, 5 * 2**20), ("primal", 0.02, 2 * 2**20)):
        record = results["scaling"]["attentions"][name]["64"]
        record["training"]["median"], record["peak_extra_bytes"] = seconds, peak
    results["scaling"]["attentions"]["softmax"]["128"] = {**results["scaling"]["attentions"]["softmax"]["64"]}
    text = sys.modules["_family_report"].write_report(results, tmp_path)
    assert "| primal | 98.2 ± 1.1 | 98.4 | -0.2 | 97.4 99.0 |" in text
    assert "At 64 nodes softmax attention takes 3 times the time of primal attention and 2.5 times its memory" in text


@pytest.mark.slow
def test_fresh_process_weighs_a_step_and_has_a_limit(family: ModuleType) -> None:
    record = family.scaling.measure("softmax", 1024, 1, 1, quick=False)
    assert record["status"] == "ok", record
    # Input, output, queries, keys, values and their gradients.
    assert 1024 * 64 * 4 * 2 < record["peak_extra_bytes"] < 1024 * 64 * 4 * 100
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import _family_scaling as s, torch; s.MEMORY_LIMIT = 0.5;"
        "s.limit_memory(); torch.ones(2**26); torch.ones(2**28)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER.parent)
    assert done.returncode == 1
    assert "can't allocate memory: you tried to allocate 1073741824 bytes" in done.stderr
