"""Named data as tasks: what ships embedded, what is downloaded, and files of one's own."""

from graphattn.datasets.catalog import load, names
from graphattn.datasets.local import read_local
from graphattn.datasets.tasks import GraphTask, LinkTask, NodeTask
from graphattn.datasets.transforming import transform

__all__ = ["GraphTask", "LinkTask", "NodeTask", "load", "names", "read_local", "transform"]
