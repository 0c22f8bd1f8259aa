"""Training on tasks: one function that fits a network, what it returns, and sampled neighbourhoods."""

from graphattn.engine import Recipe
from graphattn.training.consistency import Consistency
from graphattn.training.fit import EventResult, Result, fit, load_model
from graphattn.training.sampling import NeighborSampler
from graphattn.training.sequences import SequenceResult, fit_sequences
from graphattn.training.temporal_sampling import TemporalSampler

__all__ = [
    "Consistency",
    "EventResult",
    "NeighborSampler",
    "Recipe",
    "Result",
    "SequenceResult",
    "TemporalSampler",
    "fit",
    "fit_sequences",
    "load_model",
]
