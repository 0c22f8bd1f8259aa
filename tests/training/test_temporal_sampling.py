"""Temporal sampling against a search event by event, the future that nothing may see, and the released search."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data, TemporalData

from graphattn.training import TemporalSampler

NODES, EVENTS, LATEST = 9, 60, 30
NANOSECONDS = 1_600_000_000 * 10**9


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_events(seed: int = 0, num_events: int = EVENTS) -> TemporalData:
    """Unsorted events at few times, negative ones among them, with repetitions and events of a node with itself."""
    source = generator(seed)
    ends = torch.randint(0, NODES, (2, num_events), generator=source)
    ends[1, 3] = ends[0, 3]
    t = torch.randint(-5, LATEST, (num_events,), generator=source)
    msg = torch.randn(num_events, 2, generator=source)
    events = TemporalData(src=ends[0], dst=ends[1], t=t, msg=msg, y=torch.arange(num_events))
    events.scale = torch.tensor([7.0])
    return events


def past(events: TemporalData, node: int, time: float, both_ends: bool = True) -> list[tuple[int, int]]:
    """Events of a node before a time as (event, other end), the most recent last, one by one."""
    found = []
    for e, (src, dst, t) in enumerate(zip(*(x.tolist() for x in (events.src, events.dst, events.t)), strict=True)):
        if t < time and dst == node:
            found.append((t, e, src))
        elif t < time and both_ends and src == node:
            found.append((t, e, dst))
    return [(e, other) for _, e, other in sorted(found, key=lambda item: item[:2])]


def edges_of(batch: Data) -> set[tuple[int, int, int, float]]:
    """Every edge as (node, time, event, other end)."""
    source, target = batch.edge_index
    columns = batch.n_id[target], batch.time[target], batch.e_id, batch.n_id[source]
    return set(zip(*(x.tolist() for x in columns), strict=True))


def check_fields(events: TemporalData, batch: Data, nodes: Tensor, time: Tensor) -> None:
    """What holds for every batch, however many events were drawn."""
    rows = list(zip(batch.n_id.tolist(), batch.time.tolist(), strict=True))
    assert len(set(rows)) == len(rows) == batch.num_nodes == sum(batch.num_sampled_nodes)
    asked = list(zip(nodes.tolist(), time.tolist(), strict=True))
    assert [rows[row] for row in batch.input_row] == asked
    assert rows[: batch.batch_size] == list(dict.fromkeys(asked))
    assert len(edges_of(batch)) == batch.num_edges == sum(batch.num_sampled_edges)
    source, target = batch.edge_index
    # The source of an edge is seen at the time of its event, which lies before that of the target.
    assert torch.equal(batch.time[source], events.t[batch.e_id])
    assert torch.equal(batch.edge_time, batch.time[target] - batch.time[source])
    assert bool((batch.edge_time > 0).all())
    ends = torch.stack([events.src, events.dst], dim=1)[batch.e_id].sort(dim=1).values
    assert torch.equal(torch.stack([batch.n_id[source], batch.n_id[target]], dim=1).sort(dim=1).values, ends)
    assert torch.equal(batch.msg, events.msg[batch.e_id])
    assert torch.equal(batch.y, events.y[batch.e_id])
    assert batch.scale == 7


def seeds(count: int = 14) -> tuple[Tensor, Tensor]:
    """Nodes and times, some pairs twice, and times at which nothing happens among them."""
    nodes = torch.randint(0, NODES, (count,), generator=generator(7))
    time = torch.randint(-8, LATEST + 9, (count,), generator=generator(8))
    nodes[5], time[5] = nodes[2], time[2]
    time[9] = LATEST + 100
    return nodes, time


@pytest.mark.parametrize("both_ends", [True, False])
@pytest.mark.parametrize("count", [-1, 0, 1, 3, 1000])
def test_recent_events_are_those_of_a_search_one_by_one(count: int, both_ends: bool) -> None:
    events, (nodes, time) = random_events(), seeds()
    batch = TemporalSampler(events, [count] * 3, both_ends=both_ends, num_nodes=NODES).sample(nodes, time)
    check_fields(events, batch, nodes, time)
    expected, frontier, known = set(), {*zip(nodes.tolist(), time.tolist(), strict=True)}, set()
    reached = [len(frontier)]
    known |= frontier
    for _ in range(3):
        following = set()
        for node, when in frontier:
            own = past(events, node, when, both_ends)
            for event, other in own[len(own) - count if 0 <= count < len(own) else 0 :]:
                expected.add((node, when, event, other))
                following.add((other, int(events.t[event])))
        frontier = following - known
        known |= frontier
        reached.append(len(frontier))
    assert edges_of(batch) == expected
    assert batch.num_sampled_nodes == reached


@pytest.mark.parametrize("strategy", ["recent", "uniform"])
def test_the_future_moves_nothing(strategy: str) -> None:
    """Events at the time of a row and later are changed, dropped and added: its past stays, draw for draw."""
    nodes, now = torch.arange(NODES), 12
    time = torch.full((NODES,), now)
    events = random_events()
    before = events.t < now
    future = random_events(seed=5)
    later = TemporalData(src=future.src, dst=future.dst, t=future.t.clamp(min=now), msg=future.msg, y=future.y)
    variants = [events[before.nonzero().squeeze(1)]]
    for place in (0, 1):  # what is added stands before all events, or behind them
        parts = [later, variants[0]] if place == 0 else [variants[0], later]
        joined = {name: torch.cat([part[name] for part in parts]) for name in ("src", "dst", "t", "msg", "y")}
        variants.append(TemporalData(**joined))

    def seen(events: TemporalData) -> tuple[list[Any], ...]:
        sampler = TemporalSampler(events, [2, 2], strategy=strategy, num_nodes=NODES)
        batch = sampler.sample(nodes, time, generator=generator(3))
        return tuple(batch[name].tolist() for name in ("n_id", "time", "edge_index", "edge_time", "msg", "y"))

    expected = seen(events)
    assert len(expected[0]) > NODES
    for variant in variants:
        assert seen(variant) == expected


def test_uniform_draws_subsets_of_the_past() -> None:
    events, (nodes, time) = random_events(), seeds()
    sampler = TemporalSampler(events, [2, 1], strategy="uniform", num_nodes=NODES)
    batch = sampler.sample(nodes, time, generator=generator(0))
    check_fields(events, batch, nodes, time)
    drawn = torch.bincount(batch.edge_index[1], minlength=batch.num_nodes).tolist()
    hops = [2] * batch.num_sampled_nodes[0] + [1] * batch.num_sampled_nodes[1] + [0] * batch.num_sampled_nodes[2]
    rows = zip(batch.n_id.tolist(), batch.time.tolist(), strict=True)
    assert drawn == [min(count, len(past(events, *row))) for row, count in zip(rows, hops, strict=True)]
    for node, when, event, other in edges_of(batch):
        assert (event, other) in past(events, node, when)
    again = sampler.sample(nodes, time, generator=generator(0))
    assert torch.equal(again.e_id, batch.e_id)
    assert not torch.equal(sampler.sample(nodes, time, generator=generator(1)).e_id, batch.e_id)


def test_uniform_subsets_are_equally_likely() -> None:
    """All 10 pairs of 5 events come equally often: chi-square with 9 degrees of freedom, 99.99 % below 33.7."""
    hubs, each = 3000, 5
    hub = torch.arange(hubs).repeat_interleave(each + 2)
    t = torch.arange(each + 2).repeat(hubs)  # two of the seven lie in the future of time 5
    events = TemporalData(src=torch.full_like(hub, hubs), dst=hub, t=t)
    sampler = TemporalSampler(events, [2], strategy="uniform", both_ends=False)
    batch = sampler.sample(torch.arange(hubs), torch.full((hubs,), each), generator=generator(0))
    pairs = events.t[batch.e_id].view(hubs, 2).sort(dim=1).values
    counts = torch.tensor([int((pairs == torch.tensor(pair)).all(1).sum()) for pair in combinations(range(each), 2)])
    assert counts.sum() == hubs
    assert float(((counts - hubs / 10) ** 2 / (hubs / 10)).sum()) < 33.7


@pytest.mark.parametrize("strategy", ["recent", "uniform"])
def test_a_batch_is_its_rows(strategy: str) -> None:
    events, (nodes, time) = random_events(), seeds()
    sampler = TemporalSampler(events, [-1, -1], strategy=strategy, num_nodes=NODES)
    whole = edges_of(sampler.sample(nodes, time))
    alone = [edges_of(sampler.sample(nodes[i : i + 1], time[i : i + 1])) for i in range(len(nodes))]
    assert set().union(*alone) == whole
    order = torch.randperm(len(nodes), generator=generator(0))
    assert edges_of(sampler.sample(nodes[order], time[order])) == whole


def test_one_time_may_stand_for_all_nodes() -> None:
    sampler, nodes = TemporalSampler(random_events(), [2], num_nodes=NODES), torch.arange(NODES)
    found = sampler.sample(nodes, torch.tensor(20).expand(NODES))
    assert torch.equal(found.e_id, sampler.sample(nodes, torch.full((NODES,), 20)).e_id)


def test_order_of_the_events_does_not_matter() -> None:
    events, (nodes, time) = random_events(), seeds()
    events.t = torch.randperm(EVENTS, generator=generator(2))
    shuffled = events[torch.randperm(EVENTS, generator=generator(1))]
    expected = TemporalSampler(events, [2, 2], num_nodes=NODES).sample(nodes, time)
    found = TemporalSampler(shuffled, [2, 2], num_nodes=NODES).sample(nodes, time)
    assert torch.equal(found.n_id, expected.n_id)
    assert torch.equal(found.edge_index, expected.edge_index)
    assert torch.equal(found.msg, expected.msg)


def test_of_simultaneous_events_the_last_is_the_most_recent() -> None:
    events = TemporalData(
        src=torch.tensor([1, 0, 3, 0]), dst=torch.tensor([0, 2, 0, 4]), t=torch.tensor([5, 5, 5, 6]), y=torch.arange(4)
    )
    batch = TemporalSampler(events, [2]).sample(torch.tensor([0]), torch.tensor([6]))
    assert batch.y.tolist() == [1, 2]


def test_nanoseconds_and_fractions_are_exact() -> None:
    events, (nodes, time) = random_events(), seeds()
    expected = TemporalSampler(events, [3, 3], num_nodes=NODES).sample(nodes, time)
    epoch = events.clone()
    epoch.t = events.t + NANOSECONDS
    found = TemporalSampler(epoch, [3, 3], num_nodes=NODES).sample(nodes, time + NANOSECONDS)
    assert found.edge_time.dtype == torch.int64
    assert torch.equal(found.edge_time, expected.edge_time)
    assert torch.equal(found.edge_index, expected.edge_index)
    events.t = events.t.double() / 7
    found = TemporalSampler(events, [3, 3], num_nodes=NODES).sample(nodes, time.double() / 7)
    assert found.edge_time.dtype == torch.float64
    assert torch.equal(found.edge_index, expected.edge_index)


def released_bound(times: np.ndarray, cut: float) -> int:
    """Number of events that find_before of the released code returns."""
    if len(times) == 0:
        return 0
    left, right = 0, len(times) - 1
    while left + 1 < right:
        middle = (left + right) // 2
        if times[middle] < cut:
            left = middle
        else:
            right = middle
    return right if times[right] < cut else left


@pytest.mark.parametrize("strategy", ["recent", "uniform"])
def test_compat_leaves_the_last_event_out(strategy: str) -> None:
    events = random_events()
    sampler = TemporalSampler(events, [-1], strategy=strategy, num_nodes=NODES, compat="tgat")
    for time in range(-7, LATEST + 2, 3):
        batch = sampler.sample(torch.arange(NODES), torch.full((NODES,), time))
        found = edges_of(batch)
        for node in range(NODES):
            everything = past(events, node, math.inf)
            count = released_bound(events.t[[event for event, _ in everything]].numpy(), time)
            assert {(event, other) for i, _, event, other in found if i == node} == set(everything[:count])


def test_compat_of_few_events() -> None:
    """Of times 1, 2, 3 before 10 the released search finds 1 and 2; of a single event none."""
    none_missing = TemporalData(src=torch.tensor([0, 0, 0, 3]), dst=torch.tensor([1, 2, 1, 4]), t=torch.arange(1, 5))
    for compat, times, lone in (("tgat", {1, 2}, 0), (None, {1, 2, 3}, 1)):
        sampler = TemporalSampler(none_missing, [-1], compat=compat)
        batch = sampler.sample(torch.tensor([0]), torch.tensor([10]))
        assert set((10 - batch.edge_time).tolist()) == times
        assert sampler.sample(torch.tensor([3]), torch.tensor([10])).num_edges == lone


def test_nodes_without_a_past() -> None:
    sampler = TemporalSampler(random_events(), [2], num_nodes=NODES + 3)
    batch = sampler.sample(torch.tensor([NODES + 2, 0]), torch.tensor([5, -100]))
    assert batch.n_id.tolist() == [NODES + 2, 0]
    assert batch.edge_index.shape == (2, 0)
    assert batch.msg.shape == (0, 2)


def test_no_events_and_no_nodes() -> None:
    none = torch.zeros(0).long()
    empty = TemporalData(src=none, dst=none, t=none)
    batch = TemporalSampler(empty, [2], num_nodes=3).sample(torch.tensor([1, 1]), torch.tensor([5, 5]))
    assert batch.n_id.tolist() == [1]
    assert batch.input_row.tolist() == [0, 0]
    assert TemporalSampler(random_events(), [2]).sample(none, none).num_nodes == 0
    assert TemporalSampler(empty, [2]).sample(none, none).num_nodes == 0


def test_the_events_are_left_as_they_were() -> None:
    events = random_events()
    before = events.clone()
    batch = TemporalSampler(events, [2]).sample(*seeds())
    batch.msg.zero_()
    assert all(torch.equal(events[name], before[name]) for name in ("src", "dst", "t", "msg", "y"))


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"t": torch.zeros(3)}, TypeError, r"events\.t has dtype torch\.float32; expected int64 or float64"),
        ({"t": torch.tensor([0.0, math.nan, 1.0]).double()}, ValueError, r"events\.t contains NaN or infinity"),
        ({"t": torch.zeros(2).long()}, ValueError, r"events\.src has shape \(3,\), but events\.t \(2,\)"),
        ({"src": torch.tensor([0, -1, 2])}, ValueError, r"events\.src has ids from -1 to 2; expected at least 0"),
        ({"dst": torch.zeros(3)}, TypeError, r"events\.dst has dtype torch\.float32; expected a Tensor of node ids"),
        ({"dst": torch.zeros(3, 1).long()}, ValueError, r"events\.dst has shape \(3, 1\); expected one id"),
    ],
)
def test_bad_events(change: dict[str, Tensor], error: type[Exception], expected: str) -> None:
    fields = {"src": torch.tensor([0, 1, 2]), "dst": torch.tensor([1, 2, 0]), "t": torch.tensor([1, 2, 3])}
    with pytest.raises(error, match=expected):
        TemporalSampler(TemporalData(**{**fields, **change}), [2])


def test_bad_options() -> None:
    events = random_events()
    with pytest.raises(ValueError, match="strategy is 'oldest'; expected one of 'recent', 'uniform'"):
        TemporalSampler(events, [2], strategy="oldest")
    with pytest.raises(ValueError, match="compat is 'tgn'; expected None or 'tgat'"):
        TemporalSampler(events, [2], compat="tgn")
    with pytest.raises(ValueError, match=r"num_neighbors is \[\]; expected a number for each hop"):
        TemporalSampler(events, [])
    with pytest.raises(ValueError, match=r"events\.src has ids from 0 to 8; but there are 5 nodes"):
        TemporalSampler(events, [2], num_nodes=5)


@pytest.mark.parametrize(
    ("nodes", "time", "error", "expected"),
    [
        (torch.tensor([9]), torch.tensor([1]), ValueError, "nodes has ids from 9 to 9; but there are 9 nodes"),
        (torch.tensor([1, 2]), torch.tensor([1]), ValueError, r"time has shape \(1,\), but nodes \(2,\)"),
        (torch.tensor([1]), torch.tensor([1.0]).double(), TypeError, "time has dtype torch.float64, but the events"),
        (torch.tensor([1]), torch.tensor([1.0]), TypeError, "time has dtype torch.float32; expected int64 or"),
        (torch.tensor([1.0]), torch.tensor([1]), TypeError, "nodes has dtype torch.float32; expected a Tensor of node"),
        ([1], torch.tensor([1]), TypeError, "nodes is a list; expected a Tensor of node ids"),
    ],
)
def test_bad_seeds(nodes: Any, time: Tensor, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        TemporalSampler(random_events(), [2], num_nodes=NODES).sample(nodes, time)
