"""The argument ``mi``: which estimate of mutual information a selector uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.feature_selection import mutual_info_classif
from torch import Tensor

from graphattn.affinity.relevance import mutual_information
from graphattn.selection.base import Options
from graphattn.selection.checks import check_choice


def check_information(mi: Any, n_features: int) -> None:
    """Raise unless ``mi`` is the name of an estimate or holds one value for each feature."""
    if isinstance(mi, str):
        check_choice("mi", mi, ("binned", "knn"))
        return
    values = np.asarray(mi)
    if values.shape != (n_features,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(
            f"mi has shape {values.shape} and dtype {values.dtype}; expected 'binned', 'knn' or a finite number for "
            f"each of the {n_features} features"
        )


def information(X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Tensor:
    """Estimate mutual information with the classes, or take the values given for the columns ``varying``."""
    mi, device = options["mi"], options["device"]
    if not isinstance(mi, str):
        return torch.from_numpy(np.asarray(mi, dtype=np.float64)[varying]).to(device)
    if mi == "binned":
        return mutual_information(X, y, device=device)
    if issparse(X):
        raise ValueError("mi is 'knn', which needs dense data, but X is sparse; use mi='binned' or X.toarray()")
    values = mutual_info_classif(X, y.numpy(), discrete_features=False, random_state=options["random_state"])
    return torch.from_numpy(values).to(device)
