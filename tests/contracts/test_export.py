"""``torch.export``: every case of the table, and trained networks saved and loaded, on other sizes equal to eager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import AdditionalInputs, Dim
from torch.utils import _pytree as pytree

from graphattn.engine import Recipe
from graphattn.models import AttentionNet, InfDiffusionNet
from graphattn.retrieval import ContextualReranker
from tests.contracts.cases import CASES, OUT, WIDTH, Inputs, cast, edges, nodes
from tests.retrieval.cases import problem

EXCEPTIONS = {
    "heat": "the number of its terms follows from a bound of the norm, a value",
    "pattern": "its pairs are found on the host; an AttentionConv over pairs that were found before goes through",
    "peer-sgformer": "PyG's layer reads the number of graphs back",
}


class Named(nn.Module):
    """A module that takes its inputs as one dictionary: ``export`` cannot trace ``**inputs``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Inputs) -> Any:
        return self.module(**inputs)


def _export(name: str) -> tuple[nn.Module, nn.Module, Inputs]:
    """A case, what it is exported to from graphs of two sizes, and a graph of a third."""
    case = CASES[name]
    net, first, second, third = Named(case.build()), case.draw(8, 11), case.draw(13, 30), case.draw(11, 17)
    sizes = AdditionalInputs()  # what the two differ in may be of any size
    sizes.add((first,))
    sizes.add((second,))
    with torch.no_grad():
        return net, torch.export.export(net, (first,), dynamic_shapes=sizes).module(), third


@pytest.mark.parametrize("name", [name for name in CASES if name not in EXCEPTIONS])
def test_exported_equals_eager(name: str) -> None:
    net, exported, inputs = _export(name)
    with torch.no_grad():
        expected, found = (pytree.tree_leaves(module(inputs)) for module in (net, exported))
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_the_exceptions_cannot_be_exported(name: str) -> None:
    """Or they are none any more."""
    with pytest.raises((torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode, TypeError)):
        _export(name)


def _exported(net: nn.Module, inputs: dict[str, Tensor], sizes: dict[str, Any], path: Path) -> nn.Module:
    program = torch.export.export(net, (), inputs, dynamic_shapes=sizes)
    torch.export.save(program, path)
    return torch.export.load(path).module()


@pytest.mark.parametrize(
    "make",
    [
        lambda: AttentionNet(WIDTH, WIDTH, OUT, heads=2, score="gatv2", norm="layer"),
        lambda: InfDiffusionNet(WIDTH, WIDTH, OUT),
    ],
    ids=["attention", "diffusion"],
)
def test_a_trained_node_model(make: Any, tmp_path: Path) -> None:
    def draw(num_nodes: int, num_edges: int) -> dict[str, Tensor]:
        return cast({**nodes(num_nodes, num_edges), **edges(num_nodes, num_edges)}, torch.float32)

    net, graph, labels = make(), draw(20, 60), torch.arange(20) % OUT
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(**graph), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    net.eval()
    sizes = {"x": {0: Dim.DYNAMIC}, "edge_index": {1: Dim.DYNAMIC}}
    loaded = _exported(net, graph, sizes, tmp_path / "net.pt2")
    for size in ((20, 60), (9, 31), (33, 12)):
        other = draw(*size)
        assert torch.equal(loaded(**other), net(**other))


def test_the_network_of_a_trained_reranker(tmp_path: Path) -> None:
    case = problem(dtype=torch.float32)
    reranker = ContextualReranker(num_anchors=8, width=8, depth=1, heads=2)
    reranker.fit(case.gallery, labels=torch.arange(40) % 5, recipe=Recipe(epochs=2), validation=0)
    seen: list[tuple[Tensor, Tensor]] = []
    handle = reranker.encoder_.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    with torch.no_grad():
        reranker.rerank(case.queries, case.gallery, case.indices)
        reranker.rerank(case.queries[:3], case.gallery, case.indices[:3, :11])
    handle.remove()

    (affinity, mask), (other, other_mask) = seen
    assert affinity.shape[:2] != other.shape[:2]
    encoder = reranker.encoder_.eval()
    both = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    sizes = {"affinity": both, "mask": both}
    loaded = _exported(encoder, {"affinity": affinity, "mask": mask}, sizes, tmp_path / "encoder.pt2")
    assert torch.equal(loaded(affinity=affinity, mask=mask), encoder(affinity, mask))
    assert torch.equal(loaded(affinity=other, mask=other_mask), encoder(other, other_mask))
