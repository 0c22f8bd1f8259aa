"""What ``attention.py`` measures: the graphs, the computations, and the candidates that do each of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch_geometric.typing
from _measure import Runner
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import GATConv, GATv2Conv, MessagePassing, TransformerConv
from torch_geometric.utils import scatter, softmax

from graphattn import Affinity, edge_attention, from_pyg

LAYERS = ("dot", "gat", "gatv2")
SUBJECTS = (*LAYERS, "gat+loops", "edge_attention")


@dataclass(frozen=True)
class Case:
    """A graph and a layer size.

    A graph is ``size`` units: nodes of a random graph, leaves of a star, or molecules.
    """

    name: str
    kind: str
    size: int
    edges_per_unit: float
    heads: int = 4
    channels: int = 32
    in_channels: int = 128
    subjects: tuple[str, ...] = LAYERS
    full_step: bool = False

    @property
    def nodes(self) -> int:
        return {"random": self.size, "star": self.size + 1, "molecules": _MOLECULE_NODES * self.size}[self.kind]

    @property
    def edges(self) -> int:
        return round(self.size * self.edges_per_unit)

    def scaled(self, max_edges: int) -> Case:
        """Return the same kind of graph with at most about ``max_edges`` edges."""
        return replace(self, size=max(4, min(self.size, int(max_edges / self.edges_per_unit))))

    def gathered_bytes(self) -> int:
        """Estimate from below what gather and scatter needs to train: three E x H x C tensors and the node tensors."""
        width = self.heads * self.channels
        return 4 * (3 * self.edges * width + self.nodes * (5 * width + self.in_channels)) + 16 * self.edges


_MOLECULE_NODES, _MOLECULE_EDGES = 25, 54
_PRODUCTS_NODES, _PRODUCTS_EDGES = 2_449_029, 61_859_140

CASES = (
    Case("cora", "random", 2_708, 13_264 / 2_708, heads=8, channels=8, in_channels=64),
    Case("molecules", "molecules", 128, _MOLECULE_EDGES),
    Case("star", "star", 100_000, 2),
    Case("50k-1M", "random", 50_000, 20, subjects=SUBJECTS),
    Case("170k-2.3M", "random", 170_000, 2_300_000 / 170_000),
    Case(
        "products",
        "random",
        _PRODUCTS_NODES,
        _PRODUCTS_EDGES / _PRODUCTS_NODES,
        in_channels=100,
        subjects=("dot",),
        full_step=True,
    ),
)


@dataclass
class Problem:
    """The inputs of one computation; ``layer`` is PyG's, or ``None`` for the bare op."""

    case: Case
    subject: str
    edge_index: Tensor
    leaves: dict[str, Tensor]
    layer: MessagePassing | None
    cotangent: Tensor | None

    def double(self) -> Problem:
        """Return the same numbers in float64."""
        leaves = {name: leaf.detach().double().requires_grad_() for name, leaf in self.leaves.items()}
        layer = None if self.layer is None else copy.deepcopy(self.layer).double()
        cotangent = None if self.cotangent is None else self.cotangent.double()
        return replace(self, leaves=leaves, layer=layer, cotangent=cotangent)

    def runner(self, run: Callable[[], Tensor]) -> Runner:
        parameters = () if self.layer is None else self.layer.parameters()
        return Runner(run, self.leaves, parameters, self.cotangent)


def make_problem(case: Case, subject: str, *, full_step: bool = False) -> Problem:
    """Draw graph, features and weights; the same for the same arguments.

    With ``full_step`` the problem is the training step of a first layer: the features get no gradient, and the backward
    pass starts from a loss.
    """
    generator = torch.Generator().manual_seed(0)
    edge_index = _draw_edges(case, generator)
    width = case.heads * case.channels
    shape: tuple[int, ...] = (case.nodes, case.in_channels)
    names = ("x",)
    if subject == "edge_attention":
        names, shape = ("q", "k", "v"), (case.nodes, case.heads, case.channels)
    leaves = {name: torch.randn(shape, generator=generator).requires_grad_(not full_step) for name in names}
    out_shape = shape if subject == "edge_attention" else (case.nodes, width)
    cotangent = None if full_step else torch.randn(out_shape, generator=generator)
    return Problem(case, subject, edge_index, leaves, _make_layer(case, subject), cotangent)


def _make_layer(case: Case, subject: str) -> MessagePassing | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if subject == "edge_attention":
            return None
        if subject == "dot":
            return TransformerConv(case.in_channels, case.channels, heads=case.heads)
        cls = GATv2Conv if subject == "gatv2" else GATConv
        return cls(case.in_channels, case.channels, heads=case.heads, add_self_loops=subject == "gat+loops")


def _draw_edges(case: Case, generator: torch.Generator) -> Tensor:
    if case.kind == "star":
        leaves, hub = torch.arange(1, case.nodes), torch.zeros(case.size, dtype=torch.int64)
        edge_index = torch.stack([torch.cat([leaves, hub]), torch.cat([hub, leaves])])
        return edge_index[:, torch.randperm(case.edges, generator=generator)].contiguous()
    if case.kind == "molecules":
        return _draw_molecules(case.size, generator)
    return torch.randint(case.nodes, (2, case.edges), generator=generator)


def _draw_molecules(count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` random trees of 25 atoms with 3 ring bonds each, every bond in both directions, side by side."""
    atoms = torch.arange(1, _MOLECULE_NODES)
    parents = (torch.rand(count, atoms.numel(), generator=generator) * atoms.clamp(max=3)).long()
    tree = torch.stack([atoms.expand(count, -1), atoms - 1 - parents], dim=1)
    rings = torch.randint(_MOLECULE_NODES, (count, 2, _MOLECULE_EDGES // 2 - atoms.numel()), generator=generator)
    bonds = torch.cat([tree, rings], dim=2) + _MOLECULE_NODES * torch.arange(count).view(-1, 1, 1)
    return torch.cat([bonds, bonds.flip(1)], dim=2).transpose(0, 1).reshape(2, -1)


Builder = Callable[[Problem], Runner]


def _pyg_layer(problem: Problem) -> Runner:
    assert problem.layer is not None
    layer, x, edge_index = problem.layer, problem.leaves["x"], problem.edge_index
    return problem.runner(lambda: layer(x, edge_index))


def _pyg_sorted(problem: Problem, torch_scatter: bool) -> Runner:
    """PyG on an ``EdgeIndex`` sorted by target, pointers cached: the only input for which it uses segment kernels."""
    assert problem.layer is not None
    layer, x, nodes = problem.layer, problem.leaves["x"], problem.case.nodes
    edges = EdgeIndex(problem.edge_index, sparse_size=(nodes, nodes)).sort_by("col").values.fill_cache_()

    def run() -> Tensor:
        with _torch_scatter(torch_scatter):
            return layer(x, edges)

    return problem.runner(run)


@contextmanager
def _torch_scatter(enabled: bool) -> Iterator[None]:
    """Let PyG use torch-scatter or not: it does so whenever it is installed."""
    before = torch_geometric.typing.WITH_TORCH_SCATTER
    torch_geometric.typing.WITH_TORCH_SCATTER = enabled
    try:
        yield
    finally:
        torch_geometric.typing.WITH_TORCH_SCATTER = before


def _our_layer(problem: Problem, cached: bool, backend: str = "auto") -> Runner:
    assert problem.layer is not None
    layer, x = from_pyg(problem.layer), problem.leaves["x"]
    layer.backend = backend
    edges = _edges(problem, cached)
    return problem.runner(lambda: layer(x, edges))


def _our_op(problem: Problem, cached: bool, backend: str = "auto") -> Runner:
    edges, leaves = _edges(problem, cached), problem.leaves
    return problem.runner(lambda: edge_attention(**leaves, edge_index=edges, backend=backend))


def _edges(problem: Problem, cached: bool) -> Tensor | Affinity:
    edge_index = problem.edge_index
    return Affinity.from_edge_index(edge_index, num_nodes=problem.case.nodes) if cached else edge_index


def _pyg_op(problem: Problem) -> Runner:
    """The step as the inside of PyG's layers does it: gather, softmax, scatter."""
    source, target = problem.edge_index
    q, k, v = (problem.leaves[name] for name in "qkv")
    nodes, scale = q.size(0), q.size(2) ** -0.5

    def run() -> Tensor:
        scores = (q.index_select(0, target) * k.index_select(0, source)).sum(dim=-1) * scale
        weights = softmax(scores, target, num_nodes=nodes)
        return scatter(v.index_select(0, source) * weights.unsqueeze(-1), target, dim=0, dim_size=nodes, reduce="sum")

    return problem.runner(run)


BASELINE, CACHED, PLAIN, REFERENCE, DGL = "PyG", "graphattn, cached", "graphattn, plain", "graphattn reference", "DGL"

LAYER_CANDIDATES: dict[str, Builder] = {
    BASELINE: _pyg_layer,
    "PyG sorted": lambda problem: _pyg_sorted(problem, False),
    "PyG sorted, torch-scatter": lambda problem: _pyg_sorted(problem, True),
    REFERENCE: lambda problem: _our_layer(problem, False, "reference"),
    PLAIN: lambda problem: _our_layer(problem, False),
    CACHED: lambda problem: _our_layer(problem, True),
}
OP_CANDIDATES: dict[str, Builder] = {
    BASELINE: _pyg_op,
    REFERENCE: lambda problem: _our_op(problem, False, "reference"),
    PLAIN: lambda problem: _our_op(problem, False),
    CACHED: lambda problem: _our_op(problem, True),
}


def candidates(subject: str) -> dict[str, Builder]:
    """Return the candidates that can run here, the baseline first."""
    builders = OP_CANDIDATES if subject == "edge_attention" else LAYER_CANDIDATES
    # With torch-scatter PyG's sorted path is at its best, without it this is the sorted path that there is.
    left_out = "PyG sorted" if torch_geometric.typing.WITH_TORCH_SCATTER else "PyG sorted, torch-scatter"
    return {name: build for name, build in builders.items() if name != left_out}


def gathers(name: str) -> bool:
    """Whether a candidate stores edge-by-channel tensors, so that :meth:`Case.gathered_bytes` applies to it."""
    return name not in (CACHED, PLAIN, DGL)


def oracle(problem: Problem) -> dict[str, Tensor]:
    """Return the true output and gradients: plain torch in float64, by the backend that defines correctness."""
    exact = problem.double()
    build = _our_op if problem.subject == "edge_attention" else _our_layer
    return build(exact, False, "reference").results()
