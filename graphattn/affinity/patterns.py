"""Which pairs attend, whatever the features: complete graphs, windows, global nodes, random blocks, and their union.

Every pattern is an affinity of ones that lists its edges by (target, source) and says of each what it is, by an
``edge_type`` of :class:`EdgeType`. A graph is given by its number of nodes, several graphs side by side by a list of
numbers, or by the ``batch`` or ``ptr`` of PyG; then no edge leaves its graph. Memory is that of the edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from graphattn.affinity._graphs import Graphs, Sizes, check_integer, ranges
from graphattn.affinity.sparse import SparseAffinity

__all__ = ["EdgeType", "complete", "global_nodes", "random_blocks", "union", "window"]


class EdgeType(IntEnum):
    """Name what a pattern made an edge for; edges that no pattern made are ``GIVEN``.

    ``torch.nn.Embedding(len(EdgeType), edge_dim)`` learns a feature for each.

    Example:
        >>> embedding = torch.nn.Embedding(len(EdgeType), 4)
        >>> embedding(window(5, 1).edge_type).shape
        torch.Size([13, 4])
    """

    GIVEN = 0
    COMPLETE = 1
    WINDOW = 2
    GLOBAL = 3
    RANDOM = 4
    EXPANDER = 5
    GRID = 6
    TO_VIRTUAL = 7
    FROM_VIRTUAL = 8


def complete(
    num_nodes: Sizes = None, *, causal: bool = False, batch: Tensor | None = None, ptr: Tensor | None = None
) -> SparseAffinity:
    r"""Let every node attend to all nodes of its graph, itself included.

    Args:
        num_nodes: Number of nodes, or one number per graph.
        causal: Whether a node attends only to itself and the nodes before it.
        batch: Graph of each node, in any order, instead of ``num_nodes``.
        ptr: Bounds of the graphs, instead of ``num_nodes``.

    Shapes:
        - **input:** ``batch`` :math:`(N,)`, ``ptr`` :math:`(B + 1,)`
        - **output:** an affinity :math:`N \times N`

    Returns:
        An affinity of ones with :math:`N^2` edges, or :math:`N (N + 1) / 2` if ``causal``.

    Raises:
        ValueError: If not exactly one of ``num_nodes``, ``batch`` and ``ptr`` is given, or it is out of range.
        TypeError: If ``num_nodes``, ``batch`` or ``ptr`` does not hold integers.

    Example:
        >>> complete(3, causal=True).to_dense().matrix
        tensor([[1., 0., 0.],
                [1., 1., 0.],
                [1., 1., 1.]])
        >>> complete([2, 1]).edge_index.tolist()
        [[0, 1, 0, 1, 2], [0, 0, 1, 1, 2]]
    """
    graphs = Graphs(num_nodes, batch, ptr)
    target, source = ranges(graphs.first, graphs.place + 1 if causal else graphs.size)
    return graphs.affinity(target, source, EdgeType.COMPLETE, symmetric=not causal)


def window(
    num_nodes: Sizes = None,
    width: int = 1,
    *,
    dilation: int = 1,
    causal: bool = False,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
) -> SparseAffinity:
    r"""Let every node attend to the nodes at most ``width`` steps away in the order of its graph.

    .. math:: A_{ij} = 1 \iff i - j \in \{0, \pm D, \pm 2 D, \dots, \pm w D\}

    A stack of :math:`L` layers over it reaches :math:`L w D` nodes far.

    Args:
        num_nodes: Number of nodes, or one number per graph.
        width: Steps :math:`w` to either side; 0 leaves the node itself.
        dilation: Length :math:`D` of a step.
        causal: Whether a node attends only to itself and the nodes before it.
        batch: Graph of each node, in any order, instead of ``num_nodes``.
        ptr: Bounds of the graphs, instead of ``num_nodes``.

    Shapes:
        - **input:** ``batch`` :math:`(N,)`, ``ptr`` :math:`(B + 1,)`
        - **output:** an affinity :math:`N \times N`

    Returns:
        An affinity of ones; for a graph of N > w nodes and steps of 1, with :math:`N (2 w + 1) - w (w + 1)` edges, or
        :math:`N (w + 1) - w (w + 1) / 2` if ``causal``.

    Raises:
        ValueError: If not exactly one of ``num_nodes``, ``batch`` and ``ptr`` is given, or an argument is out of range.
        TypeError: If ``num_nodes``, ``batch`` or ``ptr`` does not hold integers.

    Example:
        >>> window(4, 1).to_dense().matrix
        tensor([[1., 1., 0., 0.],
                [1., 1., 1., 0.],
                [0., 1., 1., 1.],
                [0., 0., 1., 1.]])

    Reference:
        Beltagy et al., "Longformer: The Long-Document Transformer", 2020.
    """
    check_integer("width", width, 0)
    check_integer("dilation", dilation, 1)
    graphs = Graphs(num_nodes, batch, ptr)
    before = (graphs.place // dilation).clamp(max=width)
    after = torch.zeros_like(before)
    if not causal:
        after = ((graphs.size - 1 - graphs.place) // dilation).clamp(max=width)
    target, step = ranges(-before, before + 1 + after)
    return graphs.affinity(target, target + dilation * step, EdgeType.WINDOW, symmetric=not causal)


def global_nodes(
    num_nodes: Sizes,
    nodes: Sequence[int],
    *,
    causal: bool = False,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
) -> SparseAffinity:
    r"""Let a few nodes attend to all nodes of their graph, and all nodes to them.

    Args:
        num_nodes: Number of nodes, or one number per graph; ``None`` where ``batch`` or ``ptr`` is given.
        nodes: Which ones, by their place within a graph, the same in every graph; a graph that is too short for a
            place has no global node there.
        causal: Whether a node attends only to itself and the nodes before it.
        batch: Graph of each node, in any order, instead of ``num_nodes``.
        ptr: Bounds of the graphs, instead of ``num_nodes``.

    Shapes:
        - **input:** ``batch`` :math:`(N,)`, ``ptr`` :math:`(B + 1,)`
        - **output:** an affinity :math:`N \times N`

    Returns:
        An affinity of ones; for one graph and g global nodes, with :math:`2 g N - g^2` edges.

    Raises:
        ValueError: If not exactly one of ``num_nodes``, ``batch`` and ``ptr`` is given, or no graph has one of the
            places.
        TypeError: If ``num_nodes``, ``batch`` or ``ptr`` does not hold integers.

    Example:
        >>> global_nodes(4, [1]).to_dense().matrix
        tensor([[0., 1., 0., 0.],
                [1., 1., 1., 1.],
                [0., 1., 0., 0.],
                [0., 1., 0., 0.]])

    Reference:
        Beltagy et al., "Longformer: The Long-Document Transformer", 2020.
    """
    graphs = Graphs(num_nodes, batch, ptr)
    longest = int(graphs.sizes.max()) if graphs.sizes.numel() else 0
    for place in nodes:
        if not isinstance(place, int) or not 0 <= place < longest:
            raise ValueError(f"nodes contains {place!r}; expected places from 0 to {longest - 1}, the last of a graph")
    is_global = torch.isin(graphs.place, torch.tensor(list(nodes), dtype=torch.long, device=graphs.device))
    hubs = is_global.nonzero().squeeze(1)
    num_hubs = torch.bincount(graphs.graph[hubs], minlength=graphs.sizes.numel())
    first_hub = (num_hubs.cumsum(0) - num_hubs)[graphs.graph]
    # A global node reads all nodes of its graph, any other one the list of global nodes.
    start = torch.where(is_global, graphs.first, first_hub)
    target, source = ranges(start, torch.where(is_global, graphs.size, num_hubs[graphs.graph]))
    reads_list = ~is_global[target]
    source[reads_list] = hubs[source[reads_list]]
    if causal:
        keep = source <= target
        target, source = target[keep], source[keep]
    return graphs.affinity(target, source, EdgeType.GLOBAL, symmetric=not causal)


def random_blocks(
    num_nodes: Sizes,
    count: int,
    block_size: int = 1,
    *,
    causal: bool = False,
    generator: torch.Generator | None = None,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
) -> SparseAffinity:
    r"""Let every block of nodes attend to a few blocks of its graph drawn at random.

    A graph is cut into blocks of ``block_size`` nodes in their order, the last of which may be shorter. Each draws
    ``count`` different blocks, any with the same probability and its own among them; all of its nodes attend to all
    of theirs. Blocks of one node give ``count`` random sources for each target.

    Args:
        num_nodes: Number of nodes, or one number per graph; ``None`` where ``batch`` or ``ptr`` is given.
        count: How many blocks each block draws; all there are if there are fewer.
        block_size: Nodes of a block.
        causal: Whether a block draws from itself and the blocks before it only, and a node attends only to itself and
            the nodes before it.
        generator: Source of the random numbers.
        batch: Graph of each node, in any order, instead of ``num_nodes``.
        ptr: Bounds of the graphs, instead of ``num_nodes``.

    Shapes:
        - **input:** ``batch`` :math:`(N,)`, ``ptr`` :math:`(B + 1,)`
        - **output:** an affinity :math:`N \times N`

    Returns:
        An affinity of ones.

    Raises:
        ValueError: If not exactly one of ``num_nodes``, ``batch`` and ``ptr`` is given, or an argument is out of range.
        TypeError: If ``num_nodes``, ``batch`` or ``ptr`` does not hold integers.

    Example:
        >>> A = random_blocks(100, 3, generator=torch.Generator().manual_seed(0))
        >>> A.row_sums().unique()
        tensor([3.])
        >>> union(window(100, 2), global_nodes(100, [0]), A).shape  # BigBird
        (100, 100)

    Reference:
        Zaheer et al., "Big Bird: Transformers for Longer Sequences", 2020, whose released code draws from the blocks
        that its window and its global nodes leave over.
    """
    check_integer("count", count, 1)
    check_integer("block_size", block_size, 1)
    graphs = Graphs(num_nodes, batch, ptr)
    lengths = -(-graphs.sizes // block_size)
    first_block = lengths.cumsum(0) - lengths
    of_graph = torch.repeat_interleave(lengths)
    place = torch.arange(of_graph.numel(), device=graphs.device) - first_block[of_graph]
    choices = place + 1 if causal else lengths[of_graph]
    drawn = _draw(choices, count, generator)

    # From pairs of blocks to pairs of nodes: each node goes through the blocks that its own has drawn, in order.
    drawn_each = choices.clamp(max=count)
    own = first_block[graphs.graph] + graphs.place // block_size
    target, pair = ranges((drawn_each.cumsum(0) - drawn_each)[own], drawn_each[own])
    begin = drawn[pair] * block_size
    repeat, place_of_source = ranges(begin, (graphs.size[target] - begin).clamp(max=block_size))
    target = target[repeat]
    source = graphs.first[target] + place_of_source
    if causal:
        keep = source <= target
        target, source = target[keep], source[keep]
    return graphs.affinity(target, source, EdgeType.RANDOM, symmetric=False)


def _draw(choices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw ``count`` different numbers below each of ``choices``, all if fewer: sorted lists, one after the other."""
    # Floyd's way to a uniform subset: no list of all choices is ever made.
    where = choices.device if generator is None else generator.device
    drawn = choices.new_full((choices.numel(), count), -1)
    for step in range(count):
        last = choices - choices.clamp(max=count) + step
        uniform = torch.rand(choices.numel(), generator=generator, dtype=torch.float64, device=where)
        number = (uniform.to(choices.device) * (last + 1)).long()
        taken = (drawn == number.unsqueeze(1)).any(dim=1)
        drawn[:, step] = torch.where(taken, last, number).masked_fill(last >= choices, -1)
    drawn = drawn.sort(dim=1).values
    return drawn[drawn >= 0]


def union(*patterns: SparseAffinity) -> SparseAffinity:
    r"""Join the edges of several patterns; an edge of several of them keeps the type it has in the first.

    Args:
        *patterns: Affinities of the same shape without weights. Edges without a type, those of a graph, count as
            ``EdgeType.GIVEN``.

    Returns:
        An affinity of ones without parallel edges, listed by (target, source); symmetric if all patterns are.

    Raises:
        ValueError: If there is no pattern, shapes or devices differ, or one has weights.
        TypeError: If an argument is not a ``SparseAffinity``.

    Example:
        >>> longformer = union(window(4, 1), global_nodes(4, [0]))
        >>> longformer.to_dense().matrix
        tensor([[1., 1., 1., 1.],
                [1., 1., 1., 0.],
                [1., 1., 1., 1.],
                [1., 0., 1., 1.]])
        >>> [EdgeType(kind).name for kind in longformer.edge_type[:4].tolist()]
        ['WINDOW', 'WINDOW', 'GLOBAL', 'GLOBAL']
    """
    if not patterns:
        raise ValueError("patterns is empty; expected at least one affinity")
    for index, pattern in enumerate(patterns):
        if not isinstance(pattern, SparseAffinity):
            raise TypeError(f"patterns[{index}] is a {type(pattern).__name__}; expected a SparseAffinity")
        if pattern.shape != patterns[0].shape or pattern.device != patterns[0].device:
            found = f"shape {pattern.shape} on {pattern.device}"
            raise ValueError(f"patterns[{index}] has {found}, patterns[0] {patterns[0].shape} on {patterns[0].device}")
        if pattern.weight is not None:
            raise ValueError(f"patterns[{index}] has weights, which a union has no use for; pass with_weight(None)")
    source, target = torch.cat([pattern.edge_index.long() for pattern in patterns], dim=1)
    edge_type = torch.cat([_types(pattern) for pattern in patterns])
    key, order = (target * patterns[0].shape[1] + source).sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    kept = order[first]
    return SparseAffinity(
        torch.stack([source, target])[:, kept],
        None,
        patterns[0].shape,
        symmetric=all(pattern.symmetric for pattern in patterns),
        edge_type=edge_type[kept],
    )


def _types(pattern: SparseAffinity) -> Tensor:
    if pattern.edge_type is None:
        return torch.full((pattern.num_edges,), int(EdgeType.GIVEN), device=pattern.device)
    return pattern.edge_type.long()
