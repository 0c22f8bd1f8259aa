"""What anything that trains uses, whatever its task: the loop, its recipe, checkpoints, seeds and what they ran on."""

from graphattn.engine.checkpoint import load_checkpoint, save_checkpoint
from graphattn.engine.environment import environment, peak_memory, reset_peak_memory
from graphattn.engine.loop import TrainingLog, train
from graphattn.engine.processes import Processes
from graphattn.engine.recipe import Recipe
from graphattn.engine.seeds import seeded

__all__ = [
    "Processes",
    "Recipe",
    "TrainingLog",
    "environment",
    "load_checkpoint",
    "peak_memory",
    "reset_peak_memory",
    "save_checkpoint",
    "seeded",
    "train",
]
