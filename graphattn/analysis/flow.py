"""Attention flow: how much each input could at most have passed to each node, as the maximum flow of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from networkx.algorithms.flow import edmonds_karp
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from graphattn.analysis._arrays import check_size, frame_of_inputs
from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.rollout import mixed_layer, read_targets

_UNITS = 2**20  # to which SciPy's integer capacities divide a row


@dataclass(frozen=True, eq=False)
class Flow:
    """Hold how much nodes could have received from each input.

    Args:
        flow: Of each layer, the flow from every target down to every input.
        layers: Number of each layer.
        targets: Number of each target.
        tokens: Names of the inputs.

    Shapes:
        - ``flow`` :math:`(L, T, N)`, ``layers`` :math:`(L)`, ``targets`` :math:`(T)`
    """

    flow: np.ndarray
    layers: np.ndarray
    targets: np.ndarray
    tokens: tuple[str, ...]

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer and target, and one column per input.

        Example:
            >>> maps = AttentionMaps.from_arrays(np.full((1, 1, 2, 2), 0.5))
            >>> flow(maps).as_frame().loc[(0, 1)].tolist()
            [0.25, 0.75]
        """
        return frame_of_inputs(self.flow, self.layers, self.targets, self.tokens)


def flow(
    maps: AttentionMaps,
    *,
    targets: Sequence[int] | None = None,
    layers: str = "last",
    fusion: str = "mean",
    residual: float | bool = True,
    normalize: bool = True,
    backend: str = "scipy",
) -> Flow:
    r"""Compute the maximum flow from nodes of a layer down to each input, with attention as capacities.

    The network has nodes :math:`(l, i)` for :math:`l = 0, \dots, L`, and from :math:`(l, i)` to :math:`(l - 1, j)` the
    capacity :math:`\hat{A}_{l,ij}` of :func:`~graphattn.analysis.rollout.rollout`. A rollout adds up what goes along
    all paths at the rates of the layers; the flow is what could go at most, so it is never below a rollout:

    .. math:: R_{L,ij} \le F_{ij} \le \min\Bigl(1, \sum_a \hat{A}_{1,aj}\Bigr)

    Args:
        maps: Attention maps, dense or of edges, of few nodes, say :math:`N \le 128`: each target and each input that it
            can be reached from is a flow problem of its own on :math:`L N^2` edges, up to :math:`N^2` of them. In a
            large graph of few edges choose ``targets``.
        targets: Numbers of the nodes to explain; all by default.
        layers: ``"last"``, or ``"all"`` for targets in each layer.
        fusion: As in :func:`~graphattn.analysis.rollout.rollout`.
        residual: As in :func:`~graphattn.analysis.rollout.rollout`.
        normalize: Whether each target's flows are divided by their sum, as in the paper's code. Flows to different
            inputs share their paths, so that they sum to more than 1 otherwise.
        backend: ``"scipy"``, whose capacities are rounded to multiples of :math:`2^{-20}` (the flow is off by at most
            half of that for each edge of a minimum cut), or ``"networkx"``, exact and slow.

    Returns:
        The flows. A node that draws on nothing keeps to itself, so that no sum is 0.

    Raises:
        ValueError: If an option is unknown or out of range, a target is no node, weights are negative, or the result
            would take more than 2 GiB.

    Example:
        >>> maps = AttentionMaps.from_arrays([np.array([[1.0, 0.0], [0.5, 0.5]])] * 2)
        >>> flow(maps, targets=[1], normalize=False).flow.round(4).tolist()
        [[[0.5, 0.75]]]

    Reference:
        Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
    """
    if layers not in ("last", "all"):
        raise ValueError(f"layers is {layers!r}; expected 'last' or 'all'")
    if backend not in _BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(map(repr, _BACKENDS))}")
    chosen = read_targets(maps, targets)
    numbers = np.arange(maps.num_layers)[-1 if layers == "last" else 0 :]
    shape = len(numbers), len(chosen), maps.num_nodes
    check_size(f"the flow to {len(chosen)} targets in {len(numbers)} layers", shape, "choose fewer targets")
    capacities = [csr_array(mixed_layer(maps, layer, fusion, residual)) for layer in range(maps.num_layers)]
    flows = np.zeros(shape)
    for place, layer in enumerate(numbers):
        if layer == 0:  # a single edge leads to each input
            flows[place] = capacities[0][chosen].toarray()
            continue
        below = capacities[: layer + 1]
        largest = _BACKENDS[backend](below)
        for row, source in zip(*_reached(below, chosen), strict=True):
            flows[place, row, source] = largest((layer + 1) * maps.num_nodes + chosen[row], source)
    if normalize:
        flows /= flows.sum(axis=-1, keepdims=True)
    return Flow(flows, numbers, chosen, maps.tokens)


def _reached(capacities: list[csr_array], targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of target, by its place in the list, and input between which there is any path."""
    number = np.arange(len(targets))
    paths = csr_array((np.ones(len(targets)), (number, targets)), shape=(len(targets), capacities[0].shape[0]))
    for layer in reversed(capacities):
        paths = (paths @ layer).sign()
    return paths.nonzero()


def _network(capacities: list[csr_array]) -> csr_array:
    """Stack the layers to the network: node i of layer l has number l N + i, inputs are layer 0."""
    size = capacities[0].shape[0]
    layers = [layer.tocoo() for layer in capacities]
    row = np.concatenate([layer.row + (number + 1) * size for number, layer in enumerate(layers)])
    col = np.concatenate([layer.col + number * size for number, layer in enumerate(layers)])
    total = (len(layers) + 1) * size
    return csr_array((np.concatenate([layer.data for layer in layers]), (row, col)), shape=(total, total))


def _scipy(capacities: list[csr_array]) -> Callable[[int, int], float]:
    network = _network(capacities)
    units = np.rint(network.data * _UNITS).astype(np.int32)
    integers = csr_array((units, network.indices.astype(np.int32), network.indptr.astype(np.int32)), network.shape)
    return lambda source, sink: maximum_flow(integers, source, sink).flow_value / _UNITS


def _networkx(capacities: list[csr_array]) -> Callable[[int, int], float]:
    graph = nx.from_scipy_sparse_array(_network(capacities), create_using=nx.DiGraph, edge_attribute="capacity")
    return lambda source, sink: nx.maximum_flow_value(graph, source, sink, flow_func=edmonds_karp)


_BACKENDS: dict[str, Callable[[list[csr_array]], Callable[[int, int], float]]] = {
    "scipy": _scipy,
    "networkx": _networkx,
}
