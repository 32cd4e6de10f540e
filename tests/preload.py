"""What child processes of the tests have done before they start: the server that forks them imports this module.

Nothing is computed, because threads of OpenMP do not survive a fork. Nothing that a command would read is read here, because
tests count what a process reads.
"""

import contextlib
import gc
import importlib

import hydra
import torch

from dist_advss.config.compose import config_dir

MODULES = [
    "PIL.Image",
    "pytest",
    "scipy.stats",
    "torch._dynamo",  # an optimizer imports it
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "dist_advss.data.betons.decode",
    "dist_advss.data.betons.ffcv_loader",
    "dist_advss.data.betons.write",
    "dist_advss.data.sets.fashion",
    "dist_advss.evaluation.run",
    "dist_advss.evaluation.transfer",
    "dist_advss.report.page",
    "dist_advss.training.run",
    "launch.submit",
    # deepspeed.initialize imports these
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "setuptools",
    "torch._inductor.compile_fx",
]
for module in MODULES:
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module(module)
torch.set_num_threads(1)

# hydra looks for its plug-ins when it composes for the first time
with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
    hydra.compose("pretrain")
# numba's declarations are loaded with the first compiled function, also when that is in the cache
with contextlib.suppress(ImportError):
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()
# DeepSpeed tries once which operations could be compiled here
with contextlib.suppress(ImportError, AttributeError):
    from deepspeed.ops import __compatible_ops__  # noqa: F401

gc.collect()
gc.freeze()  # so that a collection in a fork leaves memory shared
