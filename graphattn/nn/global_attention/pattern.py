"""Attention over pairs that a pattern names instead of all pairs: windows, expanders, random blocks, nearest nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from graphattn._names import nearest
from graphattn.affinity import complete, expander, global_nodes, knn, random_blocks, union, window
from graphattn.affinity.patterns import EdgeType
from graphattn.affinity.sparse import SparseAffinity
from graphattn.nn.attention_conv import AttentionConv

_FIXED: dict[str, Callable[..., SparseAffinity]] = {
    "complete": complete,
    "window": window,
    "global_nodes": global_nodes,
    "random_blocks": random_blocks,
    "expander": expander,
}
_RANDOM = ("random_blocks", "expander")
PATTERNS = (*_FIXED, "knn")


class PatternAttention(nn.Module):
    r"""Let every node attend to the nodes of its graph that patterns name, whatever its edges.

    .. math:: \mathbf{O}_i = \textstyle\sum_{j : P_{ij} = 1} \alpha_{ij} \mathbf{V}_j, \quad
              P = \operatorname{union}(P_1, P_2, \dots)

    Longformer is a window with global nodes, BigBird adds random blocks, Exphormer joins the edges of the graph with an
    expander. Time and memory are those of the pairs. ``"knn"`` joins the nearest nodes in the space of the features
    that come in, anew in every call; no gradient goes through the choice. Of several patterns every kind of pair has a
    learned feature.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Number of heads :math:`H`; they divide ``channels``.
        patterns: Options of each pattern by its name: ``"complete"``, ``"window"``, ``"global_nodes"``,
            ``"random_blocks"`` or ``"expander"``, as in :mod:`graphattn.affinity`, or ``"knn"`` with ``k`` and perhaps
            ``metric``. By default a window of 8 nodes to either side.
        score: Score of the attention.
        dropout: Probability of dropping an attention weight in training.
        seed: Seed of the random patterns, which are the same in every call on graphs of the same sizes.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If a pattern is unknown or none is given.

    Example:
        >>> attend = PatternAttention(8, 2, patterns={"window": {"width": 2}, "global_nodes": {"nodes": [0]}})
        >>> attend(torch.rand(50, 8), torch.arange(50) // 20).shape
        torch.Size([50, 8])

    Reference:
        Beltagy et al., "Longformer", 2020; Zaheer et al., "Big Bird", 2020; Shirzad et al., "Exphormer", 2023; Wang et
        al., "Dynamic Graph CNN for Learning on Point Clouds", 2019 (nearest nodes in each layer).
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        patterns: Mapping[str, Mapping[str, Any]] | None = None,
        score: str = "dot",
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        patterns = {"window": {"width": 8}} if patterns is None else patterns
        if not patterns:
            raise ValueError(f"patterns is empty; expected at least one of {', '.join(PATTERNS)}")
        for name in patterns:
            if name not in PATTERNS:
                near = nearest(name, PATTERNS)
                raise ValueError(f"patterns has {name!r}; did you mean {near!r}? Expected {', '.join(PATTERNS)}")
        if heads < 1 or channels % heads:
            raise ValueError(f"heads is {heads}, which does not divide channels={channels}")
        self.patterns = {name: dict(options) for name, options in patterns.items()}
        self.seed = seed
        several = len(patterns) > 1
        self.edge_embedding = nn.Embedding(len(EdgeType), channels // heads) if several else None
        self.conv = AttentionConv(
            channels,
            channels // heads,
            heads,
            score=score,
            dropout=dropout,
            root_weight=False,
            edge_dim=channels // heads if several else None,
        )

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.conv.reset_parameters()
        if self.edge_embedding is not None:
            self.edge_embedding.reset_parameters()

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        """Attend within each graph.

        Args:
            x: Nodes.
            batch: Graph of each node, in any order; by default all belong to one.

        Returns:
            What the nodes gather, in their order.
        """
        pairs = self.pairs(x, batch)
        kinds = None if self.edge_embedding is None else self.edge_embedding(pairs.edge_type)
        return self.conv(x, pairs, kinds)

    def pairs(self, x: Tensor, batch: Tensor | None = None) -> SparseAffinity:
        """Return the pairs that attend, an affinity of ones.

        Args:
            x: Nodes, whose values matter for ``"knn"`` alone.
            batch: Graph of each node.
        """
        found = []
        for name, options in self.patterns.items():
            if name == "knn":
                found.append(_nearest(x.detach(), batch, options))
            elif batch is None:
                found.append(_of_one_graph(name, json.dumps(options), x.size(0), self.seed).to(x.device))
            else:
                found.append(_make(name, options, self.seed, num_nodes=None, batch=batch.cpu()).to(x.device))
        return found[0] if len(found) == 1 else union(*found)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={options}" for name, options in self.patterns.items())


def _make(name: str, options: Mapping[str, Any], seed: int, **nodes: Any) -> SparseAffinity:
    # Pairs are found on the CPU, where a seed means the same whatever the device of the nodes.
    random = {"generator": torch.Generator().manual_seed(seed)} if name in _RANDOM else {}
    return _FIXED[name](**nodes, **options, **random)


# A network asks for the same pairs in every layer and epoch, and an expander takes a while to find.
@lru_cache(maxsize=16)
def _of_one_graph(name: str, options: str, num_nodes: int, seed: int) -> SparseAffinity:
    return _make(name, json.loads(options), seed, num_nodes=num_nodes)


def _nearest(x: Tensor, batch: Tensor | None, options: Mapping[str, Any]) -> SparseAffinity:
    """Join every node with itself and its nearest others, graph by graph."""
    if batch is None:
        edges = _nearest_of_one(x, options)
    else:
        parts = [(batch == graph).nonzero().flatten() for graph in batch.unique()]
        edges = torch.cat([nodes[_nearest_of_one(x[nodes], options)] for nodes in parts], dim=1)
    kind = torch.full_like(edges[0], EdgeType.GIVEN)
    return SparseAffinity(edges, None, (x.size(0), x.size(0)), edge_type=kind)


def _nearest_of_one(x: Tensor, options: Mapping[str, Any]) -> Tensor:
    k = min(options.get("k", 8), max(x.size(0) - 1, 0))
    loops = torch.arange(x.size(0), device=x.device).expand(2, -1)
    if k == 0:
        return loops
    return torch.cat([knn(x, **{**options, "k": k}).edge_index, loops], dim=1)
