"""``torch.export`` of trained networks: saved, loaded, and equal to eager on graphs and lists of other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from graphattn.engine import Recipe
from graphattn.models import AttentionNet, InfDiffusionNet
from graphattn.retrieval import ContextualReranker
from tests.contracts.cases import OUT, WIDTH, cast, edges, nodes
from tests.retrieval.cases import problem


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
