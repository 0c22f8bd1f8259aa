"""Infinite feature selection without classes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.affinity.features import inf_fs_u, nearest_features
from graphattn.affinity.spearman import STORES
from graphattn.selection.base import FeatureSelector, Options
from graphattn.selection.checks import check_choice, check_count, check_number
from graphattn.selection.energy import Energy, path_energy, released_energy

FORMULAS = ("2020", "2015")


class InfFS(FeatureSelector):
    r"""Rank features by all paths over a graph in which ``alpha`` weighs dispersion against redundancy (Inf-FS_U).

    .. math::
        \mathbf{s} = \sum_{l=1}^{\infty} (r \mathbf{A})^l \mathbf{1}, \quad
        A_{ij} = \alpha \max(a_i, a_j) + (1 - \alpha) (1 - |\rho_{ij}|), \quad r = c / \rho(\mathbf{A})

    With ``formula="2015"`` the two terms change places: there ``alpha`` weighs the correlation term, as in that
    release. Here :math:`a` are the standard deviations scaled to [0, 1] and :math:`\rho_{ij}` is
    Spearman's correlation. No matrix is inverted: one linear system is solved by a few products, in
    :math:`O(T F^2)` time, and in :math:`O(T F)` memory where the correlations are not stored.

    The affinity is nearly of rank one on most data, and the ranking then that of its row sums, whatever the decay:
    ``hop_overlap_`` tells how far it is for the data at hand (1: longer paths changed nothing). ``n_neighbors`` makes
    the graph sparse, which is where longer paths matter.

    Do not standardise the data: it makes all standard deviations equal. Fit inside cross-validation folds, by a
    ``Pipeline``.

    Args:
        n_features_to_select: How many features to select: an integer, a fraction in (0, 1], ``"auto"``, or ``None``
            for half of them.
        alpha: Weight of dispersion (of correlation in the formula of 2015), in [0, 1].
        decay: Fraction :math:`c` of the largest hop strength for which the sum converges, in (0, 1).
        hops: Longest path, an integer or ``math.inf``.
        formula: ``"2020"`` (TPAMI) or ``"2015"`` (ICCV), see above.
        n_neighbors: How many of the strongest edges of a feature to keep; ``None`` keeps all, as published.
        auto_rule: How ``"auto"`` chooses: ``"two_means"`` of the scores, ``"histogram"`` (the release of 2020) or
            ``"ilfs"`` (the release of 2017).
        constant: ``"last"`` leaves constant features out of the graph and ranks them last; ``"keep"`` treats them
            like others, correlated with nothing.
        compat: ``None``; ``"matlab-2020"``, the released code of 2020, which scales the affinity twice and with that
            ranks by the first hop; or ``"matlab-2016"``, the release of 2016 with ``formula="2015"`` and a decay of
            0.99. Both solve to at least 12 digits.
        tol: Relative residual of the solution. Below 1e-6, and with ``compat``, correlations are kept in float64,
            else in float32; sums are always float64.
        rho_tol: Relative accuracy of the spectral radius, whose upper bound is used.
        max_iter: Products of each iteration at most.
        store: ``"stored"`` keeps the correlations, ``"blocked"`` computes them anew for every product, ``"auto"``
            stores up to 2 GiB.
        device: Where to compute, a torch device or its name; the CPU if ``None``.
        verbose: Whether to show the progress on standard error.

    Attributes:
        scores_: Score of each feature, larger is better; 0 for constant ones.
        ranking_: Rank of each feature, 1 is the best.
        order_: Indices of the features, best first.
        support_: Mask of the selected features.
        n_features_selected_: How many features are selected.
        rho_: Upper bound of the spectral radius that was used; 0 if there are no paths.
        rho_certified_: Whether ``rho_`` is known to be within ``rho_tol``.
        n_iter_: Products of the solver, or the number of hops.
        residual_: Relative residual of the solution; 0 for a finite number of hops.
        hop_overlap_: Share of the selected features that the row sums of the affinity would select too.
        n_features_in_: Number of features seen in ``fit``.
        feature_names_in_: Their names, if the columns have any.

    Warns:
        ConvergenceWarning: If the solver does not reach ``tol``.
        DispersionCollapsedWarning: If all standard deviations are equal.

    Example:
        >>> from sklearn.datasets import load_breast_cancer
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> selector = InfFS(n_features_to_select=5).fit(X)
        >>> selector.transform(X).shape, selector.order_[:5].tolist()
        ((569, 5), [23, 3, 11, 18, 14])

    Reference:
        Roffo et al., "Infinite Feature Selection: A Graph-based Feature Filtering Approach", TPAMI 2020; Roffo, Melzi,
        Cristani, "Infinite Feature Selection", ICCV 2015.
    """

    _releases: ClassVar[dict[str, Options]] = {
        "matlab-2020": {
            "formula": "2020",
            "decay": 0.9,  # not used by that release
            "hops": math.inf,
            "n_neighbors": None,
            "constant": "keep",
            "auto_rule": "histogram",
        },
        "matlab-2016": {"formula": "2015", "decay": 0.99, "hops": math.inf, "n_neighbors": None, "constant": "keep"},
    }

    def __init__(
        self,
        n_features_to_select: int | float | str | None = None,
        *,
        alpha: float = 0.5,
        decay: float = 0.9,
        hops: float = math.inf,
        formula: str = "2020",
        n_neighbors: int | None = None,
        auto_rule: str = "two_means",
        constant: str = "last",
        compat: str | None = None,
        tol: float = 1e-6,
        rho_tol: float = 1e-4,
        max_iter: int = 200,
        store: str = "auto",
        device: str | torch.device | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.alpha = alpha
        self.decay = decay
        self.hops = hops
        self.formula = formula
        self.n_neighbors = n_neighbors
        self.auto_rule = auto_rule
        self.constant = constant
        self.compat = compat
        self.tol = tol
        self.rho_tol = rho_tol
        self.max_iter = max_iter
        self.store = store
        self.device = device
        self.verbose = verbose

    def _check(self, options: Options, n_features: int, n_classes: int) -> None:
        check_number("alpha", options["alpha"], 0, 1)
        check_choice("store", options["store"], STORES)
        check_paths(options, n_features)

    def _affinity(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Affinity:
        alpha = options["alpha"] if options["formula"] == "2020" else 1 - options["alpha"]
        A = inf_fs_u(
            X,
            alpha,
            dtype=_precision(options),
            store=options["store"],
            progress=options["verbose"],
            device=options["device"],
        )
        if options["n_neighbors"] is None:
            return A
        return nearest_features(A, int(options["n_neighbors"]), progress=options["verbose"])

    def _score(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Energy:
        return energy(self._affinity(X, y, varying, options), options, _precision(options))


def _precision(options: Options) -> torch.dtype:
    exact = options["compat"] is not None or min(options["tol"], options["rho_tol"]) < 1e-6
    return torch.float64 if exact else torch.float32


def check_paths(options: Options, n_features: int) -> None:
    """Check the arguments that say which paths count."""
    check_choice("formula", options["formula"], FORMULAS)
    check_number("decay", options["decay"], 0, 1, exclusive=True)
    if options["hops"] != math.inf:
        check_count("hops", options["hops"])
    if options["n_neighbors"] is not None:
        check_count("n_neighbors", options["n_neighbors"])
    check_number("tol", options["tol"], 0, 1, exclusive=True)
    check_number("rho_tol", options["rho_tol"], 0, 1, exclusive=True)
    check_count("max_iter", options["max_iter"])
    if options["compat"] == "matlab-2020" and n_features >= 200_000:
        raise ValueError(
            f"compat is 'matlab-2020', whose factor is negative from 200000 features on, but X has {n_features}; use "
            "compat=None"
        )


def energy(A: Affinity, options: Options, precision: torch.dtype = torch.float64) -> Energy:
    """Score the nodes as the arguments say; releases, which invert a matrix, are matched to many digits."""
    tol, rho_tol, max_iter = options["tol"], options["rho_tol"], options["max_iter"]
    if options["compat"] is not None:
        tol, rho_tol = min(tol, 1e-12), min(rho_tol, 1e-12)
    if options["compat"] == "matlab-2020":
        return released_energy(A, tol=tol, max_iter=max_iter)
    return path_energy(
        A, float(options["decay"]), options["hops"], tol=tol, rho_tol=rho_tol, max_iter=max_iter, precision=precision
    )
