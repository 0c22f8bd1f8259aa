"""How a non-parametric transformer is trained on a table, and asked about rows that are not in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from graphattn.affinity import SparseAffinity
from graphattn.models.non_parametric_transformer import NonParametricTransformer
from graphattn.models.table_masking import annealed, mask_table, table_loss
from graphattn.tabular._inter_row import part, row_chunks

_HOTTEST = 2.0  # the largest temperature, a power of 10


@dataclass(frozen=True)
class Objective:
    """What is hidden in training, and what counts how much.

    Args:
        num_targets: Target columns, the last ones.
        p_feature: Probability that a feature is selected.
        p_target: Probability that a target is hidden; with 1 no row ever sees the target of another.
        feature_weight: Weight of the features in the loss at the start, which falls to 0.
        compat: ``"npt"`` for the masks of the authors' code.
    """

    num_targets: int
    p_feature: float
    p_target: float
    feature_weight: float
    compat: str | None


class TableTask:
    """The losses of training steps, each on a chunk of the rows of a table.

    Args:
        model: The network.
        table: Encoded cells ``[n, d]``, NaN where they are missing.
        rows: Which rows draw on which, all on all if ``None``.
        objective: What is hidden.
        chunk_size: Rows of a step.
        num_steps: Length of the training, over which the weight of the features falls.
    """

    def __init__(
        self,
        model: NonParametricTransformer,
        table: Tensor,
        rows: SparseAffinity | None,
        objective: Objective,
        chunk_size: int,
        num_steps: int,
    ) -> None:
        self.model, self.table, self.rows, self.objective = model, table, rows, objective
        self.chunk_size, self.num_steps, self.step = chunk_size, num_steps, 0
        self.chunks: Iterator[Tensor] = row_chunks(table.size(0), chunk_size, rows, table.device)

    def losses(self, _: Tensor) -> dict[str, Tensor]:
        """Return the losses of the next step."""
        chosen = next(self.chunks)
        whole = chosen.numel() == self.table.size(0)
        table = self.table if whole else self.table[chosen]
        rows = self.rows if whole or self.rows is None else part(self.rows, chosen, chosen)
        weight = annealed(min(1.0, self.step / self.num_steps), self.objective.feature_weight)
        self.step += 1
        x, hidden = table.nan_to_num(nan=0.0), table.isnan()
        masked = mask_table(
            x,
            hidden,
            self.model.categories,
            self.objective.num_targets,
            p=self.objective.p_feature,
            p_target=self.objective.p_target,
            compat=self.objective.compat,
        )
        outputs = self.model(masked.x, masked.hidden, rows)
        return table_loss(outputs, x, masked.scored, self.model.categories, self.objective.num_targets, weight)


@torch.no_grad()
def ask(
    model: NonParametricTransformer,
    context: Tensor,
    queries: Tensor,
    rows: SparseAffinity | None,
    *,
    num_targets: int,
    hide_targets: bool,
    semi_supervised: bool,
    chunk: int,
) -> list[Tensor]:
    """Predict the target columns of rows from those of a table.

    Args:
        model: The network, in evaluation mode.
        context: Encoded cells ``[m, d]`` of the table.
        queries: Encoded cells ``[q, d]``, whose targets are not read.
        rows: Which of all ``m + q`` rows draw on which; if ``None`` all on the table, and queries on themselves.
        num_targets: Target columns, the last ones.
        hide_targets: Whether the targets of the table are hidden too, as those of training with ``p_target=1`` are.
        semi_supervised: Whether all rows draw on queries too; not with ``rows``.
        chunk: Rows that a layer computes at a time.

    Returns:
        For each target column predicted numbers ``[q, 1]``, or logits ``[q, c]``.
    """
    table = torch.cat([context, queries])
    hidden = table.isnan()
    first = table.size(1) - num_targets
    hidden[0 if hide_targets else context.size(0) :, first:] = True
    num_context = context.size(0) if rows is None and not semi_supervised else None
    h = model.encode(table, hidden, rows, num_context=num_context, chunk=chunk)[context.size(0) :]
    return [model.decode(h, column) for column in range(first, table.size(1))]


def error(outputs: Sequence[Tensor], table: Tensor, categories: Sequence[int]) -> float:
    """Return the mean over target columns of the cross entropy, or the squared error, of predictions.

    Args:
        outputs: What was predicted for the target columns, the last ones.
        table: The true cells, all targets known.
        categories: For each column its number of categories.
    """
    first, losses = table.size(1) - len(outputs), []
    for column, output in enumerate(outputs, first):
        true = table[:, column]
        losses.append(
            F.cross_entropy(output, true.long()) if categories[column] else (output[:, 0] - true).square().mean()
        )
    return float(torch.stack(losses).mean())


def temperature(logits: Tensor, true: Tensor) -> float:
    """Return what to divide logits by so that their cross entropy is least, 1 at least.

    Networks of this size are too sure of themselves. That a few rows are all classified well is no reason to be surer.

    Args:
        logits: Logits ``[n, c]`` of rows that were held out.
        true: Their classes ``[n]``.
    """
    found = minimize_scalar(
        lambda power: float(F.cross_entropy(logits / 10**power, true)),
        bounds=(0.0, _HOTTEST),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(10**found.x)
