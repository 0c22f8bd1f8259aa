"""Feature selection by eigenvector centrality."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.affinity.columns import min_max
from graphattn.affinity.dispersion import dispersion
from graphattn.affinity.features import ec_fs
from graphattn.affinity.relevance import FISHER_KINDS, fisher_score
from graphattn.selection.base import FeatureSelector, Options
from graphattn.selection.checks import check_choice, check_number
from graphattn.selection.energy import Energy
from graphattn.selection.inf_fs_supervised import check_two_classes
from graphattn.selection.information import check_information, information

# Up to this size a dense solver is exact and faster than any iteration.
_DENSE = 64


class ECFS(FeatureSelector):
    r"""Rank features by their centrality in a graph of relevant and varied features (EC-FS).

    .. math::
        \mathbf{A} \mathbf{s} = \rho(\mathbf{A})\, \mathbf{s}, \quad
        A_{ij} = \alpha \operatorname{minmax}(v_i v_j) + (1 - \alpha) \max(a_i, a_j), \quad
        v_i = \tfrac{1}{2} |f_i + m_i|

    with Fisher score :math:`f`, mutual information :math:`m` and standard deviations :math:`a` scaled to [0, 1]. It
    is what Inf-FS ranks by as its decay goes to 1. No matrix of features by features exists: a product takes
    :math:`O(F \log F)`.

    Args:
        n_features_to_select: How many features to select: an integer, a fraction in (0, 1], ``"auto"``, or ``None``
            for half of them.
        alpha: Weight of relevance, in [0, 1].
        normalize_relevance: Whether to scale Fisher score and mutual information to [0, 1] before they are added; as
            they are, the Fisher score tends to dominate.
        fisher: ``"pairwise"``, the mean of the two-class formula over pairs of classes, or ``"classical"``, between
            over within classes, which also serves above 100 classes.
        mi: Mutual information: ``"binned"`` estimates it from equally filled bins, ``"knn"`` is scikit-learn's
            estimator, and an array with a value for each feature is taken as it is.
        auto_rule: How ``"auto"`` chooses: ``"two_means"`` of the scores, ``"histogram"`` (the release of Inf-FS of
            2020) or ``"ilfs"`` (that of ILFS).
        constant: ``"last"`` leaves constant features out of the graph and ranks them last; ``"keep"`` treats them
            like others.
        compat: ``None`` or ``"fslib"``, the released code, for two classes, which replaces a Fisher denominator of 0
            by 10000. For its digits pass its mutual information as ``mi``.
        tol: Relative accuracy of the eigenvalues.
        device: Where to compute, a torch device or its name; the CPU if ``None``.
        random_state: Seed of ``mi="knn"``.

    Attributes:
        scores_: Score of each feature, larger is better: the leading eigenvector, of unit length; 0 for constant
            features.
        ranking_: Rank of each feature, 1 is the best.
        order_: Indices of the features, best first.
        support_: Mask of the selected features.
        n_features_selected_: How many features are selected.
        rho_: Spectral radius of the affinity.
        rho_certified_: Whether the residual of the eigenvector is within 1e-4.
        n_iter_: Products of the eigensolver; 0 where the matrix was small enough to be solved densely.
        residual_: Relative residual of the eigenvector.
        hop_overlap_: Share of the selected features that the row sums of the affinity would select too.
        n_features_in_: Number of features seen in ``fit``.
        feature_names_in_: Their names, if the columns have any.

    Warns:
        DispersionCollapsedWarning: If all standard deviations are equal.
        UserWarning: If the two leading eigenvalues are nearly equal.

    Example:
        >>> from sklearn.datasets import load_breast_cancer
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> ECFS(n_features_to_select=5).fit(X, y).order_[:5].tolist()
        [23, 3, 27, 22, 20]

    Reference:
        Roffo and Melzi, "Features Selection via Eigenvector Centrality", NFMCP 2016.
    """

    _supervised = True
    _releases: ClassVar[dict[str, Options]] = {
        "fslib": {"normalize_relevance": False, "fisher": "pairwise", "constant": "keep"}
    }

    def __init__(
        self,
        n_features_to_select: int | float | str | None = None,
        *,
        alpha: float = 0.5,
        normalize_relevance: bool = False,
        fisher: str = "pairwise",
        mi: str | np.ndarray = "binned",
        auto_rule: str = "two_means",
        constant: str = "last",
        compat: str | None = None,
        tol: float = 1e-10,
        device: str | torch.device | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.alpha = alpha
        self.normalize_relevance = normalize_relevance
        self.fisher = fisher
        self.mi = mi
        self.auto_rule = auto_rule
        self.constant = constant
        self.compat = compat
        self.tol = tol
        self.device = device
        self.random_state = random_state

    def _check(self, options: Options, n_features: int, n_classes: int) -> None:
        check_number("alpha", options["alpha"], 0, 1)
        check_choice("fisher", options["fisher"], FISHER_KINDS)
        check_information(options["mi"], n_features)
        check_number("tol", options["tol"], 0, 1, exclusive=True)
        check_two_classes(options["compat"], n_classes)

    def _affinity(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Affinity:
        device = options["device"]
        released = None if options["compat"] is None else 10000.0
        fisher = fisher_score(X, y, kind=options["fisher"], zero_denominator=released, device=device)
        mi = information(X, y, varying, options)
        if options["normalize_relevance"]:
            fisher, mi = min_max(fisher), min_max(mi)
        return ec_fs((fisher + mi).abs() / 2, dispersion(X, device=device), options["alpha"])

    def _score(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Energy:
        return centrality(self._affinity(X, y, varying, options), options["tol"])


def centrality(A: Affinity, tol: float = 1e-10) -> Energy:
    r"""Find the eigenvector of the largest eigenvalue of a symmetric affinity, in absolute values.

    Lanczos iteration, which also tells the second eigenvalue: where both nearly coincide the vector is arbitrary.

    Args:
        A: A symmetric affinity with non-negative weights.
        tol: Relative accuracy of the eigenvalues.

    Shapes:
        - **input:** ``A`` :math:`(N, N)`, at least two nodes
        - **output:** scores and degrees :math:`(N,)`

    Returns:
        The vector, of unit length, as scores; all are equal where the affinity is 0.

    Warns:
        UserWarning: If the two leading eigenvalues are equal up to 1e-6.

    Example:
        >>> A = Affinity.from_dense(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), symmetric=True)
        >>> round(centrality(A).radius, 6)
        1.618034
    """
    size = A.shape[0]
    degrees = A.row_sums().double()
    if not bool(degrees.any()):
        return Energy(torch.full_like(degrees, size**-0.5), degrees, 0.0, True, 0, 0.0)
    if size <= _DENSE:
        values, vectors = torch.linalg.eigh(A.to_dense().matrix.double())
        second, first = values[-2:].tolist()
        vector, products = vectors[:, -1], 0
    else:
        operator = _Counting(A)
        found, basis = eigsh(operator, k=2, which="LA", v0=np.ones(size), tol=tol)
        second, first = found.tolist()
        vector, products = torch.from_numpy(basis[:, 1].copy()).to(A.device), operator.products
    if second >= (1 - 1e-6) * first:
        warnings.warn(
            f"the two leading eigenvalues, {first:.9g} and {second:.9g}, are equal up to 1e-6: the ranking by their "
            "eigenvectors is arbitrary",
            UserWarning,
            stacklevel=2,
        )
    residual = ((A @ vector - first * vector).norm() / first).item()
    return Energy(vector.abs(), degrees, first, residual <= 1e-4, products, residual)


class _Counting(LinearOperator):
    """An affinity as SciPy's eigensolver wants it, which counts its products."""

    def __init__(self, A: Affinity) -> None:
        super().__init__(np.dtype(np.float64), A.shape)
        self._affinity = A
        self.products = 0

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        self.products += 1
        v = torch.from_numpy(np.ascontiguousarray(x).reshape(-1)).to(self._affinity.device)
        product: np.ndarray = (self._affinity @ v).cpu().numpy()
        return product
