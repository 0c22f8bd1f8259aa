"""What ``gpu.py`` compares: our operators and layers, PyG's, and turbo-gnn's and DGL's where they can be imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from roofline import Problem, pyg_form, pyg_inputs
from torch import Tensor
from torch_geometric.nn import GATConv, GATv2Conv, TransformerConv

from graphattn import Affinity, edge_attention, from_pyg
from graphattn.ops import additive_attention

LAYERS: dict[str, Any] = {"dot": TransformerConv, "gat": GATConv, "gatv2": GATv2Conv}
OURS, BASELINE, REFERENCE = "graphattn", "PyG's form", "graphattn reference"
OUR_LAYER, PYG_LAYER = "graphattn layer", "PyG layer"

Run = Callable[[dict[str, Tensor]], Tensor]


@dataclass
class Graph:
    """A graph on the device, with the sorted views that are kept between calls."""

    edge_index: Tensor
    affinity: Affinity

    @classmethod
    def draw(cls, problem: Problem, device: str) -> Graph:
        generator = torch.Generator().manual_seed(0)
        edge_index = torch.randint(problem.nodes, (2, problem.edges), generator=generator).to(device)
        affinity = Affinity.from_edge_index(edge_index, num_nodes=problem.nodes)
        affinity.layout.csc()
        return cls(edge_index, affinity)


def draw_inputs(problem: Problem, device: str, seed: int = 0) -> dict[str, Tensor]:
    """Draw leaves on the host, so that every device gets the same numbers."""
    drawn = pyg_inputs(problem, "cpu", torch.Generator().manual_seed(seed))
    found: dict[int, Tensor] = {}
    for x in drawn.values():  # GATv2's keys are its values, here as there
        if id(x) not in found:
            found[id(x)] = x.detach().to(device).requires_grad_()
    return {name: found[id(x)] for name, x in drawn.items()}


def attend(problem: Problem, edges: Any, backend: str) -> Run:
    """Return our operator on the inputs of :func:`roofline.pyg_form`."""

    def run(x: dict[str, Tensor]) -> Tensor:
        features: dict[str, Tensor] = {}
        if problem.edge_dim:
            proj = x["edge_proj"].view(problem.edge_dim, problem.heads, -1)
            features = {"edge_attr": x["edge_attr"], "edge_proj": proj.permute(1, 2, 0)}
        if problem.score == "dot":
            return edge_attention(x["q"], x["k"], x["v"], edges, **features, backend=backend)
        if problem.score == "gatv2":
            return additive_attention(x["q"], x["k"], x["v"], x["vector"], edges, **features, backend=backend)
        q, k = x["q"].unsqueeze(2), x["k"].unsqueeze(2)
        return additive_attention(q, k, x["v"], k.new_ones(k.shape[1:]), edges, **features, backend=backend)

    return run


def operators(problem: Problem, graph: Graph) -> dict[str, Run]:
    """Return every implementation of the bare operator that can run here, the baseline first."""
    form = pyg_form(problem.score, graph.edge_index, problem.nodes)
    found: dict[str, Run] = {
        BASELINE: lambda x: form(**x),
        REFERENCE: attend(problem, graph.affinity, "reference"),
        OURS: attend(problem, graph.affinity, "auto"),
    }
    for name, package, build in (("turbo-gnn", "turbo_gnn", _turbo_gnn), ("DGL", "dgl", _dgl)):
        if importlib.util.find_spec(package) is None or problem.edge_dim:  # which neither has
            continue
        try:
            found |= build(problem, graph)
        except Exception as error:  # an extension built for another torch, say: the others go on
            found[name] = _failing(error)
    return found


def _failing(error: Exception) -> Run:
    def run(x: dict[str, Tensor]) -> Tensor:
        raise error

    return run


def _turbo_gnn(problem: Problem, graph: Graph) -> dict[str, Run]:
    if problem.score == "gat":
        return {}  # which it does not have
    import turbo_gnn

    (rowptr, col, _), (colptr, row, _) = graph.affinity.layout.csr(), graph.affinity.layout.csc()
    pattern = turbo_gnn.AdjacencyForwardBackwardWithNodeBuckets.from_csr(rowptr, col, colptr, row)
    shape = problem.nodes, problem.heads, problem.channels
    if problem.score == "gatv2":
        return {
            "turbo-gnn": lambda x: turbo_gnn.gatv2_aggr(
                pattern, x["q"], x_neighbors=x["k"], attention_weights=x["vector"], negative_slope=0.2
            ).view(shape)
        }

    def run(x: dict[str, Tensor], query: str, key: str) -> Tensor:
        ends = {"Q": x[query], "K": x[key], "V": x["v"]}
        out = turbo_gnn.graph_transformer_aggr(pattern, x["q"].flatten(1), **ends, scale=problem.channels**-0.5)
        return out.view(shape)

    # Its documentation leaves open which end of an edge has the query; the wrong one disagrees and is not timed.
    return {"turbo-gnn": lambda x: run(x, "q", "k"), "turbo-gnn, ends exchanged": lambda x: run(x, "k", "q")}


def _dgl(problem: Problem, graph: Graph) -> dict[str, Run]:
    import dgl

    source, target = graph.edge_index
    pattern = dgl.graph((source, target), num_nodes=problem.nodes)

    def run(x: dict[str, Tensor]) -> Tensor:
        if problem.score == "dot":
            scores = dgl.ops.u_dot_v(pattern, x["k"], x["q"]) * problem.channels**-0.5
        elif problem.score == "gat":
            scores = torch.nn.functional.leaky_relu(dgl.ops.u_add_v(pattern, x["k"], x["q"]), 0.2).unsqueeze(2)
        else:
            total = torch.nn.functional.leaky_relu(dgl.ops.u_add_v(pattern, x["k"], x["q"]), 0.2)
            scores = (total * x["vector"]).sum(dim=2, keepdim=True)
        return dgl.ops.u_mul_e_sum(pattern, x["v"], dgl.ops.edge_softmax(pattern, scores))

    return {"DGL": run}


def layers(problem: Problem, graph: Graph, device: str) -> tuple[dict[str, Run], dict[str, torch.nn.Module]]:
    """Return both layers with the same weights, as functions of ``{"x": features}``, and their modules."""
    torch.manual_seed(0)
    dtype = torch.float32 if problem.itemsize == 4 else torch.bfloat16
    options = {} if problem.score == "dot" else {"add_self_loops": False}
    width = problem.heads * problem.channels
    theirs = LAYERS[problem.score](width, problem.channels, heads=problem.heads, **options).to(device, dtype)
    ours = from_pyg(theirs)
    runs: dict[str, Run] = {
        PYG_LAYER: lambda x: theirs(x["x"], graph.edge_index),
        OUR_LAYER: lambda x: ours(x["x"], graph.affinity),
    }
    return runs, {PYG_LAYER: theirs, OUR_LAYER: ours}
