"""Infinite latent feature selection."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.affinity.features import ilfs
from graphattn.selection.base import FeatureSelector, Options
from graphattn.selection.checks import check_count, check_number
from graphattn.selection.energy import Energy
from graphattn.selection.inf_fs_supervised import check_two_classes
from graphattn.selection.latent import Latent, latent_relevance, released_relevance, tokens


class ILFS(FeatureSelector):
    r"""Rank features by how likely they are relevant, a latent variable learned from all of them (ILFS).

    .. math::
        \mathbf{s} = \sum_{l=1}^{\infty} (r \mathbf{A})^l \mathbf{1}, \quad A_{ij} = z_i z_j
        \quad \Rightarrow \quad
        s_i = z_i \frac{\mathbf{1}^\top \mathbf{z}}{\lVert \mathbf{z} \rVert^2} \frac{c}{1 - c}

    Each sample of a feature becomes a token that says how well it fits its class, see
    :func:`~graphattn.selection.latent.tokens`; an aspect model with the tables "relevant" and "irrelevant" gives the
    probabilities :math:`z`, see :func:`~graphattn.selection.latent.latent_relevance`. The affinity has rank one, so
    that the ranking is that of :math:`z` for every decay and no system is solved. Memory is that of the data.

    The release differs: it leaves the tables as they start, so that a feature that separates the classes perfectly
    comes last and most others saturate at 1; it serves two classes only.

    Args:
        n_features_to_select: How many features to select: an integer, a fraction in (0, 1], ``"auto"``, or ``None``
            for half of them.
        n_tokens: Number of tokens, half of them for samples that fit better than by chance, so even; 6 by default.
            With ``compat`` all have the same width and the last stands for shares of exactly 1; 4 by default.
        decay: Fraction :math:`c` of the largest hop strength for which the sum converges, in (0, 1); it scales all
            scores alike.
        auto_rule: How ``"auto"`` chooses: ``"two_means"`` of the scores, ``"ilfs"`` (the release of this method) or
            ``"histogram"`` (the release of Inf-FS of 2020).
        constant: ``"last"`` ranks constant features last; ``"keep"`` treats them like others.
        compat: ``None`` or ``"matlab-2017"``, the released code for two classes, whose decay follows from the
            affinity (0.99 where that would be 1).
        tol: Relative change of the objective to stop at.
        max_iter: Steps of expectation maximization at most.
        device: Where to compute, a torch device or its name; the CPU if ``None``.

    Attributes:
        scores_: Score of each feature, larger is better; 0 for constant ones. Equal scores are ordered by the mean
            distance share.
        ranking_: Rank of each feature, 1 is the best.
        order_: Indices of the features, best first.
        support_: Mask of the selected features.
        n_features_selected_: How many features are selected.
        rho_: Spectral radius of the affinity, :math:`\lVert \mathbf{z} \rVert^2`.
        rho_certified_: True, as it is exact.
        n_iter_: Steps of expectation maximization.
        residual_: Relative change of the objective in the last step (of the release: the change).
        hop_overlap_: Share of the selected features that the row sums of the affinity would select too.
        n_features_in_: Number of features seen in ``fit``.
        feature_names_in_: Their names, if the columns have any.

    Warns:
        ConvergenceWarning: If ``max_iter`` steps do not suffice.

    Example:
        >>> from sklearn.datasets import load_breast_cancer
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> ILFS(n_features_to_select=5).fit(X, y).order_[:5].tolist()
        [23, 27, 25, 20, 13]

    Reference:
        Roffo et al., "Infinite Latent Feature Selection: A Probabilistic Latent Graph-Based Ranking Approach",
        ICCV 2017.
    """

    _supervised = True
    _releases: ClassVar[dict[str, Options]] = {
        # The decay, tolerance and number of steps are those of the release, whatever the arguments.
        "matlab-2017": {"decay": 0.9, "tol": 1e-8, "max_iter": 1000, "constant": "keep"}
    }

    def __init__(
        self,
        n_features_to_select: int | float | str | None = None,
        *,
        n_tokens: int | None = None,
        decay: float = 0.9,
        auto_rule: str = "two_means",
        constant: str = "last",
        compat: str | None = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
        device: str | torch.device | None = None,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.n_tokens = n_tokens
        self.decay = decay
        self.auto_rule = auto_rule
        self.constant = constant
        self.compat = compat
        self.tol = tol
        self.max_iter = max_iter
        self.device = device

    def _check(self, options: Options, n_features: int, n_classes: int) -> None:
        n_tokens, compat = options["n_tokens"], options["compat"]
        if n_tokens is not None:
            check_count("n_tokens", n_tokens)
            if compat is None and n_tokens % 2:
                raise ValueError(f"n_tokens is {n_tokens}; expected an even number: as many below as above chance")
            if compat is not None and n_tokens < 3:
                raise ValueError(f"n_tokens is {n_tokens}; compat={compat!r} needs at least 3")
        check_number("decay", options["decay"], 0, 1, exclusive=True)
        check_number("tol", options["tol"], 0, 1, exclusive=True)
        check_count("max_iter", options["max_iter"])
        check_two_classes(compat, n_classes)

    def _affinity(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Affinity:
        return ilfs(self._latent(X, y, options)[0].relevance)

    def _score(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Energy:
        latent, ties = self._latent(X, y, options)
        z = latent.relevance
        degrees, radius = ilfs(z).row_sums(), z.square().sum().item()
        decay = options["decay"]
        if options["compat"] is not None:
            decay = math.ceil(degrees.max().item()) / z.numel()
            decay = decay if decay < 1 else 0.99
        scores = degrees * (decay / (1 - decay) / radius) if radius > 0 else torch.zeros_like(z)
        return Energy(scores, degrees, radius, True, latent.iterations, latent.change, ties=ties)

    def _latent(self, X: Any, y: Tensor, options: Options) -> tuple[Latent, Tensor]:
        """The relevance of each feature, and what orders equal ones."""
        released = options["compat"] is not None
        n_tokens = options["n_tokens"] or (4 if released else 6)
        if released:
            edges = torch.linspace(0, 1, n_tokens, dtype=torch.float64)[1:]
        else:
            half, chance = n_tokens // 2, 1 / (int(y.max()) + 1)
            low = torch.linspace(0, chance, half + 1, dtype=torch.float64)
            high = torch.linspace(chance, 1, half + 1, dtype=torch.float64)
            edges = torch.cat([low[1:], high[1:-1]])
        found = tokens(X, y, edges, skip_undefined=released, device=options["device"])
        if released:
            return released_relevance(found.counts), found.mean
        return latent_relevance(found.counts, found.good, tol=options["tol"], max_iter=options["max_iter"]), found.mean
