"""What ``graphattn bench`` is going to run: every model on every set, with its settings, checked before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphattn._optional import require
from graphattn.cli._bench_options import Options, dump, near, read_defaults
from graphattn.cli._checks import UserError, usable_device
from graphattn.cli._files import make_folder, write_text
from graphattn.datasets import names
from graphattn.engine import Recipe
from graphattn.training.experiment import ALL_MODELS, Settings, default_settings, kind_of, prepare
from graphattn.training.loading import Tasks, split_of

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_LOCAL = "local:"
_PLAN = "plan.yaml"


@dataclass(frozen=True)
class Experiment:
    """One model on one set.

    Args:
        dataset: The set as it is loaded.
        task: Its name.
        metric: Its metric.
        split: The split that is asked for, in which ``{seed}`` stands for the seed; ``None`` for that of the set.
        split_name: Its name for seed 0.
        model: Name of the network.
        settings: How it is made and trained.
        sources: Where the settings come from, the last of which win.
        folder: Where its runs are kept.
    """

    dataset: str
    task: str
    metric: str
    split: str | None
    split_name: str
    model: str
    settings: Settings
    sources: str
    folder: Path

    def split_of(self, seed: int) -> str:
        """Return the name of the split of a seed."""
        own = split_of(self.split, seed)
        return self.split_name if own is None or own == self.split else own


def make_plan(options: Options, tasks: Tasks) -> list[Experiment]:
    """Find the settings of every model on every set, and build each network once to see that they fit.

    Raises:
        UserError: If a name or a setting is unknown or unsound, or files are missing.
    """
    with explained():
        require("lightning_fabric", "train")
        if options.search is not None:
            require("optuna", "search")
    if options.device != "auto":
        usable_device(options.device)
    models = [_known(model, ALL_MODELS, "--model") for model in options.model]
    sets = {name.lower().replace("_", "-"): name for name in names()}
    datasets = [_canonical(dataset, sets) for dataset in options.dataset]
    settings = {_known(model, ALL_MODELS, "settings"): groups for model, groups in options.settings.items()}
    given = {}
    for dataset, values in options.per_dataset.items():
        name = _canonical(dataset, sets)
        if not name.startswith(_LOCAL):
            _known(name, sets.values(), "per_dataset")
        given[name] = _checked(values, f"per_dataset of {name}")
    plan: list[Experiment] = []
    for dataset in datasets:
        asked = {"per_dataset": given.get(dataset, {}), "settings": settings}
        part = _plan_dataset(dataset, models, asked, options, tasks)
        if any(part[0].folder == other.folder for other in plan):
            raise UserError(f"--dataset names several sets that are called {part[0].task}; give each another --out")
        plan += part
    return plan


def _plan_dataset(
    dataset: str, models: list[str], given: Mapping[str, Any], options: Options, tasks: Tasks
) -> list[Experiment]:
    path = _CONFIGS / f"{dataset}.yaml"
    stored = _checked(read_defaults(path), str(path)) if path.is_file() else {}
    split = options.split or given["per_dataset"].get("split") or stored.get("split")
    with explained(dataset):
        task = tasks.load(dataset, split)
    kind, changes = kind_of(task), options.groups()
    layers = {
        path.name: stored.get("settings", {}),
        "per_dataset": given["per_dataset"].get("settings", {}),
        "settings": given["settings"],
        f"options {_listed(changes)}": dict.fromkeys(models, changes) if changes else {},
    }
    part = []
    for model in models:
        sources = [f"defaults for {kind} tasks", *(name for name, layer in layers.items() if model in layer)]
        with explained(f"{dataset}, {model}"):
            settings = default_settings(kind, model)
            for layer in layers.values():
                settings = settings.updated(layer.get(model, {}))
            prepare(task, model, settings)
        with explained(f"{dataset}, {model}, recipe"):
            Recipe(**settings.recipe)
        names = (dataset, task.name, task.metric, split, task.split_name, model)
        part.append(Experiment(*names, settings, " < ".join(sources), Path(options.out) / task.name / model))
    return part


def _listed(changes: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{group}.{name}" if name else group for group in changes for name in changes[group] or [""])


def _canonical(dataset: str, sets: Mapping[str, str]) -> str:
    return dataset if dataset.startswith(_LOCAL) else sets.get(dataset.lower().replace("_", "-"), dataset)


def _known(name: str, known: Any, where: str) -> str:
    """Return a name as it is spelt, or say which is near."""
    spelt = {option.lower(): option for option in known}
    if name.lower() not in spelt:
        raise UserError(f"{where} names {name}, which is unknown{near(name, known)}")
    return spelt[name.lower()]


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Refuse a file or an option that says anything but the split and the settings of models."""
    for name in values:
        _known(name, ("split", "settings"), where)
    settings = values.get("settings") or {}
    if not isinstance(settings, Mapping):
        raise UserError(f"{where} has settings of type {type(settings).__name__}; expected a mapping of models")
    return {
        "split": values.get("split"),
        "settings": {_known(model, ALL_MODELS, where): settings[model] for model in settings},
    }


def as_config(options: Options, plan: list[Experiment]) -> str:
    """Return YAML that, given as ``--config``, runs the same."""
    kept = ("seeds", "max_parameters", "search", "root", "out", "device", "devices", "strategy", "precision")
    per_dataset: dict[str, Any] = {}
    for item in plan:
        entry = per_dataset.setdefault(item.dataset, {"split": item.split, "settings": {}})
        entry["settings"][item.model] = asdict(item.settings)
    values = {
        "dataset": list(per_dataset),
        "model": list(dict.fromkeys(item.model for item in plan)),
        **{name: getattr(options, name) for name in kept if getattr(options, name) is not None},
        "per_dataset": per_dataset,
    }
    return dump(values)


def check_folders(options: Options, plan: list[Experiment]) -> None:
    """Refuse to mix new runs with those that are there, unless they are to be gone on with and were asked for alike.

    Raises:
        UserError: If there is something that does not belong to this call.
    """
    for item in plan:
        if not item.folder.exists() or not any(item.folder.iterdir()):
            continue
        if not options.resume:
            raise UserError(f"{item.folder} has runs; --resume goes on with them, another --out begins anew")
        path, yaml = item.folder / _PLAN, require("yaml", "train")
        if not path.exists():
            raise UserError(f"{item.folder} has no {_PLAN}: graphattn bench did not begin it; take another --out")
        with explained(str(path), yaml.YAMLError):
            old = yaml.safe_load(path.read_text(encoding="utf-8"))
        difference = _difference(old, yaml.safe_load(dump(_asked(options, item))))
        if difference:
            raise UserError(f"{item.folder} was begun with other settings: {difference}; take another --out")


def begin(options: Options, item: Experiment) -> None:
    """Make the folder of an experiment, with a note of what was asked for."""
    make_folder(item.folder)
    write_text(item.folder / _PLAN, dump(_asked(options, item)))


def _asked(options: Options, item: Experiment) -> dict[str, Any]:
    shared = {name: getattr(options, name) for name in ("precision", "search", "max_parameters")}
    return {"dataset": item.dataset, "split": item.split, **shared, "settings": asdict(item.settings)}


def _difference(old: Any, new: Any, path: str = "") -> str:
    """Return where two nests of mappings differ first."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return "" if old == new else f"{path} was {old}, is {new}"
    for name in [*new, *(name for name in old if name not in new)]:
        found = _difference(old.get(name), new.get(name), f"{path}.{name}".removeprefix("."))
        if found:
            return found
    return ""


@contextmanager
def explained(where: str | None = None, *kinds: type[Exception]) -> Iterator[None]:
    """Let errors that are the input's be said without a traceback, after what they are about if they do not name it."""
    mistakes: tuple[type[Exception], ...] = (ValueError, TypeError, OSError, ImportError, *kinds)
    try:
        yield
    except mistakes as error:
        message = str(error)
        raise UserError(message if where is None or where in message else f"{where}: {message}") from error
