"""Runs and judgements: files against other readers and writers, and the forms of other tools."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from graphattn.retrieval import (
    AffinityFeatures,
    Embeddings,
    RankedLists,
    Run,
    RunWriter,
    iterate_run,
    read_qrels,
    read_run,
    write_qrels,
    write_run,
)

SAMPLES = Path(__file__).parents[2].parent / "shared" / "data" / "retrieval" / "trec_eval_samples"
needs_samples = pytest.mark.skipif(not SAMPLES.exists(), reason=f"{SAMPLES} is not there")


def example(num_queries: int = 6, seed: int = 0) -> Run:
    """Lists of unequal lengths, one of them empty, with scores of float32 that differ."""
    rng = np.random.default_rng(seed)
    lists = []
    for query, length in enumerate([3, 0, 7, 1, 5, 2][:num_queries]):
        docs = [f"d{i}" for i in rng.permutation(50)[:length]]
        lists.append((f"q{query}", docs, np.sort(rng.standard_normal(length).astype("f"))[::-1]))
    return Run.from_lists(lists)


def without_empty(run: Run) -> dict[Any, dict[Any, float]]:
    """What a file can hold: it has no line for a query without documents."""
    return {query: docs for query, docs in run.to_dict().items() if docs}


def in_float32(run: Any) -> dict[Any, dict[Any, float]]:
    """What a file holds are the shortest texts that float32 reads back; float64 reads them a little differently."""
    return {
        query: dict(zip(docs, np.float32(scores).tolist(), strict=True)) for query, docs, scores in run if len(docs)
    }


# Files


@needs_samples
@pytest.mark.parametrize(
    ("name", "read"), [("results.test", read_run), ("results.test", iterate_run), ("results.trunc", read_run)]
)
def test_sample_runs_as_pandas_reads_them(name: str, read: Any) -> None:
    """In one file documents are in order of their names; in the other queries take turns, and tags are sentences."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(SAMPLES / name, sep=r"\s+", header=None, usecols=[0, 2, 4], dtype={0: str, 2: str})
    truth = {
        query: rows.sort_values(4, ascending=False, kind="stable")[[2, 4]].values.tolist()
        for query, rows in frame.groupby(0, sort=False)
    }
    found = {
        query: [list(pair) for pair in zip(docs, scores.tolist(), strict=True)]
        for query, docs, scores in read(SAMPLES / name)
    }
    assert found == truth
    assert list(found) == list(truth)


@needs_samples
@pytest.mark.parametrize("name", ["qrels.test", "qrels.rel_level"])
def test_sample_judgements_as_pandas_reads_them(name: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(SAMPLES / name, sep=r"\s+", header=None, dtype={0: str, 2: str})
    truth = {query: dict(zip(rows[2], rows[3], strict=True)) for query, rows in frame.groupby(0)}
    assert read_qrels(SAMPLES / name) == truth


@needs_samples
def test_judgements_of_three_judges_in_one_file() -> None:
    with pytest.raises(
        ValueError, match=r"qrels\.123, line 3682: document 'CR93E-10279' of query '301' was already on"
    ):
        read_qrels(SAMPLES / "qrels.123")


@pytest.mark.parametrize("name", ["run", "run.gz"])
def test_run_reads_back(tmp_path: Path, name: str) -> None:
    run = example()
    write_run(tmp_path / name, run, tag="mine")
    assert in_float32(read_run(tmp_path / name)) == without_empty(run)
    assert in_float32(iterate_run(tmp_path / name)) == without_empty(run)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    content = (tmp_path / name).read_bytes()
    lines = (gzip.decompress(content) if name.endswith("gz") else content).decode().splitlines()
    assert lines[0].split() == ["q0", "Q0", run.doc_ids[0][0], "1", str(np.float32(run.scores[0][0])), "mine"]
    assert [line.split()[3] for line in lines] == [str(i + 1) for docs in run.doc_ids for i in range(len(docs))]


def test_dictionaries_are_written_through_a_run(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"run is a dict; expected a Run; pass Run\.from_dict\(run\)"):
        write_run(tmp_path / "run", example().to_dict())
    assert list(tmp_path.iterdir()) == []


def test_compressed_runs_are_equal_files_and_need_no_name(tmp_path: Path) -> None:
    write_run(tmp_path / "a.gz", example())
    write_run(tmp_path / "b.gz", example())
    content = (tmp_path / "a.gz").read_bytes()
    assert (tmp_path / "b.gz").read_bytes() == content
    assert content[4:8] == bytes(4)  # where the time would stand
    (tmp_path / "a.gz").rename(tmp_path / "run")
    assert in_float32(read_run(tmp_path / "run")) == without_empty(example())


def moved_apart(scores: list[float]) -> list[np.float32]:
    """Each score in float32, or the next below the one before it."""
    values: list[np.float32] = []
    for score in scores:
        value = np.float32(score)
        values.append(min(value, np.nextafter(values[-1], np.float32(-np.inf))) if values else value)
    return values


@pytest.mark.parametrize(
    "scores",
    [
        [1.0, 1.0, 1.0],
        [0.0, 0.0, -0.0, -0.0],
        [2e-45, 1e-45, 1e-45, 0.0, 0.0, -1e-45],
        [1e-46, 0.0, -1e-46],
        [-1.0, -1.0, -1.0 - 1e-9],
        [1 + 1e-9, 1.0, 1 - 1e-9, 1 - 6e-8, 1 - 6e-8],
        [3.4e38, 3.4e38, 1.0, 1.0, -3.4e38, -3.4e38],
        [0.1, 0.1, 0.1, np.nextafter(np.float32(0.1), np.float32(0)), 0.0],
        [5.0],
        [],
    ],
)
def test_written_scores_are_the_nearest_that_decrease_strictly(tmp_path: Path, scores: list[float]) -> None:
    write_run(tmp_path / "run", Run(["q"], [range(len(scores))], [scores]))
    texts = [line.split()[4] for line in (tmp_path / "run").read_text().splitlines()]
    written = np.array(texts, dtype=np.float32)
    assert written.tolist() == [float(value) for value in moved_apart(scores)]
    assert (np.diff(written.astype(np.float64)) < 0).all()
    assert (np.diff([float(text) for text in texts]) < 0).all()


def test_scores_without_a_value_come_last(tmp_path: Path) -> None:
    write_run(
        tmp_path / "run", Run(["q", "r"], [["a", "b", "c"], ["a", "b"]], [[0.5, -np.inf, -np.inf], [-np.inf] * 2])
    )
    run = read_run(tmp_path / "run")
    assert run.doc_ids == [["a", "b", "c"], ["a", "b"]]
    assert run.scores[0].tolist()[:2] == [0.5, -0.5]
    assert run.scores[1][0] == 0.0


def test_ranked_lists_write_themselves(tmp_path: Path) -> None:
    scores = (torch.randn(4, 9).round(decimals=1) + 0.0).sort(dim=1, descending=True).values
    indices = torch.rand(4, 9).argsort(1)
    lists = RankedLists(indices, scores, indices)
    names = [f"d{i}" for i in range(9)]
    lists.to_trec(tmp_path / "a", doc_ids=names)
    write_run(tmp_path / "b", Run.from_arrays(lists.indices, lists.scores, doc_ids=names))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_lists_are_sorted_and_equal_scores_stay_in_order(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q Q0 a 1 0.5 t\nq Q0 b 2 0.7 t\n\nq Q0 c 3 0.5 two words\n  \nq Q0 d 4 7e-1 t\r\n")
    for run in (read_run(tmp_path / "run"), iterate_run(tmp_path / "run")):
        ((query, docs, scores),) = run
        assert (query, docs, scores.tolist()) == ("q", ["b", "d", "a", "c"], [0.7, 0.7, 0.5, 0.5])


def test_names_are_read_as_they_are(tmp_path: Path) -> None:
    """A byte order mark is no part of a name; a no-break space is."""
    (tmp_path / "run").write_text("\ufeffø Q0 a\u00a0b 1 0.5 t\nø Q0 007 2 0.25 t", encoding="utf-8")
    run = read_run(tmp_path / "run")
    assert run.to_dict() == {"ø": {"a\u00a0b": 0.5, "007": 0.25}}
    write_run(tmp_path / "again", run)
    assert read_run(tmp_path / "again").to_dict() == run.to_dict()


def test_empty_files(tmp_path: Path) -> None:
    write_run(tmp_path / "run", Run([], [], []))
    write_qrels(tmp_path / "qrels", {})
    assert len(read_run(tmp_path / "run")) == 0
    assert list(iterate_run(tmp_path / "run")) == []
    assert read_qrels(tmp_path / "qrels") == {}


LINE = b"q Q0 a 1 0.5 t\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"q Q0 b 2 0.5\n", "5 fields; expected 6: query Q0 document rank score tag"),
        (b"q,Q0,b,2,0.5,t\n", "1 fields; expected 6"),
        (b"q Q0 b 2 high t\n", "score is 'high'; expected a number"),
        (b"q Q0 b 2 nan t\n", "score is nan; expected a finite number"),
        (b"q Q0 b 2 inf t\n", "score is inf; expected a finite number"),
        (b"q Q0 my doc 2 0.5 t\n", "rank is 'doc'; expected an integer"),
        (b"q Q0 a 2 0.25 t\n", "document 'a' of query 'q' was already on line 1"),
        (b"q Q0 \xff 2 0.25 t\n", r"b'\\xff' is not UTF-8"),
        (b"\0\0\0\n", "1 fields"),
        (b"q Q0 b 2 \xff t\n", r"score is '\\\\xff'; expected a number"),
    ],
)
def test_corrupt_lines_are_named(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "run"
    path.write_bytes(LINE + b"\n" + line + b"q Q0 z 9 0 t\n")
    for read in (read_run, lambda path: list(iterate_run(path))):
        with pytest.raises(ValueError, match=f"^{path}, line 3: {reason}"):
            read(path)


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_damaged_compression_is_named(tmp_path: Path, kept: float) -> None:
    rng = np.random.default_rng(0)
    run = Run(["q"], [[f"d{i}" for i in rng.permutation(10**6)[:2000]]], [rng.standard_normal(2000)])
    path = tmp_path / "run.gz"
    write_run(path, run)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=f"^{path}, line [0-9]+: the compressed file is damaged"):
        read_run(path)
    path.write_bytes(content[:400] + b"junk" * 9 + content[436:])
    with pytest.raises(ValueError, match=f"^{path}, line [0-9]+: "):
        read_run(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (read_run, read_qrels, lambda path: list(iterate_run(path))):
        with pytest.raises(FileNotFoundError, match="nothing"):
            read(tmp_path / "nothing")


def test_a_query_in_two_places(tmp_path: Path) -> None:
    """The whole reader merges it; the streaming one, which gave its list away, names both lines."""
    path = tmp_path / "run"
    path.write_text("q Q0 a 1 0.5 t\nr Q0 a 1 0.5 t\nq Q0 b 2 0.75 t\n")
    assert read_run(path).to_dict() == {"q": {"b": 0.75, "a": 0.5}, "r": {"a": 0.5}}
    lists = iterate_run(path)
    assert next(lists)[:2] == ("q", ["a"])
    assert next(lists)[0] == "r"
    with pytest.raises(ValueError, match=f"{path}, line 3: query 'q' comes back, which began on line 1; sort"):
        next(lists)


def test_streaming_reads_no_further_than_it_must(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q Q0 a 1 0.5 t\nr Q0 a 1 0.5 t\nbroken\n")
    lists = iterate_run(tmp_path / "run")
    assert next(lists)[0] == "q"
    with pytest.raises(ValueError, match="line 3"):
        next(lists)


def test_streaming_keeps_one_list_and_the_names(tmp_path: Path) -> None:
    num_queries, length = 500, 100
    docs = [f"document-with-a-long-name-{i}" for i in range(length)]
    write_run(tmp_path / "run", ((q, docs, np.arange(length, 0, -1)) for q in range(num_queries)))

    tracemalloc.start()
    assert sum(len(docs) for _, docs, _ in iterate_run(tmp_path / "run")) == num_queries * length
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Of each document of one list some 500 bytes, of each query some 200, and the buffer of the file.
    bound = 500 * length + 200 * num_queries + (1 << 18)
    assert peak < bound
    assert (tmp_path / "run").stat().st_size > 5 * bound


# Writing


def failing(run: Run) -> Iterator[Any]:
    yield from list(run)[:3]
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["run", "run.gz"])
def test_what_fails_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path / name, failing(example()))
    with pytest.raises(ValueError, match="qrels contains 'b c'"):
        write_qrels(tmp_path / name, {"q": {"a": 1, "b c": 1}})
    assert (tmp_path / name).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["", "two words", "tab\t", "line\n"])
def test_names_with_white_space_are_refused(tmp_path: Path, name: str) -> None:
    for run, argument in ((Run([name], [["a"]], [[1]]), "query_ids"), (Run(["q"], [[name]], [[1]]), "doc_ids")):
        with pytest.raises(ValueError, match=f"{argument} contains .*; expected names without white space"):
            write_run(tmp_path / "run", run)
    with pytest.raises(ValueError, match="tag contains"):
        write_run(tmp_path / "run", example(), tag=name)
    with pytest.raises(ValueError, match="tag contains"):
        RunWriter(tmp_path / "run", tag=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ([("q", ["a"], [1]), ("q", ["b"], [1])], "query 'q' comes twice; a run has one list per query"),
        ([("q", ["a", "b", "a"], [1, 1, 1])], "doc_ids of query 'q' holds 'a' twice"),
        ([("q", [7, "7"], [1, 1])], "doc_ids holds '7' twice for query 'q'"),
        ([("q", ["a"], [np.nan])], "score of 'a' for query 'q' is nan"),
        ([("q", ["a", "b"], [1])], r"scores of query 'q' have shape \(1,\); expected \(2,\)"),
        ([("q", ["a", "b"], [1, -1e300])], "scores of query 'q' reach 1.0 and -1e.300; expected numbers of float32"),
        ([("q", ["a"], [1e39])], "reach 1e.39"),
        ([("q", ["a", "b"], [-3.4028235e38, -3.4028235e38])], "expected numbers of float32"),
    ],
)
def test_runs_that_cannot_be_written(tmp_path: Path, run: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_run(tmp_path / "run", run)
    with RunWriter(tmp_path / "writer") as writer:
        for entry in run[:-1]:
            writer.write(*entry)
        before = (tmp_path / "writer.part").read_bytes()
        with pytest.raises(ValueError, match=message):
            writer.write(*run[-1])
        assert (tmp_path / "writer.part").read_bytes() == before
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["run", "run.gz"])
def test_writer_as_write_run(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / name, example(), tag="mine")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    with RunWriter(tmp_path / name, tag="mine") as writer:
        for count, (query, docs, scores) in enumerate(example()):
            writer.write(query, docs, scores)
            # What has been written is on disk, not in a buffer.
            lines = (tmp_path / f"{name}.part").read_text().splitlines()
            assert len(lines) == sum(map(len, example().doc_ids[: count + 1]))
            assert not (tmp_path / name).exists()
    assert (tmp_path / name).read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_job_goes_on_wherever_it_was_cut(tmp_path: Path) -> None:
    run = Run(["q1", "q2", "q3"], [["a", "b"], ["c"], ["a", "c"]], [[2, 1], [1], [0.5, 0.25]])
    path, part = tmp_path / "run", tmp_path / "run.part"
    write_run(path, run)
    whole = path.read_bytes()
    path.unlink()
    ends = [whole.index(b"q2"), whole.index(b"q3"), len(whole)]
    for cut in range(len(whole) + 1):
        part.write_bytes(whole[:cut])
        with RunWriter(path, resume=True) as writer:
            # The last query of which a whole line stands there is written again.
            begun = sum(whole[start:cut].count(b"\n") > 0 for start in (0, *ends[:2]))
            assert writer.done == set(run.query_ids[: max(0, begun - 1)])
            for query, docs, scores in run:
                if query not in writer.done:
                    writer.write(query, docs, scores)
        assert path.read_bytes() == whole
        assert not part.exists()


def test_an_error_leaves_what_was_written(tmp_path: Path) -> None:
    def job(resume: bool, fail: bool) -> None:
        with RunWriter(tmp_path / "run.gz", resume=resume) as writer:
            for query, docs, scores in example():
                if fail and query == "q4":
                    raise KeyboardInterrupt
                if query not in writer.done:
                    writer.write(query, docs, scores)

    with pytest.raises(KeyboardInterrupt):
        job(resume=False, fail=True)
    assert in_float32(iterate_run(tmp_path / "run.gz.part")) == without_empty(example(4))
    assert not (tmp_path / "run.gz").exists()
    job(resume=True, fail=False)
    assert in_float32(read_run(tmp_path / "run.gz")) == without_empty(example())
    assert [path.name for path in tmp_path.iterdir()] == ["run.gz"]


def test_without_resume_the_part_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "run.part").write_text("old Q0 a 1 0.5 t\n" * 2)
    with RunWriter(tmp_path / "run") as writer:
        assert writer.done == set()
        writer.write("new", ["a"], [1])
    assert read_run(tmp_path / "run").query_ids == ["new"]


def test_only_a_run_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "run.part").write_text("q Q0 a 1 0.5 t\nsomething else\n")
    with pytest.raises(ValueError, match=r"run\.part, line 2: 2 fields"):
        RunWriter(tmp_path / "run", resume=True)


# Judgements


@pytest.mark.parametrize("name", ["qrels", "qrels.gz"])
def test_judgements_read_back(tmp_path: Path, name: str) -> None:
    qrels = {"q1": {"a": 2, "b": 0, "c": -1}, "q2": {"a": 1}}
    write_qrels(tmp_path / name, qrels)
    assert read_qrels(tmp_path / name) == qrels
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q 0 b\n", "3 fields; expected 4: query iteration document relevance"),
        ("q 0 b 1 x\n", "5 fields; expected 4"),
        ("q 0 b 0.5\n", "relevance is '0.5'; expected an integer"),
        ("q 0 a 1\n", "document 'a' of query 'q' was already on line 1"),
    ],
)
def test_corrupt_judgements_are_named(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "qrels").write_text("q 0 a 1\n" + line)
    with pytest.raises(ValueError, match=f"^{tmp_path / 'qrels'}, line 2: {reason}"):
        read_qrels(tmp_path / "qrels")


def test_relevance_is_an_integer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"relevance of 'a' for query 'q' is 0\.5; expected an integer"):
        write_qrels(tmp_path / "qrels", {"q": {"a": 0.5}})  # type: ignore[dict-item]


# Run


def test_run_of_any_form() -> None:
    """Matrices, tensors and lists are the same run; ids are objects of Python."""
    docs, scores = np.array([[3, 1], [2, 0]]), np.array([[0.5, 0.75], [1.0, 0.0]])
    runs = [
        Run(np.array([7, 8]), docs, scores),  # type: ignore[arg-type]
        Run((7, 8), docs.tolist(), scores.tolist()),
        Run([7, 8], torch.tensor(docs), torch.tensor(scores, dtype=torch.bfloat16)),
    ]
    for run in runs:
        assert run.to_dict() == {7: {1: 0.75, 3: 0.5}, 8: {2: 1.0, 0: 0.0}}
        assert all(type(doc) is int for doc in run.doc_ids[0])
        assert type(run.query_ids[0]) is int
    assert scores.tolist() == [[0.5, 0.75], [1.0, 0.0]]
    assert len(runs[0]) == 2
    assert repr(runs[0]) == "Run(2 queries, 4 documents)"


def test_ids_are_anything_hashable() -> None:
    queries, docs = [("a", 1), frozenset({2}), None], [[(1, 2), "x", 3.5], [None], []]
    run = Run(queries, docs, [[0.25, 1.0, 0.5], [1.0], []])
    assert run.doc_ids == [["x", 3.5, (1, 2)], [None], []]
    rows = {(1, 2): 4, "x": 0, 3.5: 2, None: 1}
    lists = run.to_arrays(rows)
    assert lists.indices.tolist() == [[0, 2, 4], [1, -1, -1], [-1, -1, -1]]
    names = {row: name for name, row in rows.items()}
    again = Run.from_arrays(lists.indices, lists.scores, queries, [names.get(row) for row in range(5)])
    assert again.to_dict() == run.to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["q"], [["a"], ["b"]], [[1], [2]]), "doc_ids has length 2; expected 1, one list per query"),
        ((["q"], [["a"]], []), "scores has length 0; expected 1, one list per query"),
        ((["q", "r", "q"], [["a"]] * 3, [[1]] * 3), "query_ids holds 'q' twice; expected every id once"),
        ((["q"], [["a", "b", "b"]], [[1, 2, 3]]), "doc_ids of query 'q' holds 'b' twice"),
        ((["q"], [["a", "b"]], [[1]]), r"scores of query 'q' have shape \(1,\); expected \(2,\), as its doc_ids"),
        ((["q"], [["a", "b"]], [[1, np.nan]]), "score of 'b' for query 'q' is nan; expected a finite number"),
        ((["q"], [["a", "b"]], [[np.inf, 1]]), "score of 'a' for query 'q' is inf; expected a finite number"),
    ],
)
def test_lists_that_are_no_run(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Run(*arguments)


# Arrays


def test_arrays_and_back() -> None:
    run = example()
    gallery = Embeddings([f"d{i}" for i in range(50)], np.eye(50))
    lists = run.to_arrays(gallery.rows)
    assert lists.indices.dtype == np.int64
    assert lists.scores.dtype == np.float32
    assert lists.indices.shape == lists.scores.shape == (6, 7)
    assert lists.missing.tolist() == [0] * 6
    for row, (_, docs, scores) in enumerate(run):
        assert lists.indices[row].tolist() == [int(doc[1:]) for doc in docs] + [-1] * (7 - len(docs))
        assert lists.scores[row, : len(docs)].tolist() == scores.tolist()
    assert Run.from_arrays(lists.indices, lists.scores, run.query_ids, gallery.ids).to_dict() == run.to_dict()


def test_documents_that_are_not_in_the_gallery() -> None:
    run = Run(["q1", "q2", "q3"], [["a"], ["x", "a", "y", "b"], ["z"]], [[1], [4, 3, 2, 1], [1]])
    rows = {"a": 5, "b": 6}
    with pytest.raises(
        ValueError, match="document 'x' of query 'q2' is not in the gallery, one of 3; pass skip_missing"
    ):
        run.to_arrays(rows)
    with pytest.raises(ValueError, match="document 'z' of query 'q3' is not in the gallery, one of 3"):
        Run.from_lists(reversed(list(run))).to_arrays(rows)
    lists = run.to_arrays(rows, skip_missing=True)
    assert lists.indices.tolist() == [[5, -1], [5, 6], [-1, -1]]
    assert lists.scores.tolist() == [[1, 0], [3, 1], [0, 0]]
    assert lists.missing.tolist() == [0, 2, 1]


def test_parts_of_a_file_are_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "run", example())
    lists = iterate_run(tmp_path / "run")
    parts = [Run.from_lists(islice(lists, size)) for size in (2, 4, 6)]
    assert [len(part) for part in parts] == [2, 3, 0]
    assert in_float32(entry for part in parts for entry in part) == without_empty(example())


def test_no_queries_as_arrays() -> None:
    lists = Run([], [], []).to_arrays({})
    assert lists.indices.shape == lists.scores.shape == (0, 0)
    assert len(Run.from_arrays(lists.indices, lists.scores)) == 0


def test_rounding_of_scores_keeps_the_order() -> None:
    """Scores that only float64 tells apart are equal in float32, and re-rankers keep the order of equal ones."""
    scores = 1 - 1e-12 * np.arange(5)
    lists = Run(["q"], [[4, 2, 0, 1, 3]], [scores]).to_arrays({i: i for i in range(5)})
    assert lists.indices.tolist() == [[4, 2, 0, 1, 3]]
    assert lists.scores.tolist() == [[1.0] * 5]


def test_reranking_by_name_is_reranking_by_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gallery = Embeddings([f"d{i}" for i in range(30)], rng.standard_normal((30, 8)).astype("f"))
    queries = Embeddings([f"q{i}" for i in range(4)], rng.standard_normal((4, 8)).astype("f"))
    scores = queries.vectors @ gallery.vectors.T
    indices = np.argsort(-scores, axis=1)[:, :12]
    scores = np.take_along_axis(scores, indices, axis=1)
    truth = AffinityFeatures().rerank(queries.vectors, gallery.vectors, indices, scores)

    write_run(tmp_path / "first", Run.from_arrays(indices, scores, queries.ids, gallery.ids))
    run = read_run(tmp_path / "first")
    lists = run.to_arrays(gallery.rows)
    result = AffinityFeatures().rerank(queries.take(run.query_ids), gallery.vectors, lists.indices, lists.scores)
    assert np.array_equal(result.indices, truth.indices)
    assert np.array_equal(result.scores, truth.scores)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_results_of_an_index(kind: Any) -> None:
    """FAISS fills up with -1; squared distances are smaller for what is nearer."""
    indices, distances = kind([[4, 1, -1], [0, -1, -1]]), kind([[0.5, 2.0, 3e38], [1.0, 3e38, 3e38]])
    run = Run.from_arrays(indices, distances, metric="euclidean")
    assert run.to_dict() == {0: {4: -0.5, 1: -2.0}, 1: {0: -1.0}}
    products = Run.from_arrays(indices, -distances, ["x", "y"], list("abcde"))
    assert products.to_dict() == {"x": {"e": -0.5, "b": -2.0}, "y": {"a": -1.0}}


def test_results_of_faiss() -> None:
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    rng = np.random.default_rng(0)
    gallery, queries = rng.standard_normal((6, 4)).astype("f"), rng.standard_normal((3, 4)).astype("f")
    for index, metric, truth in (
        (faiss.IndexFlatIP(4), "dot", queries @ gallery.T),
        (faiss.IndexFlatL2(4), "euclidean", -((queries[:, None] - gallery) ** 2).sum(2)),
    ):
        index.add(gallery)
        scores, indices = index.search(queries, 8)
        run = Run.from_arrays(indices, scores, metric=metric)
        assert run.doc_ids == np.argsort(-truth, axis=1).tolist()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"metric": "cosine"}, ValueError, "metric is 'cosine'; expected 'dot' or 'euclidean'"),
        ({"indices": np.array([0, 1])}, ValueError, r"indices has shape \(2,\); expected \[Q, K\]"),
        ({"indices": np.array([[0.0, 1.0]])}, TypeError, "indices has dtype float64; expected an integer dtype"),
        ({"scores": np.array([[1.0]])}, ValueError, r"scores has shape \(1, 1\); expected \(1, 2\), as indices"),
        ({"doc_ids": ["a"]}, ValueError, "indices contains 1; expected rows below 1, the length of doc_ids, or -1"),
        ({"indices": np.array([[0, -2]])}, ValueError, "indices contains -2; expected rows or -1"),
        ({"query_ids": ["a", "b"]}, ValueError, "query_ids has length 2; expected 1"),
        ({"indices": np.array([[1, 1]])}, ValueError, "doc_ids of query 0 holds 1 twice"),
    ],
)
def test_arrays_that_are_no_lists(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"indices": np.array([[0, 1]]), "scores": np.array([[2.0, 1.0]])}
    with pytest.raises(error, match=message):
        Run.from_arrays(**(arguments | change))


# Other tools


def test_dicts_and_back() -> None:
    results = {"q1": {"a": 0.25, "b": 0.5}, "q2": {}, "q3": {"a": 1.0}}
    run = Run.from_dict(results)
    assert run.to_dict() == results
    assert run.doc_ids == [["b", "a"], [], ["a"]]
    assert type(run.to_dict()["q1"]["a"]) is float


def test_frames_and_back() -> None:
    pandas = pytest.importorskip("pandas")
    run = example()
    frame = run.to_frame()
    assert list(frame.columns) == ["qid", "docno", "rank", "score"]
    assert frame["rank"].tolist() == [rank for docs in run.doc_ids for rank in range(len(docs))]
    shuffled = frame.sample(frac=1, random_state=0).rename(columns={"qid": "query_id", "docno": "doc_id"})
    for table in (frame, shuffled, frame.assign(docid=0, query="text")):
        assert Run.from_frame(table).to_dict() == without_empty(run)
    with pytest.raises(
        ValueError, match=r"columns \['qid', 'rank', 'score'\]; expected 'docno' or 'doc_id' among them"
    ):
        Run.from_frame(frame.drop(columns="docno"))
    empty = Run([], [], []).to_frame()
    assert len(Run.from_frame(empty)) == len(empty) == 0
    assert isinstance(empty, pandas.DataFrame)


def test_equal_scores_of_a_frame_stay_in_order() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"qid": [1, 1, 1], "docno": ["b", "c", "a"], "score": [1, 2, 1]})
    assert Run.from_frame(frame).doc_ids == [["c", "b", "a"]]


def test_ranx_is_handed_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(SimpleNamespace):
        def __init__(self, results: Any, name: Any) -> None:
            super().__init__(results=results, name=name, to_dict=lambda: results)

    monkeypatch.setattr("graphattn.retrieval._run.require", lambda *_: SimpleNamespace(Run=Theirs))
    theirs = Run([1], [[2, 3]], [[0.5, 0.25]]).to_ranx("mine")
    assert (theirs.results, theirs.name) == ({"1": {"2": 0.5, "3": 0.25}}, "mine")
    assert Run.from_ranx(theirs).doc_ids == [["2", "3"]]


@pytest.mark.slow  # ranx compiles itself when the first run is made
def test_ranx_and_back() -> None:
    ranx = pytest.importorskip("ranx", reason="ranx is not installed")
    run = example()
    theirs = run.to_ranx("mine")
    assert theirs.name == "mine"
    assert Run.from_ranx(theirs).to_dict() == run.to_dict()
    assert Run([1], [[2]], [[0.5]]).to_ranx().to_dict() == {"1": {"2": 0.5}}
    qrels = {"q1": {"a": 2, "b": 0}, "q2": {"a": 1}}
    assert ranx.Qrels(qrels).to_dict() == qrels
