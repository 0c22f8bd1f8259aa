"""Explanations of one token by others: few tokens, near in the causal graph, without which the outcome changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from graphattn._optional import require
from graphattn.analysis.causal_pag import Pag

IsExplanation: TypeAlias = Callable[[tuple[int, ...], int], bool]


@dataclass(frozen=True)
class PdsTree:
    """Hold the paths along which nodes may be needed to separate the root from others.

    Args:
        node: The node here.
        depth: Number of edges from the root.
        children: The next nodes of paths that come through here.

    Example:
        >>> pag = Pag.from_edges(range(3), [(0, "o-o", 1), (1, "o-o", 2)])
        >>> [child.node for child in pds_tree(pag, 1).children]
        [0, 2]
    """

    node: int
    depth: int = 0
    children: list[PdsTree] = field(default_factory=list)

    def distances(self) -> dict[int, int]:
        """Return the smallest depth of each node besides the root, nearest first.

        Example:
            >>> pag = Pag.from_edges(range(3), [(0, "-->", 1), (2, "-->", 1)])
            >>> pds_tree(pag, 0).distances()
            {1: 1, 2: 2}
        """
        found: dict[int, int] = {}
        for place in self._walk(None):
            found.setdefault(place.node, place.depth)
        return found

    def reaches(self, nodes: Iterable[int]) -> bool:
        """Tell whether each of some nodes can be reached from the root through these nodes only.

        Args:
            nodes: The nodes.

        Example:
            >>> pag = Pag.from_edges(range(3), [(0, "-->", 1), (2, "-->", 1)])
            >>> tree = pds_tree(pag, 0)
            >>> tree.reaches([2]), tree.reaches([1, 2])
            (False, True)
        """
        wanted = set(nodes)
        return wanted == {place.node for place in self._walk(wanted)}

    def _walk(self, within: set[int] | None) -> Iterator[PdsTree]:
        """Visit all places below this one, nearest first, through some nodes only."""
        queue = deque(self.children)
        while queue:
            place = queue.popleft()
            if within is None or place.node in within:
                yield place
                queue.extend(place.children)


def pds_tree(pag: Pag, root: int, max_range: int | None = None) -> PdsTree:
    """Build the tree of possible d-separators of a node.

    The children of the root are its neighbors. A path a, b, c goes on if b is a collider on it, or a and c are
    adjacent. Each edge of the graph is used once.

    Args:
        pag: The graph.
        root: The node.
        max_range: Largest depth; none by default.

    Returns:
        The tree.

    Raises:
        ValueError: If the root is none of the nodes, or ``max_range`` is below 1.

    Example:
        >>> chain = Pag.from_edges(range(4), [(0, "o-o", 1), (1, "o-o", 2), (2, "o-o", 3)])
        >>> pds_tree(chain, 0).distances()
        {1: 1}

    Reference:
        Rohekar, Nisimov, Gurwicz and Novik, "Iterative causal discovery in the possible presence of latent confounders
        and selection bias", NeurIPS 2021.
    """
    if max_range is not None and max_range < 1:
        raise ValueError(f"max_range is {max_range}; expected at least 1, or None for no limit")
    tree = PdsTree(root, 0, [PdsTree(node, 1) for node in pag.neighbors(root)])
    used = {frozenset((root, child.node)) for child in tree.children}
    queue = deque((root, child) for child in tree.children)
    while queue:
        before, place = queue.popleft()
        if max_range is not None and place.depth >= max_range:
            continue
        for after in pag.neighbors(place.node):
            edge = frozenset((place.node, after))
            if edge in used or after == before:
                continue
            if pag.adjacent(before, after) or pag.is_collider(before, place.node, after):
                used.add(edge)
                place.children.append(PdsTree(after, place.depth + 1))
                queue.append((place.node, place.children[-1]))
    return tree


@dataclass(frozen=True)
class Explanations:
    """Hold the sets of tokens that explain a target.

    Args:
        target: The node that is explained.
        candidates: The nodes that may, with their distance from the target in the graph.
        found: The explanations, smaller ones first, then those that are nearer.
        n_tried: Number of sets that were put to the test; 0 without one, where all candidates are one explanation.
        tokens: Names of all tokens.

    Example:
        >>> pag = Pag.from_edges([0, 1, 2], [(0, "-->", 2), (1, "-->", 2)])
        >>> explain(pag, 2, lambda subset, target: 1 in subset)
        Explanations(of 2: {1}; 2 sets tried)
    """

    target: int
    candidates: dict[int, int]
    found: tuple[tuple[int, ...], ...]
    n_tried: int
    tokens: tuple[str, ...] | None = None

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per explanation: its nodes, their names, number, and distance.

        Example:
            >>> pag = Pag.from_edges([0, 1, 2], [(0, "-->", 2), (1, "-->", 2)])
            >>> explain(pag, 2).as_frame()["nodes"].tolist()
            [(0, 1)]
        """
        pandas = require("pandas", "causal")
        rows = [
            {
                "nodes": subset,
                "tokens": tuple(map(self._name, subset)),
                "size": len(subset),
                "distance": sum(self.candidates[node] for node in subset),
            }
            for subset in self.found
        ]
        return pandas.DataFrame(rows, columns=["nodes", "tokens", "size", "distance"])

    def _name(self, node: int) -> str:
        return str(node) if self.tokens is None else self.tokens[node]

    def __repr__(self) -> str:
        sets = ["{" + ", ".join(map(self._name, subset)) + "}" for subset in self.found]
        shown = ", ".join(sets[:8]) + (f" and {len(sets) - 8} more" if len(sets) > 8 else "")
        tried = f"{self.n_tried} sets tried" if self.n_tried else "not put to the test"
        return f"Explanations(of {self._name(self.target)}: {shown or 'none'}; {tried})"


def explain(
    pag: Pag,
    target: int,
    is_explanation: IsExplanation | None = None,
    *,
    minimal: bool = True,
    max_size: int | None = None,
    max_range: int | None = None,
    tokens: Sequence[str] | None = None,
) -> Explanations:
    """Search the causal graph for small sets of nodes that explain a target.

    Sets are tried from small to large and from near to far: those whose nodes can all be reached from the target, along
    the tree of its possible d-separators, through nodes of the set.

    Args:
        pag: The graph.
        target: The node to explain.
        is_explanation: Function of a set of nodes and the target that tells whether the set explains it, such as
            :func:`masking_test` makes. Without one the result is the set of all candidates, which nothing confirms.
        minimal: Whether to stop after the smallest size with an explanation.
        max_size: Largest size of a set; none by default, so that the number of sets doubles with each candidate.
        max_range: Largest distance from the target; none by default.
        tokens: Names of all tokens, for display.

    Returns:
        The explanations. Without any the target has no edges, or no set of candidates passed.

    Raises:
        ValueError: If the target is none of the nodes, or ``max_size`` or ``max_range`` is below 1.

    Example:
        >>> pag = Pag.from_edges([0, 1, 2, 3], [(0, "-->", 2), (1, "-->", 2), (3, "o-o", 0)])
        >>> explain(pag, 2, lambda subset, target: {0, 1} <= set(subset)).found
        ((0, 1),)

    Reference:
        Rohekar, Gurwicz and Nisimov, "Causal Interpretation of Self-Attention in Pre-Trained Transformers", NeurIPS
        2023.
    """
    if max_size is not None and max_size < 1:
        raise ValueError(f"max_size is {max_size}; expected at least 1, or None for no limit")
    tree = pds_tree(pag, target, max_range)
    distances = tree.distances()
    names = None if tokens is None else tuple(tokens)
    largest = len(distances) if max_size is None else min(max_size, len(distances))
    if is_explanation is None:
        whole = (tuple(sorted(distances)),) if 0 < len(distances) <= largest else ()
        return Explanations(target, distances, whole, 0, names)
    found: list[tuple[int, ...]] = []
    tried = 0
    for size in range(1, largest + 1):
        subsets = [subset for subset in combinations(sorted(distances), size) if tree.reaches(subset)]
        subsets.sort(key=lambda subset: sum(distances[node] for node in subset))
        tried += len(subsets)
        found += [subset for subset in subsets if is_explanation(subset, target)]
        if found and minimal:
            break
    return Explanations(target, distances, tuple(found), tried, names)


def exhaustive_explanations(
    nodes: Sequence[int], target: int, is_explanation: IsExplanation, *, minimal: bool = True
) -> tuple[tuple[int, ...], ...]:
    """Try every set of nodes as an explanation, without a graph: the reference that a search can be compared with.

    Args:
        nodes: The nodes, among which the target may be.
        target: The node to explain.
        is_explanation: As in :func:`explain`.
        minimal: Whether to stop after the smallest size with an explanation.

    Returns:
        The explanations, smaller ones first. The number of sets doubles with each node.

    Example:
        >>> exhaustive_explanations(range(3), 2, lambda subset, target: 0 in subset, minimal=False)
        ((0,), (0, 1))
    """
    others = sorted(set(nodes) - {target})
    found: list[tuple[int, ...]] = []
    for size in range(1, len(others) + 1):
        found += [subset for subset in combinations(others, size) if is_explanation(subset, target)]
        if found and minimal:
            break
    return tuple(found)


def masking_test(
    predict: Callable[[Any, int], Any], ids: Any, pad_id: int, mask_id: int | None = None
) -> IsExplanation:
    """Make the test whether a prediction changes once tokens are hidden.

    Args:
        predict: Function of the token ids and the position of the target that returns what the model predicts, such as
            the id of the likeliest token there.
        ids: Ids of all tokens, an array or a tensor.
        pad_id: Id that takes the place of hidden tokens, that of padding.
        mask_id: Id that takes the place of the target, before and after, for a model that is to predict it; by default
            the target stays.

    Shapes:
        - **input:** ``ids`` :math:`(N)`

    Returns:
        A test for :func:`explain`. The prediction without hidden tokens is made once for each target.

    Raises:
        ValueError: If ``ids`` is no list of ids.

    Example:
        >>> most_frequent = lambda ids, target: int(np.bincount(ids[ids > 0]).argmax())
        >>> test = masking_test(most_frequent, np.array([5, 3, 5, 3, 5, 5]), pad_id=0)
        >>> test((0,), 1), test((0, 2), 1)
        (False, True)
    """
    if not isinstance(ids, Tensor):
        ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"ids has shape {tuple(ids.shape)}; expected the ids of one sequence, [N]")
    plain: dict[int, np.ndarray] = {}

    def prediction(hidden: Iterable[int], target: int) -> np.ndarray:
        changed = ids.clone() if isinstance(ids, Tensor) else ids.copy()
        if mask_id is not None:
            changed[target] = mask_id
        for position in hidden:
            changed[position] = pad_id
        outcome = predict(changed, target)
        return outcome.detach().cpu().numpy() if isinstance(outcome, Tensor) else np.asarray(outcome)

    def is_explanation(subset: tuple[int, ...], target: int) -> bool:
        if target not in plain:
            plain[target] = prediction((), target)
        return not np.array_equal(plain[target], prediction(subset, target))

    return is_explanation
