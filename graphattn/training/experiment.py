"""Experiments: one network on one task, from its name and plain settings, so that anyone can repeat them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from graphattn._names import nearest
from graphattn.datasets import EventTask, GraphTask, transform
from graphattn.datasets.tasks import Task
from graphattn.engine import Recipe
from graphattn.models.network import Network
from graphattn.training._checks import kind_of
from graphattn.training.consistency import Consistency
from graphattn.training.event_networks import EVENT_MODELS
from graphattn.training.fit import Result, fit
from graphattn.training.networks import (
    ALL_MODELS,
    MODELS,
    check_model,
    make_network,
    reads_edges,
    without_edge_features,
)

__all__ = [
    "ALL_MODELS",
    "EVENT_MODELS",
    "MODELS",
    "BudgetError",
    "Settings",
    "as_plain",
    "default_settings",
    "kind_of",
    "prepare",
    "run",
]


class BudgetError(ValueError):
    """Tell that a network is larger than the budget.

    Example:
        >>> issubclass(BudgetError, ValueError)
        True
    """


@dataclass(frozen=True)
class Settings:
    """How a network is made and trained, in plain values that YAML and JSON can hold.

    Args:
        network: Arguments of the network, without those that follow from the data; those of a head under ``"head"``.
        recipe: Arguments of :class:`~graphattn.engine.Recipe`.
        transform: Transforms of the data by name, as :func:`~graphattn.datasets.transform` takes them.
        training: ``num_neighbors``, ``eval_neighbors``, ``max_minutes`` and ``consistency`` of
            :func:`~graphattn.training.fit`, the last as its arguments.

    Example:
        >>> settings = default_settings("node", "GAT").updated({"network": {"heads": 4}})
        >>> settings.network["heads"], settings.recipe["epochs"]
        (4, 300)
    """

    network: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    transform: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def updated(self, other: Mapping[str, Mapping[str, Any]]) -> Settings:
        """Return these settings with some of them changed.

        Args:
            other: Changes by group. Options of ``network``, ``recipe`` and ``training`` are changed one by one, and
                those of ``head`` and ``consistency`` as well; transforms are an ordered list and replaced as a whole.

        Raises:
            ValueError: If a group, an argument of the recipe or one of the training is unknown.
        """
        groups = {item.name for item in fields(Settings)}
        known = {"recipe": {item.name for item in fields(Recipe)}, "training": _TRAINING}
        changed = {}
        for group, options in other.items():
            _check_name(group, groups, "settings")
            if not isinstance(options, Mapping):
                raise ValueError(f"settings have {group} of type {type(options).__name__}; expected a mapping")
            for name in options:
                if group in known:
                    _check_name(name, known[group], group)
            changed[group] = dict(options) if group == "transform" else _merged(getattr(self, group), options)
        return replace(self, **changed)


_TRAINING = {"num_neighbors", "eval_neighbors", "max_minutes", "consistency"}


def _check_name(name: str, known: set[str], where: str) -> None:
    if name not in known:
        near = nearest(name, sorted(known))
        raise ValueError(f"{where} has {name!r}, which is unknown; did you mean {near!r}?")


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for name, value in new.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def default_settings(kind: str, model: str) -> Settings:
    """Return the settings of a network where nothing better is known.

    Args:
        kind: ``"node"``, ``"graph"``, ``"link"`` or ``"event"``.
        model: Name of the network.

    Raises:
        ValueError: If the kind or the name is unknown.

    Example:
        >>> default_settings("graph", "GCN").recipe["batch_size"]
        64
    """
    if kind not in _RECIPES:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(map(repr, _RECIPES))}")
    check_model(model, kind)
    if kind == "event":
        return _event_settings(model)
    network: dict[str, Any] = {"hidden_channels": 64, "dropout": 0.5 if kind == "node" else 0.0}
    if model in ("AttentionNet", "GraphTransformer", "GAT", "GATv2", "GPS"):
        network["heads"] = 4
    if model != "APPNP":
        network["num_layers"] = {"node": 2, "graph": 4, "link": 2}[kind]
    if model == "InfDiffusionNet":
        network["num_layers"] = 1 if kind == "node" else 2
    if kind == "graph":
        network["head"] = {"pool": "mean"}
        if model not in ("APPNP", "SGFormer", "GPS"):
            network["norm"] = "batch_norm" if model in ("GCN", "SAGE", "GAT", "GATv2") else "batch"
        if model in ("GCN", "SAGE", "SGFormer"):
            network["encoder"] = "linear"
    if kind == "link":
        network["head"] = {"decoder": "mlp"}
        network["hidden_channels"] = 16
        if model == "GPS":
            network["heads"] = 2
    return Settings(network, dict(_RECIPES[kind]), {"SparseFeatures": {}} if kind == "node" else {})


def _event_settings(model: str) -> Settings:
    network: dict[str, Any] = {"hidden_channels": 64, "dropout": 0.1}
    if model != "TGN":
        network["num_layers"] = 1
    if model not in ("GCN", "SAGE"):
        network["heads"] = 2
    return Settings(network, dict(_RECIPES["event"]))


_RECIPES: dict[str, dict[str, Any]] = {
    "node": {
        "epochs": 300,
        "batch_size": None,
        "lr": 0.01,
        "optimizer": "adam",
        "weight_decay": 5e-4,
        "schedule": "constant",
        "warmup": 0.0,
        "clip": None,
        "patience": 100,
    },
    # The rate of a recipe is that of a batch of 256: steps of 64 graphs have a rate of 0.001.
    "graph": {"epochs": 300, "batch_size": 64, "lr": 0.004, "optimizer": "adamw", "warmup": 0.05, "patience": 60},
    # Steps of 200 events one of 0.001.
    "event": {
        "epochs": 50,
        "batch_size": 200,
        "lr": 0.00128,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
        "clip": None,
        "patience": 5,
    },
    # And those of 65,536 links one of 0.005.
    "link": {"epochs": 300, "batch_size": 65536, "lr": 2e-5, "optimizer": "adamw", "warmup": 0.0, "patience": 60},
}


def prepare(task: Task | EventTask, model: str, settings: Settings) -> tuple[Network, Task | EventTask]:
    """Build the network of an experiment, and put the task through what its settings say.

    Networks that read no edge features are given none; links of a graph without features are predicted from a vector
    learned for each node.

    Args:
        task: The task, which is left as it is.
        model: Name of the network.
        settings: How it is made.

    Returns:
        The network, and the task that it is trained on.

    Raises:
        ValueError: If a name or an option is unknown.

    Example:
        >>> from graphattn.datasets import load
        >>> network, task = prepare(load("karate"), "GCN", default_settings("node", "GCN"))
        >>> network.config["conv"], list(task.transform)
        ('gcn', ['SparseFeatures'])
    """
    check_model(model)
    if isinstance(task, EventTask):
        if settings.transform:
            raise ValueError(f"transform is {', '.join(settings.transform)}, but {task.name} is a stream of events")
        return make_network(model, task, settings.network), task
    if not isinstance(task, GraphTask) and task.data.x is None:
        task = transform(task, {"NodeIds": {}})
    else:
        task = transform(task, settings.transform)
    if not reads_edges(model, settings.network):
        task = without_edge_features(task)
    return make_network(model, task, settings.network), task


def run(
    task: Task | EventTask,
    model: str,
    settings: Settings,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: str = "32-true",
    progress: bool = True,
    max_parameters: int | None = None,
) -> Result:
    """Train a network on a task with one seed.

    Args:
        task: The task, which is left as it is.
        model: Name of the network, one of ``MODELS`` or, for events, of ``EVENT_MODELS``.
        settings: How it is made and trained.
        seed: Seed of weights, batches and dropout.
        out: Folder of the run, as in :func:`~graphattn.training.fit`, as are the arguments that follow.
        resume: Whether to go on with what is in ``out``.
        device: Where it is trained.
        devices: How many of them.
        strategy: How they work together.
        num_nodes: Number of machines.
        precision: Precision of Lightning.
        progress: Whether a progress bar is shown.
        max_parameters: Budget of parameters; a larger network is refused.

    Returns:
        The scores.

    Raises:
        ValueError: If a name or an option is unknown; :class:`BudgetError` if the network is too large.

    Example:
        >>> from graphattn.datasets import load
        >>> settings = default_settings("node", "GCN").updated({"recipe": {"epochs": 5}})
        >>> len(run(load("karate"), "GCN", settings, progress=False).epochs)
        5
    """
    network, task = prepare(task, model, settings)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if max_parameters is not None and parameters > max_parameters:
        raise BudgetError(f"{model} has {parameters} parameters, the budget is {max_parameters}; make it narrower")
    training = dict(settings.training)
    consistency = training.pop("consistency", None)
    return fit(
        network,
        task,
        Recipe(**settings.recipe),
        seed=seed,
        out=out,
        resume=resume,
        device=device,
        devices=devices,
        strategy=strategy,
        num_nodes=num_nodes,
        precision=precision,
        progress=progress,
        consistency=None if consistency is None else Consistency(**consistency),
        **training,
    )


def as_plain(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the groups of settings that are not empty.

    Example:
        >>> as_plain(Settings({"heads": 2}))
        {'network': {'heads': 2}}
    """
    return {group: options for group, options in asdict(settings).items() if options}
