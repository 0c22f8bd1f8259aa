"""The affinity between the best features, which the picture of a selection shows."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from graphattn.affinity import ImplicitAffinity, SparseAffinity
from graphattn.affinity.dispersion import dispersion
from graphattn.affinity.features import ec_fs, ilfs, inf_fs_s, inf_fs_u, nearest_features
from graphattn.affinity.relevance import fisher_score, mutual_information
from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised

Selector = InfFS | InfFSSupervised | ILFS | ECFS


def affinity_among(selector: Selector, X: np.ndarray, y: np.ndarray | None, best: np.ndarray) -> np.ndarray:
    """Cut the rows and columns of some features out of the affinity by which a fitted selector ranked all.

    Args:
        selector: The fitted selector, with the defaults of the options that ``graphattn select`` does not have.
        X: What it was fitted to.
        y: The classes, if it has read them.
        best: Indices of the features.

    Returns:
        The affinity ``[len(best), len(best)]``; constant features, which are in no graph, have none.
    """
    varying = np.flatnonzero(np.ptp(X, axis=0))
    place = np.full(X.shape[1], -1)
    place[varying] = np.arange(len(varying))
    shown = np.flatnonzero(place[best] >= 0)
    nodes = place[best[shown]]
    cut = np.zeros((len(best), len(best)))
    if len(shown):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the fit has given them
            A = _affinity(selector, X[:, varying], y, varying)
        if isinstance(A, SparseAffinity):
            part = A.to_scipy()[nodes][:, nodes].toarray()
        else:
            part = np.stack([A.rows(i, i + 1)[0].cpu().numpy()[nodes] for i in nodes.tolist()])
        cut[np.ix_(shown, shown)] = part
    return cut


def _affinity(
    selector: Selector, X: np.ndarray, y: np.ndarray | None, varying: np.ndarray
) -> ImplicitAffinity | SparseAffinity:
    device = selector.device
    if isinstance(selector, InfFS):
        A = inf_fs_u(X, selector.alpha, store="blocked", progress=selector.verbose, device=device)
    elif isinstance(selector, ILFS):
        scores = torch.from_numpy(selector.scores_[varying]).to(device)
        A = ilfs(scores * (selector.rho_**0.5 / scores.norm()))
    else:
        classes = torch.from_numpy(y)
        fisher, mi = fisher_score(X, classes, device=device), mutual_information(X, classes, device=device)
        spread = dispersion(X, device=device)
        if isinstance(selector, ECFS):
            A = ec_fs((fisher + mi) / 2, spread, selector.alpha)
        else:
            A = inf_fs_s(fisher, mi, spread)
    neighbors = getattr(selector, "n_neighbors", None)
    return A if neighbors is None else nearest_features(A, neighbors, progress=getattr(selector, "verbose", False))
