"""RerankConv and the graphs of many lists, against dense matrices and PyG."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.nn import SimpleConv

from graphattn import Affinity
from graphattn.affinity.normalize import NORMALIZATIONS
from graphattn.nn.rerank_conv import RerankConv, candidate_graph

N, C = 11, 3


def graph(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two lists of 7 and 4 candidates without parallel edges; candidates 2 and 10 have no edges in."""
    x = torch.randn(N, C, dtype=dtype)
    pairs = [
        (j, i) for i in range(N) for j in range(N) if (i < 7) == (j < 7) and (3 * i + 5 * j) % 4 and i not in (2, 10)
    ]
    edge_index = torch.tensor(pairs).T[:, torch.randperm(len(pairs))]
    return x, edge_index, torch.rand(edge_index.size(1), dtype=dtype) + 0.1, (torch.arange(N) >= 7).long()


def matrix(edge_index: Tensor, weight: Tensor) -> Tensor:
    return torch.zeros(N, N, dtype=weight.dtype).index_put((edge_index[1], edge_index[0]), weight)


@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize("normalize", sorted(NORMALIZATIONS))
def test_equals_the_dense_product_of_each_list(normalize: str, l2_normalize: bool) -> None:
    x, edge_index, weight, batch = graph()
    out = RerankConv(normalize, l2_normalize=l2_normalize)(x, edge_index, weight, batch)
    A = matrix(edge_index, weight)
    parts = [
        Affinity.from_dense(A[rows][:, rows]).normalize(normalize).matrix @ x[rows]
        for rows in (slice(0, 7), slice(7, N))
    ]
    expected = torch.cat(parts)
    expected = F.normalize(expected, dim=1) if l2_normalize else expected
    torch.testing.assert_close(out, expected, rtol=0, atol=N * 4 * torch.finfo(torch.float64).eps)
    assert (out[[2, 10]] == 0).all()


def test_by_hand() -> None:
    x, edges = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1, 2, 2], [0, 0, 1]])
    assert RerankConv()(x, edges).flatten().tolist() == [6.0, 4.0, 0.0]
    assert RerankConv()(x, edges, torch.tensor([-1.0, 1.0, 3.0])).flatten().tolist() == [2.0, 12.0, 0.0]
    assert RerankConv("row")(x, edges).flatten().tolist() == [3.0, 4.0, 0.0]
    assert RerankConv(l2_normalize=True)(x, edges).flatten().tolist() == [1.0, 1.0, 0.0]


def test_equals_pygs_simple_conv() -> None:
    x, edge_index, weight, _ = graph(torch.float32)
    torch.testing.assert_close(RerankConv()(x, edge_index, weight), SimpleConv("sum")(x, edge_index, weight))


@pytest.mark.parametrize("normalize", ["none", "row", "softmax"])
def test_messages_give_the_same_numbers(normalize: str) -> None:
    x, edge_index, weight, batch = graph()
    conv = RerankConv(normalize, l2_normalize=True)
    fused = conv(x, edge_index, weight, batch)
    seen: list[Any] = []
    handle = conv.register_message_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(conv(x, edge_index, weight, batch), fused, rtol=0, atol=1e-14)
    assert seen[0].shape == (edge_index.size(1), C)
    handle.remove()

    class Doubled(RerankConv):
        def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
            return 2 * super().message(x_j, edge_weight)

    plain = RerankConv(normalize)(x, edge_index, weight, batch)
    torch.testing.assert_close(Doubled(normalize)(x, edge_index, weight, batch), 2 * plain, rtol=0, atol=1e-14)


def test_lists_of_pyg_are_lists() -> None:
    x, edge_index, weight, batch = graph()
    data = []
    for rows, start in ((slice(0, 7), 0), (slice(7, N), 7)):
        mine = batch[edge_index[0]] == (start > 0)
        data.append(Data(x=x[rows], edge_index=edge_index[:, mine] - start, edge_weight=weight[mine]))
    both = Batch.from_data_list(data)
    conv = RerankConv("row")
    together = conv(both.x, both.edge_index, both.edge_weight, both.batch)
    torch.testing.assert_close(together, torch.cat([conv(d.x, d.edge_index, d.edge_weight) for d in data]))
    torch.testing.assert_close(together, conv(x, edge_index, weight, batch))


def test_every_kind_of_edges() -> None:
    x, edge_index, weight, batch = graph()
    conv = RerankConv("softmax")
    expected = conv(x, edge_index, weight, batch)
    A = Affinity.from_edge_index(edge_index, weight, N)
    order = (edge_index[1] * N + edge_index[0]).argsort()
    sorted_edges = EdgeIndex(edge_index[:, order], sparse_size=(N, N), sort_order="col")
    for edges, given in ((A, None), (A.to_dense(), None), (A.to_torch_sparse(), None), (sorted_edges, weight[order])):
        torch.testing.assert_close(conv(x, edges, given, batch), expected)


def test_gradients() -> None:
    x, edge_index, weight, batch = graph()
    for normalize in ("none", "row", "softmax"):
        conv = RerankConv(normalize, l2_normalize=True)
        assert torch.autograd.gradcheck(
            lambda x, w, conv=conv: conv(x[:2].repeat(6, 1)[:N], edge_index, w, batch)[[0, 1, 8]],
            (x.requires_grad_(), weight.requires_grad_()),
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x, edge_index, weight, batch = graph(torch.float32)
    x, weight = x.to(dtype), weight.to(dtype)
    out = RerankConv("row", l2_normalize=True)(x, edge_index, weight, batch)
    wide = RerankConv("row", l2_normalize=True)(x.float(), edge_index, weight.float(), batch)
    assert out.dtype == dtype
    assert torch.equal(out, wide.to(dtype))


def test_explainer_masks_edges() -> None:
    x, edge_index, weight, _ = graph(torch.float32)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = RerankConv("row")

        def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
            return self.conv(x, edge_index, edge_weight)

    explainer = Explainer(
        Model(),
        algorithm=GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )
    mask = explainer(x, edge_index, index=0, edge_weight=weight).edge_mask
    assert (mask[edge_index[1] == 0] > 0).all()
    assert (mask[edge_index[1] != 0] == 0).all()


def test_repr_and_refusals() -> None:
    assert repr(RerankConv("row", l2_normalize=True)) == "RerankConv(normalize='row', l2_normalize=True)"
    assert repr(RerankConv()) == "RerankConv(normalize='none')"
    x, edge_index, weight, batch = graph()
    conv = RerankConv()
    A = Affinity.from_edge_index(edge_index, weight, N)
    for call, error, message in (
        (lambda: RerankConv("spectral"), ValueError, "normalize is 'spectral'; expected one of"),
        (lambda: RerankConv(flow="target_to_source"), ValueError, r"flow is 'target_to_source'; pass edge_index.flip"),
        (lambda: conv(x[0], edge_index), ValueError, r"x has shape \(3,\); expected a Tensor \[nodes, channels\]"),
        (lambda: conv(None, edge_index), ValueError, "x has type NoneType"),
        (lambda: conv(x, A, weight), ValueError, "edge_weight is given, but edge_index has weights of its own"),
        (lambda: conv(x[:5], A), ValueError, "edge_index is 11 x 11, but x has 5 rows"),
        (lambda: conv(x, edge_index, weight[:2]), ValueError, r"weight has shape \(2,\)"),
        (
            lambda: conv(x, edge_index, weight[:, None].expand(-1, 2)),
            ValueError,
            "has weights for 2 heads; expected one",
        ),
        (lambda: conv(x[:5], edge_index), ValueError, "edge_index.* contains"),
        (lambda: conv(x, edge_index, weight, batch[:4]), ValueError, r"batch has shape \(4,\); expected \(11,\)"),
        (
            lambda: conv(x, torch.tensor([[0, 8], [1, 2]]), None, batch),
            ValueError,
            "edge_index has edge 1 from 8 to 2, which are in different lists of batch",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


# Graphs of lists ######################################################################################################


@pytest.mark.parametrize("loops", [False, True])
def test_candidate_graph_equals_a_loop(loops: bool) -> None:
    similarity = torch.randn(3, 6, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, 2] = mask[2, 4] = mask[2, 5] = False
    edge_index, weight, batch = candidate_graph(similarity, 2, mask, loops=loops)
    expected = {}
    for b in range(3):
        for i in range(6):
            others = [j for j in range(6) if j != i and mask[b, i] and mask[b, j]]
            chosen = sorted(others, key=lambda j: -similarity[b, i, j].item())[:2]
            for j in [i, *chosen] if loops and mask[b, i] else chosen:
                expected[6 * b + j, 6 * b + i] = similarity[b, i, j].item()
    found = {tuple(edge): w for edge, w in zip(edge_index.T.tolist(), weight.tolist(), strict=True)}
    assert found == expected
    assert len(found) == edge_index.size(1)
    assert batch.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    x = torch.randn(18, 4)
    out = RerankConv("row")(x, edge_index, weight.exp(), batch)
    for b in range(3):
        one = candidate_graph(similarity[b : b + 1], 2, mask[b : b + 1], loops=loops)
        alone = RerankConv("row")(x[6 * b : 6 * b + 6], one[0], one[1].exp(), one[2])
        torch.testing.assert_close(out[6 * b : 6 * b + 6], alone)


def test_candidate_graph_keeps_the_gradient_of_its_weights() -> None:
    similarity = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    edge_index, weight, batch = candidate_graph(similarity, 2)
    weight.sum().backward()
    assert similarity.grad is not None
    chosen = torch.zeros(8, 8).index_put((edge_index[1], edge_index[0]), torch.ones(16))
    blocks = torch.stack([chosen[:4, :4], chosen[4:, 4:]])
    assert torch.equal(similarity.grad.float(), blocks)
    assert torch.equal(batch[edge_index[0]], batch[edge_index[1]])


def test_candidate_graph_of_nothing() -> None:
    for shape in ((0, 4, 4), (2, 0, 0), (2, 1, 1)):
        edge_index, weight, batch = candidate_graph(torch.ones(shape), 3)
        assert edge_index.shape == (2, 0)
        assert weight.shape == (0,)
        assert batch.numel() == shape[0] * shape[1]
