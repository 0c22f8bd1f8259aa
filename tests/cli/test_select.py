"""``graphattn select`` from the command to its files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from matplotlib.figure import Figure
from matplotlib.image import imread

from graphattn.cli import main, select
from graphattn.cli._select_affinity import affinity_among
from graphattn.cli._select_figure import draw
from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised

FILES = ["ranking.csv", "ranking.json", "selection.png"]


def table(rows: int = 40, features: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that the first features tell apart; one feature is constant."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 2
    x = rng.normal(size=(rows, features)) * np.linspace(1, 2, features)
    x[:, :2] += y[:, None] * [3, 1.5]
    x[:, 4] = 0.25
    return x.round(6), y


X, Y = table()
NAMES = [f"x{j}" for j in range(1, 8)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The table as a CSV file whose classes are texts."""
    path = tmp_path / "table.csv"
    rows = [[*map(str, row), "ab"[label]] for row, label in zip(X.tolist(), Y.tolist(), strict=True)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[*NAMES, "class"], *rows])
    return path


def ranking(out: Path) -> list[dict[str, str]]:
    with (out / "ranking.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "ranking.json").read_text())


def assert_equals(out: Path, selector: Any) -> None:
    """The files hold exactly what the estimator finds."""
    rows, found = ranking(out), report(out)
    assert [row["feature"] for row in rows] == [NAMES[j] for j in selector.order_]
    assert [float(row["score"]) for row in rows] == selector.scores_[selector.order_].tolist()
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 8)]
    assert {row["feature"] for row in rows if row["selected"] == "True"} == set(np.array(NAMES)[selector.support_])
    assert [{key: str(value) for key, value in row.items()} for row in found["ranking"]] == rows
    assert found["selected"] == selector.n_features_selected_
    assert (found["hop_overlap"], found["rho"]) == (selector.hop_overlap_, selector.rho_)


@pytest.mark.parametrize(
    ("options", "selector"),
    [
        ([], InfFSSupervised("auto", random_state=0)),
        (["--method", "inf-fs", "--k", "3"], InfFS(3)),
        (["--method", "inf-fs", "--decay", "0.5", "--hops", "2", "--neighbors", "2"],
         InfFS("auto", decay=0.5, hops=2, n_neighbors=2)),
        (["--method", "inf-fs-s", "--k", "0.5", "--hops", "inf"], InfFSSupervised(0.5, random_state=0)),
        (["--method", "inf-fs-s", "--k", "1.0", "--neighbors", "3"],
         InfFSSupervised(1.0, n_neighbors=3, random_state=0)),
        (["--method", "ilfs", "--k", "1", "--decay", "0.5"], ILFS(1, decay=0.5)),
        (["--method", "ec-fs", "--k", "7", "--seed", "3"], ECFS(7, random_state=3)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_the_files_hold_what_the_estimator_finds(data: Path, tmp_path: Path, options: list[str], selector: Any) -> None:
    assert main(["select", str(data), "--target", "class", "--out", str(tmp_path / "out"), *options]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert_equals(tmp_path / "out", selector.fit(X, Y))
    written = report(tmp_path / "out")["options"]
    for name, value in selector.get_params().items():
        if name not in ("device", "verbose"):  # the command line sets these
            assert written[name] == ("inf" if value == math.inf else value), name


def test_every_format_gives_the_same_ranking(data: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=X, y=Y)
    np.save(tmp_path / "t.npy", np.column_stack([X, Y]))
    scipy.io.savemat(tmp_path / "t.mat", {"X": X, "Y": Y})
    (tmp_path / "t.tsv").write_text(data.read_text().replace(",", "\t"))
    expected = InfFSSupervised("auto").fit(X, Y)
    for name, target in [("t.npz", "y"), ("t.npy", "x8"), ("t.mat", "Y"), ("t.tsv", "class")]:
        assert main(["select", str(tmp_path / name), "--target", target, "--out", str(tmp_path / "o")]) == 0
        assert_equals(tmp_path / "o", expected)


def test_what_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["select", str(data), "--k", "2", "--out", str(out)]) == 0
    said = capsys.readouterr()
    selector = InfFS(2).fit(X)
    lines = said.out.splitlines()
    assert lines[0] == f"{data}: 40 rows, 7 features, ranked by inf-fs"
    assert lines[2].split() == ["1", f"{selector.scores_.max():.4g}", NAMES[selector.order_[0]]]
    assert [line.endswith("(left out)") for line in lines[2:9]] == [False] * 2 + [True] * 5
    assert lines[9] == f"selected 2 of 7 features; one hop alone would keep {selector.hop_overlap_:.0%} of them"
    assert all(str(out / name) in lines[10] for name in FILES)
    notes = ["text columns are left out: class", "constant columns are ranked last, with score 0: x5"]
    assert report(out)["notes"] == notes
    assert all(f"note: {note}" in said.err for note in notes)
    assert ranking(out)[-1]["feature"] == "x5"


def test_the_target_is_no_feature_of_the_unsupervised_method(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=X, y=Y)
    np.save(tmp_path / "t.npy", np.column_stack([X, Y]))
    for name, target in [("t.npy", "x8"), ("t.npz", "y")]:
        options = ["--target", target, "--method", "inf-fs", "--out", str(tmp_path / "out")]
        assert main(["select", str(tmp_path / name), *options]) == 0
        assert_equals(tmp_path / "out", InfFS("auto").fit(X))
        note = f"inf-fs does not read the target: {target} is only left out of the features"
        assert report(tmp_path / "out")["notes"][-1] == note


@pytest.mark.parametrize(
    ("text", "order", "constant"),
    [
        ("a,b\n1,2\n1,2\n1,2\n", ["a", "b"], True),
        ("a\n1\n2\n5\n", ["a"], False),
        ("a,b\n1,2\n1,4\n", ["b", "a"], False),
    ],
    ids=["all constant", "one feature", "two rows"],
)
def test_small_tables(tmp_path: Path, text: str, order: list[str], constant: bool) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert main(["select", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out")]) == 0
    found = report(tmp_path / "out")
    assert [row["feature"] for row in found["ranking"]] == order
    assert found["selected"] == 1
    assert ("all features are constant" in " ".join(found["notes"])) == constant


def test_warnings_of_the_method_are_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    varying = np.delete(X, 4, axis=1)
    np.save(tmp_path / "t.npy", (varying - varying.mean(axis=0)) / varying.std(axis=0))
    assert main(["select", str(tmp_path / "t.npy"), "--out", str(tmp_path / "out")]) == 0
    notes = report(tmp_path / "out")["notes"]
    assert len(notes) == 1
    assert "standard deviations" in notes[0]
    assert f"note: {notes[0]}" in capsys.readouterr().err


def test_missing_values_are_treated_as_told(data: Path, tmp_path: Path) -> None:
    lines = data.read_text().splitlines()
    lines[3] = "," + lines[3].split(",", 1)[1]
    data.write_text("\n".join(lines))
    arguments = ["select", str(data), "--target", "class", "--out", str(tmp_path / "out"), "--missing"]
    assert main([*arguments, "drop-rows"]) == 0
    assert_equals(tmp_path / "out", InfFSSupervised("auto").fit(np.delete(X, 2, axis=0), np.delete(Y, 2)))
    assert report(tmp_path / "out")["options"]["missing"] == "drop-rows"
    assert main([*arguments, "median"]) == 0
    filled = X.copy()
    filled[2, 0] = np.median(np.delete(X[:, 0], 2))
    assert_equals(tmp_path / "out", InfFSSupervised("auto").fit(filled, Y))
    assert main([*arguments, "drop-columns"]) == 0
    assert [row["feature"] for row in ranking(tmp_path / "out")] == [
        NAMES[1:][j] for j in InfFSSupervised("auto").fit(X[:, 1:], Y).order_
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "ilfs"],
         "--method ilfs ranks by class; choose a --target among x1, x2, x3, x4, x5, x6, x7, class"),
        (["--target", "kind"], "--target kind: "),
        (["--target", "x1"], "the target x1 has 40 distinct values in 40 rows"),
        (["--target", "x5"], "the target x5 holds one class, 0.25"),
        (["--k", "8"], "--k 8 is more than the 7 features of the table"),
        (["--target", "class", "--method", "ec-fs", "--hops", "2"],
         "--hops has no meaning for --method ec-fs; it is for inf-fs, inf-fs-s"),
        (["--decay", "1"], "decay is 1.0"),
        (["--hops", "0"], "hops is 0"),
        (["--neighbors", "0"], "n_neighbors is 0"),
        (["--device", "toaster"], "--device toaster cannot be used"),
        (["--array", "X"], "--array X chooses an array"),
        (["--out", "table.csv"], "--out table.csv cannot be made"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_are_explained(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(data.parent)
    assert main(["select", "table.csv", *options]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("graphattn select: ")
    assert message in said[-1]
    assert not list(data.parent.glob("graphattn-select/*"))


@pytest.mark.parametrize("size", ["0", "-1", "0.0", "1.5", "nan", "many"])
def test_sizes_that_are_none(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["select", "table.csv", f"--k={size}"])
    assert stop.value.code == 2
    assert f"{size} is neither auto, nor an integer from 1, nor a fraction up to 1.0" in capsys.readouterr().err


def test_hops_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["select", "table.csv", "--hops", "2.5"])
    assert stop.value.code == 2
    assert "2.5 is neither inf nor an integer" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["graphattn.cli._select_figure.save", "graphattn.selection.InfFS.fit"])
def test_an_interruption_leaves_what_was_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    out = tmp_path / "out"
    assert main(["select", str(data), "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    assert main(["select", str(data), "--k", "1", "--out", str(out)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "graphattn select: interrupted"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_same_command_gives_the_same_ranking(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(["select", str(data), "--target", "class", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "one/ranking.csv").read_bytes() == (tmp_path / "two/ranking.csv").read_bytes()


def test_the_picture(data: Path, tmp_path: Path, drawn: dict[str, Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "DRAWN", 5)
    assert main(["select", str(data), "--k", "3", "--out", str(tmp_path / "out")]) == 0
    image = imread(tmp_path / "out/selection.png")
    assert image.std() > 0
    selector = InfFS(3).fit(X)
    scores, affinity = drawn["selection"].axes[:2]
    line, selected, left_out, cut = scores.lines
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([range(1, 8), np.sort(selector.scores_)[::-1]]))
    assert (len(selected.get_xdata()), len(left_out.get_xdata())) == (3, 4)
    assert cut.get_xdata() == [3.5, 3.5]
    names = [NAMES[j] for j in selector.order_[:5]]
    assert [label.get_text() for label in affinity.get_yticklabels()] == names
    assert [label.get_text() for label in affinity.get_xticklabels()] == names
    expected = affinity_among(selector, X, None, selector.order_[:5])
    np.testing.assert_array_equal(affinity.images[0].get_array(), expected)


def test_names_are_drawn_as_they_are_or_cut(tmp_path: Path) -> None:
    names = ["price in $ and $^", "a" * 40, "日本"]
    figure = draw("inf-fs", names, np.array([3.0, 2.0, 1.0]), 3, np.eye(3))
    shown = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert shown == [names[0], "a" * 23 + "…", names[2]]
    from graphattn.cli._select_figure import save

    save(figure, tmp_path / "names.png")
    assert imread(tmp_path / "names.png").std() > 0


@pytest.mark.parametrize(
    "selector",
    [
        InfFS(tol=1e-12),
        InfFS(n_neighbors=2, tol=1e-12),
        InfFSSupervised(tol=1e-12),
        InfFSSupervised(n_neighbors=2, tol=1e-12),
    ],
)
def test_the_affinity_drawn_is_the_one_that_ranked(selector: Any) -> None:
    r"""It gives the scores by their definition, :math:`(I - rA) s = rA 1`."""
    selector.fit(X, Y)
    A, r, s = affinity_among(selector, X, Y, np.arange(7)), 0.9 / selector.rho_, selector.scores_
    # The picture takes the correlations in float32.
    np.testing.assert_allclose(s - r * A @ s, r * A.sum(axis=1), rtol=0, atol=1e-6 * s.max())
    assert not A[4].any()
    best = selector.order_[[3, 0, 5]]
    np.testing.assert_array_equal(affinity_among(selector, X, Y, best), A[np.ix_(best, best)])


def test_the_affinity_drawn_is_the_one_that_ranked_without_a_solver() -> None:
    for selector in (ILFS(), ECFS()):
        selector.fit(X, Y)
        A, s = affinity_among(selector, X, Y, np.arange(7)), selector.scores_
        np.testing.assert_allclose(A @ s, selector.rho_ * s, rtol=0, atol=1e-9 * selector.rho_ * s.max())


def test_the_affinity_of_constant_features() -> None:
    constant = np.ones((3, 2))
    with pytest.warns(UserWarning, match="all features are constant"):
        selector = InfFS().fit(constant)
    assert not affinity_among(selector, constant, None, np.arange(2)).any()
