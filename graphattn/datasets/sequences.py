"""Sequences of events: which type comes next, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets._checks import check_split
from graphattn.datasets._streams import check_integers, check_stream_times
from graphattn.datasets.metrics import METRICS
from graphattn.datasets.tasks import _Task


class EventWindows(NamedTuple):
    """Sequences side by side, cut to one length and filled up from the left.

    Args:
        event_type: Types ``[W, L + 1]``; 0 is what fills up.
        t: Times ``[W, L + 1]``; what fills up has the time of the first event.
        scored: Which events are to be predicted from those to their left, ``[W, L + 1]``.

    Example:
        >>> windows = EventWindows(torch.tensor([[0, 3, 1]]), torch.tensor([[5.0, 5.0, 7.0]]),
        ...                        torch.tensor([[False, False, True]]))
        >>> windows.event_type[:, 1:][windows.scored[:, 1:]]
        tensor([1])
    """

    event_type: Tensor
    t: Tensor
    scored: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class SequenceTask(_Task):
    r"""Predict the next event of sequences: its type :math:`k_{i+1}`, and the time until then.

    .. math:: p\bigl(k_{i+1}, t_{i+1} - t_i \mid (k_1, t_1), \dots, (k_i, t_i)\bigr)

    Sequences lie one behind the other: sequence :math:`s` is the rows ``ptr[s]`` to ``ptr[s + 1]``. Every event but the
    first of its sequence is a target.

    Args:
        name: Name of the set.
        event_type: Type of each event, from 1 to ``num_types``; 0 is left for what fills up.
        t: Time of each event in float64, never decreasing within a sequence.
        ptr: Where each sequence starts, and behind them the number of events.
        num_types: Number of types :math:`K`.
        split: Ids, or masks, of the sequences of ``"train"``, ``"val"`` and ``"test"``; kept as ids.
        split_name: Which split of the set this is; it belongs beside every number that is reported.
        metric: ``"accuracy"`` or ``"f1_macro"`` of the types, or what ``evaluator`` computes.
        licence: What the source states about its use.
        classes: Names of the types 1 to :math:`K`, by default their numbers.
        optimum: Expected accuracy of the best prediction, where the truth is known.
        optimum_of_order: Expected accuracy of the best prediction that sees the order of events but no times.
        evaluator: Computes the metric of ``(prediction, target)``; the metric of that name by default.

    Raises:
        TypeError: If types are not integers or times not float64.
        ValueError: If the split is empty, leaks or names sequences that are not there, a sequence has fewer than two
            events, a type is unknown, or times decrease, are negative or not finite.

    Example:
        >>> task = SequenceTask(name="toy", event_type=torch.tensor([1, 2, 1, 2, 1, 2, 2]),
        ...                     t=torch.tensor([0, 1, 3, 0, 2, 0, 4]).double(), ptr=torch.tensor([0, 3, 5, 7]),
        ...                     num_types=2, split_name="own", metric="accuracy", licence="public domain",
        ...                     split={"train": torch.tensor([0]), "val": torch.tensor([1]), "test": torch.tensor([2])})
        >>> task.target("train"), task.elapsed("train")
        (tensor([2, 1]), tensor([1., 2.], dtype=torch.float64))
        >>> task.windows("train", length=3).event_type
        tensor([[0, 1, 2, 1]])
        >>> task.evaluate(torch.tensor([2, 2]), "train")
        0.5

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    event_type: Tensor
    t: Tensor
    ptr: Tensor
    num_types: int
    classes: tuple[str, ...] | None = None
    optimum: float | None = None
    optimum_of_order: float | None = None

    def __post_init__(self) -> None:
        self._check_metric(("accuracy", "f1_macro"))
        name, ptr, types = self.name, self.ptr, self.event_type
        check_integers(name, "entries of ptr", ptr)
        check_integers(name, "types", types)
        if len(ptr) < 2 or int(ptr[0]) or int(ptr[-1]) != len(types):
            ends = ptr[[0, -1]].tolist() if len(ptr) else []
            raise ValueError(f"ptr of {name} has the ends {ends}; expected 0, where others start, and {len(types)}")
        short = (ptr.diff() < 2).nonzero().flatten()
        if len(short):
            raise ValueError(
                f"sequence {int(short[0])} of {name} has {int(ptr.diff()[short[0]])} events; expected at least 2, of "
                "which the second is predicted: leave shorter ones out"
            )
        wrong = ((types < 1) | (types > self.num_types)).nonzero().flatten()
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"types of {name} hold {int(types[row])} at event {row}; expected 1 to {self.num_types}, as 0 fills up"
            )
        check_stream_times(name, self.t, len(types), ptr)
        if self.t.dtype != torch.float64:
            raise TypeError(f"times of {name} have dtype {self.t.dtype}; expected float64, convert them by t.double()")
        if self.classes is not None and len(self.classes) != self.num_types:
            raise ValueError(f"classes of {name} are {len(self.classes)} names; expected {self.num_types}")
        object.__setattr__(self, "classes", self.classes or tuple(map(str, range(1, self.num_types + 1))))
        object.__setattr__(self, "split", check_split(name, self.split, len(ptr) - 1, "sequence"))

    @property
    def num_sequences(self) -> int:
        """Number of sequences."""
        return len(self.ptr) - 1

    @property
    def out_channels(self) -> int:
        """Width of the scores that a network gives: one for each type, and one for 0."""
        return self.num_types + 1

    def target(self, which: str = "test") -> Tensor:
        """Return the types to predict: of all events of a part but the first of each sequence, in its order.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.
        """
        return self.event_type[self._targets(which)]

    def elapsed(self, which: str = "test") -> Tensor:
        """Return the time between each target and the event before it, in float64.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.
        """
        rows = self._targets(which)
        return self.t[rows] - self.t[rows - 1]

    def windows(self, which: str = "test", length: int | None = None, stride: int | None = None) -> EventWindows:
        r"""Return the sequences of a part as windows of :math:`L` events and the one behind them.

        A sequence of at most :math:`L + 1` events is one window. A longer one is cut into windows that end ``stride``
        events apart, and an event is scored in the first that holds it: so every target is scored once, in the order
        of :meth:`target`, and outside of the first window from at least ``L - stride + 1`` events.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.
            length: Events :math:`L` that a prediction may see; by default those of the longest sequence.
            stride: Events between the ends of two windows, by default half of ``length``.

        Returns:
            The windows, sequence by sequence.

        Raises:
            ValueError: If ``length`` is below 1, or ``stride`` not between 1 and ``length``.
        """
        ids = self._check_part(which)
        last = self.ptr.diff()[ids] - 1
        length = int(last.max()) if length is None else length
        if length < 1:
            raise ValueError(f"length is {length}; expected at least 1")
        stride = max(1, length // 2) if stride is None else stride
        if not 1 <= stride <= length:
            raise ValueError(f"stride is {stride}; expected 1 to the length of {length}")
        count = 1 + (last - length).clamp(min=0).add(stride - 1).div(stride, rounding_mode="floor")
        row = torch.arange(len(ids)).repeat_interleave(count)
        number = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        end = torch.minimum(length + number * stride, last[row])
        scored_before = torch.where(number > 0, length + (number - 1) * stride, 0)
        place = end[:, None] + torch.arange(-length, 1)
        event = self.ptr[ids][row, None] + place.clamp(min=0)
        event_type = torch.where(place >= 0, self.event_type[event], 0)
        return EventWindows(event_type, self.t[event], place > scored_before[:, None])

    def evaluate(self, prediction: Tensor | np.ndarray, which: str = "test") -> float:
        """Score predictions of the types by the metric of the task.

        Args:
            prediction: For each row of :meth:`target` scores ``[n, num_types + 1]``, of which that of 0 is not
                looked at, or a type ``[n]``.
            which: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            The value of the metric.

        Raises:
            ValueError: If the rows or the columns do not match or a score is NaN.
        """
        target = self.target(which)
        scores = self._rows(prediction, len(target), which, f"pass the rows of task.target({which!r}), in its order")
        if scores.is_floating_point():
            if scores.dim() != 2 or scores.size(1) != self.out_channels:
                raise ValueError(
                    f"prediction has shape {tuple(scores.shape)}; expected ({len(target)}, {self.out_channels}), a "
                    "score for each type from 0, or integers"
                )
            scores = scores[:, 1:].argmax(dim=1) + 1
        return (self.evaluator or METRICS[self.metric])(scores, target)

    def time_error(self, prediction: Tensor | np.ndarray, which: str = "test") -> float:
        """Return the median absolute error of predictions of :meth:`elapsed`.

        Args:
            prediction: A time for each row of :meth:`elapsed`.
            which: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            ValueError: If the rows do not match or a time is NaN.
        """
        truth = self.elapsed(which)
        how = f"pass the rows of task.elapsed({which!r}), in its order"
        found = self._rows(prediction, len(truth), which, how)
        return float(np.median((found.double().reshape(len(truth)) - truth).abs().numpy()))

    def _targets(self, which: str) -> Tensor:
        """Rows of the events of a part that are predicted."""
        ids = self._check_part(which)
        count = self.ptr.diff()[ids] - 1
        within = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
        return self.ptr[ids].repeat_interleave(count) + 1 + within


def periodic_events(
    num_sequences: int = 1000,
    length: int = 32,
    num_types: int = 4,
    seed: int = 0,
    *,
    period: float = 10.0,
    noise: float = 0.0,
) -> SequenceTask:
    r"""Draw sequences in which the phase of time decides what comes next, and the order of events nothing.

    .. math:: k_{i+1} = 1 + \lfloor K \, (t_i \bmod P) / P \rfloor, \qquad t_{i+1} - t_i \sim U(0, 2P), \qquad t_1 = 0

    Times pass by a whole number of periods at most, spread evenly, so that phases are independent of one another and
    of all types before: who sees the times can always be right, who sees only their order is right by chance, except
    at the second event, whose type is always the first. ``optimum`` and ``optimum_of_order`` of the task are these two
    accuracies. The first 60 % of the sequences train, 20 % validate.

    Args:
        num_sequences: Number of sequences.
        length: Events of each.
        num_types: Number of types :math:`K`.
        seed: Seed of the generator.
        period: The period :math:`P`.
        noise: Chance with which a type is drawn evenly from all instead.

    Returns:
        The task.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> task = periodic_events(num_sequences=10, length=5, num_types=2)
        >>> task.optimum, task.optimum_of_order
        (1.0, 0.625)
    """
    for what, value, least in (("num_sequences", num_sequences, 5), ("length", length, 2), ("num_types", num_types, 2)):
        if value < least:
            raise ValueError(f"{what} is {value}; expected at least {least}")
    if not 0 < period < float("inf"):
        raise ValueError(f"period is {period}; expected a positive number")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is {noise}; expected a chance from 0 to 1")
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.rand(num_sequences, length - 1, dtype=torch.float64, generator=generator) * 2 * period
    t = torch.cat([torch.zeros(num_sequences, 1, dtype=torch.float64), gaps.cumsum(1)], dim=1)
    phase = t[:, :-1].remainder(period) / period
    drawn = torch.randint(1, num_types + 1, t.shape, generator=generator)
    cell = 1 + (phase * num_types).long().clamp(max=num_types - 1)
    random = torch.rand(cell.shape, dtype=torch.float64, generator=generator) < noise
    event_type = torch.cat([drawn[:, :1], torch.where(random, drawn[:, 1:], cell)], dim=1)
    optimum = 1 - noise + noise / num_types
    train, val = int(0.6 * num_sequences), int(0.2 * num_sequences)
    ids = torch.arange(num_sequences).split([train, val, num_sequences - train - val])
    return SequenceTask(
        name="periodic-events",
        event_type=event_type.flatten(),
        t=t.flatten(),
        ptr=torch.arange(num_sequences + 1) * length,
        num_types=num_types,
        split=dict(zip(("train", "val", "test"), ids, strict=True)),
        split_name="60-20-20",
        metric="accuracy",
        licence="generated",
        optimum=optimum,
        optimum_of_order=(optimum + (length - 2) / num_types) / (length - 1),
    )
