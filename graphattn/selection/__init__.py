"""Feature selection by diffusion over an affinity between features: a scikit-learn selector per published method."""

from graphattn.affinity.dispersion import DispersionCollapsedWarning
from graphattn.diffusion import ConvergenceWarning
from graphattn.selection.ecfs import ECFS
from graphattn.selection.ilfs import ILFS
from graphattn.selection.inf_fs import InfFS
from graphattn.selection.inf_fs_supervised import InfFSSupervised

__all__ = ["ECFS", "ILFS", "ConvergenceWarning", "DispersionCollapsedWarning", "InfFS", "InfFSSupervised"]
