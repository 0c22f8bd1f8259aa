"""trec_eval's numbers, the protocols of landmarks and shapes, comparisons, and PyG's metrics on result lists."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.metrics import LinkPredMAP, LinkPredNDCG, LinkPredPrecision, LinkPredRecall

from graphattn import _optional
from graphattn.retrieval import RankedLists, Run, read_qrels, read_run, write_run
from graphattn.retrieval.metrics import (
    Evaluation,
    compare,
    evaluate,
    evaluate_bulls_eye,
    evaluate_revisited,
    label_pairs,
    prediction_matrix,
    trapezoidal_average_precision,
)

SAMPLES = Path(__file__).parents[2].parent / "shared" / "data" / "retrieval" / "trec_eval_samples"
Dicts = dict[str, dict[str, Any]]


def trec_eval(*args: Any) -> Evaluation:
    pytest.importorskip("pytrec_eval", reason="pytrec_eval cannot be imported", exc_type=ImportError)
    return evaluate(*args)


def some_run(num_queries: int = 7, length: int = 30, pool: int = 60, levels: int = 9) -> tuple[Dicts, Dicts]:
    """Lists of different length with ties, and partial judgements in three grades."""
    rng = np.random.default_rng(0)
    names = np.array([f"d{i}" for i in range(pool)])
    run: Dicts = {}
    qrels: Dicts = {}
    for q in range(num_queries):
        docs = rng.permutation(names)[: length - q]
        scores = rng.integers(-levels, levels, len(docs)) / 4
        run[f"q{q}"] = dict(zip(docs.tolist(), scores.tolist(), strict=True))
        judged = rng.permutation(names)[: 20 + q].tolist()
        qrels[f"q{q}"] = dict(zip(judged, rng.integers(0, 3, len(judged)).tolist(), strict=True))
    return run, qrels


# What trec_eval 10 has and trec_eval 9, which is inside pytrec_eval, has not; and what is not a number.
ABSENT = {"rbp", "rbp_resid", "unj_5", "unj_10", "unj_20", "runid", "relstring"}


def interpolated(run: Dicts, qrels: Dicts, rounding: Any) -> dict[str, dict[str, float]]:
    """Interpolated precision at eleven levels of recall; versions of trec_eval round these to documents differently."""
    names = [f"iprec_at_recall_{level / 10:.2f}" for level in range(11)]
    per_query: dict[str, dict[str, float]] = {}
    for query, docs in run.items():
        ranked = sorted(sorted(docs, reverse=True), key=lambda doc: -np.float32(docs[doc]))
        ranks = [rank for rank, doc in enumerate(ranked, start=1) if qrels[query].get(doc, 0) > 0]
        precision = [hits / rank for hits, rank in enumerate(ranks, start=1)]
        relevant = sum(grade > 0 for grade in qrels[query].values())
        firsts = [max(1, rounding(level / 10 * relevant)) for level in range(11)]
        values = [max(precision[first - 1 :], default=0.0) for first in firsts]
        per_query[query] = {**dict(zip(names, values, strict=True)), "11pt_avg": float(np.mean(values))}
    means = {name: float(np.mean([values[name] for values in per_query.values()])) for name in [*names, "11pt_avg"]}
    return {**per_query, "all": means}


@pytest.mark.parametrize(
    ("name", "measures"), [("out.test", "official"), ("out.test.a", "all_trec"), ("out.test.aq", "all_trec")]
)
def test_trec_eval_samples_are_reproduced(name: str, measures: str) -> None:
    """All but the interpolated precisions, for which the rounding of version 9 replaces that of version 10."""
    if not SAMPLES.is_dir():
        pytest.skip(f"the samples of trec_eval are not at {SAMPLES}")
    run, qrels = read_run(SAMPLES / "results.test"), read_qrels(SAMPLES / "qrels.test")
    evaluation = trec_eval(run, qrels, (measures,))
    found = {**evaluation.per_query, "all": evaluation.mean}
    version_9, version_10 = (
        interpolated(run.to_dict(), qrels, lambda level, half=half: int(level + half)) for half in (0.9, 0.5)
    )
    checked = 0
    for line in (SAMPLES / name).read_text().splitlines():
        measure, query, value = line.split()
        if measure in ABSENT:
            continue
        digits = 4 if "." in value else 0
        if measure in version_10["all"]:
            assert f"{version_10[query][measure]:.{digits}f}" == value, (measure, query)
            value = f"{version_9[query][measure]:.{digits}f}"
        assert f"{found[query][measure]:.{digits}f}" == value, (measure, query)
        checked += 1
    assert checked == {"out.test": 29, "out.test.a": 93, "out.test.aq": 363}[name]


def test_readme_of_pytrec_eval() -> None:
    run = {"q1": {"d1": 1.0, "d2": 0.0, "d3": 1.5}, "q2": {"d1": 1.5, "d2": 0.2, "d3": 0.5}}
    qrels = {"q1": {"d1": 0, "d2": 1, "d3": 0}, "q2": {"d2": 1, "d3": 1}}
    found = trec_eval(run, qrels, ("map", "ndcg"))
    expected = {"q1": {"map": 0.333333, "ndcg": 0.5}, "q2": {"map": 0.583333, "ndcg": 0.693426}}
    for query, values in expected.items():
        assert found.per_query[query] == pytest.approx(values, abs=5e-7)
    assert list(found.mean) == ["map", "ndcg"]


def by_formula(docs: dict[str, float], grades: dict[str, int]) -> dict[str, float]:
    """The four default measures from their formulas; ties by name, the last first."""
    ranked = sorted(sorted(docs, reverse=True), key=lambda doc: -docs[doc])
    gains = [grades.get(doc, 0) for doc in ranked]
    relevant = sum(grade > 0 for grade in grades.values())
    hits, precision = 0, 0.0
    for rank, gain in enumerate(gains, start=1):
        if gain > 0:
            hits += 1
            precision += hits / rank
    ideal = sorted(grades.values(), reverse=True)
    dcg, best = (sum(g / math.log2(r + 1) for r, g in enumerate(some[:10], start=1)) for some in (gains, ideal))
    return {
        "map": precision / relevant,
        "ndcg_cut_10": dcg / best,
        "recall_100": sum(gain > 0 for gain in gains[:100]) / relevant,
        "P_1": float(gains[0] > 0),
    }


def test_values_are_those_of_the_formulas() -> None:
    run, qrels = some_run()
    found = trec_eval(run, qrels)
    assert list(found.per_query) == list(run)
    for query, values in found.per_query.items():
        assert values == pytest.approx(by_formula(run[query], qrels[query]), rel=1e-12)
    for name, mean in found.mean.items():
        assert mean == pytest.approx(np.mean([values[name] for values in found.per_query.values()]), rel=1e-12)


def test_runs_files_and_dicts_are_the_same(tmp_path: Path) -> None:
    run, qrels = some_run(levels=10**6)
    run = {query: {doc: float(np.float32(score)) for doc, score in docs.items()} for query, docs in run.items()}
    expected = trec_eval(run, qrels).per_query
    write_run(tmp_path / "run", Run.from_dict(run))
    assert trec_eval(Run.from_dict(run), qrels).per_query == expected
    assert trec_eval(read_run(tmp_path / "run"), qrels).per_query == expected


def test_ids_of_any_kind_come_back() -> None:
    run, qrels = some_run()
    numbers = {name: i for i, name in enumerate(run)}
    moved = trec_eval(
        {(numbers[q], "x"): {int(doc[1:]): np.float32(s) for doc, s in docs.items()} for q, docs in run.items()},
        {(numbers[q], "x"): {int(doc[1:]): np.int64(g) for doc, g in docs.items()} for q, docs in qrels.items()},
        ("recall_100", "num_rel"),
    )
    named = trec_eval(run, qrels, ("recall_100", "num_rel"))
    assert {query: named.per_query[query] for query in run} == {
        query: moved.per_query[number, "x"] for query, number in numbers.items()
    }
    assert moved.as_frame().index[2] == (2, "x")


def test_columns_are_in_the_order_asked_for() -> None:
    run, qrels = some_run()
    names = ("ndcg_cut_7", "P_3", "map", "iprec_at_recall_0.10", "ndcg_cut")
    found = trec_eval(run, qrels, names)
    cutoffs = [f"ndcg_cut_{k}" for k in (5, 10, 15, 20, 30, 100, 200, 500, 1000)]
    assert list(found.mean) == [*names[:4], *cutoffs]
    assert all(list(values) == list(found.mean) for values in found.per_query.values())
    frame = found.as_frame()
    assert list(frame.columns) == list(found.mean)
    assert frame.loc["q3", "P_3"] == found.per_query["q3"]["P_3"]
    assert frame.index.name == "query"


def test_groups_hold_numbers_only() -> None:
    run, qrels = some_run()
    found = trec_eval(run, qrels, ("official", "all_trec"))
    assert not {"runid", "relstring"} & set(found.mean)
    assert found.mean["num_q"] == len(run)
    assert found.mean["gm_map"] == pytest.approx(
        math.exp(np.mean([math.log(values["map"]) for values in found.per_query.values()])), rel=1e-12
    )


def test_queries_without_list_or_judgement_are_named() -> None:
    run, qrels = some_run()
    everything = trec_eval(run, qrels)
    del run["q1"], qrels["q4"]
    qrels["q5"] = {}
    qrels["empty"] = {}
    found = trec_eval(run, qrels)
    assert found.left_out == {"q4": "no judgement", "q5": "no judgement", "q1": "no list"}
    assert found.per_query == {query: everything.per_query[query] for query in ("q0", "q2", "q3", "q6")}
    assert repr(found).startswith("Evaluation(4 queries, 3 left out: map ")


def test_an_empty_list_and_no_relevant_document_are_zero() -> None:
    found = trec_eval({"q1": {}, "q2": {"a": 1}}, {"q1": {"a": 1}, "q2": {"a": 0}})
    assert all(value == 0 for values in found.per_query.values() for value in values.values())


@pytest.mark.parametrize(
    "measure",
    ["P_0", "P_1x", "P_1,5", "P.5", "P_-1", "P_99999999999", "map_5", "foo", "runid", "relstring", "prefs", "ndcg_10"],
)
def test_unknown_measures_are_refused(measure: str) -> None:
    run, qrels = some_run()
    with pytest.raises(ValueError, match=rf"measures contains '{measure}'; expected some of .*map"):
        trec_eval(run, qrels, ("map", measure))


@pytest.mark.parametrize("measures", ["map", ()])
def test_measures_are_a_sequence(measures: Any) -> None:
    run, qrels = some_run()
    with pytest.raises(ValueError, match="expected a sequence of names"):
        trec_eval(run, qrels, measures)


@pytest.mark.parametrize("score", [math.nan, math.inf, "1", None])
def test_scores_that_are_no_numbers_are_refused(score: Any) -> None:
    run, qrels = some_run()
    run["q2"]["d1"] = score
    with pytest.raises(ValueError, match=rf"run has score {score!r} at 'd1' of query 'q2'; expected a number"):
        trec_eval(run, qrels)


def test_other_bad_input_of_evaluate() -> None:
    run, qrels = some_run()
    with pytest.raises(TypeError, match=r"run is a list; expected a dict \{query: \{document: score\}\} or a Run"):
        trec_eval([run], qrels)
    with pytest.raises(TypeError, match=r"qrels is a dict; expected a dict \{query: \{document: grade\}\}"):
        trec_eval(run, {"q1": ["d1"]})
    with pytest.raises(TypeError, match=r"qrels has grade 0.5 at 'd' of query 'q1'; expected an integer"):
        trec_eval(run, {"q1": {"d": 0.5}})
    with pytest.raises(ValueError, match=r"no query in common; they have 7 \('q0', 'q1', 'q2', ...\) and 1 \('Q1'\)"):
        trec_eval(run, {"Q1": {"d1": 1}})
    with pytest.raises(ValueError, match=r"no query in common; they have none and none"):
        trec_eval({}, {})
    with pytest.raises(ValueError, match="the query ids as texts holds '1' twice"):
        trec_eval({1: {"d": 1.0}, "1": {"d": 1.0}}, {1: {"d": 1}, "1": {"d": 1}})
    with pytest.raises(ValueError, match="the document ids as texts holds '1' twice"):
        trec_eval({"q": {1: 1.0, "1": 2.0}}, {"q": {1: 1}})


def test_scores_that_are_equal_in_float32_are_ordered_by_name() -> None:
    """As in trec_eval, whose file of the same numbers gives the same."""
    qrels = {"q": {"a": 1}}
    for run, value in (({"a": 1.0, "b": 0.999}, 1.0), ({"a": 1.0 + 1e-12, "b": 1.0}, 0.5), ({"a": 1, "B": 1}, 1.0)):
        assert trec_eval({"q": run}, qrels).mean["map"] == value


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run, qrels = some_run()
    monkeypatch.setattr(_optional, "_attempt", lambda module: ModuleNotFoundError(f"No module named {module!r}"))
    with pytest.raises(ImportError, match=r"pytrec_eval is needed here .*pip install 'graphattn\[retrieval\]'"):
        evaluate(run, qrels)


def test_inputs_are_left_alone() -> None:
    run, qrels = some_run()
    copies = some_run()
    trec_eval(run, qrels)
    assert (run, qrels) == copies


def test_comparison_counts_queries() -> None:
    run, qrels = some_run()
    turned = {query: {doc: -score for doc, score in docs.items()} for query, docs in run.items()}
    before, after = trec_eval(run, qrels), trec_eval(turned, qrels)
    found = compare(before, after)
    for name in before.mean:
        pairs = [(before.per_query[query][name], after.per_query[query][name]) for query in run]
        counts = (sum(b > a for a, b in pairs), sum(b == a for a, b in pairs), sum(b < a for a, b in pairs))
        assert (found.wins[name], found.ties[name], found.losses[name]) == counts
    assert found.ties["recall_100"] == len(run)
    assert found.wins["map"] > 0
    assert found.losses["map"] > 0
    assert (found.before, found.after) == (before.mean, after.mean)
    frame = found.as_frame()
    assert list(frame.columns) == ["before", "after", "wins", "ties", "losses"]
    assert frame.loc["map", "wins"] == found.wins["map"]
    assert compare(before, before).ties == dict.fromkeys(before.mean, len(run))
    assert "map 0." in repr(found)


def test_comparison_needs_the_same_queries_and_metrics() -> None:
    one = Evaluation({"a": {"map": 1.0}}, {"map": 1.0}, {})
    with pytest.raises(ValueError, match=r"do not have the same queries: 2 are in one only \('a', 'b'\)"):
        compare(one, Evaluation({"b": {"map": 1.0}}, {"map": 1.0}, {}))
    with pytest.raises(ValueError, match=r"do not have the same metrics: 2 are in one only \('P_1', 'map'\)"):
        compare(one, Evaluation({"a": {"P_1": 1.0}}, {"P_1": 1.0}, {}))


# Positions of the positives, how many there are, and the two average precisions.
WORKED = [
    ([0], 1, 1.0, 1.0),
    ([1], 1, 0.25, 0.5),
    ([0, 2], 2, 0.791667, 0.833333),
    ([1, 2], 2, 0.416667, 0.583333),
    ([0, 1], 4, 0.5, 0.5),
    ([], 3, 0.0, 0.0),
]


@pytest.mark.parametrize(("positions", "num_positives", "trapezoidal", "trec"), WORKED)
def test_worked_values(positions: list[int], num_positives: int, trapezoidal: float, trec: float) -> None:
    assert trapezoidal_average_precision(positions, num_positives) == pytest.approx(trapezoidal, abs=5e-7)
    run = {"q": {f"d{place}": -float(place) for place in range(3)}}
    names = [f"d{place}" for place in positions]
    names += [f"missed{i}" for i in range(num_positives - len(positions))]
    found = evaluate_revisited(run, {"q": {"easy": names}}, "easy")
    assert found.mean["map_trapezoidal"] == pytest.approx(trapezoidal, abs=5e-7)
    assert trec_eval(run, {"q": dict.fromkeys(names, 1)}).mean["map"] == pytest.approx(trec, abs=5e-7)


def test_trapezoidal_is_that_of_trec_when_positives_lead_and_below_otherwise() -> None:
    rng = np.random.default_rng(0)
    for count in range(1, 8):
        assert trapezoidal_average_precision(np.arange(count), 9) == pytest.approx(count / 9, rel=1e-15)
        positions = np.sort(rng.permutation(40)[:count]) + 1
        trec = (np.arange(1, count + 1) / (positions + 1)).sum() / 9
        assert trapezoidal_average_precision(positions[::-1], 9) < trec


@pytest.mark.parametrize(("positions", "num_positives"), [([-1], 2), ([3, 3], 2)])
def test_positions_that_are_none(positions: list[int], num_positives: int) -> None:
    with pytest.raises(ValueError, match="expected different positions of at least 0"):
        trapezoidal_average_precision(positions, num_positives)


@pytest.mark.parametrize(("positions", "least"), [([], 1), ([1, 4], 2)])
def test_fewer_positives_than_positions(positions: list[int], least: int) -> None:
    with pytest.raises(ValueError, match=f"num_positives is {least - 1}; expected at least {least}"):
        trapezoidal_average_precision(positions, least - 1)


def revisited_by_loops(ranked: list[int], ok: set[int], junk: set[int], cutoffs: tuple[int, ...]) -> list[float]:
    """What the release computes, walking down one list."""
    place, found, area, positions = 0, 0, 0.0, []
    for item in ranked:
        if item in junk:
            continue
        if item in ok:
            precision_0 = 1.0 if place == 0 else found / place
            precision_1 = (found + 1) / (place + 1)
            area += (precision_0 + precision_1) / 2 / len(ok)
            found += 1
            positions.append(place + 1)
        place += 1
    values = [area]
    for k in cutoffs:
        kq = min(max(positions), k)
        values.append(sum(position <= kq for position in positions) / kq)
    return values


@pytest.mark.parametrize(
    ("protocol", "ok", "junk"),
    [
        ("easy", ["easy"], ["junk", "hard"]),
        ("medium", ["easy", "hard"], ["junk"]),
        ("hard", ["hard"], ["junk", "easy"]),
    ],
)
def test_protocols_are_those_of_the_release(protocol: str, ok: list[str], junk: list[str]) -> None:
    rng = np.random.default_rng(3)
    cutoffs = (1, 5, 10, 100)
    run: dict[Any, dict[Any, float]] = {}
    truth: dict[Any, dict[str, list[int]]] = {}
    for query in range(12):
        order = rng.permutation(50).tolist()
        run[query] = {item: float(score) for item, score in zip(order, rng.standard_normal(50), strict=True)}
        labels = rng.permutation(50)[:18].tolist()
        truth[query] = {"easy": labels[:5], "hard": labels[5:11], "junk": labels[11:], "bbx": [0, 0, 1, 1]}
    found = evaluate_revisited(run, truth, protocol, cutoffs)
    for query, values in found.per_query.items():
        ranked = sorted(run[query], key=lambda item: -run[query][item])
        sets = [{item for label in labels for item in truth[query][label]} for labels in (ok, junk)]
        assert list(values.values()) == pytest.approx(revisited_by_loops(ranked, *sets, cutoffs), rel=1e-12)
    assert list(found.mean) == ["map_trapezoidal", "mP@1", "mP@5", "mP@10", "mP@100"]
    assert found.mean["mP@5"] == pytest.approx(np.mean([v["mP@5"] for v in found.per_query.values()]), rel=1e-12)
    assert evaluate_revisited(Run.from_dict(run), truth, protocol, cutoffs).per_query == found.per_query


def test_precision_of_a_list_that_ends_early_divides_by_the_last_positive() -> None:
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    found = evaluate_revisited(run, {"q": {"hard": ["b", "not found"]}}, "hard", (1, 2, 10))
    assert found.mean == {"map_trapezoidal": 0.125, "mP@1": 0.0, "mP@2": 0.5, "mP@10": 0.5}
    missed = evaluate_revisited(run, {"q": {"hard": ["not found"]}}, "hard", (1, 2, 10))
    assert set(missed.mean.values()) == {0.0}


def test_queries_without_positives_are_left_out_of_the_mean() -> None:
    run = {query: {"a": 2.0, "b": 1.0} for query in ("q1", "q2", "q3")}
    truth = {"q1": {"easy": ["b"]}, "q2": {"hard": ["a"], "junk": ["b"]}, "q4": {"easy": ["a"]}}
    found = evaluate_revisited(run, truth, "easy")
    assert found.left_out == {"q3": "no ground truth", "q2": "no positive", "q4": "no list"}
    assert found.mean["map_trapezoidal"] == 0.25
    assert all(math.isnan(value) for value in found.per_query["q2"].values())
    change = compare(found, evaluate_revisited({**run, "q1": {"b": 2.0, "a": 1.0}}, truth, "easy"))
    assert (change.wins["map_trapezoidal"], change.ties["mP@10"], change.losses["mP@1"]) == (1, 0, 0)


def test_equal_scores_stay_in_order() -> None:
    truth = {"q": {"easy": ["b"]}}
    first = evaluate_revisited({"q": {"b": 1.0, "a": 1.0, "c": -math.inf}}, truth)
    second = evaluate_revisited({"q": {"a": 1.0, "b": 1.0, "c": -math.inf}}, truth)
    assert (first.mean["mP@1"], second.mean["mP@1"]) == (1.0, 0.0)


def test_bad_input_of_the_protocols() -> None:
    run: dict[Any, Any] = {"q": {"a": 1.0}}
    truth: dict[Any, Any] = {"q": {"easy": ["a"]}}
    with pytest.raises(ValueError, match="protocol is 'all'; expected 'easy', 'medium', 'hard'"):
        evaluate_revisited(run, truth, "all")
    for cutoffs in ((0,), (True,), (1.5,)):
        with pytest.raises(ValueError, match="expected integers, at least 1"):
            evaluate_revisited(run, truth, cutoffs=cutoffs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="query 'q' has label 'ok'; expected easy, hard or junk"):
        evaluate_revisited(run, {"q": {"ok": ["a"]}})
    with pytest.raises(ValueError, match="query 'q' has two labels for document 'a'"):
        evaluate_revisited(run, {"q": {"easy": ["a"], "junk": ["a", "b"]}})
    with pytest.raises(ValueError, match="no query with a positive in common"):
        evaluate_revisited(run, truth, "hard")
    with pytest.raises(ValueError, match="run has score nan at 'a' of query 'q'"):
        evaluate_revisited({"q": {"a": math.nan}}, truth)


def test_bulls_eye_is_the_count_in_the_sorted_distances() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(6), [5, 5, 5, 5, 5, 5])
    points = rng.standard_normal((30, 2)) + 1.5 * rng.standard_normal((6, 2))[classes]
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    hits = (classes[distance.argsort(1)[:, :10]] == classes[:, None]).sum()
    run = {i: {j: -float(distance[i, j]) for j in range(30)} for i in range(30)}
    found = evaluate_bulls_eye(run, dict(enumerate(classes.tolist())))
    assert found.mean["bulls_eye"] == pytest.approx(hits / (30 * 5), rel=1e-12)
    assert 0.2 < found.mean["bulls_eye"] < 1.0
    assert found.per_query[3] == {"bulls_eye": (classes[distance[3].argsort()[:10]] == 0).sum() / 5}


def test_bulls_eye_window_follows_the_size_of_the_class() -> None:
    classes = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "b3": "b"}
    order = ["a1", "b1", "b2", "b3", "a2"]
    scores = {item: -float(rank) for rank, item in enumerate(order)}
    found = evaluate_bulls_eye({"a1": scores, "b1": scores}, classes)
    assert found.per_query == {"a1": {"bulls_eye": 0.5}, "b1": {"bulls_eye": 1.0}}


def test_bad_input_of_the_bulls_eye() -> None:
    with pytest.raises(ValueError, match="run of query 'a' does not contain the query"):
        evaluate_bulls_eye({"a": {"b": 1.0}}, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="classes has no class of item 'b', which is in the list of query 'a'"):
        evaluate_bulls_eye({"a": {"a": 1.0, "b": 0.5}}, {"a": 1})
    with pytest.raises(ValueError, match="run has no queries"):
        evaluate_bulls_eye({}, {})


def padded_lists() -> tuple[RankedLists, torch.Tensor, torch.Tensor]:
    """Lists with empty slots, and labels; the last item has the label of a query whose next list is padded."""
    items = torch.arange(20) % 4
    queries = torch.tensor([3, 0, 3, 2, 9])
    indices = torch.stack([torch.randperm(20)[:12] for _ in range(5)])
    indices[1, 9:] = -1
    indices[3, 7:] = -1
    scores = torch.arange(12, 0, -1.0).expand(5, 12).masked_fill(indices < 0, -torch.inf)
    return RankedLists(indices, scores, torch.arange(12).expand(5, 12)), queries, items


@pytest.mark.parametrize(
    ("metric", "measure"),
    [(LinkPredMAP(12), "map"), (LinkPredNDCG(10), "ndcg_cut_10"), (LinkPredRecall(5), "recall_5")],
)
def test_metrics_of_pyg_are_those_of_trec_eval(metric: Any, measure: str) -> None:
    lists, queries, items = padded_lists()
    pairs = label_pairs(queries, items)
    metric.update(prediction_matrix(lists, 20), pairs)
    qrels: dict[Any, dict[Any, int]] = {}
    for query, item in pairs.T.tolist():
        qrels.setdefault(query, {})[item] = 1
    expected = trec_eval(Run.from_arrays(lists.indices, lists.scores), qrels, (measure,))
    assert expected.left_out == {4: "no judgement"}
    assert metric.compute().item() == pytest.approx(expected.mean[measure], rel=4 * torch.finfo(torch.float32).eps)


def test_empty_slots_are_no_hits() -> None:
    lists = RankedLists(torch.tensor([[0, 3], [1, -1]]), torch.zeros(2, 2), torch.zeros(2, 2))
    metric = LinkPredPrecision(2)
    matrix = prediction_matrix(lists.numpy(), 4)
    metric.update(matrix, torch.tensor([[0, 1], [3, 0]]))
    assert metric.compute() == 0.25
    assert matrix.tolist() == [[0, 3], [1, 4]]
    assert lists.indices[1, 1] == -1
    with pytest.raises(ValueError, match="lists contains id 3; expected ids below num_items, 3"):
        prediction_matrix(lists, 3)


def test_pairs_of_labels_are_those_of_all_pairs() -> None:
    queries, items = torch.randint(0, 6, (13,)), torch.randint(0, 5, (29,))
    own = torch.randint(-1, 29, (13,))
    same = queries.unsqueeze(1) == items
    assert torch.equal(label_pairs(queries, items), same.nonzero().T)
    same[torch.arange(13)[own >= 0], own[own >= 0]] = False
    assert torch.equal(label_pairs(queries.numpy(), items.numpy(), own.numpy()), same.nonzero().T)
    assert label_pairs(queries[:0], items).shape == label_pairs(queries, items[:0]).shape == (2, 0)
    with pytest.raises(ValueError, match=r"item_labels has shape \(29, 1\); expected one axis"):
        label_pairs(queries, items.unsqueeze(1))
    with pytest.raises(ValueError, match="query_ids has length 12; expected 13, one per query"):
        label_pairs(queries, items, own[1:])
