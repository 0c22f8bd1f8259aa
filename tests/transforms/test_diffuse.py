"""Diffuse against PyG's exact GDC and against dense matrix functions, in float64."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, HeteroData, InMemoryDataset
from torch_geometric.transforms import GDC, Compose, ToUndirected

from graphattn.transforms import Diffuse, diffuse

N = 12
# PyG names a normalization by the index over which it does not sum: its columns are our rows.
NAMES = {"sym": "symmetric", "col": "row", "row": "column", None: "none"}
KERNELS = {"ppr": {"method": "ppr", "alpha": 0.15}, "heat": {"method": "heat", "t": 5.0}}
KEPT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"threshold": 1e-2}, {"method": "threshold", "eps": 1e-2}),
    ({"top_k": 3}, {"method": "topk", "k": 3, "dim": 0}),
    ({"avg_degree": 4}, {"method": "threshold", "avg_degree": 4}),
]


def graph(undirected: bool = False, weighted: bool = True, dtype: torch.dtype = torch.float64) -> Data:
    """Random edges with loops and parallel ones; the last two nodes are isolated."""
    edge_index = torch.randint(N - 2, (2, 30))
    edge_index[:, 0] = 4
    edge_index[:, 7] = edge_index[:, 3]
    weight = torch.rand(30, dtype=dtype) + 0.1
    if undirected:
        edge_index, weight = torch.cat([edge_index, edge_index.flip(0)], dim=1), weight.repeat(2)
    return Data(edge_index=edge_index, num_nodes=N, **({"edge_weight": weight} if weighted else {}))


def dense(data: Data, weight: str = "edge_weight") -> Tensor:
    """Weights as a matrix whose rows are targets."""
    source, target = data.edge_index
    matrix = torch.zeros(data.num_nodes, data.num_nodes, dtype=data[weight].dtype)
    return matrix.index_put((target, source), data[weight], accumulate=True)


@pytest.fixture
def _float64() -> Any:
    """GDC makes its ones in torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("undirected", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), KEPT, ids=lambda o: "-".join(map(str, o)))
@pytest.mark.parametrize(("into", "out"), [("sym", "col"), ("col", "row"), ("row", "sym"), ("sym", None)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_it_is_exact_gdc(
    kernel: str,
    into: str,
    out: str | None,
    ours: dict[str, Any],
    theirs: dict[str, Any],
    undirected: bool,
    weighted: bool,
) -> None:
    if "avg_degree" in ours:  # pairs of equal entries leave open which of them is cut off
        undirected, weighted = False, True
    data = graph(undirected, weighted)
    reference = GDC(1.0, into, out, dict(KERNELS[kernel]), dict(theirs), exact=True)
    old = Data(edge_index=data.edge_index, edge_attr=data.edge_weight, num_nodes=N)
    expected = dense(reference(old), "edge_attr")
    transform = Diffuse(kernel, normalize=NAMES[into], normalize_out=NAMES[out], tol=1e-13, **ours)
    found = transform(data)
    assert out == "sym" or (found.edge_weight > 0).all()  # it gives 0 to what comes from a node without entries
    torch.testing.assert_close(dense(found), expected, atol=1e-10, rtol=1e-10)


def test_the_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data = graph()
    for kept in ({"top_k": 3}, {"threshold": 0.01}, {"avg_degree": 2}):
        transform = Diffuse(**kept, tol=1e-13)
        whole = transform(data)
        for nodes in (1, 5):  # 5 does not divide 12
            with monkeypatch.context() as patch:
                patch.setattr(diffuse, "_BLOCK_BYTES", nodes * N * 8)
                parts = transform(data)
            assert torch.equal(parts.edge_index, whole.edge_index)
            torch.testing.assert_close(parts.edge_weight, whole.edge_weight)


@pytest.mark.parametrize("hops", [1, 4, math.inf])
@pytest.mark.parametrize("kernel", ["ppr", "katz"])
def test_hops_and_decay(kernel: str, hops: float) -> None:
    data = graph()
    found = Diffuse(kernel, hops=hops, decay=0.6, normalize="row", normalize_out="none", threshold=1e-9, tol=1e-13)(
        data
    )
    identity = torch.eye(N, dtype=torch.float64)
    A = dense(data) + identity
    T = 0.6 * A / A.sum(1, keepdim=True)
    if hops == math.inf:
        inverse = torch.linalg.inv(identity - T)
        expected = 0.4 * inverse if kernel == "ppr" else inverse - identity
    else:
        powers = [torch.linalg.matrix_power(T, t) for t in range(int(hops) + 1)]
        expected = 0.4 * sum(powers[:-1]) + powers[-1] if kernel == "ppr" else sum(powers[1:])
    torch.testing.assert_close(dense(found), expected, atol=1e-8, rtol=0)


def test_self_loops_add_up() -> None:
    """One hop of katz is c T: what a loop weighs is seen."""
    data = Data(edge_index=torch.tensor([[0, 1], [0, 0]]), edge_weight=torch.tensor([2.0, 3.0]), num_nodes=2)
    options: dict[str, Any] = {"hops": 1, "decay": 0.5, "normalize": "none", "normalize_out": "none", "top_k": 2}
    for weight in (0.0, 1.5):
        found = Diffuse("katz", self_loop_weight=weight, **options)(data)
        expected = 0.5 * torch.tensor([[2.0 + weight, 3.0], [0.0, weight]])
        torch.testing.assert_close(dense(found), expected)


def test_columns_receive_what_rows_sum_to() -> None:
    for name, dim in (("row", 1), ("column", 0)):
        sums = dense(Diffuse(normalize_out=name, top_k=4)(graph())).sum(dim)
        reached = sums > 0
        torch.testing.assert_close(sums[reached], torch.ones_like(sums[reached]))


def test_avg_degree_keeps_so_many() -> None:
    data = graph()
    for degree in (1, 3, 5):
        assert Diffuse(avg_degree=degree)(data).num_edges == degree * N
    everything = Diffuse(avg_degree=100)(data)
    assert Diffuse()(data).num_edges == everything.num_edges  # 64, of at most 12
    assert everything.num_edges == Diffuse(top_k=N)(data).num_edges


def test_equal_entries_stay_together() -> None:
    """On a ring all first neighbours are equally strong: 2 a node cannot cut between them."""
    ring = torch.stack([torch.arange(8), (torch.arange(8) + 1) % 8])
    data = Data(edge_index=torch.cat([ring, ring.flip(0)], dim=1), num_nodes=8)
    found = Diffuse("heat", time=1.0, avg_degree=1, self_loop_weight=0.0)(data)
    assert torch.equal(found.edge_index[0], found.edge_index[1])
    assert found.num_edges == 8


@pytest.mark.parametrize("kept", [{"top_k": 3}, {"threshold": 1e-3}, {"avg_degree": 2}], ids=str)
@pytest.mark.parametrize("kernel", ["ppr", "katz", "heat"])
def test_no_edges(kernel: str, kept: dict[str, Any]) -> None:
    for num_nodes in (0, 1, 3):
        data = Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=num_nodes)
        found = Diffuse(kernel, **kept)(data)
        torch.testing.assert_close(dense(found), torch.eye(num_nodes))  # the loops
        alone = Diffuse(kernel, self_loop_weight=0.0, **kept)(data)
        # What starts at a node stays there; katz does not count it.
        torch.testing.assert_close(dense(alone), 0 * torch.eye(num_nodes) if kernel == "katz" else torch.eye(num_nodes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_of_the_weights(dtype: torch.dtype) -> None:
    found = Diffuse(top_k=3)(graph(dtype=dtype))
    assert found.edge_weight.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(dense(found).sum(1), torch.ones(N, dtype=found.edge_weight.dtype))


# The graph ############################################################################################################


def test_only_what_belongs_to_edges_changes() -> None:
    data = graph()
    num_edges = data.num_edges
    data.x, data.y, data.name = torch.randn(N, 3), torch.randint(2, (N,)), "graph"
    data.target = torch.randn(num_edges)  # as long as there are edges, but not named so
    data.edge_attr, data.edge_type = torch.randn(num_edges, 4), torch.zeros(num_edges, dtype=torch.long)
    data.edge_label, data.edge_label_index = torch.ones(num_edges), data.edge_index.clone()
    kept = {key: value for key, value in data.to_dict().items() if not key.startswith("edge_")}
    before = {key: value.clone() if isinstance(value, Tensor) else value for key, value in data.to_dict().items()}
    found = Diffuse(top_k=3)(data)
    assert set(found.keys()) == {*kept, "edge_index", "edge_weight", "edge_label", "edge_label_index"}
    assert all(found[key] is value for key, value in kept.items())
    for key, value in before.items():  # the given graph is left alone
        assert torch.equal(data[key], value) if isinstance(value, Tensor) else data[key] == value


def test_the_weights_may_have_another_name() -> None:
    data = graph()
    data.edge_attr = data.edge_weight
    del data.edge_weight
    found = Diffuse(top_k=3, weight="edge_attr")(data)
    assert "edge_weight" not in found
    expected = Diffuse(top_k=3)(Data(edge_index=data.edge_index, edge_weight=data.edge_attr, num_nodes=N))
    assert torch.equal(found.edge_attr, expected.edge_weight)
    unweighted = Diffuse(top_k=3)(Data(edge_index=data.edge_index, num_nodes=N))
    assert not torch.allclose(dense(found, "edge_attr"), dense(unweighted).double(), rtol=1e-3)


def test_nodes_that_lose_their_edges_stay() -> None:
    data = Data(edge_index=torch.tensor([[0, 1], [1, 2]]), num_nodes=3)
    del data.num_nodes
    data.edge_weight = torch.tensor([1.0, 1e-6])
    with pytest.warns(UserWarning, match="Unable to accurately infer 'num_nodes'"):
        found = Diffuse("katz", hops=1, normalize="none", self_loop_weight=0.0, threshold=0.1)(data)
    assert found.num_nodes == 3
    assert found.edge_index.tolist() == [[0], [1]]


def test_compose_batch_and_functional_name() -> None:
    data = graph()
    transform = Compose([ToUndirected(reduce="mean"), Diffuse(top_k=3)])
    found = transform(data)
    expected = Diffuse(top_k=3)(ToUndirected(reduce="mean")(data))
    assert torch.equal(found.edge_index, expected.edge_index)
    # Two graphs side by side do not mix.
    other = graph()
    together = dense(Diffuse(top_k=3, tol=1e-13)(Data(**Batch.from_data_list([data, other]).to_dict())))
    apart = [dense(Diffuse(top_k=3, tol=1e-13)(one)) for one in (data, other)]
    torch.testing.assert_close(together, torch.block_diag(*apart))


def test_pre_transform_of_a_dataset(tmp_path: Path) -> None:
    graphs = [graph(), graph()]

    class Pair(InMemoryDataset):
        def __init__(self) -> None:
            super().__init__(str(tmp_path), pre_transform=Diffuse(top_k=3))
            self.load(self.processed_paths[0])

        @property
        def processed_file_names(self) -> str:
            return "pair.pt"

        def process(self) -> None:
            self.save([self.pre_transform(data) for data in graphs], self.processed_paths[0])

    for _ in range(2):  # made, then read
        dataset = Pair()
        for data, given in zip(dataset, graphs, strict=True):
            assert torch.equal(data.edge_weight, Diffuse(top_k=3)(given).edge_weight)


def test_repr() -> None:
    assert repr(Diffuse()) == "Diffuse(kernel='ppr', hops=inf, decay=0.85, avg_degree=64)"
    assert repr(Diffuse("heat", top_k=8)) == "Diffuse(kernel='heat', time=5.0, top_k=8)"
    assert repr(Diffuse("katz", hops=3, threshold=0.1)) == "Diffuse(kernel='katz', hops=3, decay=0.85, threshold=0.1)"


# Refused ##############################################################################################################


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kernel": "sgc"}, "kernel is 'sgc'; expected one of 'ppr', 'katz', 'heat'"),
        ({"kernel": "heat", "decay": 0.5}, "decay is 0.5, which kernel 'heat' does not have"),
        ({"kernel": "ppr", "time": 2.0}, "time is 2.0, which kernel 'ppr' does not have"),
        ({"hops": 0}, "hops is 0; expected an integer of at least 1, or math.inf"),
        ({"decay": 1.0}, "decay is 1.0; expected a number between 0 and 1"),
        ({"normalize": "sym"}, "normalize is 'sym'; expected one of 'symmetric', 'row', 'column', 'none'"),
        ({"normalize_out": "col"}, "normalize_out is 'col'; expected one of 'symmetric', 'row', 'column', 'none'"),
        ({"self_loop_weight": -1.0}, "self_loop_weight is -1.0; expected a number of at least 0"),
        ({"top_k": 3, "threshold": 0.1}, "threshold and top_k are given; choose one of them"),
        ({"top_k": 0}, "top_k is 0; expected an integer of at least 1"),
        ({"avg_degree": 2.5}, "avg_degree is 2.5; expected an integer of at least 1"),
        ({"threshold": 0.0}, "threshold is 0.0; expected a positive number"),
        ({"tol": 0.0}, "tol is 0.0; expected a positive number"),
    ],
    ids=str,
)
def test_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        Diffuse(**options)


def test_graphs() -> None:
    with pytest.raises(TypeError, match=re.escape("data is a HeteroData; expected a Data: diffuse one edge type at a")):
        Diffuse()(HeteroData())
    with pytest.raises(ValueError, match="data has no edge_index, which is what is diffused"):
        Diffuse()(Data(x=torch.randn(3, 2)))
    edges = torch.tensor([[0, 1], [1, 0]])
    for weight, expected in (
        (torch.ones(2, 3), "edge_weight is (2, 3); expected a Tensor of shape (2,), one weight per edge"),
        (torch.ones(3), "edge_weight is (3,); expected a Tensor of shape (2,)"),
        ([1.0, 2.0], "edge_weight is list; expected a Tensor of shape (2,)"),
        (torch.tensor([1.0, -2.0]), "edge_weight contains -2; expected no negative weights"),
        (torch.tensor([1.0, math.nan]), "weight contains 1 NaN, the first at (1,)"),
    ):
        with pytest.raises(ValueError, match=re.escape(expected)):
            Diffuse()(Data(edge_index=edges, edge_weight=weight, num_nodes=2))
