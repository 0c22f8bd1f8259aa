"""Sequences of tokens as graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch_geometric.data import Batch

from graphattn.affinity import SparseAffinity, complete

_PATTERNS: dict[str, Callable[[int], SparseAffinity]] = {
    "complete": complete,
    "causal": lambda length: complete(length, causal=True),
}


def tokens_to_graph(
    sequences: Sequence[Tensor | Sequence[int]], pattern: str | Callable[[int], SparseAffinity] = "complete"
) -> Batch:
    r"""Make a graph of each sequence: its tokens are the nodes, a pattern says which attends to which.

    Args:
        sequences: Token ids of each sequence, or features of its tokens.
        pattern: ``"complete"``, ``"causal"``, or a function of the length, as
            ``lambda n: union(window(n, 4), global_nodes(n, [0]))`` with the patterns of :mod:`graphattn.affinity`.

    Shapes:
        - **input:** sequences :math:`(n,)` or :math:`(n, D)`
        - **output:** ``x`` :math:`(N,)` or :math:`(N, D)`, ``pos`` :math:`(N,)`, ``edge_index`` :math:`(2, E)`,
          ``edge_type`` :math:`(E,)`, ``batch`` :math:`(N,)`

    Returns:
        A PyG batch of a graph per sequence, ``pos`` being the place of each token in its own.

    Raises:
        ValueError: If there is no sequence, one has a wrong shape, or the pattern is unknown or of another size.
        TypeError: If the pattern does not return a ``SparseAffinity``.

    Example:
        >>> graphs = tokens_to_graph([[7, 8, 9], [5]], "causal")
        >>> graphs.x.tolist(), graphs.batch.tolist()
        ([7, 8, 9, 5], [0, 0, 0, 1])
        >>> graphs.edge_index.tolist()
        [[0, 0, 1, 0, 1, 2, 3], [0, 1, 1, 2, 2, 2, 3]]
    """
    if isinstance(pattern, str):
        if pattern not in _PATTERNS:
            names = ", ".join(map(repr, _PATTERNS))
            raise ValueError(f"pattern is {pattern!r}; expected one of {names}, or a function of the length")
        pattern = _PATTERNS[pattern]
    if len(sequences) == 0:
        raise ValueError("sequences is empty; expected at least one")
    graphs = []
    for index, sequence in enumerate(sequences):
        x = sequence if isinstance(sequence, Tensor) else torch.tensor(sequence, dtype=torch.long)
        if x.dim() not in (1, 2):
            raise ValueError(f"sequences[{index}] has shape {tuple(x.shape)}; expected [tokens] or [tokens, channels]")
        graph = checked(pattern(len(x)), len(x)).to(x.device).to_data()
        graph.x, graph.pos = x, torch.arange(len(x), device=x.device)
        graphs.append(graph)
    return Batch.from_data_list(graphs)


def checked(pattern: object, num_nodes: int) -> SparseAffinity:
    """Return what a pattern made, or raise if it is no affinity of so many nodes."""
    if not isinstance(pattern, SparseAffinity):
        raise TypeError(f"pattern returns a {type(pattern).__name__}; expected a SparseAffinity")
    if pattern.shape != (num_nodes, num_nodes):
        raise ValueError(f"pattern returns an affinity of shape {pattern.shape}; expected {(num_nodes, num_nodes)}")
    return pattern
