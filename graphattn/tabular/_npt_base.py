"""What the estimators of the non-parametric transformer share: the table, its graph, the training and the questions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from graphattn.affinity import Affinity, SparseAffinity, knn
from graphattn.engine import Recipe, TrainingLog, seeded, train
from graphattn.models.non_parametric_transformer import NonParametricTransformer
from graphattn.tabular._inter_row import coordinates, nearest_rows, num_chunks, part, with_loops, with_queries
from graphattn.tabular._npt_task import Objective, TableTask, ask, error
from graphattn.tabular.encoding import TableEncoder

_STEPS_PER_EVALUATION = 10
_REFERENCE_BATCH = 256  # of the recipe, whose samples are steps here
_CLIP_VALUE = 1.0


class NPTBase(BaseEstimator):
    """Train a :class:`~graphattn.models.NonParametricTransformer` on a table, and ask it about appended rows."""

    def __init__(
        self,
        *,
        channels: int = 32,
        depth: int = 4,
        heads: int = 4,
        abd: str = "shared",
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        p_feature: float = 0.15,
        p_target: float = 0.5,
        feature_weight: float = 0.5,
        n_neighbors: int | None = None,
        chunk_size: int = 1024,
        semi_supervised: bool = False,
        categorical: Any = "auto",
        unknown: str = "error",
        max_iter: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        early_stopping: bool = True,
        validation_fraction: float = 0.15,
        n_iter_no_change: int = 300,
        max_minutes: float | None = None,
        compat: str | None = None,
        device: str | torch.device | None = None,
        random_state: Any = None,
        progress: bool = False,
    ) -> None:
        self.channels = channels
        self.depth = depth
        self.heads = heads
        self.abd = abd
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.p_feature = p_feature
        self.p_target = p_target
        self.feature_weight = feature_weight
        self.n_neighbors = n_neighbors
        self.chunk_size = chunk_size
        self.semi_supervised = semi_supervised
        self.categorical = categorical
        self.unknown = unknown
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.max_minutes = max_minutes
        self.compat = compat
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    def _fit(self, X: Any, targets: np.ndarray, target_categories: list[int], rows: Affinity | None) -> None:
        """Train on the table of the features and the encoded targets ``[n, t]``."""
        self._check()
        self.encoder_ = TableEncoder(self.categorical, self.unknown).set_output(transform="default")
        features = self.encoder_.fit_transform(X)
        check_consistent_length(features, targets)
        given = None if rows is None else _square(rows, len(targets), self)
        device = torch.device("cpu" if self.device is None else self.device)
        table = torch.from_numpy(np.hstack([features, targets]).astype(np.float32)).to(device)
        self._categories = [*self.encoder_.num_categories_.tolist(), *target_categories]
        self._num_targets = len(target_categories)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with seeded(seed, device=device):
            held_out = torch.zeros(len(table), dtype=torch.bool)
            if self.early_stopping:
                classes = table[:, -1].long().cpu() if target_categories[-1] else None
                held_out = _hold_out(len(table), classes, self.validation_fraction)
            self.model_ = NonParametricTransformer(
                self._categories,
                self.channels,
                self.depth,
                self.heads,
                abd=self.abd,
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                compat=self.compat,
            ).to(device)
            self.log_ = self._train(table, given, held_out.to(device), seed)
            self._rows_given = given is not None
            graph = self._graph(table, given)
            looked_at = self._looked_at(table, graph)
        self.table_ = looked_at.cpu().numpy()
        self._context_graph = None if graph is None else graph.to("cpu")

    def _train(self, table: Tensor, given: SparseAffinity | None, held_out: Tensor, seed: int) -> TrainingLog:
        """Train on the rows that are not held out; these pick the weights that are kept."""
        shown, asked = (~held_out).nonzero().flatten(), held_out.nonzero().flatten()
        graph = self._graph(table[shown], None if given is None else part(given, shown, shown))
        # A pass through a large table, whose evaluation takes a while.
        interval = max(_STEPS_PER_EVALUATION, num_chunks(len(shown), int(self.chunk_size), graph))
        interval = min(interval, int(self.max_iter))
        evaluations = -(-int(self.max_iter) // interval)
        recipe = Recipe(
            epochs=evaluations,
            batch_size=1,
            lr=self.learning_rate * _REFERENCE_BATCH,
            optimizer="adamw",
            weight_decay=self.weight_decay,
            warmup=0.05,
            clip=None,
            patience=-(-int(self.n_iter_no_change) // interval) if asked.numel() else None,
            seed=seed,
        )
        masks = "npt" if self.compat == "npt" else None
        objective = Objective(self._num_targets, self.p_feature, self.p_target, self.feature_weight, masks)
        steps = evaluations * interval
        task = TableTask(self.model_, table[shown], graph, objective, int(self.chunk_size), steps)
        evaluate = None
        if asked.numel():
            context, queries = self._looked_at(table[shown], graph), table[asked]
            edges = None if given is None else part(given, asked, shown)
            pairs = self._pairs(context, graph, queries, edges)

            def evaluate() -> float:
                return error(self._ask(context, queries, pairs), queries, self._categories)

        with _clipped(self.model_):
            log = train(
                self.model_,
                interval,
                task.losses,
                recipe,
                evaluate=evaluate,
                maximize=False,
                max_minutes=self.max_minutes,
                progress=self.progress,
            )
        self.n_iter_ = len(log.epochs) * interval
        if asked.numel():
            self._calibrate(self._ask(context, queries, pairs), queries)
        return log

    def _calibrate(self, outputs: list[Tensor], held_out: Tensor) -> None:
        """Learn from what the trained network says of the rows held out; numbers need nothing."""

    def _predict(self, X: Any, rows: Affinity | None) -> list[Tensor]:
        """Return what is predicted for each target column of appended rows, on the CPU in float64."""
        check_is_fitted(self)
        validate_data(self, X, dtype=None, ensure_all_finite=False, reset=False)
        features = self.encoder_.transform(X)
        unknown = np.full((len(features), self._num_targets), np.nan)
        device = self.model_.value.device
        queries = torch.from_numpy(np.hstack([features, unknown]).astype(np.float32)).to(device)
        context = torch.from_numpy(self.table_).to(device)
        edges = self._query_edges(rows, len(queries), len(context), device)
        graph = None if self._context_graph is None else self._context_graph.to(device)
        # Every block of questions goes through all layers together with the table, whose size it therefore has.
        size = len(queries) if self.semi_supervised else max(len(context), 4 * int(self.chunk_size))
        found: list[list[Tensor]] = []
        for number in torch.arange(len(queries), device=device).split(size):
            everything = torch.arange(len(context), device=device)
            block = queries[number]
            pairs = self._pairs(context, graph, block, None if edges is None else part(edges, number, everything))
            found.append(self._ask(context, block, pairs))
        return [torch.cat(outputs).double().cpu() for outputs in zip(*found, strict=True)]

    def _ask(self, context: Tensor, queries: Tensor, pairs: SparseAffinity | None) -> list[Tensor]:
        return ask(
            self.model_,
            context,
            queries,
            pairs,
            num_targets=self._num_targets,
            hide_targets=self.p_target == 1,
            semi_supervised=self.semi_supervised,
            chunk=int(self.chunk_size),
        )

    def _points(self, table: Tensor) -> Tensor:
        return coordinates(table, self._categories[: -self._num_targets])

    def _graph(self, table: Tensor, given: SparseAffinity | None) -> SparseAffinity | None:
        """Which rows of a table attend to which; all to all if ``None``."""
        if given is not None:
            return with_loops(given)
        return None if self.n_neighbors is None else nearest_rows(self._points(table), int(self.n_neighbors))

    def _looked_at(self, table: Tensor, graph: SparseAffinity | None) -> Tensor:
        """The rows that predictions look at: all, or without a graph a random part as large as those of training."""
        if graph is not None or len(table) <= self.chunk_size:
            return table
        return table[torch.randperm(len(table))[: self.chunk_size].sort().values.to(table.device)]

    def _pairs(
        self, context: Tensor, graph: SparseAffinity | None, queries: Tensor, edges: SparseAffinity | None
    ) -> SparseAffinity | None:
        """Which rows of a table with appended rows attend to which."""
        if graph is None:
            return None
        if self.semi_supervised:
            return nearest_rows(self._points(torch.cat([context, queries])), int(self.n_neighbors or 0))
        if edges is None:
            edges = knn(self._points(queries), int(self.n_neighbors or 0), y=self._points(context))
            edges = SparseAffinity(edges.layout)
        return with_queries(graph, edges)

    def _query_edges(
        self, rows: Affinity | None, num_queries: int, num_context: int, device: torch.device
    ) -> SparseAffinity | None:
        if (rows is not None) != self._rows_given:
            came, expected = ("is None", "fit got rows") if rows is None else ("is given", "fit got none")
            raise ValueError(f"rows {came}, but {expected}; pass rows to both, q x n here, or to none")
        if rows is None:
            return None
        if rows.shape != (num_queries, num_context):
            found = " x ".join(map(str, rows.shape))
            raise ValueError(f"rows is {found}; expected {num_queries} rows to predict x {num_context} training rows")
        return rows.to_sparse().to(device)

    def _check(self) -> None:
        """Raise for arguments that the network and the recipe do not check."""
        for name in ("max_iter", "n_iter_no_change", "chunk_size", "n_neighbors"):
            value = getattr(self, name)
            if name == "n_neighbors" and value is None:
                continue
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a positive integer")
        for name in ("p_feature", "p_target", "feature_weight", "validation_fraction"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
                raise ValueError(f"{name} is {value!r}; expected a number in [0, 1]")
        if self.p_target == 0:
            raise ValueError("p_target is 0, so that no target would be learned; expected a number in (0, 1]")
        if self.early_stopping and not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}; expected a number in (0, 1)")


def _square(rows: Affinity, num_rows: int, estimator: NPTBase) -> SparseAffinity:
    """Return a given affinity between the rows of the table, or raise."""
    if not isinstance(rows, Affinity):
        raise TypeError(f"rows is a {type(rows).__name__}; expected an Affinity of {num_rows} x {num_rows}")
    if rows.shape != (num_rows, num_rows):
        raise ValueError(f"rows is {' x '.join(map(str, rows.shape))}; expected {num_rows} x {num_rows}")
    if rows.has_heads:
        raise ValueError(f"rows has {rows.num_heads} heads; expected an affinity without a head axis")
    for name in ("n_neighbors", "semi_supervised"):
        if getattr(estimator, name):
            raise ValueError(f"rows is given, and {name} is {getattr(estimator, name)!r}; pass one of them")
    return rows.to_sparse().to(torch.device("cpu" if estimator.device is None else estimator.device))


def _hold_out(num_rows: int, classes: Tensor | None, fraction: float) -> Tensor:
    """Choose rows at random, of every class its part; none of those that have less than a row."""
    held_out = torch.zeros(num_rows, dtype=torch.bool)
    groups = (
        [torch.arange(num_rows)] if classes is None else [(classes == c).nonzero().flatten() for c in classes.unique()]
    )
    for group in groups:
        held_out[group[torch.randperm(len(group))[: int(fraction * len(group))]]] = True
    return held_out


@contextmanager
def _clipped(model: nn.Module) -> Iterator[None]:
    """Cut every entry of the gradients to an interval, as published."""
    hooks = [p.register_hook(lambda grad: grad.clamp(-_CLIP_VALUE, _CLIP_VALUE)) for p in model.parameters()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
