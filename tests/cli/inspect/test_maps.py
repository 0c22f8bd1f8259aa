"""The report on saved attention maps: what it measures, what it shows, and what broken input does to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from graphattn.analysis import (
    AttentionMaps,
    centrality,
    communities,
    head_roles,
    pool_roles,
    rollout,
    rollout_rows,
    sinks,
    spectrum,
    symmetry,
)
from graphattn.cli import main
from graphattn.cli._inspect_html import text
from graphattn.cli._inspect_sections import SECTIONS
from graphattn.cli._inspect_svg import heatmap, lines, network
from tests.cli.inspect.pages import random_maps, write

SCRIPT = "<script>alert(1)</script>"


def test_numbers_are_those_of_the_measures(report, saved) -> None:
    path, maps = saved
    found = report(path, "--n-samples", 64)[0]["models"][0]
    roles = head_roles(maps, list(maps.tokens))
    assert found["roles"]["labels"] == list(roles.labels())
    for role, scores in roles.scores.items():
        assert_allclose(found["roles"]["scores"][role], scores, rtol=1e-12)
        assert_allclose(found["roles"]["chance"][role], roles.chance[role], rtol=1e-12)
    own = sinks(maps)
    assert_allclose(found["sinks"]["entropy"], [layer.mean(axis=1) for layer in own.entropy], rtol=1e-12)
    assert_allclose(found["sinks"]["first_token_mass"], own.first_token_mass, rtol=1e-12)
    assert found["sinks"]["n_sinks"] == [len(own.found)]
    values = spectrum(maps)
    assert_allclose(found["spectrum"]["effective_rank"], values.effective_rank, rtol=1e-12)
    assert_allclose(found["spectrum"]["stable_rank"], values.stable_rank, rtol=1e-12)
    assert_allclose(found["symmetry"]["maps"], [symmetry(maps.affinity(layer)) for layer in range(2)], rtol=1e-12)
    tokens = found["rollout"]["inputs"][0]["tokens"]
    assert_allclose([each["relevance"] for each in tokens], rollout(maps).relevance[-1].mean(axis=0), rtol=1e-12)
    assert found["structure"]["communities"]["modularity"] == pytest.approx(communities(maps).modularity, rel=1e-12)
    rank = centrality(maps).values["pagerank"]
    assert [each["node"] for each in found["structure"]["centrality"]["nodes"]] == np.argsort(
        -rank, kind="stable"
    ).tolist()
    mean = maps.dense(1).mean(axis=0)
    for edge in found["affinity"]["edges"]:
        assert edge["weight"] == pytest.approx(mean[edge["target"], edge["source"]], rel=1e-12)
    assert found["causal"]["head"] == own.entropy[-1].mean(axis=1).argmin()
    assert found["causal"]["n_samples"] == 64
    assert found["causal"]["n_tests"] > 0


def test_texts_are_escaped(report, tmp_path: Path) -> None:
    tokens = np.array([SCRIPT, "b", "a", "b", "a\x01", '"><img src=x onerror=y>'])
    path = write(tmp_path / f"{'<b>'}.npz", attention=random_maps(6), tokens=tokens)
    page = report(path, "--n-samples", 64)[1]
    assert SCRIPT not in page.source
    assert SCRIPT in page.words
    assert not any("\x01" in words for words in page.words)


def test_text_is_cut_and_escaped() -> None:
    assert text("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#x27;"
    assert text("x" * 100) == "x" * 39 + "…"
    assert text("a\x00\nb\ud800") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


def test_pictures_of_degenerate_numbers() -> None:
    assert heatmap([[float("nan"), None], [1.0, 1.0]], "one", 1.0, 1.0).count("<path") == 2
    assert "nothing to draw" in lines({"none": ([0.0], [float("nan")], "red", "")}, "x", "y")
    assert "nan" not in lines({"one": ([0.0], [3.0], "red", "")}, "x", "y")
    assert "nan" not in network({0: "a", 1: "b"}, [(0, 1, float("nan"), "o->")], ring=False)
    assert network({}, [], ring=True).startswith("<svg")


def test_inputs_of_different_lengths(report, tmp_path: Path) -> None:
    path = write(
        tmp_path / "ragged.npz",
        attention_0=random_maps(4),
        attention_1=random_maps(7, seed=1),
        tokens_1=np.array(list("abcabca")),
        attention_2=random_maps(1, seed=2),
    )
    found = report(path)[0]["models"][0]
    assert [each["nodes"] for each in found["inputs"]] == [4, 7, 1]
    pooled = pool_roles(
        [
            head_roles(AttentionMaps.from_arrays(random_maps(4)), range(4)),
            head_roles(AttentionMaps.from_arrays(random_maps(7, seed=1)), list("abcabca")),
        ]
    )
    assert_allclose(found["roles"]["scores"]["induction"], pooled.scores["induction"], rtol=1e-12)
    assert "--n-samples" in found["causal"]["missing"]


def test_a_padded_batch(report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attention = np.zeros((3, 1, 2, 5, 5))
    mask = np.zeros((3, 5), dtype=bool)
    for number, size in enumerate((5, 0, 3)):
        mask[number, :size] = True
        if size:
            attention[number, :, :, :size, :size] = random_maps(size, 1, 2, seed=number)
    path = write(tmp_path / "batch.npz", attention=attention, mask=mask)
    found = report(path)[0]["models"][0]
    assert [each["nodes"] for each in found["inputs"]] == [5, 3]
    assert "input 1 has no tokens and is left out" in capsys.readouterr().err
    assert_allclose(
        [each["relevance"] for each in found["rollout"]["inputs"][1]["tokens"]],
        rollout(AttentionMaps.from_arrays(random_maps(3, 1, 2, seed=2))).relevance[-1].mean(axis=0),
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"attention": np.full((1, 1, 3, 3), np.nan)}, "input 0: layer 0 has weights that are NaN or infinite"),
        ({"attention": np.ones((1, 1, 3, 3))}, "--unnormalized reads rows that do not sum to 1"),
        ({"attention": np.zeros((1, 1, 0, 0))}, "no tokens are left of 0"),
        ({"attention": np.zeros((0, 1, 3, 3))}, "layers holds no layer"),
        ({"attention": np.eye(3)[None, None], "mask": np.zeros(3)}, "expected at least one input with one"),
        ({"attention": np.zeros((2, 1, 1, 3, 3)), "mask": np.ones((2, 4))}, "mask has shape (2, 4); expected (2, 3)"),
        ({"attention": np.eye(3)[None, None], "tokens": np.array(["a"])}, "tokens names 1 tokens but the maps have 3"),
        ({"other": np.eye(3)}, "expected an array 'attention'"),
        ({"attention": np.array([[1], [2, 3]], dtype=object)}, "is no .npz file of arrays"),
    ],
)
def test_broken_maps(arrays, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "broken.npz", **arrays)
    assert main(["inspect", str(path), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_that_do_not_sum_to_one(report, tmp_path: Path) -> None:
    path = write(tmp_path / "raw.npz", attention=np.random.default_rng(0).normal(size=(2, 2, 4, 4)))
    found, page = report(path, "--unnormalized")
    model = found["models"][0]
    assert "negative weights" in model["sinks"]["missing"]
    assert "negative weights" in model["rollout"]["inputs"][0]["missing"]
    assert len(model["spectrum"]["stable_rank"]) == 2
    assert any("Not measured" in words for words in page.words)


def test_a_large_graph_is_summarized(report, tmp_path: Path) -> None:
    nodes, rng = 10_000, np.random.default_rng(0)
    target = np.repeat(np.arange(nodes), 5)
    source = rng.integers(nodes, size=target.size)
    weights = rng.random((target.size, 2))
    total = np.stack([np.bincount(target, head, minlength=nodes) for head in weights.T], axis=1)
    maps = AttentionMaps.from_arrays([(np.stack([source, target]), weights / total[target])] * 2, num_nodes=nodes)
    path = tmp_path / "large.npz"
    maps.save(path)
    found = report(path, "--n-samples", 64, "--node", 17)[0]["models"][0]
    assert found["inputs"][0]["edges"] == target.size
    assert found["inputs"][0]["degree"]["mean"] == 5
    assert "order of tokens" in found["roles"]["missing"]
    assert found["spectrum"]["truncated"]
    assert "edges" in found["structure"]["communities"]["missing"]
    assert "10000 nodes" in found["causal"]["missing"]
    drawn = [each["node"] for each in found["affinity"]["nodes"]]
    assert 17 in drawn
    assert len(drawn) <= 40
    detail = found["rollout"]["inputs"][0]
    assert len(detail["tokens"]) == 128
    relevance = rollout_rows(maps, [17]).relevance[0, 0]
    for each in detail["tokens"]:
        assert each["relevance"] == pytest.approx(relevance[each["node"]], rel=1e-12)
    assert "no model to ask" in detail["faithfulness"]["missing"]


def test_two_side_by_side(report, saved, tmp_path: Path) -> None:
    path, maps = saved
    other = write(tmp_path / "other.npz", attention=random_maps(6, 3, 2, seed=5))
    found, page = report("--compare", path, other)
    assert [model["layers"] for model in found["models"]] == [2, 3]
    assert_allclose(found["models"][0]["spectrum"]["stable_rank"], spectrum(maps).stable_rank, rtol=1e-12)
    assert "Side by side" in page.words
    assert {"maps.npz", "other.npz"} <= set(page.words)
    assert page.source.count('<div class="pair">') == len(SECTIONS)
    same = report("--compare", path, path)[0]["models"]
    assert [model["name"] for model in same] == [str(path), str(path)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected one MODEL, or --compare with two"),
        (["missing.npz"], "missing.npz is not there"),
        (["{maps}", "--compare", "{maps}", "{maps}"], "expected one MODEL"),
        (["{maps}", "--node", "6"], "--node is 6 but input 0 has 6 nodes"),
        (["{maps}", "--max-inputs", "0"], "--max-inputs is 0; expected at least 1"),
        (["{maps}", "--data", "karate"], "--data has no meaning"),
        (["{maps}", "--text", "one two"], "2 names were given but the maps have 6 nodes"),
        (["{maps}", "--texts", "{empty}"], "holds no text"),
        (["{empty}", "--data", "karate"], "is no checkpoint ("),
        (["{folder}"], "needs texts; pass --text or --texts"),
        (["{maps}", "--out", "{empty}"], "cannot be made"),
    ],
)
def test_mistakes_are_named(words, message, saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_text("\n")
    places = {"maps": saved[0], "empty": tmp_path / "empty", "folder": tmp_path}
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    assert main(["inspect", *(word.format(**places) for word in words), *out]) == 2
    assert message in capsys.readouterr().err
