"""What a section of the report is: what it measures, and how it shows that."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphattn.analysis import AttentionMaps
from graphattn.cli._inspect_subject import Sample, Subject

PICTURE = 20  # nodes of a graph whose names can be read in a picture
_TITLE = 40  # characters


@dataclass(frozen=True, eq=False)
class Study:
    """Hold what is measured, and how.

    Args:
        subject: The model and its inputs.
        n_samples: Samples of the causal tests; the width of the model by default.
        seed: Seed of what is drawn at random.
        check: Whether the model is asked if attributions are faithful.
    """

    subject: Subject
    n_samples: int | None
    seed: int
    check: bool

    @property
    def samples(self) -> Sequence[Sample]:
        """The inputs."""
        return self.subject.samples

    @property
    def maps(self) -> list[AttentionMaps]:
        """The attention on each input."""
        return [sample.maps for sample in self.samples]

    @property
    def example(self) -> int:
        """Number of the input whose graphs are drawn: the largest that fits a picture whole."""
        sizes = [maps.num_nodes * (maps.num_nodes <= PICTURE) for maps in self.maps]
        return sizes.index(max(sizes))

    def generator(self) -> torch.Generator:
        """Return a new generator for each use, so that no section depends on those before it."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Section:
    """Describe a section of the report.

    Args:
        key: Name of its numbers in the JSON.
        title: Its heading.
        explained: What its reader should know.
        draw: Shows its numbers, given them and those of the whole model.
        measure: Makes them; ``None`` for a section that shows numbers of the others.
    """

    key: str
    title: str
    explained: str
    draw: Callable[[Mapping[str, Any], Mapping[str, Any]], str]
    measure: Callable[[Study], dict[str, Any]] | None = None


def attempt(compute: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Compute, and keep what was warned of, or under ``missing`` why it cannot be computed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = compute(*arguments)
        except (ValueError, RuntimeError, ImportError, np.linalg.LinAlgError) as error:
            return {"missing": str(error)}
    said = list(dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, UserWarning)))
    return found | ({"warnings": said} if said else {})


def mean_over(samples: Sequence[Sequence[np.ndarray]]) -> list[list[float]]:
    """Average what each sample has for the heads of each layer, without NaN."""
    means = []
    for layer in zip(*samples, strict=True):
        values = np.array(layer, dtype=np.float64)
        known = ~np.isnan(values)
        count = known.sum(axis=0)
        total = np.where(known, values, 0.0).sum(axis=0)
        means.append(np.where(count > 0, total / np.maximum(count, 1), np.nan).tolist())
    return means


def flat(rows: Sequence[Sequence[float | None]]) -> list[float]:
    """List what is known of the heads of all layers."""
    return [value for row in rows for value in row if value is not None and value == value]


def places_of(heads: Sequence[int]) -> list[tuple[int, int]]:
    """List layer and number of each head."""
    return [(layer, head) for layer, count in enumerate(heads) for head in range(count)]


def example_title(model: Mapping[str, Any]) -> str:
    """Name the input whose graphs are drawn."""
    title = model["inputs"][model["example"]]["title"]
    return f"Of “{title if len(title) <= _TITLE else title[: _TITLE - 1] + '…'}”"
