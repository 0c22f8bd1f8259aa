"""Mini-batches of a stream of events: some nodes at some times, a few of their earlier events, a few of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data, TemporalData

from graphattn.nn.encodings.time.base import check_times
from graphattn.training.sampling import append_new, check_num_neighbors, draw_subsets

_STRATEGIES = ("recent", "uniform")


class TemporalSampler:
    r"""Cut the past of some nodes out of a stream of events, with at most so many events of each node.

    The rows of a batch are pairs :math:`(i, t)` of a node and a time. For :math:`l = 1, \dots, L` each pair that has
    come up in the hop before draws :math:`k_l` of the events of node :math:`i` at times :math:`t_e < t`: an event
    with node :math:`j` is an edge from the row :math:`(j, t_e)`, along which :math:`t - t_e` passes. So no row ever
    sees an event at its own time or later, and a layer sees each neighbour as it was when they met. Pairs that come up
    more than once are one row. Drawing takes :math:`O(\log E)` for each row.

    Args:
        events: The events, in any order. Their times are int64 or float64; negative ones are times as any other.
        num_neighbors: Events :math:`k_l` that each row draws in each hop; -1 for all.
        strategy: ``"recent"`` takes the last events, ``"uniform"`` draws without replacement. Of events at the same
            time those further behind are the more recent.
        both_ends: Whether an event shows its source to its destination and the other way round; otherwise only
            destinations have neighbours.
        num_nodes: Number of nodes, if there are some without events.
        compat: ``"tgat"`` for the released code of TGAT, whose search leaves out the last event before :math:`t`.

    Raises:
        ValueError: If a shape does not fit, a time is not finite, a node does not exist, or an option is unknown.
        TypeError: If times are not int64 or float64, or nodes not integers.

    Example:
        >>> met = torch.tensor([10, 20, 30])
        >>> events = TemporalData(src=torch.tensor([0, 1, 0]), dst=torch.tensor([1, 2, 2]), t=met)
        >>> batch = TemporalSampler(events, [-1, -1]).sample(torch.tensor([0]), torch.tensor([35]))
        >>> list(zip(batch.n_id.tolist(), batch.time.tolist()))  # node 2 had met node 1 before node 0 met it
        [(0, 35), (1, 10), (2, 30), (1, 20)]
        >>> batch.edge_index.tolist(), batch.edge_time.tolist()
        ([[1, 2, 3], [0, 0, 2]], [25, 5, 10])

    Reference:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", 2020.
    """

    def __init__(
        self,
        events: TemporalData,
        num_neighbors: Sequence[int],
        *,
        strategy: str = "recent",
        both_ends: bool = True,
        num_nodes: int | None = None,
        compat: str | None = None,
    ) -> None:
        if strategy not in _STRATEGIES:
            raise ValueError(f"strategy is {strategy!r}; expected one of {', '.join(map(repr, _STRATEGIES))}")
        if compat not in (None, "tgat"):
            raise ValueError(f"compat is {compat!r}; expected None or 'tgat'")
        t = check_times("events.t", events.t)
        for name, ends in (("src", events.src), ("dst", events.dst)):
            _check_ids(f"events.{name}", ends, num_nodes)
            if ends.shape != t.shape:
                raise ValueError(f"events.{name} has shape {tuple(ends.shape)}, but events.t {tuple(t.shape)}")
        ends = torch.stack([events.src.long(), events.dst.long()], dim=1)
        self.events = events
        self.num_neighbors = check_num_neighbors(num_neighbors)
        self.strategy = strategy
        self.compat = compat
        self.num_nodes = (int(ends.max()) + 1 if len(ends) else 0) if num_nodes is None else num_nodes

        self._times, rank = t.unique(return_inverse=True)
        event = torch.arange(len(t), device=t.device)
        row, col = ends[:, 1], ends[:, 0]
        if both_ends:
            # Both views of an event stand side by side, so that a stable sort keeps the order of the events.
            row, col = ends.flip(1).flatten(), ends.flatten()
            event = event.repeat_interleave(2)
            once = (row != col) | (torch.arange(len(row), device=t.device) % 2 == 0)
            row, col, event = row[once], col[once], event[once]
        key, order = (row * (len(self._times) + 1) + rank[event]).sort(stable=True)
        self._key, self._col, self._event = key, col[order], event[order]

    def sample(self, nodes: Tensor, time: Tensor, *, generator: torch.Generator | None = None) -> Data:
        """Return the past of some nodes at some times.

        Args:
            nodes: Ids of the nodes; a pair of a node and a time may come more than once.
            time: Their times, in the dtype of the events' times.
            generator: Source of randomness, on the device of the events; torch's own by default.

        Shapes:
            - **input:** ``nodes`` and ``time`` :math:`(B,)`

        Returns:
            A graph between rows, the distinct pairs that were asked for first: ``n_id`` and ``time`` of each row,
            ``edge_index``, ``e_id`` with the event of each edge and ``edge_time`` with the time that passes along it,
            ``batch_size`` the number of distinct pairs asked for, ``input_row`` the row of each pair asked for,
            ``num_sampled_nodes`` and ``num_sampled_edges`` of each hop, and of ``msg``, ``y`` and whatever else the
            events have, the rows of the events drawn.

        Raises:
            ValueError: If a node is not there, a time is not finite, or there are not as many times as nodes.
            TypeError: If the times have another dtype than those of the events.
        """
        self._check(nodes, time)
        time = time.contiguous()  # one time for all nodes may be an expanded one, of which a search would warn
        # A row is one number, node * width + code; the code of a time is its place among those of the events, and
        # behind them for times at which nothing has happened.
        place = torch.searchsorted(self._times, time)
        others, other = time.unique(return_inverse=True)
        known = torch.searchsorted(self._times, time, right=True) > place
        width = len(self._times) + len(others) + 1
        keys, input_row = _distinct(nodes.long() * width + torch.where(known, place, len(self._times) + other))
        times = torch.cat([self._times, others])

        frontier = torch.arange(len(keys), device=keys.device)
        targets, sources, edges = [], [], []
        num_sampled_nodes, num_sampled_edges = [len(keys)], []
        for count in self.num_neighbors:
            row, slot = self._draw(keys[frontier] // width, times[keys[frontier] % width], count, generator)
            event = self._event[slot]
            before = len(keys)
            keys, source = append_new(keys, self._col[slot] * width + self._key[slot] % (len(self._times) + 1))
            targets.append(frontier[row])
            sources.append(source)
            edges.append(event)
            frontier = torch.arange(before, len(keys), device=keys.device)
            num_sampled_nodes.append(len(frontier))
            num_sampled_edges.append(len(slot))
        e_id, target = torch.cat(edges), torch.cat(targets)
        batch = Data(n_id=keys // width, time=times[keys % width], e_id=e_id, num_nodes=len(keys))
        batch.edge_index = torch.stack([torch.cat(sources), target])
        batch.edge_time = batch.time[target] - self.events.t[e_id]
        batch.batch_size, batch.input_row = num_sampled_nodes[0], input_row
        batch.num_sampled_nodes, batch.num_sampled_edges = num_sampled_nodes, num_sampled_edges
        for name, value in self.events._store.items():
            if name not in ("src", "dst", "t"):
                per_event = isinstance(value, Tensor) and value.dim() > 0 and len(value) == self.events.num_events
                batch[name] = value[e_id] if per_event else value
        return batch

    def _check(self, nodes: Tensor, time: Tensor) -> None:
        check_times("time", time)
        if time.dtype != self._times.dtype:
            raise TypeError(
                f"time has dtype {time.dtype}, but the events have {self._times.dtype}; convert one of them"
            )
        _check_ids("nodes", nodes, self.num_nodes)
        if nodes.shape != time.shape:
            raise ValueError(f"time has shape {tuple(time.shape)}, but nodes {tuple(nodes.shape)}; expected one each")

    def _draw(
        self, nodes: Tensor, time: Tensor, count: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return for each event drawn the position of its row among ``nodes``, and its slot in the sorted events."""
        start = nodes * (len(self._times) + 1)
        first = torch.searchsorted(self._key, start)
        past = torch.searchsorted(self._key, start + torch.searchsorted(self._times, time)) - first
        if self.compat == "tgat":
            past = (past - 1).clamp(min=0)
        many = past > count if count >= 0 else torch.zeros_like(past, dtype=torch.bool)
        taken = torch.where(many, count, past)
        row = torch.arange(len(nodes), device=nodes.device).repeat_interleave(taken)
        offset = torch.arange(len(row), device=nodes.device) - (taken.cumsum(0) - taken)[row]
        if self.strategy == "recent":
            offset = offset + (past - taken)[row]
        else:
            offset[many[row]] = draw_subsets(past[many], count, generator).flatten()
        return row, first[row] + offset


def _distinct(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return distinct numbers in the order of their first appearance, and the place of each number among them."""
    values, inverse = keys.unique(return_inverse=True)
    everyone = torch.arange(len(keys), device=keys.device)
    first = torch.zeros_like(values).scatter_reduce(0, inverse, everyone, "amin", include_self=False)
    order = first.argsort()
    return values[order], order.argsort()[inverse]


def _check_ids(name: str, ids: Tensor, num_nodes: int | None) -> None:
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        found = f"has dtype {ids.dtype}" if isinstance(ids, Tensor) else f"is a {type(ids).__name__}"
        raise TypeError(f"{name} {found}; expected a Tensor of node ids")
    if ids.dim() != 1:
        raise ValueError(f"{name} has shape {tuple(ids.shape)}; expected one id for each time")
    if len(ids) and (int(ids.min()) < 0 or (num_nodes is not None and int(ids.max()) >= num_nodes)):
        bound = "expected at least 0" if num_nodes is None else f"but there are {num_nodes} nodes"
        raise ValueError(f"{name} has ids from {int(ids.min())} to {int(ids.max())}; {bound}")
