"""Capture the attention of Hugging Face models, encoders and decoders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.analysis.capture_layers import LayerAttention, copied, linear_weight, split_heads

Keep = Callable[[LayerAttention], None]
# A module, which element of its output is the map (None: the last that may be one), and whether it is cross-attention.
Found = tuple[nn.Module, int | None, bool]

# How the library's models name the parts of an attention layer.
_OUTPUT = ("o_proj", "out_proj", "c_proj", "out_lin", "dense", "o", "Wo", "wo")
_QUERY_KEY = (
    ("query", "key"),
    ("q_proj", "k_proj"),
    ("q_lin", "k_lin"),
    ("q", "k"),
    ("query_proj", "key_proj"),
    ("q_attn", "c_attn"),
)
# One map for queries, keys and values, side by side; those of each head side by side.
_FUSED = {"GPT2Attention": "c_attn", "ModernBertAttention": "Wqkv", "Phi3Attention": "qkv_proj"}
_FUSED_BY_HEAD = {"GPTNeoXAttention": "query_key_value", "BloomAttention": "query_key_value"}


def hook_transformers(
    model: nn.Module,
    keep: Keep,
    masks: Mapping[str, Any],
    head_outputs: bool,
    recompute: bool,
    stack: ExitStack,
) -> int:
    """Record what the attention layers of Hugging Face models return for as long as the stack is open.

    Args:
        model: The model, or one that has such models in it.
        keep: What is called with each layer.
        masks: The inputs by name, among which ``attention_mask`` and ``decoder_attention_mask`` are looked up.
        head_outputs: Whether to record what each head gathers.
        recompute: Whether to switch to the attention that keeps its maps (``"eager"``) for that time.
        stack: What the hooks are removed, and the implementation put back, with.

    Returns:
        Number of modules that are hooked.

    Raises:
        ValueError: When the model runs: if a layer returns no map.
    """
    names = {id(module): name for name, module in model.named_modules()}
    # The innermost models come first: an encoder knows its layers better than the model around it.
    roots: list[Any] = [
        module for module in model.modules() if is_instance_of(module, "transformers.", "PreTrainedModel")
    ][::-1]
    if recompute:
        for root in roots:
            _make_eager(root, stack)
    two_stacks = any(getattr(root.config, "is_encoder_decoder", False) for root in roots)
    hooked: set[int] = set()
    for find in (_declared, _named):
        for root in roots:
            known = {id(module) for module in root.modules()} & hooked
            if find is _named and known:
                continue
            for module, index, cross in find(root):
                if id(module) not in hooked:
                    hooked.add(id(module))
                    name = names[id(module)]
                    decodes = two_stacks and not cross and "decoder" in name.split(".")
                    mask = masks.get("decoder_attention_mask" if decodes else "attention_mask")
                    _hook(name, module, index, cross, mask, keep, head_outputs, stack)
    return len(hooked)


def is_instance_of(module: nn.Module, package: str, name: str) -> bool:
    """Tell whether a module is of a class of another library, without importing that."""
    return any(cls.__name__ == name and cls.__module__.startswith(package) for cls in type(module).__mro__)


def _make_eager(root: Any, stack: ExitStack) -> None:
    """Switch the attention of a model and of the models in it, each of which may have a configuration of its own."""
    configs = {id(module.config): module.config for module in root.modules() if hasattr(module, "config")}
    for config in configs.values():
        before = getattr(config, "_attn_implementation_internal", None)
        if before not in (None, "eager"):
            stack.callback(setattr, config, "_attn_implementation_internal", before)
            config._attn_implementation_internal = "eager"


def _declared(root: Any) -> Iterator[Found]:
    """Find the modules that return attention, as a model declares them."""
    for key, given in (getattr(root, "_can_record_outputs", None) or {}).items():
        if "attentions" not in key:
            continue
        for spec in given if isinstance(given, list) else [given]:
            cls, part = getattr(spec, "target_class", spec), getattr(spec, "layer_name", None) or ""
            for name, module in root.named_modules():
                of_class = isinstance(cls, type) and isinstance(module, cls)
                if of_class and part.strip(".") in (*name.split("."), ""):
                    yield module, getattr(spec, "index", 1), "cross" in key


def _named(root: Any) -> Iterator[Found]:
    """Find the modules that may return attention: the innermost ones that are called so, but for PyTorch's own."""
    for name, module in root.named_modules():
        inner = any("Attention" in type(child).__name__ for child in module.modules() if child is not module)
        if "Attention" in type(module).__name__ and not inner and not isinstance(module, nn.MultiheadAttention):
            yield module, None, "cross" in name


def _hook(
    name: str,
    module: nn.Module,
    index: int | None,
    cross: bool,
    mask: Tensor | None,
    keep: Keep,
    head_outputs: bool,
    stack: ExitStack,
) -> None:
    joined: list[Tensor] = []  # what the output projection was given: the heads side by side

    def answer(module: nn.Module, args: Any, output: Any) -> None:
        weights = _map_of(output, index)
        if weights is None:
            used = getattr(getattr(module, "config", None), "_attn_implementation", None)
            raise ValueError(
                f"layer {name} returned no attention map{f', as its attention is {used!r}' if used else ''}; load the "
                'model with attn_implementation="eager", or pass recompute=True to compute the maps from queries and '
                "keys for this call"
            )
        batch, heads, targets, sources = weights.shape
        gathered = None
        if head_outputs:
            channels = joined[-1] if joined else output[0]
            gathered = split_heads(channels.reshape(batch, targets, -1), heads)
        joined.clear()
        query, key = _query_key(module, heads)
        keep(
            LayerAttention(
                name=name,
                weights=weights.detach().to("cpu", copy=True),
                num_nodes=(targets, sources),
                mask=copied(mask.bool()) if mask is not None and mask.shape == (batch, sources) else None,
                head_outputs=copied(gathered),
                query_weight=copied(query),
                key_weight=copied(key),
                cross=cross,
            )
        )

    def ask(module: nn.Module, args: Any, kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["output_attentions"] = True
        return bound.args, bound.kwargs

    signature = inspect.signature(module.forward)
    if "output_attentions" in signature.parameters:
        stack.callback(module.register_forward_pre_hook(ask, with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(answer).remove)
    projection = _part(module, _OUTPUT)
    if head_outputs and projection is not None:
        record = projection.register_forward_pre_hook(lambda module, args: joined.append(args[0]))
        stack.callback(record.remove)


def _map_of(output: Any, index: int | None) -> Tensor | None:
    elements = output if isinstance(output, tuple) else (output,)
    if index is not None:
        elements = elements[index:][:1]
    maps = [value for value in elements if isinstance(value, Tensor) and value.dim() == 4]
    return maps[-1] if maps else None


def _part(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    """Find the first linear map in a module that has one of some names."""
    for wanted in names:
        for name, child in module.named_modules():
            if name.rpartition(".")[2] == wanted and linear_weight(child) is not None:
                return child
    return None


def _query_key(module: nn.Module, heads: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the weights of queries and keys, (D, H K) each, where the layer stores them in a known way."""
    for names in _QUERY_KEY:
        query, key = (linear_weight(_part(module, (name,))) for name in names)
        if query is not None and key is not None:
            if names == ("q_attn", "c_attn"):
                key = key.chunk(2, dim=1)[0]
            return query, _repeat_shared(query, key, heads)
    kind = type(module).__name__
    fused = linear_weight(_part(module, (_FUSED_BY_HEAD.get(kind, ""),)))
    if fused is not None:
        query, key, _ = fused.unflatten(1, (heads, 3, -1)).unbind(2)
        return query.flatten(1), key.flatten(1)
    fused = linear_weight(_part(module, (_FUSED.get(kind, ""),)))
    if fused is None:
        return None, None
    width = heads * int(module.head_dim)  # type: ignore[arg-type]
    query, rest = fused[:, :width], fused[:, width:]
    return query, _repeat_shared(query, rest.chunk(2, dim=1)[0], heads)


def _repeat_shared(query: Tensor, key: Tensor, heads: int) -> Tensor | None:
    """Repeat the key weights of a group for each of its query heads."""
    head_dim = query.size(1) // heads
    groups = key.size(1) // head_dim
    if groups == heads:
        return key
    return torch.repeat_interleave(key.unflatten(1, (groups, head_dim)), heads // groups, dim=1).flatten(1)
