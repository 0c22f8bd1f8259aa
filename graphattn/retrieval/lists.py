"""RankedLists: what every re-ranker returns."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from graphattn.retrieval._run import Run
from graphattn.retrieval.runs import write_run


@dataclass(frozen=True, eq=False)
class RankedLists:
    r"""Result lists of some queries, best first: the re-ranked head, then the rest.

    Everything is a tensor, or a NumPy array where the queries were one.

    Args:
        indices: Ids in the gallery; -1 fills up.
        scores: Scores, larger is better, never increasing along a list; ``-inf`` where the id is -1.
        order: Where each entry stood in the list that came in: every row is a permutation, so that
            ``torch.take_along_dim(payload, lists.order, 1)`` sorts whatever belongs to the candidates.
        diagnostics: What happened: ``"method"`` and ``"transductive"`` (whether other queries took part), and per query
            ``"overlap"`` (part of the first ten that were among the first ten before), ``"kept"`` (whether the list
            kept its order), ``"duplicates"`` (repeated ids that were taken out) and what the method reports.

    Shapes:
        - ``indices``, ``scores``, ``order``: :math:`(Q, K)`; values of ``diagnostics``: :math:`(Q,)`

    Example:
        >>> lists = RankedLists(np.array([[7, 3]]), np.array([[0.9, 0.2]]), np.array([[1, 0]]))
        >>> lists
        RankedLists(1 x 2)
    """

    indices: Tensor | np.ndarray
    scores: Tensor | np.ndarray
    order: Tensor | np.ndarray
    diagnostics: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def numpy(self) -> RankedLists:
        """Return the same lists as NumPy arrays.

        Example:
            >>> lists = RankedLists(Tensor([[7]]).long(), Tensor([[0.9]]), Tensor([[0]]).long())
            >>> lists.numpy().indices
            array([[7]])
        """
        return RankedLists(
            _numpy(self.indices),
            _numpy(self.scores),
            _numpy(self.order),
            {name: _numpy(value) for name, value in self.diagnostics.items()},
        )

    def to_trec(
        self,
        path: str | Path,
        query_ids: Sequence[Hashable] | None = None,
        doc_ids: Sequence[Hashable] | None = None,
        tag: str = "graphattn",
    ) -> None:
        """Write a TREC run: ``query Q0 document rank score tag``, ranks from 1, scores strictly decreasing.

        Evaluation tools sort by score and break ties by document name, so equal scores are moved apart by the least
        step of float32. A file that is there is replaced once the new one is complete.

        Args:
            path: The file.
            query_ids: Names of the queries; their numbers by default.
            doc_ids: Names of the gallery items; their numbers by default.
            tag: Name of the run.

        Raises:
            ValueError: If ``query_ids`` is of another length than the lists, or a name contains white space.

        Example:
            >>> import tempfile
            >>> lists = RankedLists(np.array([[1, 0]]), np.array([[0.5, 0.5]], "f"), np.array([[1, 0]]))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     lists.to_trec(Path(folder) / "run", doc_ids=["a", "b"])
            ...     print((Path(folder) / "run").read_text(), end="")
            0 Q0 b 1 0.5 graphattn
            0 Q0 a 2 0.49999997 graphattn
        """
        write_run(path, Run.from_arrays(self.indices, self.scores, query_ids, doc_ids), tag)

    def __repr__(self) -> str:
        return f"RankedLists({len(self)} x {self.indices.shape[1]})"


def _numpy(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, Tensor) else value
