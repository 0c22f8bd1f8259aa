"""How ``graphattn select`` reads a table, what it does to it and what it refuses."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from graphattn.cli._checks import UserError
from graphattn.cli._select_read import read_table
from graphattn.cli._select_table import Table, listed, prepare

nan = np.nan


def read(path: Path, target: str | None = None, array: str | None = None, header: str = "auto") -> Table:
    return read_table(path, target, array, header)


@pytest.fixture
def written(tmp_path: Path):
    """Write a text file and return where it is."""

    def write(text: str | bytes, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "a,b,c\n1,2,3\n4,5.5,6\n",
        "a;b;c\n1;2;3\n4;5.5;6\n",
        "a\tb\tc\n1\t2\t3\n4\t5.5\t6\n",
        "a|b|c\n1|2|3\n4|5.5|6\n",
        "\ufeffa,b,c\r\n1,2,3\r\n4,5.5,6",
        '"a","b","c"\n"1"," 2 ",3\n\n4,"5.5",6\n,,\n',
        ",a,b,c\nrow 1,1,2,3\nrow 2,4,5.5,6\n",
    ],
    ids=["comma", "semicolon", "tab", "bar", "bom-crlf", "quoted-blank-lines", "row-names"],
)
def test_text_files_with_the_same_cells_are_the_same_table(written, text: str) -> None:
    table = read(written(text))
    assert table.names == ["a", "b", "c"]
    np.testing.assert_array_equal(table.values, [[1, 2, 3], [4, 5.5, 6]])
    assert ("row names" in " ".join(table.notes)) == text.startswith(",")


def test_a_quoted_cell_may_hold_the_delimiter_and_a_line_break(written) -> None:
    table = read(written('"mass, kg";note\n1;"one;\ntwo"\n2;three\n'))
    assert table.names == ["mass, kg"]
    assert table.values.tolist() == [[1], [2]]
    assert table.notes == ["text columns are left out: note"]


def test_a_row_wider_than_a_field_may_be_is_read(written) -> None:
    width = 70_000
    row = ",".join(["0.5"] * width)
    assert read(written(f"{row}\n{row}\n")).values.shape == (2, width)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,2\n3,4\n", ["x1", "x2"]),
        ("5.1,setosa\n4.9,virginica\n", ["x1", "x2"]),  # text above text, a number above a number: data
        ("id,1,2\n7,3,4\n", ["id", "1", "2"]),
        ("a,b\n", ["a", "b"]),
        ("NA,2\n3,4\n", ["x1", "x2"]),
    ],
)
def test_the_header_is_found(written, text: str, names: list[str]) -> None:
    table = read(written(text))
    assert table.targets == names
    assert ("columns are named" in " ".join(table.notes)) == (names[0] == "x1")


def test_the_header_can_be_told(written) -> None:
    path = written("kind,1,2\nu,3,4\nv,5,6\n")
    assert read(path).values.tolist() == [[1, 2], [3, 4], [5, 6]]
    named = read(path, header="yes")
    assert (named.names, named.values.tolist()) == (["1", "2"], [[3, 4], [5, 6]])
    assert read(written("a,2\n1,2\n3,4\n"), target="x1", header="no").target.tolist() == ["a", "1", "3"]


def test_cells_that_are_missing_true_or_names(written) -> None:
    table = read(written("a,b,c\n1,NA,True\n?,2,false\nnull,n/a,TRUE\n,None,False\n"))
    np.testing.assert_array_equal(table.values, [[1, nan, 1], [nan, 2, 0], [nan, nan, 1], [nan, nan, 0]])
    assert read(written("a,id\n1,1_000\n2,2_000\n")).names == ["a"]


ARRAYS = np.array([[1.0, 2.0, 3.0], [4.0, 5.5, 6.0]]), np.array([1, 2])


def test_arrays_and_files_with_the_same_cells_are_the_same_table(tmp_path: Path, written) -> None:
    x, y = ARRAYS
    np.savez(tmp_path / "a.npz", X=x, y=y)
    np.save(tmp_path / "a.npy", np.column_stack([x, y]))
    scipy.io.savemat(tmp_path / "a.mat", {"X": x, "Y": y[:, None]})
    scipy.io.savemat(tmp_path / "sparse.mat", {"X": scipy.sparse.csc_matrix(x), "Y": y})
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1,2,3,1\n4,5.5,6,2\n"))
    for name, target in [("a.npz", "y"), ("a.npy", "x4"), ("a.mat", "Y"), ("sparse.mat", "Y"), ("a.csv.gz", "x4")]:
        table = prepare(read(tmp_path / name, target), target, "error")
        assert table.names == ["x1", "x2", "x3"], name
        np.testing.assert_array_equal(table.values, x)
        assert table.target.tolist() == [0, 1], name


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    columns = {
        "a": pyarrow.array([1, None, 2**60 + 1], pyarrow.int64()),
        "kind": pyarrow.array(["u", "v", "u"]).dictionary_encode(),
        "b": pyarrow.array([0.5, 1.5, None], pyarrow.float32()),
        "c": pyarrow.array([True, False, None]),
        "d": pyarrow.array([None, None, None], pyarrow.null()),
        "when": pyarrow.array([0, 1, 2], pyarrow.timestamp("s")),
        "__index_level_0__": pyarrow.array(["r1", "r2", "r3"]),
    }
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    table = read(path, "kind")
    assert table.names == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(table.values, [[1, 0.5, 1, nan], [nan, 1.5, 0, nan], [2.0**60, nan, nan, nan]])
    assert table.target.tolist() == ["u", "v", "u"]
    assert table.notes == [
        "the row names that pandas stored as __index_level_0__ are left out",
        "text columns are left out: when",
    ]
    with pytest.raises(UserError, match=r"--target no: .* has no such column; it has a, kind, b, c, d, when"):
        read(path, "no")
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        read(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: str, extra: str) -> None:
        raise ImportError(f"install it with: pip install 'graphattn[{extra}]'")

    monkeypatch.setattr("graphattn.cli._select_read.require", refuse)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(UserError, match=r"graphattn\[tables\]"):
        read(tmp_path / "a.parquet")


def test_matlab_texts_are_classes(tmp_path: Path) -> None:
    cells = np.array([["u"], ["v"], [""]], dtype=object)
    scipy.io.savemat(tmp_path / "a.mat", {"meas": np.eye(3), "species": cells, "name": ["abc", "de", "f"]})
    table = read(tmp_path / "a.mat", "species")
    assert table.target[:2].tolist() == ["u", "v"]
    assert prepare(table, "species", "drop-rows").target.tolist() == [0, 1]
    assert read(tmp_path / "a.mat").targets == ["species", "name"]


def test_the_only_matrix_or_the_one_that_is_named(tmp_path: Path) -> None:
    x, y = ARRAYS
    np.savez(tmp_path / "a.npz", data=x, y=y)
    np.testing.assert_array_equal(read(tmp_path / "a.npz").values, x)
    np.savez(tmp_path / "b.npz", first=x, second=2 * x, y=y)
    with pytest.raises(UserError, match=r"holds first \(2, 3\), second \(2, 3\), y \(2,\); choose .* by --array"):
        read(tmp_path / "b.npz")
    np.testing.assert_array_equal(read(tmp_path / "b.npz", array="second").values, 2 * x)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.csv is empty"),
        ("\n  \n", "table.csv is empty"),
        ("a,b\n1,2\n3\n", "line 3: 1 fields, but the first row has 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3: 3 fields, but the first row has 2"),
        ("a,b\n1,2\n3,1.O\n5,6\n", "line 3, column 'b': '1.O' is not a number"),
        ("a;b\n1,5;2\n3,5;4\n", "line 2, column 'a': '1,5' is not a number; write decimals with a point"),
        (b"a,b\n1,\xe9\n", "not UTF-8 text (byte 0xe9: "),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8 text (byte 0xff: "),
    ],
)
def test_text_that_cannot_be_read(written, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(written(text))
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path, written) -> None:
    np.savez(tmp_path / "objects.npz", X=np.array([{}], dtype=object))
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    np.savez(tmp_path / "long.npz", X=np.eye(3), y=np.arange(2))
    # The first 128 bytes of a MATLAB v7.3 file: a text, a version of 2 and the byte order.
    written(b"MATLAB 7.3 MAT-file".ljust(124, b" ") + b"\x00\x02IM" + bytes(384), "new.mat")
    for name, options, message in [
        ("no.csv", {}, "no.csv does not exist"),
        ("", {}, "is a folder"),
        (written("x", "a.xls").name, {}, "unknown format; expected .csv"),
        (written("x", "a.gz").name, {}, "unknown format"),
        (written("a,b\n1,2\n", "a.csv").name, {"array": "X"}, "--array X chooses an array of a .mat or .npz"),
        ("cube.npy", {"header": "no"}, "--header no is for text files"),
        ("cube.npy", {}, "an array of shape (2, 2, 2) and dtype float64; expected a matrix"),
        ("a.csv", {"target": "c"}, "--target c: "),
        ("long.npz", {"target": "y"}, "the target y has 2 values, but X has 3 rows"),
        ("long.npz", {"target": "z"}, "no such array; it has X (3, 3), y (2,)"),
        ("long.npz", {"array": "Z"}, "--array Z: "),
        ("objects.npz", {}, "Object arrays cannot be loaded"),
        (written("x", "bad.npz").name, {}, "cannot be read"),
        (written("", "bad.npy").name, {}, "cannot be read"),
        (written("x", "bad.mat").name, {}, "cannot be read"),
        (written("x", "bad.csv.gz").name, {}, "cannot be read"),
        (written(gzip.compress(b"a,b\n1,2\n")[:-9], "cut.csv.gz").name, {}, "cannot be read"),
        ("new.mat", {}, "new.mat cannot be read: a MATLAB v7.3 file; save it in MATLAB with save(..., '-v7')"),
    ]:
        with pytest.raises(UserError) as error:
            read(tmp_path / name, **options)
        assert message in str(error.value), name


HOLES = Table(["a", "b", "c"], np.array([[1, nan, 1], [2, 5, 3], [3, 7, nan], [9, 6, 4]]), None, [], [])


def test_missing_values() -> None:
    with pytest.raises(UserError, match=r"values are missing in b \(1\), c \(1\); choose --missing median, drop-rows"):
        prepare(HOLES, None, "error")

    filled = prepare(HOLES, None, "median")
    np.testing.assert_array_equal(filled.values, [[1, 6, 1], [2, 5, 3], [3, 7, 3], [9, 6, 4]])
    assert filled.notes == ["missing values are filled with the median of their column: b (1), c (1)"]

    rows = prepare(HOLES, None, "drop-rows")
    np.testing.assert_array_equal(rows.values, [[2, 5, 3], [9, 6, 4]])
    assert rows.notes == ["2 of 4 rows with missing values are left out"]

    columns = prepare(HOLES, None, "drop-columns")
    assert columns.names == ["a"]
    assert columns.notes == ["columns with missing values are left out: b (1), c (1)"]
    assert np.isnan(HOLES.values).sum() == 2, "the table that was read was changed"


@pytest.mark.parametrize("missing", ["error", "median", "drop-rows", "drop-columns"])
def test_a_whole_table_stays_as_it_is(missing: str) -> None:
    table = Table(["a", "b"], np.array([[1.0, 2.0], [3.0, 5.0]]), None, [], [])
    np.testing.assert_array_equal(prepare(table, None, missing).values, table.values)
    assert prepare(table, None, missing).notes == []


def test_empty_and_constant_columns_are_reported() -> None:
    table = Table(["a", "b", "c"], np.array([[1, nan, 3], [2, nan, 3]]), None, [], [])
    ready = prepare(table, None, "error")
    assert ready.names == ["a", "c"]
    assert ready.notes == [
        "columns without a single value are left out: b",
        "constant columns are ranked last, with score 0: c",
    ]


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (["no", "yes", " no "], [0, 1, 0]),
        (["10", "9", "10.0"], [1, 0, 1]),
        ([1.5, 2.5, 1.5], [0, 1, 0]),
        (np.array([3.0, -1.0, 3.0]), [1, 0, 1]),
        ([True, False, True], [1, 0, 1]),
    ],
)
def test_classes_are_numbered(target, classes: list[int]) -> None:
    target = target if isinstance(target, np.ndarray) else np.array(target, dtype=object)
    table = Table(["a"], np.array([[1.0], [2.0], [3.0]]), target, [], [])
    assert prepare(table, "y", "error").target.tolist() == classes


@pytest.mark.parametrize(
    ("values", "target", "missing", "message"),
    [
        (np.empty((0, 3)), None, "error", "no rows of data"),
        (np.eye(3)[:1], None, "error", "1 row of data"),
        (np.full((3, 3), nan), None, "error", "no column of numbers"),
        (np.full((3, 3), np.inf), None, "error", "infinite values in x0, x1, x2"),
        (np.where(np.eye(3) > 0, nan, 1), None, "drop-rows", "leaves no row"),
        (np.where(np.eye(3) > 0, nan, 1), None, "drop-columns", "leaves no column"),
        (np.eye(3), ["u", "u", "u"], "error", "the target y holds one class, u"),
        (np.eye(3), ["u", None, "NA"], "error", "the target y misses 2 of 3 values; --missing drop-rows"),
        (np.eye(3), ["u", "", "v"], "median", "the target y misses 1 of 3 values"),
        (np.eye(3), ["u", "v", "w"], "error", "3 distinct values in 3 rows, like measurements or ids"),
        (np.eye(6), ["0.5", "1", "2", "0.5", "1", "2"], "error", "3 distinct values in 6 rows, like measurements"),
        (np.eye(60), np.arange(60) // 2 % 25, "error", "25 distinct values in 60 rows, like measurements"),
    ],
)
def test_tables_that_cannot_be_ranked(values: np.ndarray, target, missing: str, message: str) -> None:
    target = None if target is None else np.array(target, dtype=object)
    with pytest.raises(UserError) as error:
        prepare(Table([f"x{j}" for j in range(values.shape[1])], values, target, [], []), "y", missing)
    assert message in str(error.value)


def test_equal_names_are_refused(written) -> None:
    with pytest.raises(UserError, match="several columns have the same name: a, b; rename them"):
        prepare(read(written("a,b,a,c,b\n1,2,3,4,5\n6,7,8,9,0\n")), None, "error")
    with pytest.raises(UserError, match="several columns have the same name: y; rename them"):
        prepare(read(written("y,a,y\n0,2,0\n1,7,1\n"), "y"), "y", "error")


def test_long_lists_are_cut() -> None:
    assert listed("abc") == "a, b, c"
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
