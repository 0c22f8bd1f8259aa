"""``graphattn rerank``: what it refuses, how it goes on after an interruption, and how much memory it takes."""

from __future__ import annotations

import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphattn._optional import _attempt, is_available
from graphattn.cli import _rerank_lists, _rerank_memory, main, rerank
from graphattn.cli._rerank_changes import MEASURES
from graphattn.cli._rerank_memory import choose_batch_size, free_memory
from graphattn.retrieval import KReciprocal, SuperGlobal, read_run, write_run
from graphattn.retrieval._bulk_part import PartWorker
from tests.cli.test_rerank import DEPTH, QUERIES, report, words, write_data

pyarrow = pytest.importorskip("pyarrow", reason="lists are cut into Parquet files")
parquet = pytest.importorskip("pyarrow.parquet", reason="lists are cut into Parquet files")
needs_trec_eval = pytest.mark.skipif(not is_available("pytrec_eval"), reason="pytrec_eval is not installed")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def refusal(words_given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the last line says when a command is refused."""
    assert main(words_given) == 2
    return capsys.readouterr().err.splitlines()[-1]


def replace_line(path: Path, number: int, new: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = new
    path.write_text("\n".join(lines) + "\n")


# Bad input


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q0 Q0 d1 1 0.5", "line 7: 5 fields; expected 6"),
        ("q0 Q0 d1 1 high tag", "line 7: score is 'high'; expected a number"),
        ("q0 Q0 d1 1 nan tag", "line 7: score is nan"),
        ("q0 Q0 d1 first 0.5 tag", "line 7: rank is 'first'"),
        ("q9 Q0 d1 1 0.5 tag", "line 8: query 'q0' comes back, which began on line 1"),
        ("q0 Q0 nowhere 7 0.5 tag", "document 'nowhere' of query 'q0'"),
        ("q0 Q0 nowhere 7 0.5 tag", "has no vector in --gallery, whose 80 ids are like 'd0'; --skip-missing leaves"),
    ],
)
def test_a_bad_line_of_the_run_is_named(data: Path, line: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    replace_line(data / "first.run", 7, line)
    before = sorted(data.iterdir())
    assert reason in refusal(words(data), capsys)
    assert sorted(data.iterdir()) == before


def test_a_query_without_a_vector_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace_line(data / "first.run", 1, "unheard Q0 d1 1 9.5 tag")
    said = refusal(words(data, "--skip-missing"), capsys)
    assert "query 'unheard' of" in said
    assert "has no vector in --queries, whose 23 ids are like 'q0'" in said


def test_missing_documents_are_left_out_and_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (data / "first.run").read_text().splitlines()
    for number, document in ((7, "nowhere"), (8, "lost"), (DEPTH + 2, "nowhere")):
        fields = lines[number - 1].split()
        replace_line(data / "first.run", number, " ".join([*fields[:2], document, *fields[3:]]))
    assert main(words(data, "--skip-missing", "--method", "gnn")) == 0
    found = report(data)
    said = capsys.readouterr()
    assert f"note: 3 of {found['documents']} documents have no vector and were left out" in said.err
    assert found["dropped_documents"] == 3
    before, after = (read_run(data / name).to_dict() for name in ("first.run", "new.run"))
    assert {query: set(docs) - {"nowhere", "lost"} for query, docs in before.items()} == {
        query: set(docs) for query, docs in after.items()
    }
    # Correlation is that of the documents that are in both lists.
    kept = [[doc for doc in before[query] if doc in after[query]] for query in before]
    moves = [np.array([old.index(doc) for doc in after[query]]) for old, query in zip(kept, before, strict=True)]
    correlation = [np.corrcoef(np.arange(len(one)), one)[0, 1] for one in moves]
    assert found["rank_correlation"] == pytest.approx(np.mean(correlation), abs=1e-12)


@needs_trec_eval
@pytest.mark.parametrize("judged", [False, True])
def test_lists_of_one_document_or_none_are_no_error(
    data: Path, judged: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "first.run").write_text("q0 Q0 d1 1 0.5 tag\nq1 Q0 nowhere 1 0.5 tag\nq2 Q0 d2 1 0.5 tag\n")
    (data / "qrels").write_text("q0 0 d1 1\nq1 0 nowhere 1\n")
    assert main(words(data, "--skip-missing", *(["--qrels", str(data / "qrels")] if judged else []))) == 0
    assert read_run(data / "new.run").doc_ids == [["d1"], ["d2"]]
    found = report(data)
    assert (found["emptied"], found["first_changed"], found["rank_correlation"]) == (1, 1, None)
    assert "note: 1 of 3 lists have no document left" in capsys.readouterr().err
    if judged:
        expected = {"before": 1.0, "after": 0.5, "wins": 0, "ties": 1, "losses": 1}
        assert found["metrics"] == dict.fromkeys(MEASURES, expected)


@needs_trec_eval
def test_bad_judgements_are_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "odd").write_text("q1 0 d1 1\nq2 0 d2 yes\n")
    assert "odd, line 2: relevance is 'yes'" in refusal(words(data, "--qrels", str(data / "odd")), capsys)
    (data / "other").write_text("x1 0 d1 1\nx2 0 d1 1\n")
    said = refusal(words(data, "--qrels", str(data / "other")), capsys)
    assert "judges no query of the lists; its queries are 'x1', 'x2'" in said
    assert "gone: No such file" in refusal(words(data, "--qrels", str(data / "gone")), capsys)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--method", "gnn", "--option", "k3=1"], "expected NAME=VALUE; gnn has k1, k2, alpha, variant, tail, scope"),
        (["--method", "gnn", "--option", "k1"], "--option k1: expected NAME=VALUE"),
        (["--method", "gnn", "--option", "k1=2", "--option", "k1=3"], "--option k1=3: k1 is given twice"),
        (["--method", "gnn", "--option", "top_k=3"], "top_k is set by --top-k"),
        (["--option", "chunk=3"], "chunk is set by --batch-size"),
        (["--method", "gnn", "--option", "k1=0"], "k1 is 0; expected an integer, at least 1"),
        (["--method", "gnn", "--option", "variant=odd"], "variant is 'odd'; expected one of"),
        (["--method", "gnn", "--option", "alpha=high"], "--option alpha=high: expected a value like 2.0"),
        (["--method", "gnn", "--option", "normalize=0"], "--option normalize=0: expected a value like true"),
        (["--top-k", "0"], "top_k is 0; expected an integer, at least 1"),
        (["--blend", "1.5"], "blend is 1.5; expected a weight in [0, 1]"),
        (["--method", "super-global", "--transductive"], "--transductive has no meaning for --method super-global"),
        (["--method", "gnn", "--transductive", "--part-size", "4"], "with --transductive all queries are one part"),
        (["--method", "contextual"], "needs a model"),
        (["--method", "super-global", "--model", "x"], "has nothing to load"),
        (["--part-size", "0"], "--part-size is 0; expected at least 1"),
        (["--workers", "2"], "--workers is 2, but --engine local is one process"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used"),
    ],
)
def test_bad_options_are_refused(
    data: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(data.iterdir())
    assert reason in refusal(words(data, *options), capsys)
    assert sorted(data.iterdir()) == before


@pytest.mark.parametrize("options", [["--method", "nearest"], ["--batch-size", "0"], ["--batch-size", "all"]])
def test_words_that_mean_nothing_are_refused(
    data: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words(data, *options))
    assert stop.value.code == 2
    assert options[1] in capsys.readouterr().err


def test_files_that_do_not_fit_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gone.run: No such file" in refusal(words(data, run="gone.run"), capsys)
    (data / "empty.run").touch()
    assert "empty.run holds no list" in refusal(words(data, run="empty.run"), capsys)
    assert "would replace what it is made of" in refusal(words(data, out="first.run"), capsys)
    assert "has the name of the report" in refusal(words(data, out="new.json"), capsys)
    (data / "folder").mkdir()
    assert "folder is a folder; expected the name of a run" in refusal(words(data, out="folder"), capsys)
    assert "--out is missing" in refusal(["rerank", "--run", "a", "--queries", "b", "--gallery", "c"], capsys)
    assert "--run or --lists is missing" in refusal(["rerank"], capsys)
    np.save(data / "queries.npy", np.ones((QUERIES, 5), dtype="f"))
    assert "queries.npy has width 5, but" in refusal(words(data), capsys)
    np.save(data / "queries.npy", np.ones((QUERIES, 6), dtype=int))
    assert "queries.npy: vectors has dtype int64" in refusal(words(data), capsys)
    assert not (data / "new.run.parts").exists()


@pytest.mark.parametrize(("module", "extra"), [("pyarrow", "tables"), ("pytrec_eval", "retrieval")])
def test_what_has_to_be_installed_is_named(
    data: Path, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    _attempt.cache_clear()
    try:
        assert f"pip install 'graphattn[{extra}]'" in refusal(words(data, "--qrels", str(data / "qrels")), capsys)
    finally:
        _attempt.cache_clear()
    assert not (data / "new.run.parts").exists()


# Interruption


def interrupt(monkeypatch: pytest.MonkeyPatch, parts: int, error: BaseException) -> list[str]:
    """Let the work stop after some parts; returns the names of those that were re-ranked."""
    done: list[str] = []
    original = PartWorker.__call__

    def call(self: PartWorker, part: Path) -> Any:
        if len(done) == parts:
            raise error
        done.append(part.stem)
        return original(self, part)

    monkeypatch.setattr(PartWorker, "__call__", call)
    return done


def test_an_interrupted_job_goes_on(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--method", "gnn", "--part-size", "5"]
    assert main(words(data, *options, out="whole.run")) == 0
    with monkeypatch.context() as patch:
        first = interrupt(patch, 2, KeyboardInterrupt())
        assert main(words(data, *options)) == 130
    assert "what is finished stays in" in capsys.readouterr().err
    assert not (data / "new.run").exists()
    # Another run, other parts or other options are another job.
    said = refusal(words(data, "--method", "gnn", "--part-size", "6"), capsys)
    assert "holds an unfinished job whose --part-size was another" in said
    kept = (data / "first.run").read_text()
    replace_line(data / "first.run", 1, "q0 Q0 d5 1 99 tag")
    assert "unfinished job whose --run was another" in refusal(words(data, *options), capsys)
    (data / "first.run").write_text(kept)
    said = refusal(words(data, *options, "--top-k", "3"), capsys)
    assert "options.top_k is 3 but was not given" in said

    with monkeypatch.context() as patch:
        rest = interrupt(patch, 99, KeyboardInterrupt())
        assert main(words(data, *options)) == 0
    assert [*first, *rest] == [f"part-{number:06d}" for number in range(5)]
    assert (data / "new.run").read_bytes() == (data / "whole.run").read_bytes()
    for name in ("rank_correlation", "first_changed", "lists", "parts", "options"):
        assert report(data)[name] == report(data, "whole.json")[name]
    assert not (data / "new.run.parts").exists()


def test_an_interruption_while_the_run_is_read_leaves_nothing_behind_that_counts(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _rerank_lists._write_part

    def stop(path: Path, rows: Any) -> None:
        if path.stem == "part-000001":
            raise KeyboardInterrupt
        original(path, rows)

    with monkeypatch.context() as patch:
        patch.setattr(_rerank_lists, "_write_part", stop)
        assert main(words(data, "--part-size", "5")) == 130
    assert main(words(data, "--part-size", "7")) == 0
    assert report(data)["parts"] == 4
    assert read_run(data / "new.run").query_ids == read_run(data / "first.run").query_ids


# Lists as Parquet


@pytest.fixture
def lists(data: Path) -> Path:
    """The lists of the run in two Parquet files, those in the second from the worst to the best."""
    folder = data / "lists"
    folder.mkdir()
    rows = list(read_run(data / "first.run"))
    backwards = [(query, docs[::-1], scores[::-1]) for query, docs, scores in rows[9:]]
    for name, some in (("a", rows[:9]), ("b", backwards)):
        columns = zip(*some, strict=True)
        table = dict(zip(("query_id", "ids", "scores"), (list(column) for column in columns), strict=True))
        parquet.write_table(pyarrow.table(table), folder / f"{name}.parquet")
    return folder


def bulk_words(data: Path, *options: str, out: str = "bulk") -> list[str]:
    files = ["--queries", str(data / "queries.npy"), "--gallery", str(data / "docs.npy"), "--out", str(data / out)]
    return ["rerank", "--lists", str(data / "lists"), *files, *options]


def read_lists(folder: Path) -> dict[str, list[str]]:
    tables = [parquet.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return {row["query_id"]: row["ids"] for table in tables for row in table.to_pylist()}


@needs_trec_eval
def test_lists_as_parquet_give_what_the_run_gives(data: Path, lists: Path) -> None:
    options = ["--method", "k-reciprocal", "--qrels", str(data / "qrels")]
    assert main(words(data, *options)) == 0
    assert main(bulk_words(data, *options)) == 0
    new = read_run(data / "new.run")
    assert read_lists(data / "bulk") == dict(zip(new.query_ids, new.doc_ids, strict=True))
    assert {path.stem for path in (data / "bulk").glob("*.parquet")} == {"a", "b"}
    for name in ("metrics", "rank_correlation", "first_changed", "top_10_changed", "judged", "lists"):
        assert report(data, "bulk.json")[name] == report(data)[name]
    assert (data / "bulk.png").exists()


def test_lists_as_parquet_go_on_where_they_were(
    data: Path, lists: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, 1, KeyboardInterrupt())
        assert main(bulk_words(data, "--method", "gnn")) == 130
    with monkeypatch.context() as patch:
        rest = interrupt(patch, 99, KeyboardInterrupt())
        assert main(bulk_words(data, "--method", "gnn")) == 0
    assert rest == ["b"]
    assert list(read_lists(data / "bulk")) == list(read_lists(lists))


def test_lists_may_name_rows_by_numbers(data: Path, lists: Path) -> None:
    assert main(words(data, "--method", "gnn")) == 0
    expected = [[int(doc[1:]) for doc in docs] for docs in read_run(data / "new.run").doc_ids]
    for path in (data / "docs.ids", data / "queries.ids"):
        path.unlink()
    for path in lists.iterdir():
        rows = [
            {"query_id": int(row["query_id"][1:]), "ids": [int(doc[1:]) for doc in row["ids"]], "scores": row["scores"]}
            for row in parquet.read_table(path).to_pylist()
        ]
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert main(bulk_words(data, "--method", "gnn")) == 0
    assert list(read_lists(data / "bulk").values()) == [[str(row) for row in rows] for rows in expected]
    assert report(data, "bulk.json")["rank_correlation"] == report(data)["rank_correlation"]


def test_lists_that_are_none_are_refused(data: Path, lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "would replace what it is made of" in refusal(bulk_words(data, out="lists"), capsys)
    assert "--part-size is 3, but the files of --lists" in refusal(bulk_words(data, "--part-size", "3"), capsys)
    said = refusal(bulk_words(data, "--method", "gnn", "--transductive"), capsys)
    assert "put all lists into one" in said
    table = parquet.read_table(lists / "b.parquet")
    parquet.write_table(table.rename_columns(["query_id", "docs", "scores"]), lists / "b.parquet")
    assert "b.parquet has the columns query_id (string), docs (list" in refusal(bulk_words(data), capsys)
    parquet.write_table(table.set_column(2, "scores", [range(len(table))]), lists / "b.parquet")
    assert "scores (int64); expected query_id (text), ids" in refusal(bulk_words(data), capsys)
    parquet.write_table(table.set_column(2, "scores", [[None] * len(table)]).cast(table.schema), lists / "b.parquet")
    assert "b.parquet: row 0 has no scores" in refusal(bulk_words(data), capsys)
    shutil.rmtree(data / "bulk")
    (lists / "b.parquet").write_text("text")
    assert "b.parquet cannot be read" in refusal(bulk_words(data), capsys)
    shutil.rmtree(lists)
    assert "lists is no folder" in refusal(bulk_words(data), capsys)
    lists.mkdir()
    assert "lists holds no list" in refusal(bulk_words(data), capsys)


# Memory


def stream(folder: Path, queries: int) -> list[str]:
    """Write a run of lists of 40 over a gallery whose ids are the numbers of its rows."""
    rng = np.random.default_rng(0)
    np.save(folder / "docs.npy", rng.standard_normal((100, 8)).astype("f"))
    np.save(folder / f"queries{queries}.npy", rng.standard_normal((queries, 8)).astype("f"))
    lists = ((q, [(7 * q + 11 * i) % 100 for i in range(40)], np.linspace(1, 0.5, 40)) for q in range(queries))
    write_run(folder / f"{queries}.run", lists)
    files = {"--run": f"{queries}.run", "--queries": f"queries{queries}.npy", "--gallery": "docs.npy"}
    options = [word for flag, name in files.items() for word in (flag, str(folder / name))]
    return ["rerank", *options, "--out", str(folder / f"{queries}.new"), "--part-size", "50"]


def test_memory_does_not_grow_with_the_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerank, "write_report", lambda *arguments: None)  # drawing is slow where memory is traced
    peaks = {}
    for queries in (100, 1000):
        command = [*stream(tmp_path, queries), "--method", "query-expansion", "--batch-size", "50"]
        if not peaks:
            assert main(command) == 0  # what is imported and kept once is not counted
        tracemalloc.start()
        assert main(command) == 0
        peaks[queries] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # Names of queries, and some numbers of each, are all that may be held: a list takes 3,000 bytes.
    assert peaks[1000] - peaks[100] < 900 * 300
    assert len(read_run(tmp_path / "1000.new")) == 1000


def test_batches_fill_an_eighth_of_the_free_memory_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, reranker = torch.device("cpu"), SuperGlobal(top_k=50)
    need = reranker._bytes_per_query(51, 16)

    def chosen(free: float, **changes: Any) -> int:
        monkeypatch.setattr(_rerank_memory, "free_memory", lambda device: free)
        arguments: dict[str, Any] = {"queries": 10**6, "longest": 80, "width": 16, "device": cpu, "workers": 1}
        return choose_batch_size(changes.pop("reranker", reranker), **{**arguments, **changes})

    assert chosen(8 * 7 * need) == 7
    assert chosen(8 * 7 * need, workers=2) == 3
    assert chosen(8 * 7 * need, queries=5) == 5
    assert chosen(1.0) == 1
    assert chosen(8 * 7 * need, longest=20) == 7 * need // reranker._bytes_per_query(21, 16)
    # More than 64 MiB does not make it faster.
    assert chosen(np.inf) == (1 << 26) // need
    transductive = KReciprocal(transductive=True)
    assert chosen(np.inf, reranker=transductive, queries=300) == (1 << 26) // transductive._bytes_per_query(381, 16)


def test_free_memory_is_what_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"_MEMINFO": tmp_path / "meminfo", "_LIMIT": tmp_path / "limit", "_USED": tmp_path / "used"}
    for name, path in names.items():
        monkeypatch.setattr(_rerank_memory, name, path)
    cpu = torch.device("cpu")
    assert free_memory(cpu) == np.inf
    names["_MEMINFO"].write_text("MemTotal:       90 kB\nMemAvailable:   50 kB\n")
    assert free_memory(cpu) == 51200
    names["_LIMIT"].write_text("max\n")
    assert free_memory(cpu) == 51200
    names["_LIMIT"].write_text("3000\n")
    names["_USED"].write_text("1000\n")
    assert free_memory(cpu) == 2000
