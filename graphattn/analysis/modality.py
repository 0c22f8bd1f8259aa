"""Flow between groups of tokens, such as an image's patches and a sentence's words: who reads how much from whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from graphattn._optional import require
from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.rollout import rollout

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class ModalityFlow:
    """Hold how much each group of tokens draws on each, for every head.

    Args:
        groups: Names of the groups.
        sizes: Number of tokens of each, :math:`(G)`.
        heads: Layer and number of each head, :math:`(M, 2)`; -1 stands for all heads together.
        mass: Mean weight that tokens of the row's group give to those of the column's, :math:`(M, G, G)`; NaN in rows
            of groups without tokens.
    """

    groups: tuple[str, ...]
    sizes: Array
    heads: Array
    mass: Array

    @property
    def total(self) -> Array:
        """Inter-modality flow of each head: the mean weight that tokens give to other groups, :math:`(M)`.

        Example:
            >>> flow = modality_flow(AttentionMaps.from_arrays(np.full((1, 1, 4, 4), 0.25)), ["a", "a", "a", "b"])
            >>> flow.total.tolist()
            [0.375]
        """
        other = np.where(np.eye(len(self.groups), dtype=bool), 0.0, self.mass).sum(axis=2)
        return np.where(self.sizes > 0, other, 0.0) @ self.sizes / self.sizes.sum()

    @property
    def lift(self) -> Array:
        """Weight over what uniform attention would give, :math:`(M, G, G)`; NaN for groups without tokens.

        Example:
            >>> flow = modality_flow(AttentionMaps.from_arrays(np.full((1, 1, 4, 4), 0.25)), ["a", "a", "a", "b"])
            >>> flow.lift.tolist()
            [[[1.0, 1.0], [1.0, 1.0]]]
        """
        share = self.sizes / self.sizes.sum()
        return self.mass / np.where(share > 0, share, np.nan)

    @property
    def asymmetry(self) -> Array:
        """How much more a group draws on another than that one on it, :math:`(M, G, G)`.

        Example:
            >>> A = np.array([[1.0, 0.0], [0.75, 0.25]])
            >>> modality_flow(AttentionMaps.from_arrays(A[None, None]), ["vision", "words"]).asymmetry[0, 1, 0].item()
            0.75
        """
        return self.mass - self.mass.swapaxes(1, 2)

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer, head, reading group and group that is read.

        Example:
            >>> A = np.array([[1.0, 0.0], [0.75, 0.25]])
            >>> frame = modality_flow(AttentionMaps.from_arrays(A[None, None]), ["vision", "words"]).as_frame()
            >>> frame.loc[(0, 0, "words", "vision"), "mass"].item()
            0.75
        """
        pandas = require("pandas", "analysis")
        places = [(*head, reads, read) for head in self.heads.tolist() for reads in self.groups for read in self.groups]
        columns = {name: getattr(self, name).ravel() for name in ("mass", "lift", "asymmetry")}
        index = pandas.MultiIndex.from_tuples(places, names=["layer", "head", "target", "source"])
        return pandas.DataFrame(columns, index=index)


def modality_flow(
    maps: AttentionMaps, groups: Any, *, names: Sequence[Any] | None = None, on: str = "attention"
) -> ModalityFlow:
    r"""Measure how much groups of tokens draw on one another.

    .. math:: B_{gh} = \frac{1}{n_g} \sum_{i \in g} \sum_{j \in h} A_{ij}

    With :math:`g \ne h` this is the flow from h to g: what g reads from h. The total is the mean over tokens of the
    weight they give to other groups; lift is :math:`B_{gh} / (n_h / N)`. The definition is ours: the metric of the same
    name that has been published comes without a formula.

    Args:
        maps: Attention maps, dense or of edges.
        groups: Group of each token: strings or integers.
        names: All groups, in the order that the result has them; by default those that occur, sorted.
        on: ``"attention"``, or ``"rollout"`` for the products of the layers, all heads together.

    Shapes:
        - **input:** ``groups`` :math:`(N)`

    Returns:
        The flow of each head. Takes time :math:`O(N^2)` a dense head and :math:`O(E)` one of edges.

    Raises:
        ValueError: If there is not a group for each token, one is not in ``names``, or ``on`` is unknown.

    Example:
        >>> A = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
        >>> flow = modality_flow(AttentionMaps.from_arrays(A[None, None]), ["vision", "vision", "words"])
        >>> flow.groups, flow.mass.tolist()
        (('vision', 'words'), [[[1.0, 0.0], [0.5, 0.5]]])
    """
    known, of_token = _read_groups(maps, groups, names)
    count = len(known)
    sizes = np.bincount(of_token, minlength=count)
    if on == "attention":
        sums = [_block_sums(maps, layer, of_token, count) for layer in range(maps.num_layers)]
        heads = [(layer, head) for layer, number in enumerate(maps.heads) for head in range(number)]
        blocks = np.concatenate(sums)
    elif on == "rollout":
        heads = [(layer, -1) for layer in range(maps.num_layers)]
        blocks = _dense_sums(rollout(maps).relevance, of_token, count)
    else:
        raise ValueError(f"on is {on!r}; expected 'attention' or 'rollout'")
    mass = blocks / np.where(sizes > 0, sizes, np.nan)[:, None]
    return ModalityFlow(tuple(str(name) for name in known), sizes, np.array(heads), mass)


def _read_groups(maps: AttentionMaps, groups: Any, names: Sequence[Any] | None) -> tuple[list[Any], Array]:
    """Return the names of the groups, and the number of each token's group."""
    values = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    if values.shape != (maps.num_nodes,):
        raise ValueError(
            f"groups has shape {values.shape} but the maps have {maps.num_nodes} tokens; pass one for each"
        )
    given = values.tolist()
    known = sorted(set(given)) if names is None else list(names)
    if len(set(known)) != len(known):
        raise ValueError(f"names is {known}; expected each group once")
    number = {name: place for place, name in enumerate(known)}
    unknown = sorted(set(given) - set(known), key=str)
    if unknown:
        raise ValueError(f"groups has {unknown}, which names {known} does not list")
    return known, np.array([number[name] for name in given])


def _block_sums(maps: AttentionMaps, layer: int, of_token: Array, count: int) -> Array:
    """Sum the weights of each head between groups, targets first: :math:`(H, G, G)`."""
    if not maps.is_sparse(layer):
        return _dense_sums(maps.dense(layer), of_token, count)
    (source, target), weights = maps.edges(layer)
    block = of_token[target] * count + of_token[source]
    sums = [np.bincount(block, head, minlength=count * count) for head in weights.T]
    return np.stack(sums).reshape(-1, count, count)


def _dense_sums(A: Array, of_token: Array, count: int) -> Array:
    belongs = np.eye(count)[of_token]
    return belongs.T @ A @ belongs
