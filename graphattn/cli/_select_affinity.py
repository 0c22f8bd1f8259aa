"""The affinity between the best features, which the picture of a selection shows."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.base import clone

from graphattn.affinity import ImplicitAffinity
from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised

Selector = InfFS | InfFSSupervised | ILFS | ECFS


def affinity_among(selector: Selector, X: np.ndarray, y: np.ndarray | None, best: np.ndarray) -> np.ndarray:
    """Cut the rows and columns of some features out of the affinity by which a fitted selector ranked all.

    Args:
        selector: The fitted selector.
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
            builder = clone(selector)
            if isinstance(builder, InfFS):
                builder.set_params(store="blocked")  # a few rows are read, once
            A = builder.affinity(X, y)
        if isinstance(A, ImplicitAffinity):
            part = np.stack([A.rows(i, i + 1)[0].cpu().numpy()[nodes] for i in nodes.tolist()])
        else:
            part = A.to_scipy()[nodes][:, nodes].toarray()
        cut[np.ix_(shown, shown)] = part
    return cut
