"""Bulk jobs: against the methods themselves, and through interruptions, changes and bad input."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphattn.affinity.gallery import GalleryGraph
from graphattn.engine import Recipe
from graphattn.retrieval import ContextualReranker, Diffusion, KReciprocal
from graphattn.retrieval._methods import METHODS, NEEDS_CHECKPOINT, make_reranker
from graphattn.retrieval.bulk import BulkJob, PartReport, rerank_part, run_job
from tests.retrieval.bulk_lists import assert_same, expected, make_job, read_lists, results, write_lists

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


def run(job: BulkJob) -> list[PartReport]:
    return run_job(job, progress=False)


def small_encoder(path: Path) -> Path:
    """Write a checkpoint of the learned re-ranker."""
    labels = torch.arange(4).repeat_interleave(6)
    vectors = torch.eye(4)[labels] + 0.3 * torch.rand(24, 4)
    reranker = ContextualReranker(num_anchors=6, width=8, depth=1, heads=2)
    reranker.fit(vectors, labels=labels, recipe=Recipe(epochs=1), validation=0.5).save(path)
    return path


# Results


@pytest.mark.parametrize("method", METHODS)
def test_a_job_gives_what_the_method_gives(method: str, tmp_path: Path) -> None:
    model = small_encoder(tmp_path / "model.pt") if method in NEEDS_CHECKPOINT else None
    job = make_job(tmp_path, method, model=model)
    reports = run(job)
    assert_same(results(job), expected(job))
    assert [(one.part, one.queries, one.dropped) for one in reports] == [
        ("lists-0", 7, 0),
        ("lists-1", 1, 0),
        ("lists-2", 9, 0),
        ("lists-3", 4, 0),
    ]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("k-reciprocal", {"k1": 8, "k2": 3, "top_k": 10}),
        ("gnn", {"k1": 8, "k2": 3}),
        ("diffusion", {"k": 8, "n_trunc": 20}),
        ("diffusion", {"k": 8, "offline": True, "n_trunc": 20, "tail": "drop", "top_k": 5}),
    ],
)
def test_a_gallery_is_fitted_once(
    method: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, method, options={"scope": "gallery", **options})
    wanted = expected(job)
    run(job)
    assert_same(results(job), wanted)
    job.target(job.parts[1]).unlink()
    monkeypatch.setattr(GalleryGraph, "build", None)
    run(job)
    assert_same(results(job), wanted)


def test_transductive_lists_are_one_part(tmp_path: Path) -> None:
    job = make_job(tmp_path, "gnn", (9,), options={"transductive": True, "k1": 6, "k2": 3, "chunk": 2})
    lists = read_lists(job.parts[0])
    kept = {query: docs for query, docs in lists.items() if docs}
    write_lists(job.parts[0], kept, row_group_size=2)
    run(job)
    queries, gallery = (torch.from_numpy(np.load(path)) for path in (job.queries, job.gallery))
    names = job.gallery.with_suffix(".ids").read_text().split("\n")
    there = [int(query[1:]) for query in kept]
    rows = torch.full((len(kept), 12), -1)
    scores = torch.zeros(rows.shape)
    for row, docs in enumerate(kept.values()):
        rows[row, : len(docs)] = torch.tensor([names.index(doc) for doc in docs])
        scores[row, : len(docs)] = torch.tensor(list(docs.values()))
    together = METHODS["gnn"](**job.options).rerank(queries[there], gallery, rows, scores)
    wanted = {
        query: {names[item]: score for item, score in zip(items, values, strict=True) if item >= 0}
        for query, items, values in zip(kept, together.indices.tolist(), together.scores.tolist(), strict=True)
    }
    assert_same(results(job), wanted)
    two = make_job(tmp_path / "two", "gnn", (3, 3), options={"transductive": True})
    with pytest.raises(ValueError, match=r"transductive is True, but .* stand in other parts, 2 in all"):
        run(two)
    assert not two.out.exists()


def test_a_query_leaves_out_itself(tmp_path: Path) -> None:
    job = make_job(tmp_path, "affinity-features", options={"exclude_self": True})
    vectors, names = np.load(job.gallery), job.gallery.with_suffix(".ids").read_text().split("\n")
    np.save(job.queries, vectors[:2])
    job.queries.with_suffix(".ids").write_text(f"{names[0]}\nstranger")
    part = write_lists(tmp_path / "p.parquet", {one: dict.fromkeys(names, 0.5) for one in (names[0], "stranger")})
    job = replace(job, parts=(part,))
    run(job)
    assert {query: set(names) - set(docs) for query, docs in results(job).items()} == {
        names[0]: {names[0]},
        "stranger": set(),
    }


@pytest.mark.parametrize("chunk", [1, 3, 5, 64, "auto"])
def test_neither_row_groups_nor_chunks_matter(
    chunk: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, "gnn", (20,), options={"k1": 6, "k2": 3, "chunk": chunk})
    write_lists(job.parts[0], read_lists(job.parts[0]), row_group_size=3)
    monkeypatch.setattr("graphattn.retrieval._bulk_part._ROWS", 4)
    run(job)
    assert_same(results(job), expected(job))


def test_blocks_are_whole_chunks_from_the_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path, "affinity-features", (20,), options={"chunk": 3})
    write_lists(job.parts[0], read_lists(job.parts[0]), row_group_size=7)
    monkeypatch.setattr("graphattn.retrieval._bulk_part._ROWS", 4)
    sizes: list[int] = []
    scores = METHODS["affinity-features"]._scores

    def spy(self: Any, batch: Any) -> Any:
        sizes.append(len(batch.nodes))
        return scores(self, batch)

    monkeypatch.setattr(METHODS["affinity-features"], "_scores", spy)
    run(job)
    assert sizes == [3, 3, 3, 3, 3, 3, 2]


@pytest.mark.parametrize("method", METHODS)
def test_columns(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results have the same columns whether some, all or no lists are empty, blocks of lists among them."""
    monkeypatch.setattr("graphattn.retrieval._bulk_part._ROWS", 1)
    model = small_encoder(tmp_path / "model.pt") if method in NEEDS_CHECKPOINT else None
    job = make_job(tmp_path, method, (4, 0, 1), model=model, options={"chunk": 1})
    write_lists(job.parts[2], {"q4": {}})
    assert [one.queries for one in run(job)] == [4, 0, 1]
    reported = make_reranker(method, {}, model).rerank(torch.randn(1, 8), torch.randn(9, 8)).diagnostics
    names = ["query_id", "ids", "scores", *({"confidence"} & reported.keys())]
    types = ["string", "list<element: string>", "list<element: double>", "double"]
    for part in job.parts:
        table = parquet.read_table(job.target(part))
        assert (table.column_names, [str(one) for one in table.schema.types]) == (names, types[: len(names)])
        assert all(0 <= value <= 1 for name in names[3:] for value in table[name].to_pylist())
    for docs in results(job).values():
        assert list(docs.values()) == sorted(docs.values(), reverse=True)


def test_other_types_of_columns_are_read(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.gallery.with_suffix(".ids").unlink()
    job.queries.with_suffix(".ids").unlink()
    table = pyarrow.table(
        {
            "note": pyarrow.array([None, "x"]),
            "scores": pyarrow.array([[0.5, 0.25], [2.0]], pyarrow.large_list(pyarrow.float32())),
            "ids": pyarrow.array([[7, 9], [3]]),
            "query_id": pyarrow.array([4, 2], pyarrow.int32()),
        }
    )
    parquet.write_table(table, tmp_path / "p.parquet")
    job = replace(job, parts=(tmp_path / "p.parquet",))
    run(job)
    assert {query: set(docs) for query, docs in results(job).items()} == {"4": {"7", "9"}, "2": {"3"}}


def test_missing_ids_are_counted_or_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    lists = read_lists(job.parts[1])
    (query, docs), *_ = lists.items()
    write_lists(job.parts[1], {query: {"ghost": 9.0, **docs, "spirit": -9.0}})
    with pytest.raises(
        ValueError, match=rf"lists-1.parquet: document 'ghost' of query '{query}' is not in the gallery"
    ):
        run(job)
    job = replace(job, skip_missing=True, out=tmp_path / "skipped")
    assert [one.dropped for one in run(job)] == [0, 2, 0, 0]
    found = results(job)
    write_lists(job.parts[1], lists)
    assert_same(found, expected(job))


def test_one_thread_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(METHODS["query-expansion"], "_scores", lambda *_: threads.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match=r"lists-0.parquet: AttributeError"):
            run(make_job(tmp_path))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1]


# Interruptions


def files(job: BulkJob) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in job.out.iterdir()}


def test_finished_parts_are_left_alone(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    first, wanted = run(job), results(job)
    before = files(job)
    assert run(job) == first
    assert files(job) == before
    job.target(job.parts[0]).unlink()  # somebody removed it
    (job.out / "lists-2.json").unlink()  # interrupted between the two files
    (job.out / "lists-3.parquet.tmp").write_text("left by a process that was killed")
    again = run(job)
    assert [(one.part, one.queries) for one in again] == [(one.part, one.queries) for one in first]
    assert [again[number] == first[number] for number in (1, 3)] == [True, True]
    changed = {name for name, time in files(job).items() if time != before.get(name)}
    assert changed == {"lists-0.parquet", "lists-0.json", "lists-2.parquet", "lists-2.json", "lists-3.parquet.tmp"}
    assert_same(results(job), wanted)


def test_an_interruption_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path)
    monkeypatch.setattr("graphattn.retrieval._bulk_part._ROWS", 4)
    calls: list[int] = []
    scores = METHODS["query-expansion"]._scores

    def interrupt(self: Any, batch: Any) -> Any:
        calls.append(len(batch.nodes))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return scores(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(METHODS["query-expansion"], "_scores", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(job)
    assert calls == [4, 3, 1, 4]
    assert set(files(job)) == {"manifest.json", *(f"lists-{n}.{end}" for n in (0, 1) for end in ("parquet", "json"))}
    run(job)
    assert_same(results(job), expected(job))


PATIENCE = 240.0  # seconds until a part is finished, on a busy machine
STOPPED = """
import sys, pickle
from graphattn.retrieval.bulk import run_job
if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        job = pickle.load(file)
    run_job(job, sys.argv[2], None if sys.argv[2] == "local" else 1, progress=False)
"""


def stop_in_the_middle(job: BulkJob, engine: str, how: signal.Signals = signal.SIGKILL) -> tuple[set[str], str, int]:
    """Run a job in a process that gets a signal, with all that it started, once a part is finished.

    Returns the parts that are finished then, what the process has said, and its session.
    """
    stored, script = job.queries.with_name("job.pickle"), job.queries.with_name("stopped.py")
    stored.write_bytes(pickle.dumps(job))
    script.write_text(STOPPED)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(stored), engine],
        env=environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    reports = [job.target(part).with_suffix(".json") for part in job.parts]
    deadline = time.monotonic() + PATIENCE
    while not any(path.exists() for path in reports):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline, "no part was finished"
        time.sleep(0.01)
    os.killpg(process.pid, how)
    said = process.communicate()[1].decode()
    return {path.stem for path in reports if path.exists()}, said, process.pid


def environment() -> dict[str, str]:
    """Let a process import the package from where this one does."""
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def test_a_killed_job_goes_on(tmp_path: Path) -> None:
    # Some ten milliseconds a query, so that the process is killed long before it has finished.
    job = make_job(tmp_path, "k-reciprocal", (5,) * 8, depth=100, items=200, options={"chunk": 1})
    done, *_ = stop_in_the_middle(job, "local")
    assert 1 <= len(done) < len(job.parts)
    before = files(job)
    assert [one.queries for one in run(job)] == [5] * 8
    for name in done:
        assert files(job)[f"{name}.parquet"] == before[f"{name}.parquet"]
    assert_same(results(job), expected(job))


# Changes


def test_a_changed_job_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, "affinity-features", options={"num_anchors": 8, "chunk": 4})
    run(job)
    done = files(job)

    def refused(other: BulkJob, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            run(other)
        assert files(job) == done

    options = {"num_anchors": 9, "blend": 0.5}
    refused(
        replace(job, options=options, method="affinity-features", skip_missing=True),
        r"out belongs to another job: options.num_anchors is 9 but was 8; options.blend is 0.5 but was not given; "
        "skip_missing is True but was False; choose another folder, or delete this one",
    )
    refused(replace(job, options={}), "another job: options.num_anchors is not given but was 8; choose")
    refused(replace(job, method="super-global", options={}), "method is 'super-global' but was 'affinity-features'")
    refused(replace(job, parts=job.parts[1:]), r"job: parts.lists-0 is not given but was sha256:\w{8};")
    more = write_lists(tmp_path / "more.parquet", {})
    refused(replace(job, parts=(*job.parts, more)), r"job: parts.more is sha256:\w{8} but was not given;")
    for path, name in (
        (job.parts[2], "parts.lists-2"),
        (job.gallery.with_suffix(".ids"), "gallery..ids"),
        (job.queries, "queries..npy"),
    ):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused(job, rf"job: {name} is sha256:\w{{8}} but was sha256:\w{{8}};")
        path.write_bytes(content)
    assert len(run(replace(job, options={"num_anchors": 8, "chunk": 2}, device="cpu:0"))) == 4
    manifest = json.loads((job.out / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (job.out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"versions.torch is '.*' but was '1.0'"):
        run(job)
    (job.out / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json cannot be read: .*; delete the folder, or choose another"):
        run(job)


def test_another_model_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, "contextual", model=small_encoder(tmp_path / "model.pt"))
    run(job)
    small_encoder(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"another job: model is sha256:\w{8} but was sha256:\w{8};"):
        run(job)


# Bad input


def bad(**columns: Any) -> Any:
    whole = {"query_id": ["q0", "q1"], "ids": [["d0"], ["d1"]], "scores": [[1.0], [1.0]]}
    return pyarrow.table({name: value for name, value in {**whole, **columns}.items() if value is not None})


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (bad(scores=None), "it has the columns query_id, ids; expected query_id, ids, scores among them"),
        (bad(query_id=["q0", "q0"]), r"query_ids holds 'q0' twice"),
        (bad(query_id=["q0", None]), "row 1 has no query_id"),
        (bad(ids=[None, ["d1"]]), "row 0 has no ids"),
        (bad(scores=[[1.0], [None]]), "scores in row 1 has a value that is missing"),
        (bad(ids=[["d0"], ["d1", None]], scores=[[1.0], [1.0, 0.5]]), "ids in row 1 has a value that is missing"),
        (bad(ids=[["d0"], ["d1", "d1"]], scores=[[1.0], [1.0, 0.5]]), "doc_ids of query 'q1' holds 'd1' twice"),
        (bad(scores=[[1.0], [1.0, 0.5]]), r"scores of query 'q1' have shape \(2,\)"),
        (bad(scores=[[1.0], [float("nan")]]), "score of 'd1' for query 'q1' is nan"),
        (bad(query_id=["q0", "who"]), "id 'who' has no vector"),
        (bad(ids=["d0", "d1"]), "cast"),
        (bad(scores=[["high"], ["low"]]), "Failed to parse"),
    ],
)
def test_a_bad_part_is_named(table: Any, reason: str, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    parquet.write_table(table, job.parts[2])
    with pytest.raises(ValueError, match=rf"lists-2.parquet: .*{reason}"):
        run(job)
    assert set(files(job)) == {"manifest.json", *(f"lists-{n}.{end}" for n in (0, 1) for end in ("parquet", "json"))}
    with pytest.raises(ValueError, match=rf"lists-2.parquet: .*{reason}"):
        rerank_part(job, job.parts[2])


def test_a_query_comes_once_in_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.retrieval._bulk_part._ROWS", 1)
    job = make_job(tmp_path)
    parquet.write_table(bad(query_id=["q0", "q0"]), job.parts[0])
    with pytest.raises(ValueError, match=r"lists-0.parquet: query 'q0' comes twice; expected one row a query"):
        run(job)


def test_a_column_comes_once(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    table = bad()
    parquet.write_table(table.append_column("ids", table["ids"]), job.parts[0])
    with pytest.raises(ValueError, match=r"lists-0.parquet: it has the columns query_id, ids, scores, ids; expected"):
        run(job)


def test_no_parquet_file(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.parts[0].write_text("q0 Q0 d0 1 0.5 tag\n" * 10)
    with pytest.raises(ValueError, match=r"lists-0.parquet: .*[Pp]arquet"):
        run(job)
    with pytest.raises(FileNotFoundError, match=r"gone.parquet"):
        run(replace(job, parts=(tmp_path / "gone.parquet",), out=tmp_path / "other"))


def test_the_width_of_queries_and_gallery(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    np.save(job.queries, np.ones((21, 5), "f"))
    with pytest.raises(ValueError, match=r"q.npy has width 5, but .*g.npy has width 8"):
        run(job)


def test_jobs_that_cannot_be(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with pytest.raises(ValueError, match="parts is empty"):
        replace(job, parts=())
    with pytest.raises(ValueError, match=r"parts holds .* and .*, whose results would have the same name"):
        replace(job, parts=(job.parts[0], tmp_path / "other" / "lists-0.parquet"))
    with pytest.raises(ValueError, match=r"out is .*, where .*lists-0.parquet would be replaced by its result"):
        replace(job, out=tmp_path)
    with pytest.raises(ValueError, match=r"parts holds manifest.parquet, but manifest.json describes the job"):
        replace(job, parts=(Path("manifest.parquet"),))
    with pytest.raises(ValueError, match="engine is 'spark'; expected 'local' or 'ray'"):
        run_job(job, "spark")
    with pytest.raises(ValueError, match="workers is 2, but engine 'local' is one process"):
        run_job(job, workers=2)
    with pytest.raises(ValueError, match="workers is 0; expected at least 1"):
        run_job(job, "ray", workers=0)
    assert not job.out.exists()


def test_methods_that_cannot_be_made(tmp_path: Path) -> None:
    x = torch.randn(12, 4)
    graph, fitted = tmp_path / "graph.npz", tmp_path / "fitted.npz"
    KReciprocal(k1=4, k2=2, scope="gallery").fit(x).graph_.save(graph)
    Diffusion(k=3, scope="gallery").fit(x).save(fitted)
    for method, options, model, match in (
        ("cnn", {}, None, "method is 'cnn'; expected one of auto, query-expansion, "),
        ("contextual", {}, None, "method 'contextual' needs a model; pass a file that ContextualReranker.save wrote"),
        ("gnn", {"k": 3}, None, "GNNRerank cannot be made: GNNRerank has no option k; its options are"),
        ("gnn", {}, graph, r"model is .*graph.npz, but GNNRerank\(.*\) has nothing to load; leave it out"),
        ("k-reciprocal", {"scope": "gallery"}, graph, r"graph.npz has 4 neighbours an item; expected 20, as KRec"),
        ("diffusion", {"k": 5}, fitted, r"k is 5, but .*fitted.npz was fitted with 3; leave it out"),
        ("diffusion", {"sigma": 5}, fitted, r"Diffusion cannot be made: Diffusion has no option sigma"),
        ("diffusion", {}, graph, "graph.npz is no fitted Diffusion"),
    ):
        with pytest.raises(ValueError, match=match):
            make_reranker(method, options, model)


def test_a_fitted_method_takes_options_that_are_free(tmp_path: Path) -> None:
    x, fitted = torch.randn(12, 4), tmp_path / "fitted.npz"
    Diffusion(k=3, scope="gallery", offline=True, n_trunc=6).fit(x).save(fitted)
    reranker = make_reranker("diffusion", {"top_k": 5, "tail": "drop", "k": 3}, fitted)
    fresh = Diffusion(k=3, scope="gallery", offline=True, n_trunc=6, top_k=5, tail="drop").fit(x)
    assert repr(reranker) == repr(fresh)
    found, wanted = (one.rerank(x[:3] + 1, x) for one in (reranker, fresh))
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.scores, wanted.scores)
