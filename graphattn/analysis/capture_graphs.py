"""Capture the attention of graph layers: those of this library, and PyG's GAT, GATv2 and TransformerConv."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index

from graphattn.analysis.capture_layers import LayerAttention, copied, linear_weight
from graphattn.nn.global_attention.softmax import SoftmaxAttention

_ARGUMENT = "return_attention_weights"
Keep = Callable[[LayerAttention], None]


def hook_graph_layers(model: nn.Module, keep: Keep, head_outputs: bool, stack: ExitStack) -> int:
    """Make every graph layer that can return its attention do so for as long as the stack is open.

    Those are the message-passing layers whose ``forward`` has an argument ``return_attention_weights``, and the softmax
    attention between all nodes of a graph of this library.

    Args:
        model: The model.
        keep: What is called with each layer.
        head_outputs: Whether to record what each head gathers in its first hop; the layers of this library then work
            message by message.
        stack: What the hooks are removed with.

    Returns:
        Number of modules that are hooked.
    """
    count = 0
    for name, module in model.named_modules():
        if isinstance(module, MessagePassing | SoftmaxAttention):
            signature = inspect.signature(module.forward)
            if _ARGUMENT in signature.parameters:
                _hook(name, module, signature, keep, head_outputs, stack)
                count += 1
    return count


def _hook(
    name: str, module: Any, signature: inspect.Signature, keep: Keep, head_outputs: bool, stack: ExitStack
) -> None:
    calls: list[dict[str, Any]] = []  # what the caller passed, as long as its call runs
    gathered: list[Tensor] = []

    def ask(module: nn.Module, args: Any, kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        calls.append(dict(bound.arguments))
        gathered.clear()
        bound.arguments[_ARGUMENT] = True
        return bound.args, bound.kwargs

    def answer(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        call = calls.pop()
        out, attention = output
        if isinstance(module, SoftmaxAttention):
            keep(_dense_layer(name, module, call, attention, head_outputs))
        else:
            keep(_edge_layer(name, module, call, out, attention, gathered[-1] if gathered else None))
        return output if call[_ARGUMENT] else out

    stack.callback(module.register_forward_pre_hook(ask, with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(answer, with_kwargs=True).remove)
    if head_outputs and isinstance(module, MessagePassing):
        record = module.register_propagate_forward_hook(lambda module, inputs, output: gathered.append(output))
        stack.callback(record.remove)


def _edge_layer(
    name: str, module: Any, call: dict[str, Any], out: Tensor, attention: Any, gathered: Tensor | None
) -> LayerAttention:
    edge_index, weights = _edges(name, attention)
    if module.flow == "target_to_source":
        edge_index = edge_index.flip(0)
    x = call["x"]
    sources = (x if isinstance(x, Tensor) else x[0]).size(0)
    targets = out.size(0)
    score = getattr(module, "score", module)
    return LayerAttention(
        name=name,
        weights=weights.detach().to("cpu", copy=True),
        num_nodes=(targets, sources),
        edge_index=edge_index.detach().to("cpu", copy=True),
        head_outputs=None if gathered is None else copied(gathered[:targets]),
        query_weight=copied(linear_weight(getattr(score, "lin_query", None))),
        key_weight=copied(linear_weight(getattr(score, "lin_key", None))),
        cross=not isinstance(x, Tensor) and x[0] is not x[1],
    )


def _edges(name: str, attention: Any) -> tuple[Tensor, Tensor]:
    """Read what a layer returns for its edges, and for each of them one weight a head."""
    if not isinstance(attention, tuple) or not isinstance(attention[0], Tensor):
        raise TypeError(f"layer {name} returns its attention as a {type(attention).__name__}; pass edges as edge_index")
    edges, weights = attention
    if is_torch_sparse_tensor(edges):  # PyG's transposed adjacency, whose rows are targets
        target, source = to_edge_index(edges)[0]
        edges = torch.stack([source, target])
    weights = weights.unsqueeze(1) if weights.dim() == 1 else weights
    if weights.dim() != 2:
        raise ValueError(f"layer {name} has attention {tuple(weights.shape)}; expected [E, H], one weight a head")
    return edges, weights


def _dense_layer(name: str, module: Any, call: dict[str, Any], weights: Tensor, head_outputs: bool) -> LayerAttention:
    x, batch, graphs = call["x"], call["batch"], call["graphs"]
    targets, sources = module.places(x, batch, **graphs)
    context = graphs.get("context")
    gathered = weights @ module.project(x, context, targets, sources)[2] if head_outputs else None
    query, key, _ = module.qkv.weight.chunk(3)
    return LayerAttention(
        name=name,
        weights=weights.detach().to("cpu", copy=True),
        num_nodes=(weights.size(-2), weights.size(-1)),
        mask=copied(sources.mask),
        head_outputs=copied(gathered),
        query_weight=copied(query.T),
        key_weight=copied(key.T),
        cross=context is not None,
    )
