"""Named data as tasks: what ships embedded, what is downloaded, and files of one's own."""

from graphattn.datasets.badges import load_badges
from graphattn.datasets.catalog import load, names
from graphattn.datasets.chronological import chronological_split
from graphattn.datasets.events import EventTask
from graphattn.datasets.local import read_local
from graphattn.datasets.sequences import EventWindows, SequenceTask, periodic_events
from graphattn.datasets.tasks import GraphTask, LinkTask, NodeTask
from graphattn.datasets.transforming import transform

__all__ = [
    "EventTask",
    "EventWindows",
    "GraphTask",
    "LinkTask",
    "NodeTask",
    "SequenceTask",
    "chronological_split",
    "load",
    "load_badges",
    "names",
    "periodic_events",
    "read_local",
    "transform",
]
