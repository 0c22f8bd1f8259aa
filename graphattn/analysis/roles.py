"""Roles of heads: who looks one token back, at itself, at the first token, at copies, or at what followed a copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn._optional import require
from graphattn.analysis.maps import AttentionMaps

Array = np.ndarray
Belongs = Callable[[Array, Array], Array]  # whether pairs of row and column are in a set

LABEL_EXCESS = 0.3  # of a role over chance, from which on a head is called by it


@dataclass(frozen=True, eq=False)
class HeadRoles:
    """Hold how much of each head's attention fits each role.

    Args:
        heads: Layer and number of each head, :math:`(M, 2)`.
        scores: For each role the mean weight of each head on the tokens of that role, :math:`(M)`; NaN where no row
            has such tokens.
        chance: For each role the same mean of attention that is uniform over the tokens that a row may see.
        n_rows: For each role the number of rows that the means go over.
    """

    heads: Array
    scores: dict[str, Array]
    chance: dict[str, float]
    n_rows: dict[str, int]

    @property
    def excess(self) -> dict[str, Array]:
        """For each role, how much more weight than by chance.

        Example:
            >>> maps = AttentionMaps.from_arrays(np.eye(3)[None, None])
            >>> head_roles(maps, [5, 6, 7]).excess["current"].round(3).tolist()
            [0.389]
        """
        return {role: scores - self.chance[role] for role, scores in self.scores.items()}

    def labels(self, least: float = LABEL_EXCESS) -> tuple[str, ...]:
        """Name each head by the role with the largest excess, or ``"none"``.

        Args:
            least: Smallest excess that makes a role.

        Example:
            >>> maps = AttentionMaps.from_arrays(np.eye(3)[None, None])
            >>> head_roles(maps, [5, 6, 7]).labels()
            ('current',)
        """
        roles = list(self.scores)
        excess = np.stack([np.where(np.isnan(values), -np.inf, values) for values in self.excess.values()])
        best = excess.argmax(axis=0)
        return tuple(roles[role] if excess[role, head] >= least else "none" for head, role in enumerate(best.tolist()))

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer and head: the scores, and the label.

        Example:
            >>> maps = AttentionMaps.from_arrays(np.eye(3)[None, None])
            >>> head_roles(maps, [5, 6, 7]).as_frame()["label"].tolist()
            ['current']
        """
        pandas = require("pandas", "analysis")
        index = pandas.MultiIndex.from_arrays(self.heads.T, names=["layer", "head"])
        return pandas.DataFrame({**self.scores, "label": self.labels()}, index=index)


def head_roles(maps: AttentionMaps, ids: Any, *, strict: bool = True) -> HeadRoles:
    r"""Measure how much of each head's attention fits roles that are known from language models.

    Each score is the mean over rows i, counted from 0, of the weight on a set of tokens:

    .. math:: s = \operatorname{mean}_{i : S_i \neq \emptyset} \sum_{j \in S_i} A_{ij}

    - ``previous``: :math:`S_i = \{i - 1\}`, and ``next``, :math:`\{i + 1\}`, for maps that are not causal;
    - ``current``: :math:`\{i\}`;
    - ``first``: :math:`\{0\}` for :math:`i \ge 1`;
    - ``duplicate``: earlier copies, :math:`\{j < i : x_j = x_i\}`;
    - ``induction``: what followed an earlier copy, :math:`\{1 \le j \le i : x_{j-1} = x_i\}`.

    The definitions are ours and follow common usage. Attention says where a head looks, not what it does with what it
    finds: take heads away to know, as :meth:`~graphattn.analysis.probe_model.ProbeModel.without_heads` does.

    Args:
        maps: Attention maps, dense or of edges.
        ids: Token id of each node; or of each token of the input, of which those that were masked are left out. Any
            integers or strings that are equal for equal tokens.
        strict: Whether ``induction`` leaves out the row's own token, which follows a copy where a token is repeated at
            once.

    Shapes:
        - **input:** ``ids`` :math:`(N)`

    Returns:
        Scores in [0, 1], with what uniform attention would get on the same ids: over all tokens up to the row's own in
        causal maps, over all in others. TransformerLens divides by all rows, not by those with a set: its scores are
        these, not strict, times ``n_rows`` over :math:`N`. Takes time :math:`O(N^2)` a dense head and :math:`O(E)` one
        of edges.

    Raises:
        ValueError: If there is not an id for each token.

    Example:
        >>> previous = np.eye(6, k=-1)
        >>> previous[0, 0] = 1.0
        >>> found = head_roles(AttentionMaps.from_arrays(previous[None, None]), [3, 1, 4, 3, 1, 4])
        >>> found.labels(), found.scores["previous"].tolist(), found.scores["induction"].tolist()
        (('previous',), [1.0], [0.0])

    Reference:
        Olsson et al., "In-context Learning and Induction Heads", 2022; Elhage et al., "A Mathematical Framework for
        Transformer Circuits", 2021.
    """
    codes = _codes(maps, ids)
    seen = np.arange(1, maps.num_nodes + 1) if maps.causal else np.full(maps.num_nodes, maps.num_nodes)
    masses = _masses(maps, _role_sets(codes, strict, maps.causal))
    sizes = _set_sizes(codes, strict)
    n_rows = {role: int((sizes[role] > 0).sum()) for role in masses}
    return HeadRoles(
        _head_numbers(maps),
        {role: _mean(total, n_rows[role]) for role, total in masses.items()},
        {role: float(_mean((sizes[role] / seen).sum(), n_rows[role])) for role in masses},
        n_rows,
    )


def pool_roles(samples: Sequence[HeadRoles]) -> HeadRoles:
    r"""Average roles over samples, each with the weight of its rows: :math:`\sum_k n_k s_k / \sum_k n_k`.

    Args:
        samples: Roles of the same heads on different tokens.

    Returns:
        The roles that all rows together have; a sample without rows for a role does not count for it.

    Raises:
        ValueError: If there are no samples, or they differ in their heads or roles.

    Example:
        >>> maps = AttentionMaps.from_arrays(np.eye(3)[None, None])
        >>> pooled = pool_roles([head_roles(maps, [5, 6, 7]), head_roles(maps, [5, 6, 5])])
        >>> pooled.n_rows["current"], pooled.n_rows["duplicate"], pooled.scores["duplicate"].tolist()
        (6, 1, [0.0])
    """
    if not samples:
        raise ValueError("samples is empty; expected the roles of at least one sample")
    first = samples[0]
    for number, sample in enumerate(samples):
        if not np.array_equal(sample.heads, first.heads) or list(sample.scores) != list(first.scores):
            raise ValueError(
                f"sample {number} has {len(sample.heads)} heads and the roles {list(sample.scores)}, the first "
                f"{len(first.heads)} and {list(first.scores)}; expected the same model, causal or not"
            )
    n_rows = {role: sum(sample.n_rows[role] for sample in samples) for role in first.scores}

    def pooled(role: str, values: Sequence[Any]) -> Any:
        counts = np.array([sample.n_rows[role] for sample in samples])
        stacked = np.where(counts[:, None] > 0, np.reshape(values, (len(samples), -1)), 0.0)
        return _mean(counts @ stacked, n_rows[role])

    return HeadRoles(
        first.heads,
        {role: pooled(role, [sample.scores[role] for sample in samples]) for role in first.scores},
        {role: pooled(role, [sample.chance[role] for sample in samples]).item() for role in first.scores},
        n_rows,
    )


def offset_score(maps: AttentionMaps, offset: int, rows: Sequence[int] | None = None) -> list[Array]:
    r"""Compute the mean weight on the token a fixed number of places back.

    .. math:: s = \operatorname{mean}_i A_{i, i - o}

    Args:
        maps: Attention maps, dense or of edges.
        offset: Number of places :math:`o`; negative ones look ahead.
        rows: Rows to average over, each of which has such a token; by default, all that have one.

    Shapes:
        - **output:** :math:`(M)`

    Returns:
        The score of each head, layer by layer; NaN if no row has such a token.

    Raises:
        ValueError: If a row is no node or has no such token.

    Example:
        >>> offset_score(AttentionMaps.from_arrays(np.eye(4)[None, None]), 0)
        array([1.])
    """
    size = maps.num_nodes
    has = np.zeros(size, dtype=bool)
    has[max(offset, 0) : max(size + min(offset, 0), 0)] = True
    if rows is not None:
        numbers = np.asarray(rows, dtype=np.int64)
        if numbers.ndim != 1 or not np.isin(numbers, np.flatnonzero(has)).all():
            raise ValueError(
                f"rows is {rows!r} with offset {offset} but there are {size} tokens; expected a list of rows i such "
                "that i and i - offset are tokens"
            )
        has = np.isin(np.arange(size), numbers)
    return _mean(_masses(maps, {"offset": lambda i, j: (i - j == offset) & has[i]})["offset"], int(has.sum()))


def repeated_tokens(
    length: int, vocab_size: int, *, bos: int | None = 0, generator: torch.Generator | None = None
) -> Tensor:
    r"""Make a sequence of distinct random tokens, twice in a row: the probe of induction.

    In the second copy, induction is the stripe :math:`A_{i, i - T_0 + 1}`, duplicate :math:`A_{i, i - T_0}`, and
    previous :math:`A_{i, i - 1}`, with :math:`T_0` the length of a copy.

    Args:
        length: Length :math:`T_0` of a copy.
        vocab_size: Number of token ids to draw from.
        bos: Id of the first token, which is in no copy; None for none.
        generator: Source of randomness.

    Shapes:
        - **output:** :math:`(2 T_0 + 1)`, or :math:`(2 T_0)` without ``bos``

    Raises:
        ValueError: If the vocabulary has fewer than ``length`` ids besides ``bos``, or a number is out of range.

    Example:
        >>> repeated_tokens(3, 10, generator=torch.Generator().manual_seed(0)).tolist()
        [0, 9, 1, 3, 9, 1, 3]
    """
    if length < 1:
        raise ValueError(f"length is {length}; expected at least 1")
    if bos is not None and not 0 <= bos < vocab_size:
        raise ValueError(f"bos is {bos} but vocab_size is {vocab_size}; expected an id below it, or None")
    ids = torch.arange(vocab_size)
    if bos is not None:
        ids = ids[ids != bos]
    if len(ids) < length:
        raise ValueError(f"length is {length} but there are {len(ids)} ids to draw from; pass a larger vocab_size")
    copy = ids[torch.randperm(len(ids), generator=generator)[:length]]
    start = copy.new_tensor([] if bos is None else [bos])
    return torch.cat([start, copy, copy])


# The sets of rows and columns #########################################################################################


def _role_sets(x: Array, strict: bool, causal: bool) -> dict[str, Belongs]:
    """Return for each role whether column j belongs to the set of row i."""
    sets: dict[str, Belongs] = {
        "previous": lambda i, j: j == i - 1,
        "next": lambda i, j: j == i + 1,
        "current": lambda i, j: j == i,
        "first": lambda i, j: (j == 0) & (i > 0),
        "duplicate": lambda i, j: (j < i) & (x[j] == x[i]),
        "induction": lambda i, j: (j > 0) & (j <= i - strict) & (x[j - 1] == x[i]),
    }
    if causal:
        del sets["next"]
    return sets


def _set_sizes(codes: Array, strict: bool) -> dict[str, Array]:
    """Return for each role the number of tokens in the set of each row."""
    size = len(codes)
    later = (np.arange(size) > 0).astype(np.int64)
    # Copies come in the order of their places; the rank in its run is how many came before.
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    copies = np.empty(size, dtype=np.int64)
    copies[order] = np.arange(size) - np.repeat(starts, np.diff(starts, append=size))
    own = np.concatenate([[False], codes[1:] == codes[:-1]]) & strict
    return {
        "previous": later,
        "next": later[::-1],
        "current": np.ones(size, dtype=np.int64),
        "first": later,
        "duplicate": copies,
        "induction": copies - own,
    }


def _masses(maps: AttentionMaps, sets: dict[str, Belongs]) -> dict[str, Array]:
    """Return for each set of rows and columns the weight of each head on it."""
    places: dict[str, Array] = {}
    if not all(maps.is_sparse(layer) for layer in range(maps.num_layers)):
        number = np.arange(maps.num_nodes)
        places = {name: np.flatnonzero(belongs(number[:, None], number)) for name, belongs in sets.items()}
    masses: dict[str, list[Array]] = {name: [] for name in sets}
    for layer in range(maps.num_layers):
        if maps.is_sparse(layer):
            (source, target), weights = maps.edges(layer)
            for name, belongs in sets.items():
                masses[name].append(weights[belongs(target, source)].sum(axis=0))
        else:
            flat = maps.dense(layer).reshape(maps.heads[layer], -1)
            for name in sets:
                masses[name].append(flat[:, places[name]].sum(axis=1))
    return {name: np.concatenate(values) for name, values in masses.items()}


def _head_numbers(maps: AttentionMaps) -> Array:
    return np.array([(layer, head) for layer, count in enumerate(maps.heads) for head in range(count)])


def _mean(total: Any, count: int) -> Any:
    return total / count if count else total * np.nan


def _codes(maps: AttentionMaps, ids: Any) -> Array:
    """Number the tokens so that equal ones have equal numbers."""
    values = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if values.ndim == 1 and len(values) > max(maps.num_nodes, maps.positions.max()):
        values = values[maps.positions]
    if values.shape != (maps.num_nodes,):
        raise ValueError(f"ids has shape {values.shape} but the maps have {maps.num_nodes} tokens; pass an id for each")
    return np.unique(values, return_inverse=True)[1]
