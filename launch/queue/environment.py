"""The environment in which Slurm's commands run. `sbatch` passes it on to the job.

A launch may start inside another job, or in a shell that has settings for Slurm. Slurm sets most of its variables anew in
the job but not all of them, and some override the script.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..profile import Slurm

# SBATCH_ variables override the lines of a script, SQUEUE_ variables hide jobs, SCANCEL_ variables ask for confirmation.
OF_SLURM = (
    "SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_", "SUBMITIT_",
    "PMI_", "PMI2_", "PMIX_",
)  # fmt: skip
OF_TORCHRUN = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE",
)  # fmt: skip
OF_GPUS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")  # which cluster, and the right to use it
DEFAULTS = (
    "account",
    "partition",
    "qos",
    "constraint",
    "reservation",
)  # keys of a profile that SBATCH_ variables may set


def without_job(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without the variables of a surrounding job or torchrun, and without settings of Slurm's commands.

    The variables that name the cluster stay.
    """
    foreign = (*OF_TORCHRUN, *OF_GPUS)
    return {
        name: value
        for name, value in environment.items()
        if name in KEPT or not (name.startswith(OF_SLURM) or name in foreign)
    }


def for_sbatch(settings: Slurm, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`without_job`, and the site's SBATCH_ACCOUNT, _PARTITION and so on (`DEFAULTS`) where the profile has no value of its own."""
    names = [f"SBATCH_{key.upper()}" for key in DEFAULTS if getattr(settings, key) is None]
    return without_job(environment) | {name: environment[name] for name in names if name in environment}
