"""Capture what the attention layers of a model do with some inputs, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.analysis.capture_graphs import hook_graph_layers
from graphattn.analysis.capture_layers import Capture, LayerAttention
from graphattn.analysis.capture_torch import hook_multihead
from graphattn.analysis.capture_transformers import hook_transformers, is_instance_of


def capture(model: nn.Module, inputs: Any, *, recompute: bool = False, head_outputs: bool = True) -> Capture:
    r"""Run a model once and keep the attention of its layers.

    It knows the graph layers of this library that return their attention; PyG's ``GATConv``, ``GATv2Conv``,
    ``TransformerConv`` and others whose ``forward`` has ``return_attention_weights``, also within ``GPSConv``;
    ``nn.MultiheadAttention`` and with it PyTorch's transformers; and the models of Hugging Face, also within
    sentence-transformers. Weights are those that the library itself returns, in evaluation mode and before dropout.

    The model runs in evaluation mode and without gradients. Modes, hooks, random numbers and the kind of attention are
    put back also if it fails. All maps are kept, :math:`O(L H N^2)` for :math:`L` dense layers;
    :func:`stream_attention` keeps one layer at a time.

    Args:
        model: The model.
        inputs: A mapping is passed by keywords, a tuple by position, anything else as the only argument. For a
            model of sentence-transformers, its features or a list of texts.
        recompute: Whether Hugging Face models compute their maps for this call although they were loaded with a fused
            attention, which has none.
        head_outputs: Whether to keep what each head gathers, too.

    Returns:
        The layers in the order of their calls.

    Raises:
        ValueError: If no attention layer was called, or a Hugging Face layer returned no map.
        TypeError: If the model is no ``nn.Module``.

    Example:
        >>> from graphattn.nn import AttentionConv
        >>> conv = AttentionConv(4, 8, heads=2)
        >>> edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> captured = capture(conv, (torch.randn(3, 4), edges))
        >>> captured.layers[0].affinity()
        SparseAffinity(3 x 3, edges=4, heads=2, dtype=torch.float32)
        >>> captured.maps(tokens=["a", "b", "c"])
        AttentionMaps(1 layers, heads 2, 3 nodes, edges)
    """
    layers: list[LayerAttention] = []
    stream_attention(model, inputs, layers.append, recompute=recompute, head_outputs=head_outputs)
    return Capture(tuple(layers))


def stream_attention(
    model: nn.Module,
    inputs: Any,
    callback: Callable[[LayerAttention], object],
    *,
    recompute: bool = False,
    head_outputs: bool = True,
) -> None:
    """Run a model once and pass on the attention of each layer as soon as it was called, keeping nothing.

    Args:
        model: The model.
        inputs: As in :func:`capture`.
        callback: What is called with each layer; what it raises ends the run.
        recompute: As in :func:`capture`.
        head_outputs: As in :func:`capture`.

    Raises:
        ValueError: As :func:`capture`.
        TypeError: As :func:`capture`.

    Example:
        >>> encoder = nn.TransformerEncoderLayer(8, 2, batch_first=True)
        >>> stream_attention(encoder, torch.randn(1, 5, 8), lambda layer: print(layer))
        LayerAttention('self_attn', 5 x 5, heads=2, batch=1)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected an nn.Module")
    args, kwargs = _arguments(model, inputs)
    named = kwargs or (args[0] if args and isinstance(args[0], Mapping) else {})
    called = 0

    def keep(layer: LayerAttention) -> None:
        nonlocal called
        called += 1
        callback(layer)

    with unchanged(model), ExitStack() as stack:
        found = hook_graph_layers(model, keep, head_outputs, stack)
        found += hook_multihead(model, keep, head_outputs, stack)
        found += hook_transformers(model, keep, named, head_outputs, recompute, stack)
        if not found:
            raise ValueError(
                f"{type(model).__name__} has no attention layer that is known: AttentionConv, SoftmaxAttention, a PyG "
                "layer with return_attention_weights, nn.MultiheadAttention, or a Hugging Face model"
            )
        model(*args, **kwargs)
    if not called:
        raise ValueError(f"none of the {found} attention layers of {type(model).__name__} was called for the inputs")


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Evaluate a model within a block, without gradients, and put its modes and torch's random numbers back after it.

    Example:
        >>> layer = nn.Dropout()
        >>> with unchanged(layer):
        ...     print(layer.training)
        False
        >>> layer.training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({parameter.device.index or 0 for parameter in model.parameters() if parameter.is_cuda})
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training


def _arguments(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read inputs as :func:`capture` takes them: what the model is called with."""
    if is_instance_of(model, "sentence_transformers.", "SentenceTransformer"):
        sentences: Any = model
        if not isinstance(inputs, Mapping):
            inputs = (sentences.preprocess if hasattr(model, "preprocess") else sentences.tokenize)(inputs)
        device = sentences.device
        return ({name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()},), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}
