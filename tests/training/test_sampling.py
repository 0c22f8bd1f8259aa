"""Neighbour sampling against PyG's k-hop subgraphs, the distribution of uniform subsets, and counts by hand."""

from __future__ import annotations

import warnings
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import NeighborLoader
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE
from torch_geometric.utils import k_hop_subgraph

from graphattn.models import AttentionNet
from graphattn.training import NeighborSampler

NODES, EDGES = 40, 130


def random_graph(num_nodes: int = NODES, num_edges: int = EDGES) -> Data:
    """Random edges, loops and parallel ones included; the last five nodes have none."""
    edge_index = torch.randint(0, num_nodes - 5, (2, num_edges))
    return Data(
        x=torch.randn(num_nodes, 3).double(),
        edge_index=edge_index,
        edge_attr=torch.randn(num_edges, 2).double(),
        y=torch.arange(num_nodes),
        name="random",
    )


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_fields(data: Data, batch: Data, nodes: Tensor) -> None:
    """What holds for every batch, however many neighbours were drawn."""
    assert torch.equal(batch.n_id[: batch.batch_size], nodes)
    assert len(batch.n_id.unique()) == len(batch.n_id) == batch.num_nodes == sum(batch.num_sampled_nodes)
    assert len(batch.e_id.unique()) == len(batch.e_id) == sum(batch.num_sampled_edges)
    assert torch.equal(batch.n_id[batch.edge_index], data.edge_index[:, batch.e_id])
    assert torch.equal(batch.x, data.x[batch.n_id])
    assert torch.equal(batch.y, data.y[batch.n_id])
    assert torch.equal(batch.edge_attr, data.edge_attr[batch.e_id])
    assert batch.name == "random"


def test_other_numbers_of_neighbors_share_the_sorted_edges() -> None:
    data, nodes = random_graph(), torch.tensor([1, 9])
    sampler = NeighborSampler(data, [1])
    other = sampler.with_num_neighbors([-1, 2])
    assert other._col is sampler._col
    expected = NeighborSampler(data, [-1, 2]).sample(nodes, generator=generator(3))
    assert torch.equal(other.sample(nodes, generator=generator(3)).e_id, expected.e_id)
    assert sampler.num_neighbors == [1]
    with pytest.raises(ValueError, match=r"num_neighbors is \[\]; expected a number for each hop"):
        sampler.with_num_neighbors([])


@pytest.mark.parametrize("hops", [1, 2, 4])
@pytest.mark.parametrize("nodes", [[7], [3, 38, 0, 12], []])
def test_all_neighbors_are_the_k_hop_subgraph(hops: int, nodes: list[int]) -> None:
    data, seeds = random_graph(), torch.tensor(nodes, dtype=torch.long)
    batch = NeighborSampler(data, [-1] * hops).sample(seeds)
    check_fields(data, batch, seeds)
    subset, _, _, mask = k_hop_subgraph(seeds, hops, data.edge_index, num_nodes=NODES, directed=True)
    assert torch.equal(batch.n_id.sort().values, subset)
    assert torch.equal(batch.e_id.sort().values, mask.nonzero().squeeze(1))
    reached, known = [len(seeds)], set(nodes)
    for hop in range(1, hops + 1):
        within = set(k_hop_subgraph(seeds, hop, data.edge_index, num_nodes=NODES)[0].tolist())
        reached.append(len(within - known))
        known = within
    assert batch.num_sampled_nodes == reached


def test_a_network_of_as_many_layers_sees_no_difference() -> None:
    data = random_graph()
    net = AttentionNet(3, 8, 4, 2, heads=2, edge_dim=2).double().eval()
    whole = net(data.x, data.edge_index, data.edge_attr)
    for batch in NeighborSampler(data, [-1, -1]).batches(torch.arange(NODES), 7):
        out = net(batch.x, batch.edge_index, batch.edge_attr)[: batch.batch_size]
        expected = whole[batch.n_id[: batch.batch_size]]
        torch.testing.assert_close(out, expected, rtol=0, atol=1e3 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize("num_neighbors", [[3, 2], [1, -1, 4], [0, 5], [2, 0], [1000, 1000]])
def test_every_node_draws_as_many_as_asked_or_all(num_neighbors: list[int]) -> None:
    data = random_graph()
    degree = torch.bincount(data.edge_index[1], minlength=NODES)
    seeds = torch.arange(0, NODES, 4)
    batch = NeighborSampler(data, num_neighbors).sample(seeds)
    check_fields(data, batch, seeds)
    target, start, edge = data.edge_index[1, batch.e_id], 0, 0
    for count, nodes, edges in zip(num_neighbors, batch.num_sampled_nodes, batch.num_sampled_edges, strict=False):
        hop = batch.n_id[start : start + nodes]
        drawn = torch.bincount(target[edge : edge + edges], minlength=NODES)
        expected = degree[hop] if count < 0 else degree[hop].clamp(max=count)
        assert torch.equal(drawn[hop], expected)
        assert drawn.sum() == expected.sum(), "no other node draws in this hop"
        start, edge = start + nodes, edge + edges


def test_subsets_are_uniform() -> None:
    """All 10 pairs of 5 edges come equally often: chi-square with 9 degrees of freedom, 99.99 % below 33.7."""
    hubs, leaves = 4000, 5
    target = torch.arange(hubs).repeat_interleave(leaves)
    source = hubs + torch.arange(leaves).repeat(hubs)
    data = Data(edge_index=torch.stack([source, target]), num_nodes=hubs + leaves)
    batch = NeighborSampler(data, [2]).sample(torch.arange(hubs), generator=generator(0))
    pairs = (batch.e_id % leaves).reshape(hubs, 2).sort(dim=1).values
    counts = torch.tensor([int((pairs == torch.tensor(pair)).all(1).sum()) for pair in combinations(range(leaves), 2)])
    assert counts.sum() == hubs
    expected = hubs / 10
    assert float(((counts - expected) ** 2 / expected).sum()) < 33.7


def test_a_generator_repeats_a_draw() -> None:
    sampler = NeighborSampler(random_graph(), [2, 2])
    seeds = torch.arange(20)

    def draw(seed: int) -> list[list[int]]:
        drawn = sampler.batches(seeds, 6, shuffle=True, generator=generator(seed))
        return [[*batch.input_id.tolist(), *batch.e_id.tolist()] for batch in drawn]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    before = torch.get_rng_state()
    draw(1)
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator is left alone"


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_node_once(shuffle: bool) -> None:
    data, nodes = random_graph(), torch.randperm(NODES)[:25]
    found = list(NeighborSampler(data, [2]).batches(nodes, 10, shuffle=shuffle))
    assert [batch.batch_size for batch in found] == [10, 10, 5]
    ids = torch.cat([batch.input_id for batch in found])
    assert torch.equal(ids.sort().values, torch.arange(25))
    assert torch.equal(ids, torch.arange(25)) is not shuffle
    for batch in found:
        check_fields(data, batch, nodes[batch.input_id])


def test_the_graph_is_left_as_it_was() -> None:
    data = random_graph()
    before = data.clone()
    batch = NeighborSampler(data, [-1]).sample(torch.arange(NODES))
    batch.x.zero_()
    assert data.keys() == before.keys()
    assert all(torch.equal(data[key], before[key]) for key in ("x", "edge_index", "edge_attr", "y"))


def test_a_hub_costs_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of 100,000 neighbours are drawn with three random numbers."""
    size = 100_000
    data = Data(edge_index=torch.stack([torch.arange(1, size + 1), torch.zeros(size, dtype=torch.long)]))
    data.num_nodes = size + 1
    sampler, drawn, rand = NeighborSampler(data, [3]), [], torch.rand

    def counted(*args: int, **options: object) -> Tensor:
        drawn.append(rand(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(torch, "rand", counted)
    batch = sampler.sample(torch.tensor([0]))
    assert batch.num_sampled_edges == [3]
    assert sum(values.numel() for values in drawn) == 3


def test_bad_arguments() -> None:
    data = random_graph()
    for counts in ([], [2, -2]):
        with pytest.raises(ValueError, match=r"num_neighbors is \[.*\]; expected a number for each hop, -1 for all"):
            NeighborSampler(data, counts)
    with pytest.raises(ValueError, match="data has no edge_index; expected a graph with edges"):
        NeighborSampler(Data(x=torch.ones(2, 1)), [1])
    sampler = NeighborSampler(data, [1])
    with pytest.raises(ValueError, match=r"nodes has ids from 3 to 40, but there are 40 nodes"):
        sampler.sample(torch.tensor([3, 40]))
    with pytest.raises(ValueError, match=r"nodes names node 3 more than once; expected each once"):
        sampler.sample(torch.tensor([3, 4, 3]))
    with pytest.raises(ValueError, match=r"nodes has shape \(40,\) and dtype torch.bool; expected ids"):
        sampler.sample(torch.ones(40, dtype=torch.bool))
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        next(sampler.batches(torch.arange(3), 0))


def test_sparse_features_are_cut_as_dense_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 12, generator=generator) * (torch.rand(30, 12, generator=generator) < 0.2)
    x[4] = 0
    edge_index = torch.randint(0, 30, (2, 90), generator=generator)
    nodes = torch.tensor([4, 17, 3, 29])
    dense = NeighborSampler(Data(x=x, edge_index=edge_index), [-1, -1]).sample(nodes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, that CSR is in beta state
        sparse = NeighborSampler(Data(x=x.to_sparse_csr(), edge_index=edge_index), [-1, -1]).sample(nodes)
    assert sparse.x.layout == torch.sparse_csr
    assert torch.equal(sparse.x.to_dense(), dense.x)


@pytest.mark.skipif(
    not (WITH_PYG_LIB or WITH_TORCH_SPARSE), reason="NeighborLoader needs pyg-lib or torch-sparse, and neither imports"
)
def test_all_neighbors_are_those_of_pyg() -> None:
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(0, 40, (2, 100), generator=generator)
    data = Data(x=torch.randn(40, 3, generator=generator), edge_index=edge_index)
    nodes = torch.tensor([7, 0, 31, 12])
    theirs = next(iter(NeighborLoader(data, [-1, -1], nodes, batch_size=4)))
    ours = NeighborSampler(data, [-1, -1]).sample(nodes)
    assert ours.n_id[:4].tolist() == theirs.n_id[:4].tolist()
    assert ours.num_sampled_nodes == list(theirs.num_sampled_nodes)
    edges = [batch.n_id[batch.edge_index].T.tolist() for batch in (ours, theirs)]
    assert sorted(edges[0]) == sorted(edges[1])
