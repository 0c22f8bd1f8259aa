"""Attention within a table is message passing between cells, and the blocks are the published ones."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import TransformerConv

from graphattn.affinity import SparseAffinity, complete
from graphattn.nn.table_attention import TableAttention, attribute_pairs, datapoint_pairs
from tests.nn.cases import largest_saved

N, D, E, H = 6, 3, 8, 2
EPS = torch.finfo(torch.float64).eps
VIEWS = [("datapoints", "full"), ("datapoints", "shared"), ("attributes", "full")]
CASES = [(*view, compat) for view, compat in product(VIEWS, (None, "npt", "saint"))]


def layer(between: str, width: str = "full", compat: str | None = None, **options: float) -> TableAttention:
    torch.manual_seed(0)
    found = TableAttention(D, E, H, between=between, width=width, compat=compat, **options).double().eval()
    for norm in (found.norm1, found.norm2):
        torch.nn.init.normal_(norm.weight, 1.0, 0.1)
        torch.nn.init.normal_(norm.bias, 0.0, 0.1)
    return found


def cells(n: int = N, seed: int = 1) -> Tensor:
    return torch.randn(n, D, E, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor, terms: int = 4 * D * E * N) -> None:
    """Equal but for the rounding of sums of that many terms."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= terms * EPS * expected.abs().max()


def in_view(h: Tensor, between: str, width: str) -> Tensor:
    if between == "attributes":
        return h
    return h.flatten(1)[None] if width == "full" else h.transpose(0, 1)


def out_of_view(x: Tensor, between: str, width: str) -> Tensor:
    if between == "attributes":
        return x
    return x[0].unflatten(1, (D, E)) if width == "full" else x.transpose(0, 1)


def normed(norm: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def dense(
    block: TableAttention, h: Tensor, between: str, width: str, compat: str | None, log_prior: Tensor | None = None
) -> Tensor:
    """The block by its formula, head by head, pairs that do not attend at a log prior of -inf."""
    x = in_view(h, between, width)
    size = x.size(-1)
    z = normed(block.norm1, x)
    q = z @ block.lin_q.weight.T
    k, v = ((x if compat == "npt" else z) @ block.lin_kv.weight.T).chunk(2, dim=-1)
    if compat != "saint":
        q, (bias_k, bias_v) = q + block.lin_q.bias, block.lin_kv.bias.chunk(2)
        k, v = k + bias_k, v + bias_v
    head = q.size(-1) // H
    assert head == ({"datapoints": 64, "attributes": 16}[between] if compat == "saint" else size // H)
    gathered = []
    for i in range(H):
        part = slice(i * head, (i + 1) * head)
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(size if compat == "npt" else head)
        if log_prior is not None:
            scores = scores + log_prior
        gathered.append(scores.softmax(-1).nan_to_num(0.0) @ v[..., part])
    y = torch.cat(gathered, dim=-1) @ block.lin_out.weight.T + block.lin_out.bias
    y = y + (z if compat == "saint" else x @ block.lin_res.weight.T + block.lin_res.bias)
    u = normed(block.norm2, y)
    hidden = u @ block.mlp.lin1.weight.T + block.mlp.lin1.bias
    if compat == "saint":
        value, gate = hidden.chunk(2, dim=-1)
        hidden, residual = value * F.gelu(gate), u
    else:
        hidden, residual = F.gelu(hidden), y
    return out_of_view(residual + hidden @ block.mlp.lin2.weight.T + block.mlp.lin2.bias, between, width)


@pytest.mark.parametrize(("between", "width", "compat"), CASES)
def test_the_block_is_its_formula(between: str, width: str, compat: str | None) -> None:
    block = layer(between, width, compat)
    close(block(cells()), dense(block, cells(), between, width, compat))


@pytest.mark.parametrize("compat", [None, "npt", "saint"])
@pytest.mark.parametrize("width", ["full", "shared"])
def test_an_affinity_between_rows_takes_the_place_of_all_pairs(width: str, compat: str | None) -> None:
    block = layer("datapoints", width, compat)
    h = cells()
    close(block(h, complete(N)), block(h))
    # Row 2 has no edges and gathers nothing; 0 -> 1 is there twice, with weights that add up.
    edges = torch.tensor([[0, 0, 3, 5, 4, 3, 1], [1, 1, 0, 0, 3, 4, 5]])
    weight = torch.tensor([0.5, 0.25, 2.0, 1.0, 1.0, 0.3, 7.0], dtype=torch.float64)
    prior = torch.zeros(N, N, dtype=torch.float64).index_put((edges[1], edges[0]), weight, accumulate=True)
    rows = SparseAffinity(edges, weight, (N, N))
    expected = dense(block, h, "datapoints", width, compat, prior.log())
    close(block(h, rows), expected)
    close(block(h, rows, chunk=2), expected)


@pytest.mark.parametrize("compat", [None, "npt", "saint"])
def test_constants_are_the_published_ones(compat: str | None) -> None:
    block = layer("datapoints", compat=compat)
    assert block.norm1.eps == block.norm2.eps == (1e-5 if compat == "saint" else 1e-12)
    assert block.mlp.lin1.out_features == D * E * (8 if compat == "saint" else 4)
    assert (block.lin_q.bias is None) == (compat == "saint")


@pytest.mark.parametrize("width", ["full", "shared"])
def test_all_pairs_are_never_kept(width: str) -> None:
    """The backward pass of 600 rows keeps no number for each pair: all pairs run fused."""
    block, h = layer("datapoints", width), cells(600)
    assert largest_saved(lambda: block(h)) <= 600 * 4 * D * E < 600 * 600


@pytest.mark.parametrize(("between", "width"), VIEWS[1:])
def test_it_is_message_passing_over_the_graph_of_cells(between: str, width: str) -> None:
    block = layer(between, width)
    conv = TransformerConv(E, E // H, H, root_weight=False).double()
    with torch.no_grad():
        weight_k, weight_v = block.lin_kv.weight.chunk(2)
        bias_k, bias_v = block.lin_kv.bias.chunk(2)
        for lin, weight, bias in (
            (conv.lin_query, block.lin_q.weight, block.lin_q.bias),
            (conv.lin_key, weight_k, bias_k),
            (conv.lin_value, weight_v, bias_v),
        ):
            lin.weight.copy_(weight)
            lin.bias.copy_(bias)
    h, neighbours = cells(), SparseAffinity(torch.tensor([[0, 2, 4], [1, 1, 5]]), None, (N, N))
    if between == "attributes":
        cases = [(attribute_pairs(N, D), None)]
    else:
        cases = [(datapoint_pairs(N, D), None), (datapoint_pairs(N, D, neighbours), neighbours)]
    for pairs, rows in cases:
        gathered = conv(block.norm1(h).flatten(0, 1), pairs.edge_index).view(N, D, E)
        expected = block._map(h, gathered)
        close(block(h, rows), expected)


def test_pairs_name_the_cells_that_share_a_column_or_a_row() -> None:
    def neighbours(pairs: SparseAffinity) -> set[tuple[int, int]]:
        return set(zip(*pairs.edge_index.tolist(), strict=True))

    of_cell = {(i, j): i * D + j for i in range(2) for j in range(D)}
    assert neighbours(datapoint_pairs(2, D)) == {
        (of_cell[a], of_cell[b]) for a, b in product(of_cell, of_cell) if a[1] == b[1]
    }
    assert neighbours(attribute_pairs(2, D)) == {
        (of_cell[a], of_cell[b]) for a, b in product(of_cell, of_cell) if a[0] == b[0]
    }
    one_way = SparseAffinity(torch.tensor([[0], [1]]), None, (2, 2))
    assert neighbours(datapoint_pairs(2, D, one_way)) == {(of_cell[0, j], of_cell[1, j]) for j in range(D)}


@pytest.mark.parametrize(("between", "width", "compat"), CASES)
def test_rows_have_no_order(between: str, width: str, compat: str | None) -> None:
    block, h = layer(between, width, compat), cells()
    order = torch.tensor([1, 2, 0, 5, 3, 4])
    close(block(h[order]), block(h)[order])


@pytest.mark.parametrize("compat", [None, "npt", "saint"])
def test_attributes_attend_within_their_row(compat: str | None) -> None:
    block, h = layer("attributes", compat=compat), cells()
    other = torch.cat([h[:1], cells(seed=9)[1:]])
    close(block(other)[:1], block(h)[:1])
    close(block(h[:1]), block(h)[:1])


@pytest.mark.parametrize("width", ["full", "shared"])
def test_a_lone_row_attends_to_itself_with_weight_one(width: str) -> None:
    block, h = layer("datapoints", width), cells(1)
    x = in_view(h, "datapoints", width)
    v = block.lin_kv(block.norm1(x)).chunk(2, dim=2)[1]
    close(block(h), out_of_view(block._map(x, v), "datapoints", width))


@pytest.mark.parametrize("width", ["full", "shared"])
def test_equal_rows_get_equal_outputs(width: str) -> None:
    h = cells()
    h[4] = h[1]
    found = layer("datapoints", width)(h)
    close(found[4:5], found[1:2])


def with_context(num_context: int) -> SparseAffinity:
    """All context rows draw on one another; the others on the context and on themselves."""
    edges = [(j, i) for i in range(N) for j in range(N) if j < num_context or i == j]
    return SparseAffinity(torch.tensor(edges).T, None, (N, N))


@pytest.mark.parametrize("chunk", [None, 1, 2, 4, 100])
@pytest.mark.parametrize("num_context", [0, 3, 4, N])
@pytest.mark.parametrize("width", ["full", "shared"])
def test_rows_behind_the_context_draw_on_it_and_on_themselves(width: str, num_context: int, chunk: int | None) -> None:
    block, h = layer("datapoints", width), cells()
    close(block(h, num_context=num_context, chunk=chunk), block(h, with_context(num_context)))


@pytest.mark.parametrize(("between", "width", "compat"), CASES)
def test_chunks_change_nothing(between: str, width: str, compat: str | None) -> None:
    block, h = layer(between, width, compat), cells()
    for chunk in (1, 4, N):
        close(block(h, chunk=chunk), block(h))


@pytest.mark.parametrize("between", ["datapoints", "attributes"])
def test_no_rows(between: str) -> None:
    assert layer(between)(cells(0)).shape == (0, D, E)


@pytest.mark.parametrize("compat", [None, "npt", "saint"])
@pytest.mark.parametrize("between", ["datapoints", "attributes"])
def test_gradients(between: str, compat: str | None) -> None:
    block = layer(between, "shared", compat).requires_grad_(False)
    assert torch.autograd.gradcheck(block, (cells(2).requires_grad_(),))


def test_gradients_with_context_are_those_along_its_edges() -> None:
    block, h = layer("datapoints"), cells().requires_grad_()
    (fused,) = torch.autograd.grad(block(h, num_context=4).square().sum(), h)
    (sparse,) = torch.autograd.grad(block(h, with_context(4)).square().sum(), h)
    close(fused, sparse, 40 * D * E * N)


def test_dropout_is_for_training_alone() -> None:
    block, h = layer("datapoints", dropout=0.5, attention_dropout=0.5), cells()
    assert torch.equal(block(h), block(h))
    block.train()
    assert not torch.equal(block(h), block(h))
    assert not torch.equal(block(h, complete(N)), block(h, complete(N)))


def test_parameters_and_repr() -> None:
    block = layer("datapoints", "shared", "npt")
    assert "between='datapoints', heads=2, width='shared', compat='npt'" in repr(block)
    assert "width" not in layer("attributes").extra_repr()
    before = {name: value.clone() for name, value in block.named_parameters()}
    block.reset_parameters()
    assert all(not torch.equal(value, before[name]) for name, value in block.named_parameters())
    full, shared = (sum(p.numel() for p in layer("datapoints", w).parameters()) for w in ("full", "shared"))
    assert full > 0.9 * D**2 * shared  # weights of width d e


@pytest.mark.parametrize("compat", [None, "npt", "saint"])
def test_keys_start_as_queries_unless_the_released_code_is_asked_for(compat: str | None) -> None:
    block = layer("datapoints", compat=compat)
    assert torch.equal(block.lin_q.weight, block.lin_kv.weight.chunk(2)[0]) == (compat is None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between": "rows"}, "between is 'rows'; expected one of 'datapoints', 'attributes'"),
        ({"width": "half"}, "width is 'half'; expected one of 'full', 'shared'"),
        ({"compat": "tabpfn"}, "compat is 'tabpfn'; expected one of None, 'npt', 'saint'"),
        ({"heads": 3}, "heads is 3, which does not divide channels=8"),
        ({"attention_dropout": 1.0}, "attention_dropout is 1.0; expected a probability"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableAttention(D, E, **{"heads": H, **options})
