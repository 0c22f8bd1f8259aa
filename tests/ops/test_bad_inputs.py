"""Every wrong input raises the documented type, and the message names the argument and what it was."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric import EdgeIndex

from graphattn import _optional
from graphattn.ops import Layout, edge_aggregate, edge_attention, edge_softmax, sddmm, spmm
from tests.ops.cases import GRAPHS, OPS, PUBLIC, Graph

N, M, E, H, C, D = 4, 5, 7, 3, 2, 6
EDGES = torch.tensor([[4, 0, 1, 3, 2, 2, 0], [0, 1, 3, 3, 2, 0, 0]])


def attend(backend: str = "auto", **changed: Any) -> Any:
    x = {"q": torch.randn(N, H, C), "k": torch.randn(M, H, C), "v": torch.randn(M, H, C), "edge_index": EDGES}
    return edge_attention(**(x | changed), backend=backend)


def features(rows: int = E, heads: int = H, channels: int = C, width: int = D) -> dict[str, torch.Tensor]:
    return {"edge_attr": torch.randn(rows, D), "edge_proj": torch.randn(heads, channels, width)}


BAD_ATTENTION: dict[str, tuple[type[Exception], dict[str, Any], str]] = {
    "q_dims": (ValueError, {"q": torch.randn(N, C)}, "q has shape (4, 2); expected [nodes, heads, channels]"),
    "k_dims": (ValueError, {"k": torch.randn(M, H, C, 1)}, "k has shape (5, 3, 2, 1); expected [nodes"),
    "v_dims": (ValueError, {"v": torch.randn(M)}, "v has shape (5,); expected [nodes"),
    "k_heads": (ValueError, {"k": torch.randn(M, 1, C)}, "k has shape (5, 1, 2); expected 3 heads, got 1"),
    "v_heads": (ValueError, {"v": torch.randn(M, H + 1, C)}, "v has shape (5, 4, 2); expected 3 heads, got 4"),
    "k_channels": (ValueError, {"k": torch.randn(M, H, C + 1)}, "k has shape (5, 3, 3); expected 2 channels, got 3"),
    "k_rows": (ValueError, {"k": torch.randn(M - 1, H, C)}, "k has shape (4, 3, 2); expected 5 rows, got 4"),
    "v_channels_with_edge_attr": (
        ValueError,
        {"v": torch.randn(M, H, C + 1)} | features(),
        "v has shape (5, 3, 3); expected 2 channels, got 3",
    ),
    "source_too_large": (ValueError, {"edge_index": EDGES + torch.tensor([[1], [0]])}, "edge_index[0] contains 5"),
    "target_too_large": (ValueError, {"edge_index": EDGES + torch.tensor([[0], [9]])}, "edge_index[1] contains 12"),
    "negative_source": (ValueError, {"edge_index": EDGES - torch.tensor([[1], [0]])}, "edge_index[0] contains -1"),
    "negative_target": (ValueError, {"edge_index": EDGES - torch.tensor([[0], [3]])}, "edge_index[1] contains -3"),
    "float_edges": (TypeError, {"edge_index": EDGES.float()}, "edge_index has dtype torch.float32; expected int64"),
    "bool_edges": (TypeError, {"edge_index": EDGES.bool()}, "edge_index has dtype torch.bool; expected int64"),
    "complex_edges": (TypeError, {"edge_index": EDGES.cfloat()}, "edge_index has dtype torch.complex64"),
    "edges_transposed": (ValueError, {"edge_index": EDGES.t()}, "edge_index has shape (7, 2); expected [2, E]"),
    "edges_flat": (ValueError, {"edge_index": EDGES[0]}, "edge_index has shape (7,); expected [2, E]"),
    "edges_list": (TypeError, {"edge_index": EDGES.tolist()}, "edge_index is a list; expected an integer Tensor"),
    "edges_none": (TypeError, {"edge_index": None}, "edge_index is a NoneType; expected an integer Tensor"),
    "sparse_coo": (
        TypeError,
        {"edge_index": torch.eye(4).to_sparse()},
        "edge_index is a torch.sparse_coo tensor; pass Affinity.from_torch_sparse(edge_index)",
    ),
    "sparse_csr": (TypeError, {"edge_index": torch.eye(4).to_sparse_csr()}, "edge_index is a torch.sparse_csr tensor"),
    "layout_rows": (ValueError, {"edge_index": Layout(EDGES, 9, M)}, "edge_index has 9 targets, but the features"),
    "layout_cols": (ValueError, {"edge_index": Layout(EDGES, N, 9)}, "edge_index has 9 sources, but the features"),
    "integer_q": (TypeError, {"q": torch.ones(N, H, C, dtype=torch.long)}, "q has dtype torch.int64; expected a float"),
    "integer_v": (TypeError, {"v": torch.ones(M, H, C, dtype=torch.int)}, "v has dtype torch.int32; expected a float"),
    "list_k": (TypeError, {"k": [1.0]}, "k is a list; expected a floating-point Tensor"),
    "bias_rows": (ValueError, {"bias": torch.randn(E + 1, H)}, "bias has shape (8, 3); expected [7, 3]"),
    "bias_heads": (ValueError, {"bias": torch.randn(E, 1)}, "bias has shape (7, 1); expected [7, 3]"),
    "bias_dims": (ValueError, {"bias": torch.randn(E)}, "bias has shape (7,); expected [7, 3]"),
    "bias_integer": (TypeError, {"bias": torch.ones(E, H, dtype=torch.long)}, "bias has dtype torch.int64"),
    "attr_rows": (ValueError, features(rows=E - 1), "edge_attr has shape (6, 6); expected [7, D]"),
    "attr_integer": (TypeError, features() | {"edge_attr": torch.ones(E, D, dtype=torch.long)}, "edge_attr has dtype"),
    "attr_alone": (ValueError, {"edge_attr": torch.randn(E, D)}, "edge_proj is None but edge_attr is given"),
    "proj_alone": (ValueError, {"edge_proj": torch.randn(H, C, D)}, "edge_attr is None but edge_proj is given"),
    "keys_alone": (ValueError, {"edge_values": False}, "edge_values is False but edge_attr is None"),
    "proj_heads": (ValueError, features(heads=1), "edge_proj has shape (1, 2, 6); expected (3, 2, 6)"),
    "proj_channels": (ValueError, features(channels=9), "edge_proj has shape (3, 9, 6); expected (3, 2, 6)"),
    "proj_width": (ValueError, features(width=5), "edge_proj has shape (3, 2, 5); expected (3, 2, 6)"),
    "dropout_negative": (ValueError, {"dropout": -0.1}, "dropout is -0.1; expected a probability in [0, 1]"),
    "dropout_large": (ValueError, {"dropout": 1.5}, "dropout is 1.5; expected a probability in [0, 1]"),
    "dropout_nan": (ValueError, {"dropout": float("nan")}, "dropout is nan; expected a probability in [0, 1]"),
    "k_device": (ValueError, {"k": torch.randn(M, H, C, device="meta")}, "k is on meta but edge_index is on cpu"),
    "edges_device": (ValueError, {"edge_index": EDGES.to("meta")}, "q is on cpu but edge_index is on meta"),
}


def test_the_good_call_is_good() -> None:
    assert attend(**features(), bias=torch.randn(E, H), dropout=0.5).shape == (N, H, C)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("error", "changed", "message"), BAD_ATTENTION.values(), ids=BAD_ATTENTION.keys())
def test_edge_attention(error: type[Exception], changed: dict[str, Any], message: str, backend: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        attend(backend, **changed)


OTHER_CALLS: dict[str, tuple[type[Exception], Any, str]] = {
    "sddmm_dims": (ValueError, lambda **o: sddmm(torch.ones(N, C), torch.ones(M, H, C), EDGES, **o), "q has shape (4,"),
    "sddmm_heads": (
        ValueError,
        lambda **o: sddmm(torch.ones(N, H, C), torch.ones(M, 2, C), EDGES, **o),
        "k has shape (5, 2, 2); expected 3 heads, got 2",
    ),
    "sddmm_channels": (
        ValueError,
        lambda **o: sddmm(torch.ones(N, H, C), torch.ones(M, H, 1), EDGES, **o),
        "k has shape (5, 3, 1); expected 2 channels, got 1",
    ),
    "spmm_weights": (
        ValueError,
        lambda **o: spmm(torch.ones(E - 1, H), torch.ones(M, H, C), EDGES, num_rows=N, **o),
        "weights has shape (6, 3); expected [7, 3]",
    ),
    "spmm_heads": (
        ValueError,
        lambda **o: spmm(torch.ones(E, 2), torch.ones(M, H, C), EDGES, num_rows=N, **o),
        "weights has shape (7, 2); expected [7, 3]",
    ),
    "spmm_list": (
        TypeError,
        lambda **o: spmm(torch.ones(E, H), torch.ones(M, H, C), EDGES.tolist(), **o),
        "edge_index is a list",
    ),
    "softmax_num_rows": (
        ValueError,
        lambda **o: edge_softmax(torch.ones(E, H), EDGES, **o),
        "num_rows is None; pass the number of targets",
    ),
    "softmax_shape": (
        ValueError,
        lambda **o: edge_softmax(torch.ones(E), EDGES, num_rows=N, **o),
        "scores has shape (7,); expected [7, heads]",
    ),
    "softmax_target": (
        ValueError,
        lambda **o: edge_softmax(torch.ones(E, H), EDGES, num_rows=3, **o),
        "edge_index[1] contains 3, but there are 3 target nodes",
    ),
    "softmax_sparse": (
        TypeError,
        lambda **o: edge_softmax(torch.ones(E, H), torch.eye(2, 7).long().to_sparse(), num_rows=N, **o),
        "edge_index is a torch.sparse_coo tensor",
    ),
    "softmax_layout": (
        ValueError,
        lambda **o: edge_softmax(torch.ones(E, H), Layout(EDGES, N, M), num_rows=9, **o),
        "edge_index has 4 targets, but the features have 9 rows",
    ),
    "aggregate_scores": (
        ValueError,
        lambda **o: edge_aggregate(torch.ones(E, 1), torch.ones(M, H, C), EDGES, num_rows=N, **o),
        "scores has shape (7, 1); expected [7, 3]",
    ),
    "aggregate_proj": (
        ValueError,
        lambda **o: edge_aggregate(
            torch.ones(E, H), torch.ones(M, H, C), EDGES, num_rows=N, **features(channels=9), **o
        ),
        "edge_proj has shape (3, 9, 6); expected (3, 2, 6)",
    ),
    "aggregate_dropout": (
        ValueError,
        lambda **o: edge_aggregate(torch.ones(E, H), torch.ones(M, H, C), EDGES, num_rows=N, dropout=2, **o),
        "dropout is 2; expected a probability",
    ),
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("error", "call", "message"), OTHER_CALLS.values(), ids=OTHER_CALLS.keys())
def test_other_ops(error: type[Exception], call: Any, message: str, backend: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call(backend=backend)


@pytest.mark.parametrize("op", PUBLIC)
@pytest.mark.parametrize("backend", ["csr", "reference"])
@pytest.mark.parametrize(("side", "value"), [(0, 99), (0, -1), (1, 99), (1, -1)])
def test_every_op_checks_the_range_of_indices(side: int, value: int, backend: str, op: str) -> None:
    if op == "softmax" and side == 0:
        pytest.skip("a softmax over targets never looks at the sources of a plain edge_index")
    graph = GRAPHS["bipartite_unsorted"]
    edges = graph.edge_index.clone()
    edges[side, 3] = value
    for given in (edges, edges.int()):
        with pytest.raises(ValueError, match=rf"edge_index\[{side}\] contains {value}, but there are \d+ "):
            OPS[op].call(OPS[op].inputs(graph), graph, given, backend=backend)


@pytest.mark.parametrize("sort", [None, "row", "col"])
def test_the_range_of_an_edge_index_object_is_checked(sort: str | None) -> None:
    edges = EdgeIndex(torch.tensor([[0, 1], [0, 9]]), sparse_size=(2, 10), sort_order=sort)
    with pytest.raises(ValueError, match=r"edge_index\[1\] contains 9, but there are 2 target nodes"):
        edge_attention(*[torch.ones(2, 1, 1)] * 3, edges)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("op", ["attention_all", "spmm"])
def test_compiled_code_checks_the_range_too(op: str, side: int, reset_dynamo: None) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    inputs = OPS[op].inputs(graph)

    def call(edges: torch.Tensor) -> Any:
        return OPS[op].call(inputs, graph, edges)

    edges = graph.edge_index.clone()
    edges[side, 3] = 99
    with pytest.raises(ValueError, match=rf"edge_index\[{side}\] contains 99"):
        torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")(edges)


@pytest.mark.parametrize("op", PUBLIC)
def test_unknown_backend(op: str) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    with pytest.raises(ValueError, match=r"backend is 'cuda'; expected one of 'auto', 'reference', 'csr', 'scatter'"):
        OPS[op].call(OPS[op].inputs(graph), graph, graph.edge_index, backend="cuda")


@pytest.mark.parametrize("op", PUBLIC)
def test_csr_serves_the_cpu_only(op: str) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    meta = Graph(graph.edge_index.to("meta"), graph.num_rows, graph.num_cols)
    inputs = {n: x.to("meta") for n, x in OPS[op].inputs(graph).items()}
    with pytest.raises(ValueError, match=r"backend 'csr' serves CPU tensors only, but the inputs are on meta"):
        OPS[op].call(inputs, meta, meta.edge_index, backend="csr")
    OPS[op].call(inputs, meta, meta.edge_index)  # "auto" takes a backend that can


# torch-scatter missing or broken #####################################################################################


@pytest.fixture
def no_scatter(monkeypatch: pytest.MonkeyPatch) -> Any:
    _optional._attempt.cache_clear()
    monkeypatch.setitem(sys.modules, "torch_scatter", None)  # importing it raises ImportError
    yield
    _optional._attempt.cache_clear()


@pytest.mark.usefixtures("no_scatter")
@pytest.mark.parametrize("op", PUBLIC)
def test_a_missing_torch_scatter_is_explained(op: str) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    with pytest.raises(ImportError, match=r"torch_scatter is needed here.*pip install 'graphattn\[scatter\]'"):
        OPS[op].call(OPS[op].inputs(graph), graph, graph.edge_index, backend="scatter")
    OPS[op].call(OPS[op].inputs(graph), graph, graph.edge_index)


@pytest.mark.usefixtures("no_scatter")
def test_a_torch_scatter_built_for_another_torch_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shared library then fails to load with an OSError instead of an ImportError."""
    (tmp_path / "torch_scatter.py").write_text("raise OSError('undefined symbol: _ZN5torch3jit')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_scatter")
    assert not _optional.is_available("torch_scatter")
    x, edges = torch.ones(2, 1, 1), torch.tensor([[0, 1], [1, 0]])
    edge_attention(x, x, x, edges)
    with pytest.raises(ImportError, match=r"OSError: undefined symbol.*pip install 'graphattn\[scatter\]'"):
        edge_attention(x, x, x, edges, backend="scatter")
