"""What a run will take before it is submitted: memory, time and traffic, for GPUs that need not be here.

`estimate(config, Cluster(gpu="h100", nodes=4))` is what `dist-advss plan` prints.
"""

from .estimate import Cluster, Estimate, estimate

__all__ = ["Cluster", "Estimate", "estimate"]
