"""What the processes of these tests have imported before they start."""

import contextlib

import torch
import torch._dynamo  # an optimizer imports it
import torch.distributed.fsdp
import torch.distributed.tensor

torch.set_num_threads(1)
with contextlib.suppress(ImportError):
    pass
