"""Infinite feature selection with classes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.affinity.dispersion import dispersion
from graphattn.affinity.features import ec_fs, inf_fs_s, nearest_features
from graphattn.affinity.relevance import FISHER_KINDS, fisher_score
from graphattn.selection.base import FeatureSelector, Options
from graphattn.selection.checks import check_choice, check_number
from graphattn.selection.energy import Energy
from graphattn.selection.inf_fs import check_paths, energy
from graphattn.selection.information import check_information, information

_EQUAL = (1 / 3, 1 / 3, 1 / 3)


class InfFSSupervised(FeatureSelector):
    r"""Rank features by all paths over a graph in which three ``alpha`` weigh pairs of class relevance (Inf-FS_S).

    .. math::
        \mathbf{s} = \sum_{l=1}^{\infty} (r \mathbf{A})^l \mathbf{1}, \quad
        G_{ij} = \alpha_1 \frac{\hat m_j + \hat f_i}{2} + \alpha_2 \frac{\hat m_j + \max(a_i, a_j)}{2}
        + \alpha_3 \frac{\max(a_i, a_j) + \hat f_i}{2}

    ``alpha`` holds three weights, of the pairs (information, Fisher), (information, dispersion) and (dispersion,
    Fisher); with ``formula="2015"`` it is one number, the weight of the Fisher term. Fisher score :math:`\hat f` and
    mutual information :math:`\hat m` are scaled to [0, 1], :math:`a` are the standard deviations scaled to [0, 1]. By
    default :math:`\mathbf{A} = (\mathbf{G} + \mathbf{G}^\top) / 2`: the row sums of the directed :math:`\mathbf{G}`
    hold :math:`\hat m` as a constant only, so that it would not affect the ranking.

    The formula of 2015 is :math:`A_{ij} = \alpha \operatorname{minmax}(f_i f_j) + (1 - \alpha) \max(a_i, a_j)`. No
    matrix of features by features exists in either: a product takes :math:`O(F \log F)`.

    Args:
        n_features_to_select: How many features to select: an integer, a fraction in (0, 1], ``"auto"``, or ``None``
            for half of them.
        alpha: Three weights (equal ones by default), of which only the ratios count; or, with ``formula="2015"``, the
            weight of the Fisher term in [0, 1] (0.5 by default).
        decay: Fraction :math:`c` of the largest hop strength for which the sum converges, in (0, 1).
        hops: Longest path, an integer or ``math.inf``.
        formula: ``"2020"`` (TPAMI) or ``"2015"`` (ICCV), see above.
        symmetrize: Whether to use :math:`\mathbf{A}`; otherwise the directed :math:`\mathbf{G}` of the release.
        fisher: ``"pairwise"``, the mean of the two-class formula over pairs of classes, or ``"classical"``, between
            over within classes, which also serves above 100 classes.
        mi: Mutual information: ``"binned"`` estimates it from equally filled bins, ``"knn"`` is scikit-learn's
            estimator, and an array with a value for each feature is taken as it is. Not used by the formula of 2015.
        n_neighbors: How many of the strongest edges of a feature to keep; ``None`` keeps all, as published.
        auto_rule: How ``"auto"`` chooses: ``"two_means"`` of the scores, ``"histogram"`` (the release of 2020) or
            ``"ilfs"`` (the release of 2017).
        constant: ``"last"`` leaves constant features out of the graph and ranks them last; ``"keep"`` treats them
            like others.
        compat: ``None``; ``"matlab-2020"``, the released code of 2020: directed, scaled twice; or ``"matlab-2016"``,
            the release of 2016 with ``formula="2015"`` and a decay of 0.99. Both are for two classes, replace a Fisher
            denominator of 0 by 10000 and solve to at least 12 digits. For the digits of the releases pass their
            mutual information as ``mi``.
        tol: Relative residual of the solution.
        rho_tol: Relative accuracy of the spectral radius, whose upper bound is used.
        max_iter: Products of each iteration at most.
        device: Where to compute, a torch device or its name; the CPU if ``None``.
        random_state: Seed of ``mi="knn"``.

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
        UserWarning: If the affinity is directed, so that mutual information does not affect the ranking.

    Example:
        >>> from sklearn.datasets import load_breast_cancer
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> InfFSSupervised(n_features_to_select=5).fit(X, y).order_[:5].tolist()
        [23, 3, 27, 22, 20]

    Reference:
        Roffo et al., "Infinite Feature Selection: A Graph-based Feature Filtering Approach", TPAMI 2020; Roffo, Melzi,
        Cristani, "Infinite Feature Selection", ICCV 2015.
    """

    _supervised = True
    _releases: ClassVar[dict[str, Options]] = {
        "matlab-2020": {
            "formula": "2020",
            "symmetrize": False,
            "fisher": "pairwise",
            "decay": 0.9,  # not used by that release
            "hops": math.inf,
            "n_neighbors": None,
            "constant": "keep",
            "auto_rule": "histogram",
        },
        "matlab-2016": {
            "formula": "2015",
            "fisher": "pairwise",
            "decay": 0.99,
            "hops": math.inf,
            "n_neighbors": None,
            "constant": "keep",
        },
    }

    def __init__(
        self,
        n_features_to_select: int | float | str | None = None,
        *,
        alpha: float | Sequence[float] | None = None,
        decay: float = 0.9,
        hops: float = math.inf,
        formula: str = "2020",
        symmetrize: bool = True,
        fisher: str = "pairwise",
        mi: str | np.ndarray = "binned",
        n_neighbors: int | None = None,
        auto_rule: str = "two_means",
        constant: str = "last",
        compat: str | None = None,
        tol: float = 1e-6,
        rho_tol: float = 1e-4,
        max_iter: int = 200,
        device: str | torch.device | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.alpha = alpha
        self.decay = decay
        self.hops = hops
        self.formula = formula
        self.symmetrize = symmetrize
        self.fisher = fisher
        self.mi = mi
        self.n_neighbors = n_neighbors
        self.auto_rule = auto_rule
        self.constant = constant
        self.compat = compat
        self.tol = tol
        self.rho_tol = rho_tol
        self.max_iter = max_iter
        self.device = device
        self.random_state = random_state

    def _check(self, options: Options, n_features: int, n_classes: int) -> None:
        check_paths(options, n_features)
        check_choice("fisher", options["fisher"], FISHER_KINDS)
        check_information(options["mi"], n_features)
        check_two_classes(options["compat"], n_classes)
        if options["formula"] == "2015":
            if not isinstance(options["mi"], str) or options["mi"] != "binned" or not options["symmetrize"]:
                raise ValueError(
                    "formula is '2015', which has no mutual information and is symmetric; leave mi and symmetrize as "
                    "they are by default"
                )
            if options["alpha"] is not None:
                check_number("alpha", options["alpha"], 0, 1)
        elif options["alpha"] is not None:
            _check_weights(options["alpha"])

    def _affinity(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Affinity:
        device, alpha = options["device"], options["alpha"]
        released = None if options["compat"] is None else 10000.0
        fisher = fisher_score(X, y, kind=options["fisher"], zero_denominator=released, device=device)
        spread = dispersion(X, device=device)
        if options["formula"] == "2015":
            A = ec_fs(fisher, spread, 0.5 if alpha is None else alpha)
        else:
            alpha = _EQUAL if alpha is None else alpha
            mi = information(X, y, varying, options)
            A = inf_fs_s(fisher, mi, spread, alpha, symmetrize=options["symmetrize"])
            if not options["symmetrize"] and alpha[0] + alpha[1] > 0:
                warnings.warn(
                    "the directed affinity holds mutual information as a constant only: it does not affect the "
                    "ranking; use symmetrize=True",
                    UserWarning,
                    stacklevel=4,
                )
        return A if options["n_neighbors"] is None else nearest_features(A, int(options["n_neighbors"]))

    def _score(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Energy:
        return energy(self._affinity(X, y, varying, options), options)


def check_two_classes(compat: str | None, n_classes: int) -> None:
    """Raise if a release that knows two classes only is given more."""
    if compat is not None and n_classes != 2:
        raise ValueError(f"compat is {compat!r}, which is for two classes, but y holds {n_classes}; use compat=None")


def _check_weights(alpha: Any) -> None:
    weights = np.asarray(alpha)
    fits = weights.shape == (3,) and weights.dtype.kind in "iuf" and np.isfinite(weights).all()
    if not fits or (weights < 0).any() or not weights.any():
        raise ValueError(f"alpha is {alpha!r}; expected three weights, not negative and not all 0")
