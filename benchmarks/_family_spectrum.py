"""Singular values of the attention of trained networks: softmax's matrix, and the kernel that primal attention implies.

How many directions are needed tells whether attention in few directions can do the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _family_networks import Classifier
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphattn.nn.global_attention import PrimalAttention, SoftmaxAttention


@torch.no_grad()
def spectra(network: Classifier, graphs: list[Data]) -> list[dict[str, Any]]:
    """Return for each layer the mean singular values over heads and graphs of one size, the largest of each being 1."""
    inputs: dict[int, Tensor] = {}
    hooks = [
        layer.attention.register_forward_pre_hook(lambda _, args, number=number: inputs.update({number: args[0]}))
        for number, layer in enumerate(network.layers)
    ]
    network(Batch.from_data_list(graphs))
    for hook in hooks:
        hook.remove()
    found = []
    for number, layer in enumerate(network.layers):
        x = inputs[number].unflatten(0, (len(graphs), -1))
        values = torch.linalg.svdvals(attention_matrix(layer.attention, x).double())
        energy = values.square().cumsum(-1) / values.square().sum(-1, keepdim=True)
        found.append(
            {
                "singular_values": (values / values[..., :1]).mean((0, 1)).tolist(),
                "directions": {str(part): _directions(energy, part) for part in (0.9, 0.99)},
            }
        )
    return found


def _directions(energy: Tensor, part: float) -> float:
    """Mean number of singular values whose squares make up a part of all."""
    return float(((energy < part).sum(-1) + 1).double().mean())


def attention_matrix(attention: SoftmaxAttention | PrimalAttention, x: Tensor) -> Tensor:
    """Return the matrix between the nodes ``[B, n, C]`` of graphs of one size, ``[B, H, n, n]``."""
    if isinstance(attention, SoftmaxAttention):
        q, k, _ = attention.qkv(x).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
        return (attention.scale * q @ k.transpose(-1, -2)).softmax(-1)
    q, k = attention.qk(x).unflatten(-1, (2, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    rows = evenly_spaced(attention, x)
    return (F.normalize(q, dim=-1) @ rows) @ (F.normalize(k, dim=-1) @ rows).transpose(-1, -2)


def evenly_spaced(attention: PrimalAttention, x: Tensor) -> Tensor:
    """Return the nodes that the weights of primal attention are taken over, by head: ``[B, H, p, rows]``."""
    chosen = torch.arange(attention.rows) * (x.size(1) - 1) // max(attention.rows - 1, 1)
    return x[:, chosen].unflatten(-1, (attention.heads, -1)).permute(0, 2, 3, 1)
