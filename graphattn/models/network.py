"""What the networks share: a configuration of plain values that builds the same network again."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from graphattn._names import nearest

_N = TypeVar("_N", bound="Network")


class Network(nn.Module):
    """A network that tells the arguments it was made with, so that a checkpoint can build it again.

    A subclass hands its arguments up, as the first line of its ``__init__``: ``super().__init__(locals())``. The
    arguments are numbers, strings, booleans, ``None``, lists and dictionaries of those, and other networks.

    Args:
        arguments: Arguments of the subclass by name; what is no argument of it is left out.

    Example:
        >>> class Scale(Network):
        ...     def __init__(self, factor: float = 2.0) -> None:
        ...         super().__init__(locals())
        >>> Scale(3.0).config
        {'model': 'Scale', 'factor': 3.0}
        >>> Scale.from_config({"factor": 3.0}).config["factor"]
        3.0
    """

    takes_affinity = True  #: Whether edges may come as an ``Affinity``, which keeps their sorted form between calls.

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        # A dictionary, so that a network among the arguments is not registered as a child a second time.
        self._arguments = {name: arguments[name] for name in _parameters(type(self))}

    @property
    def config(self) -> dict[str, Any]:
        """The name of the class as ``"model"`` and all its arguments, in values that JSON can hold."""
        return {"model": type(self).__name__, **{name: _plain(value) for name, value in self._arguments.items()}}

    @classmethod
    def from_config(cls: type[_N], config: Mapping[str, Any]) -> _N:
        """Build the network that a ``config`` describes, with new weights.

        Args:
            config: Arguments by name; those with a default may be missing, as may ``"model"``.

        Returns:
            The network.

        Raises:
            ValueError: If an argument is unknown or missing, or the config is of another class.
        """
        name = config.get("model", cls.__name__)
        if name != cls.__name__:
            raise ValueError(f"config is of {name!r}, not of {cls.__name__}; from_config of graphattn.models takes any")
        parameters = _parameters(cls)
        values = {key: _restored(value) for key, value in config.items() if key != "model"}
        for key in values:
            if key not in parameters:
                raise ValueError(f"config has {key!r}, which {cls.__name__} does not take; {_nearest(key, parameters)}")
        missing = [key for key, p in parameters.items() if p.default is inspect.Parameter.empty and key not in values]
        if missing:
            raise ValueError(f"config lacks {', '.join(map(repr, missing))}, which {cls.__name__} needs")
        return cls(**values)


def _parameters(cls: type[Network]) -> dict[str, inspect.Parameter]:
    """Arguments of a class, without ``self``."""
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])


def _plain(value: Any) -> Any:
    if isinstance(value, Network):
        return value.config
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    # JSON has no infinity.
    return "inf" if isinstance(value, float) and value == math.inf else value


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping) and "model" in value:
        return from_config(value)
    if isinstance(value, Mapping):
        return {key: _restored(item) for key, item in value.items()}
    return math.inf if value == "inf" else value


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    return f"did you mean {nearest(name, known)!r}?"


def reset(*modules: Any) -> None:
    """Draw the parameters of modules anew; those that are ``None`` or have none are left out."""
    for module in modules:
        if module is not None and not isinstance(module, nn.Identity):
            module.reset_parameters()


def from_config(config: Mapping[str, Any]) -> Network:
    """Build the network that a ``config`` describes, with new weights; its ``"model"`` names the class.

    Args:
        config: What ``network.config`` has returned, or a part of it: arguments with a default may be missing.

    Returns:
        The network.

    Raises:
        ValueError: If the class or an argument is unknown, or an argument without a default is missing.

    Example:
        >>> from graphattn.models import AttentionNet
        >>> net = from_config({"model": "AttentionNet", "in_channels": 5, "hidden_channels": 8, "out_channels": 3})
        >>> from_config(net.config).config == net.config
        True
    """
    from graphattn import models  # the classes import this module

    known = {cls.__name__: cls for cls in vars(models).values() if isinstance(cls, type) and issubclass(cls, Network)}
    name = config.get("model")
    if name not in known:
        names = ", ".join(sorted(known))
        raise ValueError(f"model is {name!r}; expected one of {names}; {_nearest(str(name), known)}")
    return known[name].from_config(config)
