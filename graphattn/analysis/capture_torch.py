"""Capture the attention of ``torch.nn.MultiheadAttention``, alone or within PyTorch's transformers and PyG's GPS."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.analysis.capture_layers import LayerAttention, copied, real_sources, split_heads

_SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


def hook_multihead(
    model: nn.Module, keep: Callable[[LayerAttention], None], head_outputs: bool, stack: ExitStack
) -> int:
    """Make every ``nn.MultiheadAttention`` return its weights for as long as the stack is open.

    The fused kernels of PyTorch's encoders, which have no weights to return, are off for that time.

    Args:
        model: The model.
        keep: What is called with each layer.
        head_outputs: Whether to compute what each head gathers.
        stack: What the hooks are removed with.

    Returns:
        Number of modules that are hooked.
    """
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    if modules:
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
    for name, module in modules:
        _hook(name, module, keep, head_outputs, stack)
    return len(modules)


def _hook(
    name: str,
    module: nn.MultiheadAttention,
    keep: Callable[[LayerAttention], None],
    head_outputs: bool,
    stack: ExitStack,
) -> None:
    asked: list[dict[str, Any]] = []  # what the caller passed, as long as its call runs

    def ask(module: nn.Module, args: Any, kwargs: Any) -> Any:
        bound = _SIGNATURE.bind(module, *args, **kwargs)
        bound.apply_defaults()
        asked.append(dict(bound.arguments))
        bound.arguments.update(need_weights=True, average_attn_weights=False)
        return bound.args[1:], bound.kwargs

    def answer(module: Any, args: Any, kwargs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
        call = asked.pop()
        out, weights = output
        batched = call["query"].dim() == 3
        keep(_layer(name, module, call, weights if batched else weights.unsqueeze(0), head_outputs))
        if not call["need_weights"]:
            return out, None
        return out, weights.mean(dim=-3) if call["average_attn_weights"] else weights

    stack.callback(module.register_forward_pre_hook(ask, with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(answer, with_kwargs=True).remove)


def _layer(name: str, module: Any, call: dict[str, Any], weights: Tensor, head_outputs: bool) -> LayerAttention:
    gathered = weights @ _values(module, call["value"]) if head_outputs else None
    if module._qkv_same_embed_dim:
        query, key, _ = module.in_proj_weight.chunk(3)
    else:
        query, key = module.q_proj_weight, module.k_proj_weight
    return LayerAttention(
        name=name,
        weights=weights.detach().to("cpu", copy=True),
        num_nodes=(weights.size(-2), weights.size(-1)),
        mask=copied(real_sources(call["key_padding_mask"])),
        head_outputs=copied(gathered),
        query_weight=copied(query.T),
        key_weight=copied(key.T),
        cross=call["query"] is not call["key"],
    )


def _values(module: Any, value: Tensor) -> Tensor:
    """Project the values of all heads: (B, H, M, C)."""
    if value.dim() == 2:
        value = value.unsqueeze(0)
    elif not module.batch_first:
        value = value.transpose(0, 1)
    weight = module.in_proj_weight.chunk(3)[2] if module._qkv_same_embed_dim else module.v_proj_weight
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[2]
    projected = F.linear(value, weight, bias)
    if module.bias_v is not None:
        projected = torch.cat([projected, module.bias_v.expand(len(projected), 1, -1)], dim=1)
    if module.add_zero_attn:
        projected = F.pad(projected, (0, 0, 0, 1))
    return split_heads(projected, module.num_heads)
