"""The estimators of the non-parametric transformer: what predictions depend on, mixed tables, graphs and chunks."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_classification
from torch import Tensor

from graphattn.affinity import SparseAffinity, complete
from graphattn.tabular import NPTClassifier, NPTRegressor, _npt_base, npt
from graphattn.tabular._inter_row import coordinates, nearest_rows, part, row_chunks, with_loops, with_queries
from graphattn.tabular._npt_task import temperature

TINY: dict[str, Any] = {"channels": 8, "depth": 2, "heads": 2, "max_iter": 10, "random_state": 0}
# Predictions are computed in float32, in another order for another block of rows.
ROUNDING = 1e-5


def classes(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    return make_classification(
        n, 5, n_informative=3, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0
    )


def mixed(n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    color = rng.choice(["red", "green", "blue"], n)
    size = rng.normal(size=n)
    y = (color == "red") * 2.0 + size
    table = np.column_stack([color, size, np.full(n, 3), np.full(n, None)]).astype(object)
    table[::7, 0], table[::5, 1] = None, np.nan
    return table, y


@pytest.mark.parametrize("options", [{}, {"n_neighbors": 4}, {"p_target": 1.0}, {"abd": "full"}, {"compat": "npt"}])
def test_a_prediction_does_not_depend_on_the_other_rows_to_predict(options: dict[str, Any]) -> None:
    X, y = classes()
    model = NPTClassifier(**TINY, **options).fit(X[:30], y[:30])
    together = model.predict_proba(X[30:])
    alone = np.vstack([model.predict_proba(X[i : i + 1]) for i in range(30, 40)])
    assert_allclose(alone, together, rtol=ROUNDING)
    assert_allclose(together.sum(1), 1, rtol=1e-12)


def test_semi_supervised_predictions_do() -> None:
    X, y = classes()
    for options in ({}, {"n_neighbors": 4}):
        model = NPTClassifier(**TINY, semi_supervised=True, early_stopping=False, **options).fit(X[:30], y[:30])
        rows = np.vstack([X[30:31], X[30:31] + 0.01])  # each is the other's nearest
        together, alone = model.predict_proba(rows), model.predict_proba(rows[:1])
        assert np.abs(together[:1] - alone).max() > 1e-4


@pytest.mark.parametrize("p_target", [0.5, 1.0])
def test_training_targets_are_looked_at_unless_all_are_hidden_in_training(p_target: float) -> None:
    X, y = classes()
    model = NPTClassifier(**{**TINY, "p_target": p_target}).fit(X[:30], y[:30])
    before = model.predict_proba(X[30:])
    model.table_ = model.table_.copy()
    model.table_[:, -1] = 0
    changed = np.abs(model.predict_proba(X[30:]) - before).max()
    assert changed > 1e-4 if p_target < 1 else changed == 0


def test_the_target_of_a_row_to_predict_is_hidden_from_it() -> None:
    # Held-out rows come with their targets, which the error needs and the network must not see.
    X, y = classes()
    model = NPTClassifier(**TINY).fit(X, y)
    context, queries = torch.from_numpy(model.table_[:30]), torch.from_numpy(model.table_[30:])
    other = queries.clone()
    other[:, -1] = 2 - other[:, -1]
    (found,), (expected,) = model._ask(context, other, None), model._ask(context, queries, None)
    assert torch.equal(found, expected)


def test_targets_of_rows_held_out_are_never_shown_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) - 19.5  # whose mean and deviation have no roundings
    held_out: list[np.ndarray] = []
    choose = _npt_base._hold_out

    def spy(*args: Any) -> torch.Tensor:
        found = choose(*args)
        held_out.append(found.numpy())
        return found

    monkeypatch.setattr(_npt_base, "_hold_out", spy)
    model = NPTRegressor(**{**TINY, "max_iter": 40}).fit(X, y)
    (rows,) = held_out
    assert rows.sum() == 6
    other = y.copy()
    other[rows] = np.roll(y[rows], 1)
    again = NPTRegressor(**{**TINY, "max_iter": 40}).fit(X, other)
    for ours, theirs in zip(model.log_.epochs, again.log_.epochs, strict=True):
        assert ours["loss"] == theirs["loss"]
    assert [epoch["score"] for epoch in model.log_.epochs] != [epoch["score"] for epoch in again.log_.epochs]


def test_entries_of_gradients_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = classes()
    largest: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        largest.append(max(grad.abs().max().item() for grad in grads))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    monkeypatch.setattr(_npt_base, "_CLIP_VALUE", 1e-3)
    model = NPTClassifier(**TINY).fit(X, y)
    assert max(largest) == pytest.approx(1e-3)
    assert not any(p._backward_hooks for p in model.model_.parameters())


@pytest.mark.parametrize("options", [{}, {"n_neighbors": 3}, {"early_stopping": False}, {"chunk_size": 8}])
def test_a_seed_fixes_the_result_and_leaves_torch_alone(options: dict[str, Any]) -> None:
    X, y = classes()
    state = torch.get_rng_state()
    found, again = (NPTClassifier(**TINY, **options).fit(X, y).predict_proba(X) for _ in range(2))
    assert_array_equal(found, again)
    assert torch.equal(state, torch.get_rng_state())
    other = NPTClassifier(**{**TINY, "random_state": 1}, **options).fit(X, y).predict_proba(X)
    assert np.abs(found - other).max() > 1e-4


def test_mixed_types_missing_values_and_columns_that_say_nothing() -> None:
    X, y = mixed()
    model = NPTRegressor(**{**TINY, "max_iter": 200, "learning_rate": 1e-2}).fit(X, y)
    assert model.score(X, y) > 0.7
    assert model.encoder_.num_categories_.tolist() == [3, 0, 0, 0]
    rows = np.array([["violet", 0.1, 3, None]], dtype=object)
    with pytest.raises(ValueError, match="column 0 holds the category 'violet'"):
        model.predict(rows)
    zeros = NPTRegressor(**TINY, unknown="zero").fit(X, y)
    assert np.isfinite(zeros.predict(rows)).all()
    # The last column was never known, the third constant: values in them are ignored, and one unit off.
    assert_array_equal(
        zeros.predict(np.array([["red", 0.1, 3, 7.0]], dtype=object)), zeros.predict([["red", 0.1, 3, None]])
    )
    assert abs(zeros.predict([["red", 0.1, 4, None]])[0]) < 100


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = mixed()
    frame = pandas.DataFrame(X[:, :2], columns=["color", "size"]).astype({"color": "category", "size": float})
    model = NPTRegressor(**TINY).fit(frame, y)
    assert model.feature_names_in_.tolist() == ["color", "size"]
    assert_allclose(model.predict(frame), NPTRegressor(**TINY).fit(X[:, :2], y).predict(X[:, :2]), rtol=ROUNDING)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["size", "color"]])


def test_several_targets_and_constant_ones() -> None:
    X, y = classes()
    targets = np.column_stack([y, np.full(len(y), 1e8 + 0.1), X[:, 0]])
    model = NPTRegressor(**TINY).fit(X, targets)
    found = model.predict(X)
    assert found.shape == targets.shape
    assert np.abs(found[:, 1] - targets[:, 1]).max() < 2  # in units of one, not of the rounding of its mean
    assert model.predict(X[:3]).shape == (3, 3)
    assert NPTRegressor(**TINY).fit(X, targets[:, 0]).predict(X).shape == (40,)


def test_targets_of_any_size() -> None:
    X, y = classes()
    for size in (1e-200, 1e-9, 1e9, 1e200):
        found = NPTRegressor(**TINY).fit(X, size * y).predict(X)
        assert np.isfinite(found).all()
        assert np.abs(found).max() < 10 * size * y.max()


@pytest.mark.parametrize("estimator", [NPTClassifier, NPTRegressor])
def test_tables_in_which_nothing_is_known(estimator: Any) -> None:
    """What is left is the share of each class, or the mean of the targets."""
    X, y = np.full((40, 2), np.nan), np.arange(40) % 4 == 0
    model = estimator(**{**TINY, "max_iter": 200, "learning_rate": 2e-2, "early_stopping": False}).fit(X, y)
    found = model.predict_proba(X[:5])[:, 1] if estimator is NPTClassifier else model.predict(X[:5])
    assert_allclose(found, 0.25, atol=0.1)


def test_a_step_trains_and_the_best_weights_are_kept() -> None:
    X, y = classes(60)
    model = NPTClassifier(**{**TINY, "max_iter": 120, "n_iter_no_change": 20, "learning_rate": 2e-2}).fit(X, y)
    scores = [epoch["score"] for epoch in model.log_.epochs]
    assert model.log_.best_epoch == int(np.argmin(scores))
    assert model.n_iter_ == 10 * len(scores)
    assert scores[model.log_.best_epoch] < scores[0]
    assert not model.model_.training
    rest = NPTClassifier(**TINY, early_stopping=False).fit(X, y)
    assert "score" not in rest.log_.epochs[0]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_temperature_has_the_least_cross_entropy_and_never_sharpens(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(4000, num_classes, generator=generator, dtype=torch.float64)
    true = honest.softmax(1).multinomial(1, generator=generator).flatten()

    def loss(logits: Tensor, divisor: float) -> float:
        return float(F.cross_entropy(logits / divisor, true))

    for confidence in (5.0, 0.2):
        found = temperature(confidence * honest, true)
        assert found >= 1
        grid = np.geomspace(1, 100, 400)
        assert loss(confidence * honest, found) <= min(loss(confidence * honest, t) for t in grid) + 1e-7
    assert temperature(5 * honest, true) == pytest.approx(5, rel=0.1)
    assert temperature(0.2 * honest, true) == pytest.approx(1, abs=1e-4)
    assert temperature(honest, honest.argmax(1)) == pytest.approx(1, abs=1e-4)


def test_probabilities_are_calibrated_on_the_rows_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = classes()
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(logits: Tensor, true: Tensor) -> float:
        seen.append((logits, true))
        return 2.5

    monkeypatch.setattr(npt, "temperature", spy)
    model = NPTClassifier(**TINY).fit(X[:30], y[:30])
    ((logits, true),) = seen
    assert len(logits) == len(true) == sum(int(0.15 * (y[:30] == c).sum()) for c in range(3))
    assert model.temperature_ == 2.5
    soft = model.predict_proba(X[30:])
    model.temperature_ = 1.0
    plain = model.predict_proba(X[30:])
    softened = plain**0.4 / (plain**0.4).sum(1, keepdims=True)
    assert_allclose(soft, softened, rtol=1e-9)
    assert NPTClassifier(**TINY, early_stopping=False).fit(X[:30], y[:30]).temperature_ == 1
    assert len(seen) == 1


def test_the_weight_of_the_features_is_annealed() -> None:
    X, y = classes()
    log = NPTClassifier(**{**TINY, "max_iter": 100, "feature_weight": 1.0}, early_stopping=False).fit(X, y).log_
    first, last = log.epochs[0], log.epochs[-1]
    assert abs(first["loss"] - first["feature_loss"]) < 0.05 * abs(first["target_loss"] - first["feature_loss"])
    assert abs(last["loss"] - last["target_loss"]) < 0.05 * abs(last["target_loss"] - last["feature_loss"])


@pytest.mark.parametrize("graph", [False, True])
def test_tables_larger_than_a_chunk(graph: bool) -> None:
    X, y = classes(50)
    seen: list[int] = []
    model = NPTClassifier(**TINY, chunk_size=16, n_neighbors=3 if graph else None)
    forward = torch.nn.LayerNorm.forward

    def spy(self: torch.nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        seen.append(x.numel() // 8)
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.LayerNorm, "forward", spy)
        model.fit(X, y)
        together = model.predict_proba(X)
    assert max(seen) <= 16 * 6  # no layer ever computes more than a chunk of rows, of six cells each
    assert len(model.table_) == (50 if graph else 16)
    alone = np.vstack([model.predict_proba(X[i : i + 1]) for i in range(5)])
    assert_allclose(alone, together[:5], rtol=ROUNDING)


def test_a_given_affinity_takes_the_place_of_all_pairs() -> None:
    X, y = classes(30)
    options = {**TINY, "early_stopping": False}
    to_all = SparseAffinity(complete(20).edge_index, None, (20, 20))
    from_queries = SparseAffinity(torch.cartesian_prod(torch.arange(20), torch.arange(10)).T, None, (10, 20))
    model = NPTClassifier(**options).fit(X[:20], y[:20], rows=to_all)
    expected = NPTClassifier(**options).fit(X[:20], y[:20]).predict_proba(X[20:])
    assert_allclose(model.predict_proba(X[20:], rows=from_queries), expected, rtol=1e-3)
    # A row that draws on nobody sees itself alone, whatever the table holds.
    nobody = SparseAffinity(torch.empty(2, 0, dtype=torch.long), None, (10, 20))
    before = model.predict_proba(X[20:], rows=nobody)
    model.table_ = -model.table_
    assert_allclose(model.predict_proba(X[20:], rows=nobody), before, rtol=ROUNDING)
    stopping = NPTClassifier(**TINY).fit(X[:20], y[:20], rows=to_all)
    assert stopping.predict(X[20:], rows=from_queries).shape == (10,)


def test_errors_of_given_affinities() -> None:
    X, y = classes(20)
    with pytest.raises(TypeError, match="rows is a Tensor; expected an Affinity of 20 x 20"):
        NPTClassifier(**TINY).fit(X, y, rows=torch.eye(20))
    with pytest.raises(ValueError, match="rows is 19 x 19; expected 20 x 20"):
        NPTClassifier(**TINY).fit(X, y, rows=complete(19))
    for options in ({"n_neighbors": 3}, {"semi_supervised": True}):
        with pytest.raises(ValueError, match=f"rows is given, and {next(iter(options))} is"):
            NPTClassifier(**TINY, **options).fit(X, y, rows=complete(20))
    heads = SparseAffinity(torch.tensor([[0], [1]]), torch.ones(1, 2), (20, 20))
    with pytest.raises(ValueError, match="rows has 2 heads"):
        NPTClassifier(**TINY).fit(X, y, rows=heads)
    model = NPTClassifier(**TINY).fit(X, y, rows=complete(20))
    with pytest.raises(ValueError, match="rows is None, but fit got rows"):
        model.predict(X)
    with pytest.raises(ValueError, match="rows is 20 x 19; expected 20 rows to predict x 20 training rows"):
        model.predict(X, rows=SparseAffinity(torch.tensor([[0], [1]]), None, (20, 19)))
    with pytest.raises(ValueError, match="rows is given, but fit got none"):
        NPTClassifier(**TINY).fit(X, y).predict(X, rows=complete(20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": 0}, "max_iter is 0; expected a positive integer"),
        ({"chunk_size": 2.5}, "chunk_size is 2.5; expected a positive integer"),
        ({"n_neighbors": 0}, "n_neighbors is 0; expected a positive integer"),
        ({"p_feature": 2}, r"p_feature is 2; expected a number in \[0, 1\]"),
        ({"p_target": 0}, r"p_target is 0, so that no target would be learned; expected a number in \(0, 1\]"),
        ({"validation_fraction": 0.0}, r"validation_fraction is 0.0; expected a number in \(0, 1\)"),
        ({"compat": "x"}, "compat is 'x'"),
        ({"depth": 3}, "depth is 3; expected an even number"),
        ({"learning_rate": -1.0}, "lr is -"),
    ],
)
def test_option_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NPTClassifier(**{**TINY, **options}).fit(*classes())


def test_sizes_may_be_integers_of_numpy() -> None:
    sizes = {"max_iter": np.int64(10), "chunk_size": np.int64(8), "n_neighbors": np.int64(3)}
    X, y = classes()
    for options in (sizes, {**sizes, "n_neighbors": None}):
        assert NPTClassifier(**{**TINY, **options}).fit(X, y).predict(X).shape == (40,)


def test_one_class_is_an_error_and_one_row_is_not_for_numbers() -> None:
    with pytest.raises(ValueError, match=r"y holds one class, \['a'\]; expected at least two"):
        NPTClassifier(**TINY).fit([[1.0], [2.0]], ["a", "a"])
    assert_allclose(NPTRegressor(**TINY).fit([[1.0]], [5.0]).predict([[1.0]]), 5.0, atol=2)


def test_pickle() -> None:
    X, y = classes()
    model = NPTClassifier(**TINY, n_neighbors=3).fit(X, y)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))


def test_parts_of_graphs() -> None:
    edges = torch.tensor([[0, 4, 2, 1, 3, 0], [1, 1, 3, 3, 0, 4]])
    weight = torch.arange(1.0, 7.0)
    rows = SparseAffinity(edges, weight, (5, 5))
    dense = rows.to_dense().matrix
    targets, sources = torch.tensor([3, 1, 4]), torch.tensor([4, 0, 2])
    assert torch.equal(part(rows, targets, sources).to_dense().matrix, dense[targets][:, sources])
    looped = with_loops(SparseAffinity(torch.tensor([[0, 1, 2], [1, 1, 0]]), torch.tensor([2.0, 5.0, 3.0]), (3, 3)))
    assert looped.to_dense().matrix.tolist() == [[1.0, 0.0, 3.0], [2.0, 5.0, 0.0], [0.0, 0.0, 1.0]]
    asked = SparseAffinity(torch.tensor([[2, 0], [0, 1]]), torch.tensor([0.5, 4.0]), (2, 3))
    assert with_queries(looped, asked).to_dense().matrix.tolist() == [
        [1.0, 0.0, 3.0, 0.0, 0.0],
        [2.0, 5.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.5, 1.0, 0.0],
        [4.0, 0.0, 0.0, 0.0, 1.0],
    ]


def test_coordinates_compare_rows_of_mixed_types() -> None:
    nan = float("nan")
    table = torch.tensor([[1.0, 0.0], [nan, 2.0], [0.0, nan], [0.0, -1.0]])
    x = coordinates(table, [0, 3])
    distance = torch.cdist(x, x)
    assert distance[0, 1] == pytest.approx(2**0.5)  # 1 in the number, 1 in the category
    assert torch.equal(x[2], x[3])
    assert x[2].abs().sum() == 0
    graph = nearest_rows(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    assert graph.to_dense().matrix.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    assert nearest_rows(torch.zeros(1, 2), 3).edge_index.tolist() == [[0], [0]]


def test_chunks_visit_every_row() -> None:
    device = torch.device("cpu")
    torch.manual_seed(0)
    chunks = row_chunks(10, 4, None, device)
    first = torch.cat([next(chunks) for _ in range(3)])
    assert first.sort().values.tolist() == list(range(10))
    assert next(row_chunks(4, 4, None, device)).tolist() == [0, 1, 2, 3]
    ring = SparseAffinity(torch.stack([(torch.arange(12) + 1) % 12, torch.arange(12)]), None, (12, 12))
    around = row_chunks(12, 6, with_loops(ring), device)
    drawn = [next(around) for _ in range(4)]
    assert set(torch.cat([chunk[:3] for chunk in drawn]).tolist()) == set(range(12))  # the seeds come first
    for chunk in drawn:
        assert len(chunk) <= 6
        assert len(set(chunk.tolist())) == len(chunk)
        assert {(i + 1) % 12 for i in chunk[:3].tolist()} <= set(chunk.tolist())
