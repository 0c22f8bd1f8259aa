"""Reading what attention does: the moves of a layer's rows while a network learns."""

from graphattn.analysis import transport
from graphattn.analysis.projection_recorder import ProjectionRecorder

__all__ = ["ProjectionRecorder", "transport"]
