"""Streams of events: who meets whom next, and what an event says of its source, in the order of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import TemporalData

from graphattn.datasets._checks import PARTS, check_features, check_labels, check_split
from graphattn.datasets._streams import check_integers, check_stream_times
from graphattn.datasets.metrics import METRICS, links
from graphattn.datasets.tasks import _Task

_RANKED = ("roc_auc", "average_precision")


@dataclass(frozen=True, eq=False, kw_only=True)
class EventTask(_Task):
    r"""Predict events from those before them: whom the source of an event meets, or the label of an event.

    Event :math:`e` is an edge from :math:`s_e` to :math:`d_e` at time :math:`t_e`. A link task tells each event from
    its negative, the same source at the same time with another destination :math:`d'_e`:

    .. math:: \text{score}(s_e, d_e, t_e) > \text{score}(s_e, d'_e, t_e)

    A node task asks for ``data.y``, the label that the source of an event has by then. Training events all come before
    those of validation, and these before those of the test.

    Args:
        name: Name of the set.
        data: The events in the order of time: ``src``, ``dst``, ``t`` (int64 or float64), their features ``msg``
            ``[E, D]``, where :math:`D` may be 0, and in a node task ``y`` ``[E]``.
        num_nodes: Number of nodes.
        split: Ids, or masks, of the events of ``"train"``, ``"val"`` and ``"test"``, as :func:`chronological_split`
            makes them; kept as ids. Events in no part are in the past of later ones.
        split_name: Which split of the set this is; it belongs beside every number that is reported.
        licence: What the source states about its use.
        kind: ``"link"`` or ``"node"``.
        metric: ``"average_precision"`` or ``"roc_auc"`` of links, or also ``"accuracy"`` and others of labels, or what
            ``evaluator`` computes.
        given_negatives: Negative destinations that the set brings, ``[n, M]`` of a part, where -1 is none.
        node_ids: Names of the nodes in the source.
        classes: Names of the classes of ``data.y``.
        evaluator: Computes the metric of ``(positive, negative)`` scores of links, or of ``(prediction, target)``; the
            metric of that name by default.

    Raises:
        TypeError: If nodes are not int64, or times neither int64 nor float64.
        ValueError: If times are unsorted, negative, not finite or too large for float64, an event has no features or
            some that are not finite, a node is not there, or a part of the split is empty, shares an event or a time
            with another or is not in the order of time.

    Example:
        >>> stream = TemporalData(src=torch.tensor([0, 1, 0, 1]), dst=torch.tensor([2, 3, 3, 2]),
        ...                       t=torch.tensor([5, 6, 8, 9]), msg=torch.ones(4, 1))
        >>> task = EventTask(name="toy", data=stream, num_nodes=4, split_name="own", licence="public domain",
        ...                  split={"train": torch.tensor([0, 1]), "val": torch.tensor([2]), "test": torch.tensor([3])})
        >>> task.bipartite, task.negatives("test")
        (True, tensor([3]))
        >>> task.evaluate(torch.tensor([0.9]), torch.tensor([0.2]), "test")
        1.0

    Reference:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", 2020.
    """

    data: TemporalData
    num_nodes: int
    kind: str = "link"
    metric: str = "average_precision"
    given_negatives: Mapping[str, Tensor] = field(default_factory=dict)
    node_ids: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("link", "node"):
            raise ValueError(f"kind of {self.name} is {self.kind!r}; expected 'link' or 'node'")
        self._check_metric(_RANKED if self.kind == "link" else METRICS)
        self._check_events()
        object.__setattr__(self, "split", check_split(self.name, self.split, self.data.num_events, "event"))
        self._check_order()
        if self.kind == "node":
            self._check_targets()
        for part, nodes in self.given_negatives.items():
            expected = len(self._check_part(part))
            if nodes.dim() != 2 or len(nodes) != expected or not nodes.numel():
                raise ValueError(
                    f"given_negatives of {part!r} of {self.name} have shape {tuple(nodes.shape)}; expected "
                    f"({expected}, M), some for each event"
                )
            self._check_nodes(f"given_negatives of {part!r}", nodes.flatten(), least=-1)
        for what, words, count in (
            ("node_ids", self.node_ids, self.num_nodes),
            ("classes", self.classes, self.num_classes),
        ):
            if words is not None and len(words) != count:
                raise ValueError(f"{what} of {self.name} are {len(words)} names, but there are {count}")

    def _check_events(self) -> None:
        data = self.data
        missing = [key for key in ("src", "dst", "t", "msg") if key not in data]
        if missing:
            how = ", such as torch.zeros(E, 0) where there are no features" if "msg" in missing else ""
            raise ValueError(f"data of {self.name} has no {', '.join(missing)}; expected src, dst, t and msg{how}")
        for end in ("src", "dst"):
            self._check_nodes(end, data[end])
        if len(data.dst) != len(data.src):
            raise ValueError(f"dst of {self.name} has {len(data.dst)} events, but src {len(data.src)}")
        check_stream_times(self.name, data.t, len(data.src))
        msg = data.msg
        if not isinstance(msg, Tensor) or msg.dim() != 2 or not msg.is_floating_point():
            found = f"{tuple(msg.shape)} of {msg.dtype}" if isinstance(msg, Tensor) else type(msg).__name__
            raise ValueError(f"msg of {self.name} is {found}; expected (E, D) of floating point")
        if len(msg) != len(data.src):
            raise ValueError(
                f"msg of {self.name} has {len(msg)} rows, but there are {len(data.src)} events; expected features for "
                "each event"
            )
        check_features(self.name, msg, " of msg")

    def _check_nodes(self, what: str, nodes: Tensor, least: int = 0) -> None:
        check_integers(self.name, what, nodes)
        if len(nodes) and (int(nodes.min()) < least or int(nodes.max()) >= self.num_nodes):
            raise ValueError(
                f"{what} of {self.name} has nodes from {int(nodes.min())} to {int(nodes.max())}, but there are "
                f"{self.num_nodes}"
            )

    def _check_order(self) -> None:
        for part, ids in self.split.items():
            if bool((ids.diff() < 0).any()):
                raise ValueError(f"split {part!r} of {self.name} is not in the order of time; sort its ids")
        for before, after in (("train", "val"), ("val", "test")):
            last, first = self.data.t[self.split[before][-1]].item(), self.data.t[self.split[after][0]].item()
            if last >= first:
                raise ValueError(
                    f"split of {self.name} is not chronological: {before!r} ends at {last}, {after!r} begins at "
                    f"{first}; events of one time belong into one part, as chronological_split makes them"
                )

    def _check_targets(self) -> None:
        y = self.data.y if "y" in self.data else None
        if not isinstance(y, Tensor) or y.shape != (self.data.num_events,):
            found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"y of {self.name} is {found}; a node task needs a label for each event")
        labels = y[torch.cat(list(self.split.values()))]
        check_labels(self.name, labels, 2 if self.metric in _RANKED else self.num_classes)

    @property
    def num_features(self) -> int:
        """Width of ``data.msg``; 0 without features."""
        return self.data.msg.size(1)

    @property
    def num_classes(self) -> int | None:
        """Number of classes of ``data.y``; ``None`` in a link task or a regression."""
        if self.kind == "link" or self.data.y.is_floating_point():
            return None
        return int(self.data.y.max()) + 1

    @property
    def out_channels(self) -> int:
        """Width of the output that a network needs: one score, or one for each class where classes are compared."""
        return 1 if self.num_classes is None or self.metric in _RANKED else self.num_classes

    @property
    def bipartite(self) -> bool:
        """Whether no node is the source of one event and the destination of another."""
        return not bool(torch.isin(self.data.src.unique(), self.data.dst.unique()).any())

    def target(self, which: str = "test") -> Tensor:
        """Return the labels of the events of a part of a node task, in its order.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            ValueError: If this is a link task.
        """
        if self.kind == "link":
            raise ValueError(f"{self.name} is a link task, which has no targets; evaluate takes scores of negatives")
        return self.data.y[self._check_part(which)]

    def negatives(self, which: str = "test", seed: int = 0) -> Tensor:
        """Return negative destinations of the events of a part, the same whenever they are asked for.

        Each is drawn evenly from all nodes, or if the graph is bipartite from all destinations, but the one that the
        event has.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.
            seed: Seed of the generator; each part has its own draws.

        Returns:
            One node for each event ``[n]``; or those that the set brings ``[n, M]``, where -1 is none.

        Raises:
            ValueError: If there is no other node to draw, or ``seed`` is not 0 although the set brings negatives.
        """
        dst = self.data.dst[self._check_part(which)]
        if which in self.given_negatives:
            if seed:
                raise ValueError(f"seed is {seed}, but {self.name} brings the negatives of {which!r}; leave it at 0")
            return self.given_negatives[which]
        choices = self.data.dst.unique() if self.bipartite else torch.arange(self.num_nodes)
        if len(choices) < 2:
            raise ValueError(f"{self.name} has one destination alone, so that no event has a negative")
        generator = torch.Generator().manual_seed(len(PARTS) * seed + PARTS.index(which))
        drawn = torch.randint(len(choices) - 1, dst.shape, generator=generator)
        return choices[drawn + (drawn >= torch.searchsorted(choices, dst)).long()]

    def inductive(self, which: str = "test") -> Tensor:
        """Tell which events of a part touch a node that is in no training event.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            A mask ``[n]`` of the events of the part, in its order.
        """
        seen = torch.zeros(self.num_nodes, dtype=torch.bool)
        train, ids = self.split["train"], self._check_part(which)
        seen[self.data.src[train]] = True
        seen[self.data.dst[train]] = True
        return ~(seen[self.data.src[ids]] & seen[self.data.dst[ids]])

    def evaluate(
        self,
        scores_pos: Tensor | np.ndarray,
        scores_neg: Tensor | np.ndarray | None = None,
        which: str = "test",
        inductive: bool = False,
    ) -> float:
        """Score predictions by the metric of the task, over all events of a part at once.

        Args:
            scores_pos: Scores of the events of the part, ``[n]``; in a node task predictions of their labels, ``[n]``
                or ``[n, out_channels]``.
            scores_neg: Scores of its negatives, in the shape of :meth:`negatives`; ``None`` in a node task.
            which: ``"train"``, ``"val"`` or ``"test"``.
            inductive: Whether only events count that :meth:`inductive` marks.

        Returns:
            The value of the metric.

        Raises:
            ValueError: If the scores do not match the events, one is NaN, or no event counts.
            ImportError: If the metric is TGB's and py-tgb is not installed.
        """
        ids = self._check_part(which)
        how = f"pass the rows of task.split[{which!r}], in its order, also where inductive=True"
        positive = self._rows(scores_pos, len(ids), which, how)
        counted = self.inductive(which) if inductive else torch.ones(len(ids), dtype=torch.bool)
        if not bool(counted.any()):
            raise ValueError(f"{which!r} of {self.name} has no event with a node that training has not seen")
        if (scores_neg is None) != (self.kind == "node"):
            expected = "None in a node task" if self.kind == "node" else "the scores of task.negatives(which)"
            raise ValueError(f"scores_neg is {type(scores_neg).__name__}; expected {expected}")
        if scores_neg is None:
            score = self.evaluator or METRICS[self.metric]
            return score(positive[counted], self.target(which)[counted])
        negative = self._rows(scores_neg, len(ids), which, how)
        shape = self.given_negatives[which].shape if which in self.given_negatives else ids.shape
        if positive.numel() != len(ids) or negative.numel() != shape.numel():
            raise ValueError(
                f"scores have shapes {tuple(positive.shape)} and {tuple(negative.shape)}, but events and negatives of "
                f"{which!r} have {(len(ids),)} and {tuple(shape)}"
            )
        negative = negative.reshape(shape)
        if which in self.given_negatives:
            negative = negative.masked_fill(self.given_negatives[which] < 0, -torch.inf)
        return (self.evaluator or links(self.metric))(positive.reshape(-1)[counted], negative[counted])
