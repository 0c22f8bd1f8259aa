"""Vectors with ids, and the files they are loaded from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphattn.retrieval import AffinityFeatures, Embeddings, Run, load_embeddings

IDS = ["d7", "d0", "x y", "ø"]


def vectors(rows: int = 4, width: int = 3, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, width)).astype(dtype)


def save_npy(folder: Path, ids: list[str] | None = None, ending: str = ".ids", **kwargs: Any) -> Path:
    np.save(folder / "docs.npy", vectors(**kwargs))
    if ids is not None:
        (folder / "docs").with_suffix(ending).write_text("".join(one + "\n" for one in ids), encoding="utf-8")
    return folder / "docs.npy"


def save_parquet(folder: Path, kind: str = "list", ids: Any = IDS, rows: Any = None, **columns: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = vectors(len(ids)).tolist() if rows is None else rows
    element = pyarrow.float32()
    kinds = {
        "list": pyarrow.list_(element),
        "large_list": pyarrow.large_list(element),
        "fixed": pyarrow.list_(element, 3),
        "float64": pyarrow.list_(pyarrow.float64()),
        "int": pyarrow.list_(pyarrow.int64()),
    }
    table = {"docno": ids, "vector": pyarrow.array(rows, kinds[kind]), **columns}
    parquet.write_table(pyarrow.table(table), folder / "docs.parquet")
    return folder / "docs.parquet"


# Embeddings


def test_rows_of_ids() -> None:
    data = vectors()
    gallery = Embeddings(IDS, data)
    assert [gallery.rows[one] for one in IDS] == [0, 1, 2, 3]
    assert list(gallery.rows) == IDS
    assert len(gallery) == len(gallery.rows) == 4
    assert gallery.rows.get("nothing") is None
    assert "nothing" not in gallery.rows
    with pytest.raises(KeyError, match="nothing"):
        gallery.rows["nothing"]
    assert np.array_equal(gallery.take(["ø", "d7", "ø"]), data[[3, 0, 3]])
    assert gallery.take([]).shape == (0, 3)
    assert gallery.vectors is data
    assert repr(gallery) == "Embeddings(4 x 3, float32)"


def test_taken_vectors_are_the_callers_own() -> None:
    data = vectors()
    Embeddings(IDS, data).take(IDS)[:] = 0
    assert np.array_equal(data, vectors())


@pytest.mark.parametrize("ids", [range(12), list(range(12)), np.arange(12), [str(i) for i in range(12)]])
def test_numbers_are_their_texts(ids: Any) -> None:
    """A run file holds texts, whatever the ids were."""
    rows = Embeddings(ids, vectors(12)).rows
    for row in range(12):
        assert rows[row] == rows[str(row)] == rows[np.int64(row)] == row
    assert [one for one in ["12", "-1", "01", "1.0", "", "²", "x", None, -1, 12] if one in rows] == []
    assert [rows[one] for one in rows] == list(range(12))
    assert len(rows) == 12


def test_ranges_that_are_no_row_numbers() -> None:
    assert Embeddings(range(5, 8), vectors(3)).rows["5"] == 0
    assert "0" not in Embeddings(range(5, 8), vectors(3)).rows


@pytest.mark.parametrize(
    ("ids", "data", "error", "message"),
    [
        (IDS, vectors(3), ValueError, "ids has length 4; expected 3, one id per row of vectors"),
        (["a", "b", "a", "b"], vectors(), ValueError, "ids holds 'a' twice, in rows 0 and 2"),
        ([1, "1", 2, 3], vectors(), ValueError, "ids holds '1' twice, in rows 0 and 1"),
        (IDS, vectors().tolist(), TypeError, r"vectors is a list; expected an array \[N, D\]"),
        (IDS, vectors(dtype="int64"), TypeError, "vectors has dtype int64; expected float16, float32 or float64"),
        (IDS, vectors(dtype=">f4"), TypeError, "vectors has dtype >f4; expected float16"),
        (IDS, vectors()[0], ValueError, r"vectors has shape \(3,\); expected \[N, D\], D at least 1"),
        (IDS, vectors(width=0), ValueError, r"vectors has shape \(4, 0\); expected \[N, D\]"),
    ],
)
def test_no_embeddings(ids: Any, data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Embeddings(ids, data)


def test_ids_without_a_vector() -> None:
    with pytest.raises(ValueError, match="id 'q1' has no vector, one of 2; ids that have one are like 'd7'"):
        Embeddings(IDS, vectors()).take(["d0", "q1", "q2"])
    with pytest.raises(ValueError, match="id 4 has no vector, one of 1; ids that have one are like '0'"):
        Embeddings(range(4), vectors()).take([4])


# Files


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("ending", [".ids", ".txt"])
def test_npy_with_a_file_of_ids(tmp_path: Path, ending: str, dtype: str) -> None:
    found = load_embeddings(save_npy(tmp_path, IDS, ending, dtype=dtype))
    assert list(found.ids) == IDS
    assert isinstance(found.vectors, np.memmap)
    assert np.array_equal(found.vectors, vectors(dtype=dtype))
    assert type(found.take(["d0"])) is np.ndarray


def test_npy_without_ids(tmp_path: Path) -> None:
    found = load_embeddings(str(save_npy(tmp_path)))
    assert found.ids == range(4)
    assert found.rows["3"] == 3


def test_ids_come_before_texts(tmp_path: Path) -> None:
    save_npy(tmp_path, IDS[::-1], ".txt")
    assert list(load_embeddings(save_npy(tmp_path, IDS)).ids) == IDS


def test_ids_as_other_systems_write_them(tmp_path: Path) -> None:
    path = save_npy(tmp_path)
    path.with_suffix(".ids").write_bytes("\ufeffa\r\nb\r\nc\u0085\r\nd".encode())
    assert list(load_embeddings(path).ids) == ["a", "b", "c", "d"]


def test_an_empty_gallery(tmp_path: Path) -> None:
    np.save(tmp_path / "docs.npy", np.empty((0, 3), "f"))
    assert len(load_embeddings(tmp_path / "docs.npy")) == 0
    (tmp_path / "docs.ids").write_text("")
    assert list(load_embeddings(tmp_path / "docs.npy").ids) == []


@pytest.mark.parametrize("ids", [np.array(IDS), np.array([one.encode() for one in IDS]), np.array([7, 0, 3, 2])])
def test_npz(tmp_path: Path, ids: np.ndarray) -> None:
    np.savez(tmp_path / "docs.npz", ids=ids, vectors=vectors())
    found = load_embeddings(tmp_path / "docs.npz")
    assert list(found.ids) == (IDS if ids.dtype.kind in "SU" else [7, 0, 3, 2])
    assert all(type(one) in (str, int) for one in found.ids)
    assert np.array_equal(found.vectors, vectors())


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed", "float64"])
def test_parquet(tmp_path: Path, kind: str) -> None:
    found = load_embeddings(save_parquet(tmp_path, kind))
    assert list(found.ids) == IDS
    assert np.array_equal(found.vectors, vectors())
    assert found.vectors.dtype == ("float64" if kind == "float64" else "float32")


def test_parquet_of_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.retrieval.embeddings._BATCH_ROWS", 7)
    ids = [f"d{i}" for i in range(50)]
    found = load_embeddings(save_parquet(tmp_path, ids=ids))
    assert list(found.ids) == ids
    assert np.array_equal(found.vectors, vectors(50))


def test_parquet_as_pandas_writes_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"docno": IDS, "vector": list(vectors())}).sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "docs.parquet")
    found = load_embeddings(tmp_path / "docs.parquet")
    assert np.array_equal(found.take(IDS), vectors())


def test_columns_are_chosen(tmp_path: Path) -> None:
    other = [[0.0, 1.0]] * 4
    path = save_parquet(tmp_path, id=[3, 2, 1, 0], title=["t"] * 4, other=other, score=[0.5] * 4)
    found = load_embeddings(path, vector_column="vector")
    assert list(found.ids) == [3, 2, 1, 0]
    found = load_embeddings(path, id_column="docno", vector_column="other")
    assert list(found.ids) == IDS
    assert found.vectors.tolist() == other


@pytest.mark.parametrize(
    ("columns", "chosen", "message"),
    [
        (
            {"other": [[0.5]] * 4},
            {},
            r"vector_column is None, but .* has the columns docno \(string\), vector .*; choose",
        ),
        ({"title": ["t"] * 4}, {}, "id_column is None, but .* choose one of texts or integers"),
        ({}, {"id_column": "doc"}, "id_column is 'doc', but .* has the columns"),
        ({}, {"vector_column": "docno"}, "vector_column is 'docno', but .* choose one of lists of numbers"),
        ({"score": [0.5] * 4}, {"id_column": "score"}, "id_column is 'score', but .* choose one of texts or integers"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, columns: dict[str, Any], chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_embeddings(save_parquet(tmp_path, **columns), **chosen)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": [[1.0], None, [1.0], [1.0]]}, ValueError, "the vector in row 1 is missing"),
        ({"rows": [[1.0, 2.0], [1.0, 2.0], [], []]}, ValueError, "the vector in row 2 has 0 numbers, the first has 2"),
        (
            {"rows": [[1.0, 2.0], [1.0, 2.0], [1.0, None], [None, 1.0]]},
            ValueError,
            "the vector in row 2 lacks a number",
        ),
        ({"rows": [[]] * 4}, ValueError, r"vectors has shape \(4, 0\); expected \[N, D\]"),
        ({"rows": [[1]] * 4, "kind": "int"}, TypeError, "vectors has dtype int64"),
        ({"ids": ["a", "b", None, "d"]}, ValueError, "column 'docno' has no id in row 2"),
        ({"ids": ["a", "b", "b", "d"]}, ValueError, "ids holds 'b' twice, in rows 1 and 2"),
    ],
)
def test_parquet_that_holds_no_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr("graphattn.retrieval.embeddings._BATCH_ROWS", 2)
    path = save_parquet(tmp_path, **change)
    with pytest.raises(error, match=message) as caught:
        load_embeddings(path)
    assert str(path) in str(caught.value)


def test_npy_that_holds_no_vectors(tmp_path: Path) -> None:
    path = save_npy(tmp_path, [*IDS, "more"])
    with pytest.raises(ValueError, match=f"{path}: ids has length 5; expected 4"):
        load_embeddings(path)
    (tmp_path / "docs.ids").write_text("a\n\nc\nd\n")
    with pytest.raises(ValueError, match=r"docs\.ids, line 2: blank; expected an id"):
        load_embeddings(path)
    (tmp_path / "docs.ids").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"docs\.ids cannot be read: .*utf-8"):
        load_embeddings(path)
    (tmp_path / "docs.ids").unlink()
    for array in (np.zeros((4, 3), int), np.zeros((4, 3), complex), np.array(IDS)):
        np.save(path, array)
        with pytest.raises(TypeError, match=f"{path}: vectors has dtype {array.dtype}"):
            load_embeddings(path)
    np.save(path, np.float32(1))
    with pytest.raises(ValueError, match=r"vectors has shape \(\)"):
        load_embeddings(path)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"x": vectors()}, ValueError, "has the arrays x; expected ids and vectors"),
        ({"ids": np.array([IDS]), "vectors": vectors()}, ValueError, r"ids has shape \(1, 4\); expected \[N\]"),
        ({"ids": np.zeros(4), "vectors": vectors()}, TypeError, "ids has dtype float64; expected texts or integers"),
        ({"ids": np.array(IDS, dtype=object), "vectors": vectors()}, ValueError, "cannot be read: Object arrays"),
    ],
)
def test_npz_that_holds_no_vectors(
    tmp_path: Path, arrays: dict[str, np.ndarray], error: type[Exception], message: str
) -> None:
    np.savez(tmp_path / "docs.npz", **arrays)
    with pytest.raises(error, match=message):
        load_embeddings(tmp_path / "docs.npz")


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"junk" * 9, "half"])
def test_damaged_files(tmp_path: Path, ending: str, content: Any) -> None:
    path = tmp_path / f"docs{ending}"
    if content == "half":
        if ending == ".npz":
            np.savez(path, ids=np.array(IDS), vectors=vectors())
        path = {".npy": save_npy, ".parquet": save_parquet}[ending](tmp_path) if ending != ".npz" else path
        content = path.read_bytes()[:-20]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} cannot be read: "):
        load_embeddings(path)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"docs\.csv has an unknown ending; expected \.npy, \.npz, \.parquet"):
        load_embeddings(tmp_path / "docs.csv")
    with pytest.raises(FileNotFoundError, match=r"docs\.npy"):
        load_embeddings(tmp_path / "docs.npy")
    with pytest.raises(ValueError, match=r"id_column is 'id', but .*docs\.npy has no columns"):
        load_embeddings(tmp_path / "docs.npy", id_column="id")
    with pytest.raises(ValueError, match=r"vector_column is 'v', but .*docs\.npz has no columns"):
        load_embeddings(tmp_path / "docs.npz", vector_column="v")


def test_mapped_vectors_are_reranked_from_the_file(tmp_path: Path) -> None:
    gallery = load_embeddings(save_npy(tmp_path, [f"d{i}" for i in range(20)], rows=20))
    queries = vectors(2)
    run = Run(["q0", "q1"], [["d3", "d5", "d7", "d11"], ["d2", "d0", "d19"]], [[4, 3, 2, 1], [3, 2, 1]])
    lists = run.to_arrays(gallery.rows)
    found = AffinityFeatures().rerank(queries, gallery.vectors, lists.indices, lists.scores)
    truth = AffinityFeatures().rerank(queries, vectors(20), lists.indices, lists.scores)
    assert np.array_equal(found.indices, truth.indices)
    assert np.array_equal(found.scores, truth.scores)
