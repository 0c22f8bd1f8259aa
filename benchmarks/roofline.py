"""Predict how long the fused kernels and PyG's gather/scatter form take on a GPU, from bytes and operations alone.

    python benchmarks/roofline.py --out benchmarks/results

Every time here is a prediction, none is measured; ``gpu.py`` sets measured times beside them. A kernel takes at least
as long as its bytes at the published bandwidth, or its operations at the published rate of float32, whichever is
longer. The bytes lie between two counts: *least*, where memory delivers every row once and caches the rest, and *most*,
where every row that an edge gathers comes from memory. PyG's bytes are counted by running its form on tensors without
data: what every operation reads and writes, an atomic addition as one write.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric.utils import scatter, softmax

UNIT = 8  # channels, to a multiple of which the kernels pad
INDEX, SLOT = 4, 8  # bytes: rows and columns are int32, slots int64

# Published: NVIDIA's data sheets of the A100 80 GB SXM and the H100 SXM; bytes and float32 operations a second.
DEVICES = {"A100": (2.039e12, 19.5e12), "H100": (3.35e12, 67e12)}
SCORES = ("dot", "gat", "gatv2")


@dataclass(frozen=True)
class Problem:
    """Attention over a square graph, without bias or dropout; edge features need gradients."""

    nodes: int
    edges: int
    heads: int
    channels: int
    score: str = "dot"
    itemsize: int = 4
    edge_dim: int = 0

    @property
    def edge_width(self) -> int:
        """Channels of an edge's features as they lie in memory: beside keys' or, in an added score, one by one."""
        return -(-self.edge_dim // UNIT) * UNIT if self.score == "dot" else self.edge_dim

    @property
    def key_width(self) -> int:
        """Channels of all heads of a query or key, as they lie in memory."""
        channels = 1 if self.score == "gat" else self.channels
        return self.heads * -(-channels // UNIT) * UNIT

    @property
    def value_width(self) -> int:
        return self.heads * -(-self.channels // UNIT) * UNIT


@dataclass(frozen=True)
class Cost:
    """What one kernel moves and computes.

    Attributes:
        node: Bytes for every node.
        edge: Bytes for every edge that no cache can spare: they are read or written in order.
        gather: Bytes of the rows that every edge gathers.
        source: Bytes of the same rows, for every node once.
        flops: Operations for every edge, an exponential counted as one.
    """

    node: int
    edge: int
    gather: int
    source: int
    flops: int

    def least(self, problem: Problem) -> int:
        gathered = min(problem.nodes * self.source, problem.edges * self.gather)
        return problem.nodes * self.node + problem.edges * self.edge + gathered

    def most(self, problem: Problem) -> int:
        return problem.nodes * self.node + problem.edges * (self.edge + self.gather)


def kernel_costs(problem: Problem) -> dict[str, Cost]:
    """Return the cost of each kernel of a forward and a backward pass.

    The projections of queries and sums that stand in for those of edge features are products of matrices with a row a
    node, and are not counted; nor is the copy of the features into the order of the rows. Gradients of what additive
    scores add up at an edge are written and read in pieces that stay in the cache.
    """
    size, heads = problem.itemsize, problem.heads
    key, value, edge = problem.key_width, problem.value_width, problem.edge_width
    additive = problem.score != "dot"
    sums = 4 * heads  # one float32 a head: a maximum, a sum, a delta
    ends = 0 if additive else 4 * heads * edge  # of a row, in float32: what scores an edge's features, or their sum
    project = 2 * key * edge if additive else 0
    score = key * (5 if additive else 2) + project  # add, compare, multiply, multiply-add against multiply-add
    product = 0 if additive else 2 * heads * edge  # of an edge's features
    rows, features = size * (key + value), size * edge
    result = 4 * value
    cast = (4 + size) * value if size < 4 else 0  # values are written in float32, and narrowed after
    # Of a row: its pointer, query, output, maximum and sum.
    of_row = INDEX + size * key + ends + result + ends + 2 * sums + cast
    forward = Cost(of_row, INDEX + features, rows, rows, score + 2 * value + 2 * product + 5 * heads)
    # Its pointer, query, gradient, output, maximum and sum are read; gradients of the query and the vector written,
    # and the delta. The gradient of the output is widened and narrowed, as the output was.
    of_row = INDEX + rows + 2 * ends + result + ends + 3 * sums + size * key + ends + 2 * cast
    steep = key * (7 if additive else 2)
    flops = score + 2 * value + steep + 3 * product + 6 * heads
    by_rows = Cost(of_row + (4 * key if additive else 0), INDEX + features, rows, rows, flops)
    # Its pointer, key and value are read, their gradients written; an edge gathers query, gradient and three numbers.
    steep = key * (4 if additive else 2)
    gathered = rows + 2 * ends + 3 * sums
    flops = score + 4 * value + steep + 2 * product + 6 * heads
    by_columns = Cost(INDEX + 2 * rows, INDEX + SLOT + features, gathered, gathered, flops)
    costs = {"forward": forward, "backward_rows": by_rows, "backward_columns": by_columns}
    if edge and additive:
        # Rows come in order, as the edges do; the score's slope is multiplied by the projection and by the features.
        of_row = rows + 3 * sums
        flops = score + 2 * value + key * 4 + 2 * project + 6 * heads
        costs["backward_pairs"] = Cost(of_row, INDEX + SLOT + 2 * features, rows, rows, flops)
    elif edge:
        # Nothing is summed over the row: every edge's gradient is written.
        of_row = INDEX + rows + 2 * ends + 3 * sums
        flops = score + 2 * value + 4 * product + 6 * heads
        costs["backward_edges"] = Cost(of_row, INDEX + 2 * features, rows, rows, flops)
    return costs


def product_costs(problem: Problem) -> dict[str, Cost]:
    """Return the cost of sampled products, and of sums with given weights: a hop along weights that are stored."""
    size, width, heads = problem.itemsize, problem.value_width, problem.heads
    row, weight = size * width, 4 * heads
    products = Cost(INDEX + row, INDEX + weight, row, row, 2 * width)
    sums = Cost(INDEX + row, INDEX + weight, row, row, 2 * width)
    return {"products": products, "sums": sums}


class Traffic(TorchDispatchMode):
    """Count the bytes that torch's operations read, write and allocate; works on tensors without data."""

    def __init__(self) -> None:
        super().__init__()
        self.read = self.written = self.allocated = 0

    @property
    def moved(self) -> int:
        return self.read + self.written

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        name = op._schema.name.removeprefix("aten::")
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        out = next(x for x in tree_leaves(result) if isinstance(x, Tensor))
        aliases = [r.alias_info for r in op._schema.returns if r.alias_info is not None]
        if not aliases:
            self.allocated += _bytes(out)
        if name in ("index_select", "gather"):
            self.read += _bytes(given[1]) + _bytes(out)
            self.written += _bytes(out)
        elif name in ("index_add", "scatter_add_", "scatter_reduce_"):
            # The functional one copies its first argument.
            copied = 0 if aliases else _bytes(out)
            self.read += copied + _bytes(given[1]) + _bytes(given[2])
            self.written += copied + _bytes(given[2])
        elif name.startswith("new_") or name.endswith("_like"):
            self.written += _bytes(out)
        elif not aliases:
            self.read += sum(map(_bytes, given))
            self.written += _bytes(out)
        return result


def _bytes(x: Tensor) -> int:
    """Bytes of a tensor, of what is expanded only once."""
    count = 1
    for length, stride in zip(x.shape, x.stride(), strict=True):
        count *= length if stride or not length else 1
    return count * x.element_size()


def pyg_form(score: str, edge_index: Tensor, nodes: int) -> Callable[..., Tensor]:
    """Return the step that is inside PyG's layer: gather the ends, score, softmax, weigh, scatter."""
    source, target = edge_index

    def attend(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        vector: Tensor | None = None,
        edge_attr: Tensor | None = None,
        edge_proj: Tensor | None = None,
    ) -> Tensor:
        query, key, value = q.index_select(0, target), k.index_select(0, source), v.index_select(0, source)
        if edge_attr is not None and edge_proj is not None:
            edge = (edge_attr @ edge_proj).view_as(key)
            key, value = key + edge, value + edge if score == "dot" else value
        if score == "dot":
            scores = (query * key).sum(dim=-1) * q.size(2) ** -0.5
        elif score == "gat":
            scores = leaky_relu(key + query, 0.2)
        else:
            scores = (leaky_relu(query + key, 0.2) * vector).sum(dim=-1)
        weights = softmax(scores, target, num_nodes=nodes)
        message = value * weights.unsqueeze(-1)
        return scatter(message, target, dim=0, dim_size=nodes, reduce="sum")

    return attend


def pyg_inputs(problem: Problem, device: str, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Return leaves for :func:`pyg_form`: GAT's projections of the two ends are one number a head."""
    dtype = torch.float32 if problem.itemsize == 4 else torch.bfloat16
    wide = (problem.nodes, problem.heads, problem.channels)
    narrow = wide[:2] if problem.score == "gat" else wide
    shapes = {"q": narrow, "k": narrow, "v": wide}
    if problem.score == "gatv2":
        shapes["vector"] = wide[1:]
    if problem.edge_dim:
        shapes["edge_attr"] = (problem.edges, problem.edge_dim)
        shapes["edge_proj"] = (problem.edge_dim, math.prod(narrow[1:]))
    drawn = {n: torch.randn(s, device=device, dtype=dtype, generator=generator) for n, s in shapes.items()}
    if problem.score == "gatv2":
        drawn["v"] = drawn["k"]
    return {n: x.requires_grad_() for n, x in drawn.items()}


def pyg_traffic(problem: Problem, device: str = "meta") -> tuple[Traffic, Traffic]:
    """Count what PyG's form moves, forward and backward."""
    if device == "meta":
        edge_index = torch.empty(2, problem.edges, dtype=torch.long, device=device)
    else:
        edge_index = torch.randint(problem.nodes, (2, problem.edges), device=device)
    inputs = pyg_inputs(problem, device)
    cotangent = torch.empty(problem.nodes, problem.heads, problem.channels, device=device, dtype=inputs["v"].dtype)
    with Traffic() as forward:
        out = pyg_form(problem.score, edge_index, problem.nodes)(**inputs)
    leaves = list({id(x): x for x in inputs.values()}.values())
    with Traffic() as backward:
        torch.autograd.grad(out, leaves, cotangent)
    return forward, backward


def seconds(moved: float, flops: float, device: str) -> float:
    """Return the least time of some bytes and operations at the published rates."""
    bandwidth, rate = DEVICES[device]
    return max(moved / bandwidth, flops / rate)


def predict(problem: Problem) -> dict[str, Any]:
    """Return bytes, operations and predicted seconds of every kernel, of both passes and of PyG's form."""
    costs = kernel_costs(problem)
    table: dict[str, Any] = {}
    for name, cost in {**costs, **product_costs(problem)}.items():
        bounds = {"least": cost.least(problem), "most": cost.most(problem)}
        flops = cost.flops * problem.edges
        table[name] = {
            "bytes": bounds,
            "bytes_per_edge": {k: b / problem.edges for k, b in bounds.items()},
            "flops_per_edge": cost.flops,
            "predicted_seconds": {d: {k: seconds(b, flops, d) for k, b in bounds.items()} for d in DEVICES},
        }
    for name, parts in {"forward pass": ["forward"], "backward pass": list(costs)[1:]}.items():
        table[name] = {
            "predicted_seconds": {
                d: {k: sum(table[p]["predicted_seconds"][d][k] for p in parts) for k in ("least", "most")}
                for d in DEVICES
            }
        }
    for name, traffic in zip(("PyG forward", "PyG backward"), pyg_traffic(problem), strict=True):
        table[name] = {
            "bytes_per_edge": traffic.moved / problem.edges,
            "predicted_seconds": {d: seconds(traffic.moved, 0, d) for d in DEVICES},
        }
    return table


SIZES = {"50k nodes, 1M edges, 4x32": (50_000, 1_000_000, 4, 32), "50k nodes, 1M edges, 8x8": (50_000, 1_000_000, 8, 8)}
CASES = {
    f"{name}, {score}, {dtype}": Problem(*sizes, score, itemsize)
    for score in SCORES
    for name, sizes in SIZES.items()
    for dtype, itemsize in (("float32", 4), ("bfloat16", 2))
}
CASES |= {
    f"50k nodes, 1M edges, 4x32, {score}, {dim} edge features, {dtype}": Problem(
        50_000, 1_000_000, 4, 32, score, itemsize, dim
    )
    for score in ("dot", "gatv2")
    for dim in (16, 128)
    for dtype, itemsize in (("float32", 4), ("bfloat16", 2))
}
CASES["2.4M nodes, 62M edges, 4x32, dot, bfloat16"] = Problem(2_449_029, 61_859_140, 4, 32, "dot", 2)


def report(results: dict[str, Any]) -> str:
    """Write the two tables: kernels, and passes against PyG's form."""
    passes = " | ".join(f"{d}, predicted ms (least to most) | PyG's form, predicted ms" for d in DEVICES)
    lines = [
        "# Roofline: predicted, not measured",
        "",
        "**Every time below is a prediction from published rates; `gpu.md` has what was measured.** Bandwidth and "
        "float32 rate: "
        + "; ".join(f"{d} {b / 1e12:.2f} TB/s, {f / 1e12:.1f} TFLOP/s" for d, (b, f) in DEVICES.items())
        + ". Least: every row comes from memory once and then from caches; most: once for every edge. PyG: the bytes "
        "that the operations of its gather/scatter form read and write, gathers and atomics from memory.",
        "",
        "## Passes",
        "",
        f"| case | pass | {passes} |",
        "|" + "---|" * (2 + 2 * len(DEVICES)),
    ]
    for case, table in results["predictions"].items():
        for which in ("forward", "backward"):
            cells = []
            for device in DEVICES:
                ours = table[f"{which} pass"]["predicted_seconds"][device]
                cells += [
                    f"{ours['least'] * 1e3:.3g} to {ours['most'] * 1e3:.3g}",
                    f"{table[f'PyG {which}']['predicted_seconds'][device] * 1e3:.3g}",
                ]
            lines.append(f"| {case} | {which} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Kernels",
        "",
        "| case | kernel | bytes an edge (least to most) | operations an edge | "
        + " | ".join(f"{d}, predicted ms" for d in DEVICES)
        + " |",
        "|" + "---|" * (4 + len(DEVICES)),
    ]
    for case, table in results["predictions"].items():
        for name, row in table.items():
            if "flops_per_edge" not in row:
                continue
            moved, times = row["bytes_per_edge"], row["predicted_seconds"]
            cells = [f"{times[d]['least'] * 1e3:.3g} to {times[d]['most'] * 1e3:.3g}" for d in DEVICES]
            lines.append(
                f"| {case} | {name} | {moved['least']:.0f} to {moved['most']:.0f} | {row['flops_per_edge']} "
                f"| {' | '.join(cells)} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    from _results import save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the tables")
    args = parser.parse_args()
    rates = {d: {"bytes_per_second": b, "flops_per_second": f} for d, (b, f) in DEVICES.items()}
    results = {
        "note": "predictions from published rates; gpu.json has what was measured",
        "published": rates,
        "predictions": {name: predict(problem) for name, problem in CASES.items()},
    }
    save(args.out / "roofline.json", results)
    (args.out / "roofline.md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
