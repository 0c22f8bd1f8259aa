"""The re-ranking benchmark runs end to end, reads the sets as they are, and marks what ranks otherwise."""

from __future__ import annotations

import gzip
import json
import math
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from graphattn.engine import Recipe
from graphattn.retrieval import ContextualReranker
from tests.retrieval import published

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
DATA = FOLDER.parents[1] / "shared" / "data"
QUICK = ["--quick", "--repeats", "2", "--threads", "1"]

pytest.importorskip("pytrec_eval", reason="quality is evaluated by pytrec_eval")


@pytest.fixture
def benchmark(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, its helpers beside it."""
    import reranking

    monkeypatch.setattr(reranking.speed, "WARM_UP_CALLS", 1)
    monkeypatch.setattr(reranking.speed, "LATENCY_CALLS", 3)
    return reranking


def average_precision(relevant: np.ndarray) -> float:
    """Mean over the relevant items of the part of those before and with it that are relevant."""
    places = np.flatnonzero(relevant)
    return float(np.mean([(j + 1) / (place + 1) for j, place in enumerate(places)]))


def test_quick_run_measures_every_part(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.run(benchmark.parse([*QUICK, "--out", str(tmp_path)]))
    text = (tmp_path / "reranking.json").read_text()
    results = json.loads(text)
    assert {"python", "scipy", "pytrec-eval-terrier", "graphattn"} <= results["versions"].keys()
    assert str(FOLDER.parent) not in text

    methods = results["quality"]["clusters"]["methods"]
    inductive = {name for name, method in benchmark.quality.METHODS.items() if not method.transductive}
    assert set(methods) == inductive
    for record in methods.values():
        assert record["status"] == "ok", record
        assert record["queries"] == 60
        assert record["won"] + record["lost"] <= 60
        # Six clusters: any order but a broken one is far better than chance, one in six.
        assert record["metrics"]["map"] > 0.25
    assert methods["KReciprocal"]["metrics"]["map"] > methods["first stage"]["metrics"]["map"] + 0.05

    for do, names in (("batch", benchmark.speed.BATCH_METHODS), ("single", benchmark.speed.SINGLE_METHODS)):
        assert set(results["speed"][do]["methods"]) == set(names)
        for record in results["speed"][do]["methods"].values():
            assert record["status"] == "ok", record
            assert 0 < (record if do == "single" else record["rerank"])["median"] < math.inf
    assert set(results["scale"]) == {"60", "90"}
    for entry in results["scale"].values():
        for forms in entry["methods"].values():
            assert all(record["status"] == "ok" for record in forms.values()), forms
            assert forms["graphattn, same scores"]["agreement"]["queries"] == 1
            assert not any("scores" in record for record in forms.values())

    assert (tmp_path / "reranking.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "reranking.png").stat().st_size > 0
    assert not list(tmp_path.glob("*.partial"))


def test_form_that_ranks_otherwise_is_marked(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dense, size, make = benchmark.speed.SCALED["k-reciprocal"]
    monkeypatch.setitem(benchmark.speed.SCALED, "k-reciprocal", (dense, size, partial(make, 3, 2)))
    monkeypatch.setattr(benchmark.speed, "QUICK_SIZES", (60,))
    results = benchmark.run(benchmark.parse([*QUICK, "--parts", "scale", "--out", str(tmp_path)]))
    methods = results["scale"]["60"]["methods"]
    assert methods["k-reciprocal"]["graphattn, same scores"]["status"] == "WRONG"
    assert methods["GNN"]["graphattn, same scores"]["status"] == "ok"
    assert "WRONG" in (tmp_path / "reranking.md").read_text()


def test_dense_form_that_does_not_fit_is_left_out(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(spec: dict) -> dict:
        asked.append(spec["form"])
        return {"scores": [[0.0]]}

    load = benchmark.speed.Load(10, 20, 16, 90)
    monkeypatch.setattr(benchmark.speed, "FORMS", {"GNN": ("published, dense", "graphattn, same scores")})
    monkeypatch.setattr(benchmark.speed, "DENSE_LIMIT", benchmark.speed.published.GNN_BYTES * 100**2)
    records = benchmark.speed.measure_scale(load, ask)["methods"]["GNN"]
    assert records["published, dense"] == {"status": "ok"}
    monkeypatch.setattr(benchmark.speed, "DENSE_LIMIT", benchmark.speed.published.GNN_BYTES * 100**2 - 1)
    records = benchmark.speed.measure_scale(load, ask)["methods"]["GNN"]
    assert records["published, dense"] == {"status": "skipped", "reason": "it needs 0 GiB (estimated)"}
    assert asked == ["published, dense", "graphattn, same scores", "graphattn, same scores"]


def test_heads_agree_but_for_scores_within_the_gap(benchmark: ModuleType) -> None:
    truth = np.random.default_rng(0).random((4, 50))
    found = benchmark.speed.agreement(truth, 3 * truth - 1)
    assert found == {"same_place": 1.0, "queries": 1.0}

    order = np.argsort(-truth, axis=1)
    moved = truth.copy()
    moved[0, order[0, [5, 6]]] = truth[0, order[0, [6, 5]]]  # within the head, by more than the gap
    moved[1, order[1, [40, 41]]] = truth[1, order[1, [41, 40]]]  # behind it
    close = truth.copy()
    close[0, order[0, 6]] = truth[0, order[0, 5]] - 1e-6
    assert benchmark.speed.agreement(truth, moved) == {"same_place": 1 - 2 / 80, "queries": 0.75}
    assert benchmark.speed.agreement(close, moved) == {"same_place": 1 - 2 / 80, "queries": 1.0}


@pytest.mark.parametrize("k2", [1, 4])
def test_dense_forms_are_those_that_were_published(benchmark: ModuleType, k2: int) -> None:
    forms = benchmark.speed.published
    x = np.random.default_rng(1).standard_normal((50, 6))
    queries, gallery = x[:7], x[7:]
    # Float32 scores of float64 truth: sums of at most 50 terms of at most 1.
    error = {"rtol": 0, "atol": 50 * np.finfo(np.float32).eps}
    theirs = -published.k_reciprocal(queries, gallery, 8, k2)
    np.testing.assert_allclose(forms.k_reciprocal(queries, gallery, 8, k2), theirs, **error)
    assert forms.k_reciprocal(queries, gallery).dtype == np.float32
    theirs = published.gnn(queries, gallery, 8, k2)
    # Without the layers, the scores count the neighbours that are shared.
    np.testing.assert_allclose(forms.gnn(queries, gallery, 8, k2), theirs, rtol=1e-6, atol=error["atol"])


def test_lists_leave_the_query_out_and_are_judged_as_they_stand(benchmark: ModuleType) -> None:
    quality, data = benchmark.quality, benchmark.quick_set()
    lists, record = quality.rank(data, quality.METHODS["first stage"])
    assert (np.sort(lists, axis=1) == [[j for j in range(60) if j != i] for i in range(60)]).all()
    similarity = np.take_along_axis(data.queries @ data.gallery.T, lists, 1)
    assert (np.diff(similarity, axis=1) <= 0).all()
    assert record["self_excluded"]
    assert record["K"] is None

    found = quality.judge(data, lists)
    relevant = np.take_along_axis(data.relevance, lists, 1)
    assert found.mean["map"] == pytest.approx(np.mean([average_precision(row) for row in relevant]), rel=1e-12)
    assert found.mean["recall_10"] == pytest.approx(relevant[:, :10].sum() / relevant.sum(), rel=1e-12)
    assert found.mean["P_1"] == relevant[:, 0].mean()

    for name in ("KReciprocal", "KReciprocal, gallery", "DatabaseAugmentation, average"):
        lists, record = quality.rank(data, quality.METHODS[name])
        assert (np.sort(lists, axis=1) == [[j for j in range(60) if j != i] for i in range(60)]).all()
        assert record["scope"] == ("candidates" if name == "KReciprocal" else "gallery")


def test_bulls_eye_counts_the_query_among_twice_its_class(benchmark: ModuleType, monkeypatch) -> None:
    quality, data = benchmark.quality, benchmark.quick_set()
    monkeypatch.setattr(quality, "BULLS_EYE_SETS", ("clusters",))
    lists, _ = quality.rank(data, quality.METHODS["first stage"])
    hits = 1 + np.take_along_axis(data.relevance, lists, 1)[:, :19].sum(axis=1)
    assert quality.judge(data, lists).mean["bulls_eye"] == pytest.approx(np.mean(hits / 10), rel=1e-12)


def test_queries_that_are_items_are_not_added_to_the_gallery_again(benchmark: ModuleType) -> None:
    from _reranking_data import RetrievalSet

    x = np.eye(4, dtype=np.float32)
    inside, outside = (RetrievalSet("s", "text", x, x, np.ones((4, 4)), own) for own in (True, False))
    assert not any(method.transductive for method in benchmark.quality.methods_of(inside, None).values())
    assert any(method.transductive for method in benchmark.quality.methods_of(outside, None).values())


def test_long_galleries_are_ranked_by_their_heads(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    quality, data = benchmark.quality, benchmark.quick_set()
    monkeypatch.setitem(quality.LONGEST, "clusters", 15)
    first, _ = quality.rank(data, quality.METHODS["first stage"])
    lists, record = quality.rank(data, quality.METHODS["KReciprocal"])
    assert record["K"] == 15
    assert (lists[:, 15:] == first[:, 15:]).all()
    assert not (lists[:, :15] == first[:, :15]).all()
    assert (np.sort(lists[:, :15]) == np.sort(first[:, :15])).all()


def test_checkpoint_gets_a_row_of_its_own(benchmark: ModuleType, tmp_path: Path) -> None:
    quality, data = benchmark.quality, benchmark.quick_set()
    gallery, labels = torch.from_numpy(data.gallery), torch.arange(6).repeat_interleave(10)
    trained = ContextualReranker(num_anchors=8, width=8, depth=1, heads=2)
    trained.fit(gallery, labels=labels, recipe=Recipe(epochs=1), validation=0.5).save(tmp_path / "trained.pt")

    method = quality.methods_of(data, tmp_path / "trained.pt")["ContextualReranker"]
    lists, record = quality.rank(data, method)
    assert (record["settings"], record["K"]) == ("trained", 59)
    first, _ = quality.rank(data, quality.METHODS["first stage"])
    expected = trained.rerank(data.queries, data.gallery, first).indices
    assert (lists == expected).all()
    assert "ContextualReranker" not in quality.methods_of(data, None)


def test_mean_gain_is_over_sets_that_all_have_the_method(benchmark: ModuleType) -> None:
    from _reranking_report import mean_gains

    def entry(kind: str, **found: float) -> dict:
        record = {"status": "ok", "transductive": False}
        names = {"first": "first stage"}
        methods = {names.get(n, n): {**record, "metrics": {"map": value}} for n, value in found.items()}
        return {"status": "ok", "kind": kind, "methods": methods}

    sets = {
        "one": entry("image", first=0.5, a=0.6, b=0.9),
        "two": entry("image", first=0.2, a=0.5),
        "three": entry("text", first=0.1, a=0.0),
        "gone": {"status": "missing"},
    }
    assert mean_gains(sets, "image", "map") == {"a": pytest.approx(0.2)}
    assert mean_gains(sets, "text", "map") == {"a": pytest.approx(-0.1)}
    assert mean_gains(sets, None, "map") == {"a": pytest.approx(0.1)}
    assert mean_gains({}, "text", "map") == {}


def test_missing_set_is_reported_and_a_stopped_run_goes_on(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import _reranking_data as sets

    data = sets.quick_set()

    def gone(root: Path) -> None:
        raise sets._MissingError("there is no gone.mat")

    made = []
    here = lambda root: made.append(root) or (2 * data.queries, data.gallery, data.relevance)  # noqa: E731
    monkeypatch.setattr(sets, "SETS", {"gone": ("image", True, gone), "here": ("image", True, here)})
    names = ("first stage", "QueryExpansion, average", "AffinityFeatures")
    monkeypatch.setattr(benchmark.quality, "METHODS", {name: benchmark.quality.METHODS[name] for name in names})
    options = ["--parts", "quality", "--out", str(tmp_path), "--data", str(tmp_path), "--threads", "1"]
    first = benchmark.run(benchmark.parse(options))["quality"]
    assert first["gone"] == {"status": "missing", "reason": "there is no gone.mat"}
    assert "gone.mat" in (tmp_path / "reranking.md").read_text()
    assert (first["here"]["queries"], first["here"]["items"], first["here"]["width"]) == (60, 60, 16)

    path = tmp_path / "reranking.json"
    stopped = json.loads(path.read_text())
    del stopped["quality"]["here"]["methods"]["AffinityFeatures"]
    path.write_text(json.dumps(stopped))
    measured = []
    measure = benchmark.quality.measure
    monkeypatch.setattr(
        benchmark.quality, "measure", lambda data, method, before: measured.append(1) or measure(data, method, before)
    )
    resumed = benchmark.run(benchmark.parse([*options, "--resume"]))["quality"]
    assert measured == [1]
    assert made == [tmp_path]  # the second run reads the cache
    for name, record in resumed["here"]["methods"].items():
        assert record["metrics"] == first["here"]["methods"][name]["metrics"]
    with pytest.raises(SystemExit, match="other settings"):
        benchmark.run(benchmark.parse([*options, "--repeats", "7", "--resume"]))


def test_texts_and_judgements_are_read_as_they_stand(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import _reranking_data as sets

    embedded = []
    monkeypatch.setattr(sets, "_embed", lambda texts: embedded.append(texts) or np.ones((len(texts), 3), np.float32))
    cranfield, med = tmp_path / "retrieval" / "cranfield_trec", tmp_path / "retrieval" / "med"
    for folder in (cranfield, med):
        folder.mkdir(parents=True)
    documents = "<doc>\n<docno>7</docno>\n<text>lift & drag</text>\n</doc>\n<doc><docno>9</docno><text></text></doc>"
    (cranfield / "cran.all.1400.xml.gz").write_bytes(gzip.compress(documents.encode()))
    queries = "<xml><top><num> 4</num><title>a</title></top>\n<top><num> 8</num><title>b</title></top></xml>"
    (cranfield / "cran.qry.xml.gz").write_bytes(gzip.compress(queries.encode()))
    (cranfield / "cranqrel.trec.txt").write_text("1 0 9 1\n2 0 7 3\n2 0 9 0\n")
    (med / "MED.ALL.gz").write_bytes(gzip.compress(b".I 1\r\n.W\r\nlens\r\nproteins\r\n.I 2\r\n.W\r\nbone\r\n"))
    (med / "MED.QRY").write_bytes(b".I 1\r\n.W\r\n lens.\r\n")
    (med / "MED.REL").write_text("1 0 2 1\n")

    loaded = sets.load_set("Cranfield", tmp_path, tmp_path / "cache")
    assert embedded == [["a", "b"], ["lift & drag", ""]]
    assert loaded.relevance.tolist() == [[0, 1], [3, 0]]  # judgements number the queries by their order
    np.testing.assert_allclose(np.linalg.norm(loaded.queries, axis=1), 1, rtol=1e-6)
    assert (loaded.kind, loaded.leave_one_out) == ("text", False)

    embedded.clear()
    loaded = sets.load_set("MED", tmp_path, tmp_path / "cache")
    assert [[" ".join(text.split()) for text in texts] for texts in embedded] == [["lens."], ["lens proteins", "bone"]]
    assert loaded.relevance.tolist() == [[0, 1]]


def test_what_is_not_there_is_named(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import _reranking_data as sets

    reasons = {name: sets.load_set(name, tmp_path, tmp_path / "cache").reason for name in sets.SETS}
    assert reasons["ORL-pixels"] == "there is no ORL.mat"
    assert reasons["Cranfield"] == "there is no cran.all.1400.xml.gz"
    assert reasons["MED"] == "there is no MED.ALL.gz"
    assert sets.load_set("MED", None, tmp_path / "cache").reason == "there is no folder of the data"
    monkeypatch.setitem(sys.modules, "mahotas", None)
    assert sets.load_set("MPEG-7", tmp_path, tmp_path / "cache").reason == "there is no package mahotas"
    assert not (tmp_path / "cache").exists()


def test_shapes_are_described_whatever_their_size_and_place(benchmark: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("mahotas", reason="shapes are described by mahotas")
    from _reranking_data import load_set
    from PIL import Image

    folder = tmp_path / "retrieval" / "mpeg7"
    folder.mkdir(parents=True)
    bar = np.zeros((80, 80), np.uint8)
    bar[20:60, 30:50] = 255
    large, moved, disc = np.kron(bar, np.ones((3, 3), np.uint8)), np.roll(bar, (9, -7), (0, 1)), np.zeros_like(bar)
    disc[np.hypot(*(np.indices(bar.shape) - 40)) < 25] = 255
    for name, pixels in {"Bar-1": large, "bar-2": bar, "bar-3": moved, "disc-1": disc}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    data = load_set("MPEG-7", tmp_path, tmp_path / "cache")
    assert data.relevance.tolist() == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    similarity = data.queries @ data.gallery.T
    assert similarity[1, 2] == pytest.approx(1, abs=1e-6)
    assert similarity[0, 1:3].min() > 0.99  # pixels are coarse
    assert similarity[:3, 3].max() < 0.95


@pytest.mark.skipif(not DATA.exists(), reason="there is no folder of the data")
def test_first_stage_of_the_faces_is_the_known_one(benchmark: ModuleType, tmp_path: Path) -> None:
    from _reranking_data import load_set

    quality = benchmark.quality
    data = load_set("ORL-pixels", DATA, tmp_path)
    lists, _ = quality.rank(data, quality.METHODS["first stage"])
    assert quality.judge(data, lists).mean["map"] == pytest.approx(0.531, abs=5e-4)
