"""Similarities of the nodes of a list to its anchors, the first of them."""

from __future__ import annotations

import torch
from torch import Tensor


def anchor_similarity(nodes: Tensor, mask: Tensor, num_anchors: int) -> tuple[Tensor, Tensor]:
    """Compare all nodes with the first that are there.

    Args:
        nodes: Vectors ``[B, n, D]``, zero where a node is not there.
        mask: Which nodes are there ``[B, n]``.
        num_anchors: Anchors, all nodes if there are fewer.

    Returns:
        Inner products ``[B, n, L]``, and which nodes the anchors are ``[B, L]``.
    """
    # Nodes that are not there stand behind the others; as zero vectors they give zero columns.
    anchor = (~mask).long().sort(dim=1, stable=True).indices[:, :num_anchors]
    vectors = nodes.gather(1, anchor.unsqueeze(2).expand(-1, -1, nodes.size(2)))
    return torch.bmm(nodes, vectors.transpose(1, 2)), anchor
