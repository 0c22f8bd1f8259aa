"""Where the numbers of each epoch go while a network is trained: a progress bar, a file of lines, TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from graphattn._optional import is_available


class Report:
    """Write down the epochs of a training run, those before it was stopped included.

    Args:
        epochs: The numbers of the epochs that were there before.
        total: How many epochs there are to be.
        metrics: File of JSON lines; ``None`` for none.
        tensorboard: Folder for TensorBoard; ``None`` for none, as where it is not installed.
        progress: Whether a progress bar is shown.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lines = Path(folder) / "run.jsonl"
        ...     with Report([{"loss": 2.0}], 2, metrics=lines) as report:
        ...         report.add(1, {"loss": 1.0})
        ...     print(lines.read_text().splitlines()[1])
        {"epoch": 1, "loss": 1.0}
    """

    def __init__(
        self,
        epochs: list[dict[str, float]],
        total: int,
        *,
        metrics: str | Path | None = None,
        tensorboard: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        self.first = len(epochs)
        self.metrics = None if metrics is None else Path(metrics)
        self.tensorboard = tensorboard if is_available("tensorboard") else None
        self._writer: Any = None
        self._bar = tqdm(total=total, initial=len(epochs), desc="epochs", disable=not progress)
        if self.metrics is not None:
            self.metrics.write_text("".join(_line(number, means) for number, means in enumerate(epochs)))

    def add(self, epoch: int, means: dict[str, float]) -> None:
        """Write down an epoch.

        Args:
            epoch: Its number.
            means: Its losses and scores by name.
        """
        if self.metrics is not None:
            with self.metrics.open("a") as lines:
                lines.write(_line(epoch, means))
        if self.tensorboard is not None:
            self._write_scalars(epoch, means)
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()}, refresh=False)
        self._bar.update()

    def _write_scalars(self, epoch: int, means: dict[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a run that was stopped has written of an epoch that is now repeated is purged.
            self._writer = SummaryWriter(self.tensorboard, purge_step=self.first)
        for name, value in means.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()


def _line(epoch: int, means: dict[str, float]) -> str:
    return json.dumps({"epoch": epoch, **means}) + "\n"
