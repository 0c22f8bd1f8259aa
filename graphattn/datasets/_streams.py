"""What tasks of events in time refuse: times that are not finite, negative, unsorted or too large for float64."""

from __future__ import annotations

import torch
from torch import Tensor

EXACT = 1 << 53  # up to here float64 holds every integer


def check_stream_times(name: str, t: object, size: int, starts: Tensor | None = None) -> None:
    """Raise unless there is a sound time for each event, sorted.

    Args:
        name: Name of the set.
        t: The times, int64 or float64.
        size: Number of events.
        starts: Where times start anew, if they are those of several sequences.

    Raises:
        TypeError: If the times are no tensor of int64 or float64.
        ValueError: If a time is NaN, infinite, negative or beyond :math:`2^{53}`, or less than the one before.
    """
    if not isinstance(t, Tensor) or t.dtype not in (torch.int64, torch.float64):
        found = f"have dtype {t.dtype}" if isinstance(t, Tensor) else f"are a {type(t).__name__}"
        raise TypeError(f"times of {name} {found}; expected a Tensor of int64 or float64: float32 rounds seconds away")
    if t.shape != (size,):
        raise ValueError(f"times of {name} have shape {tuple(t.shape)}; expected ({size},), one for each event")
    wrong = ~torch.isfinite(t)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(f"times of {name} hold {int(wrong.sum())} NaN or infinite values, the first at event {row}")
    if not size:
        return
    low, high = t.min().item(), t.max().item()
    if low < 0:
        row = int((t < 0).nonzero()[0])
        raise ValueError(
            f"times of {name} are negative, the first, {t[row].item()}, at event {row}; shift them: t - t.min()"
        )
    if high > EXACT:
        raise ValueError(
            f"times of {name} reach {high}, beyond 2**53, where float64 rounds; if they are nanoseconds since 1970, "
            "convert them to seconds: (t - t.min()).double() / 1e9"
        )
    falls = t[1:] < t[:-1]
    if starts is not None:
        falls[starts[(starts > 0) & (starts < size)] - 1] = False
    if bool(falls.any()):
        row = int(falls.nonzero()[0]) + 1
        raise ValueError(
            f"times of {name} are not sorted: event {row} at {t[row].item()} comes after event {row - 1} at "
            f"{t[row - 1].item()}; sort the events, such as by t.argsort(stable=True)"
        )


def check_integers(name: str, what: str, values: object) -> None:
    """Raise unless values are a vector of int64.

    Args:
        name: Name of the set.
        what: What the values are, in the plural.
        values: The vector.

    Raises:
        TypeError: If they are not.
    """
    if isinstance(values, Tensor) and values.dtype == torch.int64 and values.dim() == 1:
        return
    found = f"shape {tuple(values.shape)} and {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
    raise TypeError(f"{what} of {name} are {found}; expected a vector of int64")
