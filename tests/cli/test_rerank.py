"""``graphattn rerank`` from the command to its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure
from matplotlib.image import imread

from graphattn._optional import is_available
from graphattn.cli import _rerank_job, main
from graphattn.cli._rerank_changes import MEASURES
from graphattn.retrieval import load_embeddings, read_qrels, read_run, write_qrels, write_run
from graphattn.retrieval._methods import METHODS, make_reranker
from graphattn.retrieval.metrics import compare, evaluate

pytest.importorskip("pyarrow", reason="lists are cut into Parquet files")
needs_trec_eval = pytest.mark.skipif(not is_available("pytrec_eval"), reason="pytrec_eval is not installed")

QUERIES, CLASSES, SIZE, DEPTH = 23, 4, 80, 30


def write_vectors(path: Path, ids: list[str], vectors: np.ndarray) -> None:
    np.save(path, vectors.astype("f"))
    path.with_suffix(".ids").write_text("\n".join(ids) + "\n")


def write_data(folder: Path) -> Path:
    """Write vectors in overlapping classes, the last two documents copies of the first two; a run of unequal lists; and
    judgements of all queries but one, and of one that is not searched."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((CLASSES, 6))
    kind, asked = np.arange(SIZE) % CLASSES, np.arange(QUERIES) % CLASSES
    gallery = centers[kind] + 0.9 * rng.standard_normal((SIZE, 6))
    gallery[-2:] = gallery[:2]
    queries = centers[asked] + 0.9 * rng.standard_normal((QUERIES, 6))
    docs, names = [f"d{row}" for row in range(SIZE)], [f"q{row}" for row in range(QUERIES)]
    write_vectors(folder / "docs.npy", docs, gallery)
    write_vectors(folder / "queries.npy", names, queries)
    score = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ gallery.T
    best = np.argsort(-score, axis=1)[:, :DEPTH]
    lengths = DEPTH - np.arange(QUERIES) % 5
    lists = [(names[q], [docs[i] for i in best[q, :n]], score[q, best[q, :n]]) for q, n in enumerate(lengths)]
    write_run(folder / "first.run", lists)
    relevant = {name: {docs[i]: int(kind[i] == asked[q]) for i in range(SIZE)} for q, name in enumerate(names)}
    del relevant["q3"]
    write_qrels(folder / "qrels", {**relevant, "other": {"d1": 1}})
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def words(data: Path, *options: str, run: str = "first.run", out: str = "new.run") -> list[str]:
    files = {"--run": run, "--queries": "queries.npy", "--gallery": "docs.npy", "--out": out}
    return ["rerank", *(word for flag, name in files.items() for word in (flag, str(data / name))), *options]


def report(data: Path, name: str = "new.json") -> dict[str, Any]:
    return json.loads((data / name).read_text())


def by_library(data: Path, method: str, options: dict[str, Any]) -> dict[str, list[str]]:
    """What the classes make of the same files, in one call."""
    run, queries, gallery = (
        read_run(data / "first.run"),
        *map(load_embeddings, (data / "queries.npy", data / "docs.npy")),
    )
    lists = run.to_arrays(gallery.rows)
    reranker = make_reranker(method, options)
    if reranker.scope == "gallery":
        reranker.fit(gallery.vectors)
    found = reranker.rerank(queries.take(run.query_ids), gallery.vectors, lists.indices, lists.scores)
    return {
        query: [gallery.ids[row] for row in rows if row >= 0]
        for query, rows in zip(run.query_ids, found.indices, strict=True)
    }


@pytest.mark.parametrize(
    ("words_given", "method", "options"),
    [
        ([], "auto", {}),
        (["--method", "k-reciprocal", "--option", "k1=8", "--option", "k2=3", "--part-size", "5"],
         "k-reciprocal", {"k1": 8, "k2": 3}),
        (["--method", "gnn", "--top-k", "12", "--blend", "0.5"], "gnn", {"top_k": 12, "blend": 0.5}),
        (["--method", "query-expansion", "--option", "kind=average", "--option", "tail=\"drop\"", "--top-k", "7"],
         "query-expansion", {"kind": "average", "tail": "drop", "top_k": 7}),
        (["--method", "diffusion", "--option", "scope=gallery", "--option", "k=10", "--batch-size", "3"],
         "diffusion", {"scope": "gallery", "k": 10}),
        (["--method", "graph-convolution", "--transductive", "--option", "k=4"],
         "graph-convolution", {"transductive": True, "k": 4}),
        (["--method", "super-global"], "super-global", {}),
    ],
)  # fmt: skip
def test_the_lists_are_those_of_the_library(
    data: Path, words_given: list[str], method: str, options: dict[str, Any]
) -> None:
    assert main(words(data, *words_given)) == 0
    new = read_run(data / "new.run")
    expected = by_library(data, method, options)
    assert dict(zip(new.query_ids, new.doc_ids, strict=True)) == expected
    assert all((np.diff(scores) < 0).all() for scores in new.scores)
    found = report(data)
    assert (found["method"], found["dropped_documents"], found["lists"]) == (method, 0, QUERIES)
    assert {name: found["options"][name] for name in options} == options
    assert not (data / "new.run.parts").exists()


@needs_trec_eval
@pytest.mark.parametrize("method", ["auto", "super-global"])
def test_metrics_are_those_of_the_two_files(
    data: Path, method: str, capsys: pytest.CaptureFixture[str], drawn: dict[str, Figure]
) -> None:
    assert main(words(data, "--qrels", str(data / "qrels"), "--method", method, "--part-size", "7")) == 0
    qrels = read_qrels(data / "qrels")
    before, after = (evaluate(read_run(data / name), qrels, MEASURES) for name in ("first.run", "new.run"))
    counts = compare(before, after)
    metrics = report(data)["metrics"]
    assert list(metrics) == list(MEASURES)
    for name, values in metrics.items():
        assert values["before"] == pytest.approx(before.mean[name], abs=1e-12)
        assert values["after"] == pytest.approx(after.mean[name], abs=1e-12)
        found = [values[word] for word in ("wins", "ties", "losses")]
        assert found == [counts.wins[name], counts.ties[name], counts.losses[name]]
    assert metrics["map"]["wins"] > 0
    assert (report(data)["lists"], report(data)["judged"]) == (QUERIES, QUERIES - 1)

    said = capsys.readouterr()
    row = next(line for line in said.out.splitlines() if line.split()[:1] == ["map"])
    assert row.split() == [
        "map", f"{before.mean['map']:.4f}", f"{after.mean['map']:.4f}",
        f"{after.mean['map'] - before.mean['map']:+.4f}",
        str(counts.wins["map"]), str(counts.ties["map"]), str(counts.losses["map"]),
    ]  # fmt: skip
    assert "note: 1 of 23 lists have no judgement" in said.err

    left, right = drawn["new"].axes
    heights = [bar.get_height() for bar in right.patches]
    assert heights == [values[time] for time in ("before", "after") for values in metrics.values()]
    assert f"{metrics['map']['wins']} queries won" in left.get_title()
    change = sorted(after.per_query[q]["map"] - before.per_query[q]["map"] for q in before.per_query)
    won, lost = (area.get_data().values for area in left.patches)
    np.testing.assert_allclose((won + lost)[::-1], change, atol=1e-15)
    assert (won >= 0).all()
    assert (lost <= 0).all()
    assert imread(data / "new.png").shape[2] == 4


def test_without_judgements_it_tells_how_the_order_changed(
    data: Path, capsys: pytest.CaptureFixture[str], drawn: dict[str, Figure]
) -> None:
    assert main(words(data, "--method", "k-reciprocal", "--part-size", "4")) == 0
    before, after = read_run(data / "first.run"), read_run(data / "new.run")
    pairs = list(zip(before.doc_ids, after.doc_ids, strict=True))
    first = sum(old[0] != new[0] for old, new in pairs)
    ten = sum(old[:10] != new[:10] for old, new in pairs)
    correlation = np.mean([scipy.stats.spearmanr(range(len(new)), list(map(old.index, new)))[0] for old, new in pairs])
    found = report(data)
    assert (found["first_changed"], found["top_10_changed"]) == (first, ten)
    assert 0 < first < QUERIES
    assert found["rank_correlation"] == pytest.approx(correlation, abs=1e-12)
    assert found["metrics"] == {}
    assert f"of 23 lists, {first} have another first document and {ten} other first ten" in capsys.readouterr().out
    origins = [old.index(new[0]) + 1 for old, new in pairs]
    left, right = drawn["new"].axes
    assert "rank correlation" in left.get_ylabel()
    bars = [bar.get_height() for bar in right.patches]
    assert bars == [
        sum(low <= rank <= high for rank in origins)
        for low, high in [(1, 1), (2, 2), (3, 5), (6, 10), (11, 100), (101, 10**9)]
    ]


def test_the_report_holds_options_counts_and_versions(data: Path) -> None:
    assert main(words(data, "--method", "gnn", "--option", "k1=9", "--batch-size", "8")) == 0
    found = report(data)
    assert found["options"]["k1"] == 9
    assert (found["options"]["chunk"], found["command"]["batch_size"]) == (8, 8)
    assert (found["options"]["transductive"], found["options"]["scope"]) == (False, "candidates")
    assert found["command"]["run"] == str(data / "first.run")
    assert found["documents"] == sum(len(docs) for docs in read_run(data / "first.run").doc_ids)
    assert (found["longest_list"], found["parts"]) == (DEPTH, 1)
    assert set(found["versions"]) >= {"graphattn", "torch", "pyarrow"}
    assert found["seconds"] > 0


def test_runs_may_be_compressed(data: Path) -> None:
    write_run(data / "first.run.gz", read_run(data / "first.run"))
    assert main(words(data, run="first.run.gz", out="packed.run.gz")) == 0
    assert main(words(data)) == 0
    assert read_run(data / "packed.run.gz").to_dict() == read_run(data / "new.run").to_dict()
    assert report(data, "packed.json")["rank_correlation"] == report(data)["rank_correlation"]


def test_with_other_queries_there_is_one_part(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_rerank_job, "PART_SIZE", 5)
    assert main(words(data, "--method", "gnn")) == 0
    assert (report(data)["parts"], report(data)["options"]["transductive"]) == (5, False)
    assert "note: all queries take part" not in capsys.readouterr().err
    assert main(words(data, "--method", "gnn", "--transductive")) == 0
    assert (report(data)["parts"], report(data)["options"]["transductive"]) == (1, True)
    assert "note: all queries take part in each list" in capsys.readouterr().err


def test_help_is_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["rerank", "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    manual = ["corrupt lines", "missing documents", "interruption", "memory", "--lists", "--batch-size", "pyarrow"]
    assert [word for word in manual if word not in said] == []


def test_what_the_method_trusts_is_reported(data: Path) -> None:
    assert main(words(data)) == 0
    run, queries, gallery = (
        read_run(data / "first.run"),
        *map(load_embeddings, (data / "queries.npy", data / "docs.npy")),
    )
    lists = run.to_arrays(gallery.rows)
    found = make_reranker("auto", {}).rerank(queries.take(run.query_ids), gallery.vectors, lists.indices, lists.scores)
    assert report(data)["confidence"] == pytest.approx(found.diagnostics["confidence"].mean(), abs=1e-6)
    assert main(words(data, "--method", "gnn")) == 0
    assert report(data)["confidence"] is None


def test_method_list_explains_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerank", "--method", "list"]) == 0
    entries = dict(entry.split("\n", 1) for entry in capsys.readouterr().out.strip().split("\n\n")[:-1])
    assert set(entries) == set(METHODS)
    assert all(" source   " in entry and " defaults " in entry for entry in entries.values())
    for word in ("Zhong et al.", "k1=20", "blend=0.3", "--transductive", "scope=gallery"):
        assert word in entries["k-reciprocal"]
    assert "top_k=400" in entries["super-global"]
    assert "--transductive" not in entries["super-global"]
    assert "--model FILE" in entries["contextual"]
