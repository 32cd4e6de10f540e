"""Keys of a training: the schedule of the learning rate, the update, and the validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .attack import PRECISIONS
from .keys import key

THREADS = "CPU threads per process; null: divide the machine's among its processes"  # of every command that computes


@dataclass
class Schedule:
    epochs: int = key(100, "passes over the training images", low=1)
    optimizer: str = key("sgd", "optimizer", choices=("sgd", "adamw", "lars"))
    lr: float = key(0.1, "highest learning rate, before the scaling by schedule.lr_batch", low=0.0, high=1e38)
    lr_batch: int | None = key(
        None,
        "batch size that schedule.lr is meant for; scale rates by train.batch_size / lr_batch; null: do not scale",
        low=1,
    )
    momentum: float = key(0.9, "momentum (sgd, lars)", low=0.0, high=1.0)
    nesterov: bool = key(False, "Nesterov momentum (sgd)")
    weight_decay: float = key(3e-4, "weight decay", low=0.0)
    decay: str = key(
        "cosine",
        "shape of the learning rate after the warm-up",
        choices=("cosine", "multistep", "onecycle", "constant"),
    )
    final_lr: float = key(0.0, "learning rate at the end (cosine, onecycle)", low=0.0)
    milestones: list[float] = key(
        [0.6, 0.8], "multistep: fractions of the run at which to multiply the rate by schedule.gamma"
    )
    gamma: float = key(0.1, "multistep: factor at each of schedule.milestones", low=0.0, high=1.0)
    warmup: float = key(0.0, "length of the linear warm-up in schedule.warmup_unit (onecycle: of the rise)", low=0.0)
    warmup_unit: str = key(
        "epochs", "unit of schedule.warmup; a run cuts the warm-up to half of its steps", choices=("epochs", "steps")
    )
    warmup_start: float = key(0.0, "fraction of schedule.lr at the first step of the warm-up", low=0.0, high=1.0)


@dataclass
class Train:
    batch_size: int = key(128, "images per step over all processes; the run drops a last, smaller batch", low=1)
    first_size: int | None = key(
        None,
        "height and width in pixels of the training images at first, which then grow to data.size: cheaper steps; null: data.size",
        low=4,
    )
    size_ramp: float = key(
        0.0,
        "train.first_size: epochs in which the images grow, in multiples of 4 pixels, at the start of each epoch",
        low=0.0,
    )
    accumulate: int = key(
        1, "compute a process's share of a batch in this many parts, to save memory", low=1, where=True
    )
    activation_checkpointing: bool = key(
        False,
        "keep the inputs of blocks only, and compute the rest again for a gradient: less memory, slower",
        where=True,
    )
    precision: str = key("fp32", "autocast type of the update's forward and backward pass", choices=PRECISIONS)
    tf32: bool = key(
        False,
        "on an NVIDIA GPU since Ampere, use TF32 for what update and attack compute in fp32; validation stays fp32",
    )
    cudnn_benchmark: bool = key(
        False,
        "on a GPU, let cuDNN time its convolutions for each shape and keep the fastest; runs then differ by rounding",
        where=True,
    )
    clip: float | None = key(None, "clip the gradient to this l2 norm over all weights; null: do not clip", low=1e-12)
    ema: float = key(
        0.0,
        "decay of a running average of the weights, such as 0.995, which is validated, saved and transferred in their place, "
        "with batch-norm statistics of its own; 0: none",
        low=0.0,
        high=0.999999,
    )
    awp: float = key(
        0.0,
        "adversarial weight perturbation: take the update's gradient where each weight matrix is moved by this share of its "
        "length so that the loss rises, such as 0.01 (trades: 0.005); 0: none",
        low=0.0,
        high=1.0,
    )
    awp_after: int = key(0, "train.awp: epochs at the start without it", low=0)
    sync_bn: bool = key(
        False, "true: normalise over the images of all processes; false: over each process's share of them"
    )
    threads: int | None = key(None, THREADS, low=1, high=4096, where=True)
    log_every: int = key(20, "write a line of metrics every N steps", low=1, where=True)
    checkpoint_every: int = key(
        0, "write a checkpoint every N steps within an epoch; 0: at the end of epochs only", low=0, where=True
    )
    keep_last_epochs: int = key(
        0, "keep the checkpoints of the last K epochs too, as checkpoints/epoch_N.pt; 0: none", low=0, where=True
    )


@dataclass
class Validation:
    steps: int = key(10, "steps of the attack that measures the validation RA, within attack.eps", low=1, high=10_000)
    limit: int | None = key(None, "validate on the first N held-out images", low=1)
    every: int = key(1, "validate every N epochs, and always after the last", low=1)
    patience: int = key(0, "end after N validations in a row without a higher RA; 0: train all epochs", low=0)


def check_gpu_keys(config: Any) -> None:
    """Raises UserError for a key of GPUs where the run is told to use none."""
    for name in ("tf32", "cudnn_benchmark"):
        if getattr(config.train, name) and config.device == "cpu":
            raise UserError(f"train.{name}=true: needs a GPU, and device=cpu; drop one of them")


def check_schedule(schedule: Schedule) -> None:
    """Raises UserError for a schedule that no run can follow."""
    if schedule.lr <= 0:
        raise UserError(f"schedule.lr={schedule.lr:g}: must be above 0")
    if schedule.final_lr > schedule.lr:
        raise UserError(f"schedule.final_lr={schedule.final_lr:g}: above schedule.lr={schedule.lr:g}; lower it")
    if any(not 0 < m < 1 for m in schedule.milestones) or sorted(set(schedule.milestones)) != schedule.milestones:
        raise UserError(
            f"schedule.milestones={schedule.milestones}: must be rising fractions of the run, each above 0 and below 1"
        )
    if schedule.nesterov and (schedule.optimizer != "sgd" or schedule.momentum == 0):
        raise UserError(
            f"schedule.nesterov=true: needs schedule.optimizer=sgd with momentum, not {schedule.optimizer} with {schedule.momentum:g}"
        )
    if schedule.warmup_unit == "epochs" and schedule.warmup >= schedule.epochs and schedule.decay == "onecycle":
        raise UserError(
            f"schedule.warmup={schedule.warmup:g}: the rise must be shorter than schedule.epochs={schedule.epochs}"
        )
