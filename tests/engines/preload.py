"""What the processes of these tests have imported before they start."""

import contextlib

import hydra.utils
import scipy.stats
import torch
import torch._dynamo  # an optimizer imports it
import torch.distributed.fsdp
import torch.distributed.tensor

import dist_advss.config.inherit
import dist_advss.evaluation.run
import dist_advss.training.run

torch.set_num_threads(1)
with contextlib.suppress(ImportError):
    import deepspeed

__all__ = ["deepspeed", "dist_advss", "hydra", "scipy", "torch"]
