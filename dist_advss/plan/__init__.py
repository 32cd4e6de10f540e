"""Estimates memory, time and traffic of a run before you submit it, for GPUs that you do not have yet.

`estimate(config, Cluster(gpu="h100", nodes=4))` is what `dist-advss plan` prints.
"""

from .estimate import Cluster, Estimate, estimate

__all__ = ["Cluster", "Estimate", "estimate"]
