"""What ``graphattn inspect`` looks at: attention maps of some inputs, and what a model says without parts of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from graphattn.analysis import AttentionMaps, Capture, rollout, rollout_rows
from graphattn.analysis.roles import HeadRoles

# Nodes up to which what takes all pairs of them is computed.
WHOLE = 512
OUTPUTS = 5  # inputs of which it is kept what the heads gather


@dataclass(frozen=True, eq=False)
class Sample:
    """Hold one text or graph.

    Args:
        title: What it is.
        maps: Its attention.
        ids: What tokens are equal for roles; ``None`` where the order of nodes means nothing.
        target: The node whose row of the rollout is shown; ``None`` for the mean of all rows.
        maskable: The nodes that ``score`` can do without.
        score: What the model makes of some of them; ``None`` without a model.
        outputs: What the heads of each layer gather, :math:`(H, N, C)`; ``None`` where it was not kept.
        separators: Which of the ids end a segment.
        parts: The part of the input that each node is of, such as the first text of a pair; ``None`` without parts.
    """

    title: str
    maps: AttentionMaps
    ids: Any = None
    target: int | None = None
    maskable: np.ndarray = field(default_factory=lambda: np.arange(0))
    score: Callable[[Tensor], Any] | None = None
    outputs: Sequence[Tensor] | None = None
    separators: Sequence[Any] = ()
    parts: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """Hold a model, or saved maps, with what was captured.

    Args:
        name: Its name in the report.
        what: What it is.
        samples: The inputs.
        scored: What the scores are, in words.
        notes: What is to be said of the reading.
        query_key: Of each layer query weights, key weights and number of heads; ``None`` where a layer has none.
        width: Width of the model.
        model: The model.
        capture: Captures the sample of a number with a model like this one.
        probe: Roles of the heads on the repeated-token probe.
    """

    name: str
    what: str
    samples: Sequence[Sample]
    scored: str = ""
    notes: Sequence[str] = ()
    query_key: Sequence[tuple[Tensor, Tensor, int] | None] = ()
    width: int | None = None
    model: nn.Module | None = None
    capture: Callable[[nn.Module, int], AttentionMaps] | None = None
    probe: HeadRoles | None = None


def attribution(maps: AttentionMaps, target: int | None) -> np.ndarray:
    """Return what a rollout gives to each input: in the row of a target, or in the mean of all rows."""
    if target is None:
        return np.asarray(rollout(maps).relevance[-1].mean(axis=0))
    return np.asarray(rollout_rows(maps, [target]).relevance[0, 0])


def weights_of(captured: Capture) -> list[tuple[Tensor, Tensor, int] | None]:
    """Return query and key weights of the layers of self-attention."""
    found: list[tuple[Tensor, Tensor, int] | None] = []
    for layer in captured.layers:
        if not layer.cross:
            query, key = layer.query_weight, layer.key_weight
            square = query is not None and key is not None and query.size(0) == key.size(0)
            found.append((query, key, layer.heads) if query is not None and key is not None and square else None)
    return found


def outputs_of(captured: Capture) -> list[Tensor] | None:
    """Return what the heads of each layer of self-attention gather, where all layers tell."""
    found = []
    for layer in captured.layers:
        if not layer.cross:
            if layer.head_outputs is None:
                return None
            found.append(layer.head_outputs[0] if layer.edge_index is None else layer.head_outputs.movedim(1, 0))
    return found


def maps_of(captured: Capture, tokens: Sequence[str]) -> tuple[AttentionMaps, str | None]:
    """Return maps, and why their rows were not checked, where a model does not normalize them to sum to 1."""
    try:
        return captured.maps(tokens=tokens), None
    except ValueError as error:
        maps = captured.maps(tokens=tokens, validate=False)
        return maps, f"the attention is read as it is: {error}"
