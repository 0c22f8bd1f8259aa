"""Many hops over one affinity: truncated sums, the sum over every hop, personalized PageRank and the heat kernel."""

from graphattn.diffusion.heat import heat
from graphattn.diffusion.neumann import neumann
from graphattn.diffusion.pagerank import pagerank
from graphattn.diffusion.resolvent import resolvent, solve
from graphattn.diffusion.solvers import ConvergenceWarning, Solution

__all__ = ["ConvergenceWarning", "Solution", "heat", "neumann", "pagerank", "resolvent", "solve"]
