"""What anything that trains uses, whatever its task: the loop, its recipe, checkpoints, and seeds."""

from graphattn.engine.checkpoint import load_checkpoint, save_checkpoint
from graphattn.engine.loop import TrainingLog, train
from graphattn.engine.recipe import Recipe
from graphattn.engine.seeds import seeded

__all__ = ["Recipe", "TrainingLog", "load_checkpoint", "save_checkpoint", "seeded", "train"]
