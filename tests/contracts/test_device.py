"""Devices without one at hand: nothing mixes host and device, and what is read or copied is listed with its reason.

Whatever reads nothing can also be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from graphattn.affinity import SparseAffinity
from tests.contracts.cases import CASES, Case, cast, edges, floats
from tests.contracts.elsewhere import DEVICE, There, crossings, move
from tests.contracts.host_work import HOST_WORK

# Why functions wait for values of the device, or copy arrays, wherever a case says that they do.
REASONS = {
    # Ends of loops
    "diffusion.resolvent.resolvent": "the solver ends when it has converged",
    "diffusion.solvers._any": "the solver ends when it has converged",
    "diffusion.solvers._balanced": "the solver ends when it has converged",
    "diffusion.solvers._forget": "the solver leaves out columns that have converged",
    "diffusion.solvers.solve_system": "the solver ends when it has converged",
    "affinity.spectrum.perron_bound": "the power iteration ends when it has converged",
    "diffusion.heat.heat": "SciPy counts the terms and computes their weights from a bound of the norm",
    # Work of the host
    "affinity.checks.target_options": "patterns are found on the host, where a seed means the same whatever the device",
    "affinity.sparse.to": "patterns are found on the host, where a seed means the same whatever the device",
    "affinity.convert._host": "SciPy decomposes the graph",
    "affinity.convert.to_scipy": "SciPy decomposes the graph",
    "nn.encodings.laplacian.laplacian_encoding": "SciPy decomposes the graph",
    "nn.encodings.heat_kernel.heat_kernel_encoding": "SciPy decomposes the graph",
    "nn.encodings.heat_kernel._by_eigenvectors": "SciPy decomposes the graph",
    "nn.encodings.random_walk.random_walk_encoding": "SciPy finds the components",
    "models.peers.forward": "PyG's layers take out loops and pad graphs by values",
    # Lists whose length depends on values
    "nn.rerank_conv.candidate_graph": "edges are listed",
    "nn.encodings.inputs.unit_blocks": "nodes are listed block by block",
    "models.semi_supervised.mask_labels": "nodes are listed",
    "affinity.gallery.to_affinity": "edges are listed",
    "affinity.neighbors._expanded": "neighbours are listed",
    "retrieval._first_stage.level_copies": "copies are listed",
    "retrieval._list_graphs.block_diagonal": "edges are listed",
    "retrieval._neighborhood._smallest": "neighbours are listed",
    "retrieval._neighborhood.of_gallery": "neighbours are listed",
    "retrieval._smoothed.beside": "neighbours are listed",
    "retrieval._smoothed.joined": "neighbours are listed",
    "retrieval._truncated.restrict": "neighbours are listed",
    "retrieval.graph_convolution._in_gallery": "queries join the gallery one by one",
    "retrieval.k_reciprocal._common": "neighbours are listed",
    "retrieval.k_reciprocal._common_around": "neighbours are listed",
    "retrieval.k_reciprocal._scores": "queries that are items of the gallery need nothing of their own",
    "affinity._search._above": "a search goes on where bounds leave something to find",
    "affinity._search._scan": "a search goes on where bounds leave something to find",
    "affinity._search.best": "a search goes on where bounds leave something to find",
    "affinity._vectors.nearest": "a search goes on where bounds leave something to find",
    "affinity.gallery._smallest_products": "a search goes on where bounds leave something to find",
    # Checks that users rely on wherever their data are
    "affinity._vectors._clean": "vectors that are not finite raise, or are ranked last",
    "affinity._vectors.take": "vectors that are not finite raise, or are ranked last",
    "retrieval._first_stage.read_ids": "an id that is not there would end the process on a GPU",
    "retrieval.base._rerank_chunk": "lists without candidates, and scores that are not finite, are left as they are",
    "affinity.relevance._check_classes": "classes are counted",
    # Selectors: arrays in, arrays out
    "affinity.columns.column_block": "the table is an array, copied block by block",
    "affinity.columns.min_max": "columns that do not vary are told from the others",
    "affinity.dispersion.dispersion": "it warns of a dispersion that collapsed",
    "affinity.features.ec_fs": "the largest entry scales the matrix",
    "affinity.relevance.fisher_score": "features without variance within classes are told from the others",
    "selection.base._rank": "the ranking is an array",
    "selection.ecfs.centrality": "SciPy finds the eigenvector",
    "selection.energy.product": "it ends when it has converged",
    "selection.ilfs._score": "the solution is checked",
    "selection.latent.latent_relevance": "the iteration ends when it has converged",
    "selection.latent.tokens": "cuts of the features are found column by column",
}

_PYG = {"models.peers.forward"}
_SOLVED = {"diffusion.resolvent.resolvent"}
_SOLVER = {f"diffusion.solvers.{name}" for name in ("_any", "_balanced", "_forget", "solve_system")}
_LISTS = {
    "affinity._vectors._clean",
    "affinity._vectors.take",
    "retrieval._first_stage.level_copies",
    "retrieval._first_stage.read_ids",
    "retrieval.base._rerank_chunk",
}
_SEARCH = {
    "affinity._search._above",
    "affinity._search._scan",
    "affinity._search.best",
    "affinity._vectors.nearest",
    "affinity.gallery._smallest_products",
}
_SCIPY = {"affinity.convert._host", "affinity.convert.to_scipy"}
_TABLE = {"affinity.columns.column_block", "selection.base._rank"}
_SPREAD = {"affinity.columns.min_max", "affinity.dispersion.dispersion"}
_CLASSES = {"affinity.relevance._check_classes", "affinity.relevance.fisher_score"}
_ENERGY = {"affinity.spectrum.perron_bound", "selection.energy.product", *_SOLVER}
_JOINED = {"nn.rerank_conv.candidate_graph"}
_COMMON = {
    "affinity.neighbors._expanded",
    "retrieval.k_reciprocal._common",
    "retrieval.k_reciprocal._common_around",
}

READS: dict[str, set[str]] = {
    **dict.fromkeys(("conv-all-hops", "diffusion-ppr-all", "diffusion-katz-all", "resolvent", "infsa-all"), _SOLVED),
    **dict.fromkeys(("inf-diffusion-net", "inf-diffusion-net-raw", "inf-diffusion-net-learned"), _SOLVED),
    **dict.fromkeys(("peer-gcn", "peer-gat", "peer-gatv2", "peer-appnp", "peer-gps", "peer-sgformer"), _PYG),
    "heat": {"diffusion.heat.heat"},
    "random-walk": {"nn.encodings.inputs.unit_blocks"},
    "candidate-graph": _JOINED,
    "solve": _SOLVER,
    "mask-labels": {"models.semi_supervised.mask_labels"},
    "ECFS": {*_SPREAD, *_CLASSES, "affinity.features.ec_fs", "selection.ecfs.centrality"},
    "ILFS": {"selection.ilfs._score", "selection.latent.latent_relevance", "selection.latent.tokens"},
    "InfFS": {*_SPREAD, *_ENERGY},
    "InfFSSupervised": {*_SPREAD, *_CLASSES, *_ENERGY},
    **dict.fromkeys(("AffinityFeatures", "Auto", "QueryExpansion", "ContextualReranker"), _LISTS),
    **dict.fromkeys(("GNNRerank", "GraphConvolution", "SuperGlobal"), _LISTS | _JOINED),
    **dict.fromkeys(("Diffusion", "RankDiffusion"), _LISTS | _SOLVER | {"retrieval._list_graphs.block_diagonal"}),
    "KReciprocal": _LISTS | _COMMON,
    "Diffusion-gallery": _LISTS | _SEARCH | _SOLVER | {"affinity.gallery.to_affinity", "retrieval._truncated.restrict"},
    "GraphConvolution-gallery": _LISTS | _SEARCH | {"retrieval._smoothed.beside", "retrieval._smoothed.joined"},
    "KReciprocal-gallery": _LISTS
    | _SEARCH
    | _COMMON
    | {
        "retrieval._neighborhood._smallest",
        "retrieval._neighborhood.of_gallery",
        "retrieval.k_reciprocal._scores",
    },
}
COPIES: dict[str, set[str]] = {
    "heat": {"diffusion.heat.heat"},
    "pattern": {"affinity.checks.target_options", "affinity.sparse.to"},
    "peer-sgformer": {"models.peers.forward"},
    "laplacian": {*_SCIPY, "nn.encodings.laplacian.laplacian_encoding"},
    "heat-kernel": {
        *_SCIPY,
        "nn.encodings.heat_kernel._by_eigenvectors",
        "nn.encodings.heat_kernel.heat_kernel_encoding",
    },
    "random-walk": {*_SCIPY, "nn.encodings.random_walk.random_walk_encoding"},
    "ECFS": {*_TABLE, "affinity.relevance._check_classes", "selection.ecfs.centrality"},
    "ILFS": {*_TABLE, "selection.latent.tokens"},
    "InfFS": _TABLE,
    "InfFSSupervised": {*_TABLE, "affinity.relevance._check_classes"},
    "GraphConvolution-gallery": {"retrieval.graph_convolution._in_gallery"},
}


def test_every_crossing_has_a_reason() -> None:
    listed = {function for table in (READS, COPIES) for functions in table.values() for function in functions}
    assert listed == set(REASONS)
    assert set(READS) | set(COPIES) <= set(CASES) | set(HOST_WORK)


# Cases ################################################################################################################


class StaysThere(TorchDispatchMode):
    """Refuse arrays on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.dim() and made.device.type != "cuda":
                raise AssertionError(f"{func} makes a tensor of shape {tuple(made.shape)} on {made.device}")
        return out


# A solver is one operator, whose loop fake tensors do not enter.
_BACK = {name for name, functions in (READS | COPIES).items() if functions != _SOLVED}


@pytest.mark.parametrize("name", [name for name in CASES if name not in _BACK])
def test_forward_on_fake_cuda(name: str) -> None:
    """Every step has a shape function for CUDA, and nothing is read, copied or made on the host."""
    module, inputs = CASES[name].build().float(), cast(CASES[name].draw(7, 15), torch.float32)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def fake(x: Any) -> Any:
        return torch.empty(x.shape, dtype=x.dtype, device="cuda") if isinstance(x, Tensor) else x

    with FakeTensorMode(), torch.no_grad():
        there = {key: fake(value) for key, value in state.items()}
        fakes = {key: fake(value) for key, value in inputs.items()}
        with StaysThere():
            out = functional_call(module, there, (), fakes)
    assert {x.device.type for x in tree_leaves(out) if isinstance(x, Tensor)} == {"cuda"}


@pytest.mark.parametrize("name", list(CASES))
def test_another_device_gives_the_same_numbers(name: str) -> None:
    """With values, what crosses is what is listed, and the code for other devices than the CPU computes the same."""
    module, inputs = CASES[name].build().float(), cast(CASES[name].draw(7, 15), torch.float32)
    expected = floats(module(**inputs))
    moved, there = move(module), {key: move(value) for key, value in inputs.items()}
    out, found = crossings(lambda: moved(**there))
    assert (found.reads, found.copies) == (READS.get(name, set()), COPIES.get(name, set()))
    for x, y in zip(floats(out), expected, strict=True):
        assert isinstance(x, There)
        torch.testing.assert_close(x.value, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(HOST_WORK))
def test_work_with_the_host_gives_the_same_numbers(name: str, seed: int) -> None:
    expected = HOST_WORK[name].call(lambda x: x)
    torch.manual_seed(seed)
    out, found = crossings(lambda: HOST_WORK[name].call(move))
    assert (found.reads, found.copies) == (READS.get(name, set()), COPIES.get(name, set()))
    torch.testing.assert_close(out.value if isinstance(out, There) else out, expected, rtol=1e-5, atol=1e-5)


def test_what_crosses_is_seen() -> None:
    """The record sees reads, copies and mixtures, so that an empty one means something."""

    def crosses(call: Any) -> tuple[bool, bool]:
        code = call.__code__.replace(co_name="example")
        example = FunctionType(code, {**globals(), "__name__": "graphattn.example"}, closure=call.__closure__)
        _, found = crossings(example)
        return bool(found.reads), bool(found.copies)

    x = move(torch.arange(3.0))
    assert crosses(lambda: x + 1) == (False, False)
    for read in (
        lambda: x.sum().item(),
        lambda: bool(x.any()),
        lambda: x[x > 1],
        lambda: x.nonzero(),
        lambda: x.unique(),
    ):
        assert crosses(read) == (True, False)
    for moved in (
        lambda: x.cpu(),
        lambda: x.tolist(),
        lambda: torch.ones(2).to(DEVICE),
        lambda: x[torch.ones(1).long()],
    ):
        assert crosses(moved)[1]
    assert crosses(lambda: torch.tensor([1, 2], device=DEVICE)) == (False, True)
    with pytest.raises(AssertionError, match="mixes the device with"):
        crosses(lambda: x + torch.ones(3))


# Moves ################################################################################################################


def _tensors(x: Any, seen: set[int]) -> Iterator[Tensor]:
    """Tensors that an object holds, however deep."""
    if id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict):
        for value in x.values():
            yield from _tensors(value, seen)
    elif isinstance(x, (list, tuple, set)):
        for value in x:
            yield from _tensors(value, seen)
    elif type(x).__module__.split(".")[0] == "graphattn" or isinstance(x, nn.Module):
        yield from _tensors(vars(x), seen)


# PyG's SGFormer lists its parameters a second time; those lists follow a move to a real device, not one to meta.
@pytest.mark.parametrize("name", [name for name in CASES if name != "peer-sgformer"])
def test_modules_move_whole(name: str) -> None:
    """Everything a module holds moves, whether it is in the state or not, after a call too."""
    case: Case = CASES[name]
    module = case.build()
    module(**case.draw(7, 15))
    module.to("meta")
    held = list(_tensors(module, set()))
    assert {x.device.type for x in held} <= {"meta"}
    assert {x.device.type for x in module.state_dict().values()} <= {"meta"}


def test_an_affinity_moves_with_its_layouts() -> None:
    A = SparseAffinity(edges(7, 15)["edge_index"], torch.rand(15), (7, 7))
    A.layout.csr(), A.layout.csc(), A.layout.with_self_loops()[0].csr()
    moved = A.to("meta")
    held = list(_tensors(moved, set()))
    assert len(held) >= 2
    assert {x.device.type for x in held} == {"meta"}
    assert {x.device.type for x in _tensors(A, set())} == {"cpu"}
