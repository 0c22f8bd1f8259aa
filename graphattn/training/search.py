"""Search: settings that validate best, found by Optuna among the usual ones; the test set is never looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphattn._files import whole
from graphattn._optional import require
from graphattn.datasets import EventTask
from graphattn.datasets.tasks import Task
from graphattn.training.experiment import BudgetError, Settings, as_plain, kind_of, run
from graphattn.training.networks import OURS

_GNNS = ("AttentionNet", "GCN", "SAGE", "GAT", "GATv2")
_ATTEMPTS = 5  # drawn for each trial at most, where many are above the budget of parameters
_UNSET = object()


def search(
    task: Task | EventTask,
    model: str,
    settings: Settings,
    *,
    trials: int,
    space: Mapping[str, Sequence[Any]] | None = None,
    seed: int = 0,
    out: str | Path,
    device: str = "auto",
    precision: str = "32-true",
    progress: bool = True,
    max_parameters: int | None = None,
) -> Settings:
    """Try some settings on one seed and return those with the best validation score.

    The first trial are the settings themselves. The others change width, depth, dropout, learning rate, weight decay
    and what the network has of its own, such as the decay of a diffusion; where they were chosen from is the same for
    every network. Networks above the budget of parameters do not count. The test scores of the trials are not used
    and not kept. A search that was stopped goes on where it was.

    Args:
        task: The task, which is left as it is.
        model: Name of the network.
        settings: What is changed.
        trials: Number of settings to try.
        space: Options of some settings by their path, such as ``{"recipe.lr": [0.01, 0.02]}``, in place of the usual
            ones; those of ``settings`` always come first.
        seed: Seed of all trials, and of the choice among settings.
        out: Folder that gets ``search.json``, with all trials, and ``trials.log``, with which Optuna goes on.
        device: Where networks are trained.
        precision: Precision of Lightning.
        progress: Whether progress bars are shown.
        max_parameters: Budget of parameters.

    Returns:
        The best settings.

    Raises:
        ValueError: If a name is unknown, or no trial has come to a score.
        ImportError: If Optuna is not installed; the extra ``search`` brings it.
    """
    if trials < 1:
        raise ValueError(f"trials is {trials}; expected at least 1")
    optuna = require("optuna", "search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    options = _with_current({**_usual_space(kind_of(task), model, settings), **(space or {})}, settings)
    study = optuna.create_study(
        study_name=f"{task.name}/{model}",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / "trials.log")),
        ),
        direction="maximize" if task.higher_is_better else "minimize",
        load_if_exists=True,
    )

    def objective(trial: Any) -> float:
        chosen = {path: values[trial.suggest_int(path, 0, len(values) - 1)] for path, values in options.items()}
        changed = _apply(settings, chosen)
        trial.set_user_attr("settings", as_plain(changed))
        try:
            result = run(
                task,
                model,
                changed,
                seed=seed,
                device=device,
                precision=precision,
                progress=progress,
                max_parameters=max_parameters,
            )
        except (FloatingPointError, MemoryError) as error:
            trial.set_user_attr("failed", str(error))
            raise optuna.TrialPruned from error
        except BudgetError as error:
            raise optuna.TrialPruned from error
        trial.set_user_attr("parameters", result.parameters)
        trial.set_user_attr("val_loss", result.epochs[result.best_epoch].get("val_loss"))
        return result.val

    for number in range(len(_ended(study)), _ATTEMPTS * trials):
        if len(_counted(study)) >= trials:
            break
        if number == 0:
            study.enqueue_trial(dict.fromkeys(options, 0))
        # Drawn from the number of the trial, so that a search that goes on does not try the same again.
        study.sampler = optuna.samplers.RandomSampler(seed=(seed << 16) + number)
        study.optimize(objective, n_trials=1)
        _write(study, folder / "search.json")
    scored = [trial for trial in study.trials if trial.value is not None]
    if not scored:
        raise ValueError(f"no settings of {model} on {task.name} came to a score; {folder / 'search.json'} tells why")
    sign = -1.0 if task.higher_is_better else 1.0
    best = min(scored, key=lambda trial: (sign * trial.value, trial.user_attrs["val_loss"] or 0.0))
    return Settings(**{"transform": {}, **best.user_attrs["settings"]})


def _usual_space(kind: str, model: str, settings: Settings) -> dict[str, Sequence[Any]]:
    """Return the options of each setting by its path."""
    if kind == "event":
        return _event_space(model, settings)
    widths = [64, 48, 32] if kind != "link" else [16, 12]
    space: dict[str, Sequence[Any]] = {
        "network.hidden_channels": widths,
        "network.dropout": [0.5, 0.2, 0.7] if kind == "node" else [0.0, 0.2, 0.5],
        "recipe.lr": [factor * settings.recipe["lr"] for factor in (1.0, 0.5, 2.0)],
        "recipe.weight_decay": [5e-4, 5e-5, 2e-3] if kind == "node" else [1e-6, 1e-3],
    }
    if model in _GNNS:
        space["network.num_layers"] = {"node": [2, 3, 5], "graph": [4, 3, 5], "link": [2, 1, 3]}[kind]
        space["network.norm"] = [None, "batch"] if model in OURS else [None, "batch_norm"]
        space["network.jump"] = [None, "cat"]
    elif model in ("GraphTransformer", "GPS", "SGFormer"):
        space["network.num_layers"] = [2, 1, 3]
    if model == "AttentionNet":
        space |= {
            "network.score": ["gatv2", "gat", "dot"],
            "network.residual": [False, True],
            "network.hops": [1, "inf"],
        }
    elif model == "InfDiffusionNet":
        space |= {
            "network.num_layers": [1, 2],
            "network.affinity": ["given", "learned"],
            "network.decay": [0.9, 0.8, 0.5],
        }
        if kind == "node":
            space["network.drop_node"] = [0.0, 0.5]
    elif model == "APPNP":
        space["network.decay"] = [0.9, 0.8, 0.5]
    if kind == "node":
        space["training.consistency"] = [None, {"runs": 2}]
    if kind == "graph":
        space["network.head.pool"] = ["mean", "add", "max"]
    elif kind == "link":
        space["network.head.decoder"] = ["mlp", "dot"]
    return space


def _event_space(model: str, settings: Settings) -> dict[str, Sequence[Any]]:
    space: dict[str, Sequence[Any]] = {
        "network.hidden_channels": [64, 32, 100],
        "network.dropout": [0.1, 0.0, 0.3],
        "recipe.lr": [factor * settings.recipe["lr"] for factor in (1.0, 0.3, 0.1, 3.0)],
    }
    if model in ("TGAT", "TemporalNet"):
        space["network.time_encoding"] = ["tgat", "bochner", "mercer"]
    return space


def _with_current(space: Mapping[str, Sequence[Any]], settings: Settings) -> dict[str, list[Any]]:
    """Let what is set now be the first option of every setting."""
    found = {}
    for path, options in space.items():
        now = _get(settings, path)
        found[path] = list(options) if now is _UNSET else [now, *(option for option in options if option != now)]
    return found


def _get(settings: Settings, path: str) -> Any:
    group, *names = path.split(".")
    value = getattr(settings, group)
    for name in names:
        value = value.get(name, _UNSET) if isinstance(value, Mapping) else _UNSET
    return value


def _apply(settings: Settings, chosen: Mapping[str, Any]) -> Settings:
    """Return the settings with chosen values at their paths."""
    for path, value in chosen.items():
        group, *names = path.split(".")
        for name in reversed(names):
            value = {name: value}
        settings = settings.updated({group: value})
    return settings


def _ended(study: Any) -> list[Any]:
    """Trials that came to an end; one that was stopped on its way is tried again."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _counted(study: Any) -> list[Any]:
    """Trials that came to an end, or failed in training; those above the budget of parameters do not count."""
    return [trial for trial in study.trials if trial.value is not None or "failed" in trial.user_attrs]


def _write(study: Any, path: Path) -> None:
    trials = [
        {"number": number, "state": trial.state.name.lower(), "validation": trial.value, **trial.user_attrs}
        for number, trial in enumerate(_ended(study))
    ]
    with whole(path) as file:
        file.write_text(json.dumps(trials, indent=2) + "\n")
