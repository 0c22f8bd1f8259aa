"""Training on tasks: one function that fits a network, what it returns, and sampled neighbourhoods."""

from graphattn.engine import Recipe
from graphattn.training.consistency import Consistency
from graphattn.training.fit import Result, fit, load_model
from graphattn.training.sampling import NeighborSampler
from graphattn.training.temporal_sampling import TemporalSampler

__all__ = ["Consistency", "NeighborSampler", "Recipe", "Result", "TemporalSampler", "fit", "load_model"]
