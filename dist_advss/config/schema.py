"""Every key there is: the dataclass tree that a YAML file or a `key=value` must fit.

Each field says what it means, what it accepts and in which unit; `--help` prints these sentences. Nothing heavy is
imported here, so a configuration can be checked on a login node in a moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .backbones import MODELS
from .engines import ENGINES, ZERO, EngineKind
from .keys import REQUIRED, group, key
from .objectives import Objective
from .sets import DATASETS

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass
class Data:
    name: str = key(REQUIRED, "which set of images", choices=DATASETS)
    root: str | None = key(None, "folder that holds the set; fashion_mini needs none, fashion_mnist finds Debian's")
    stage: str | None = key(
        None,
        "folder on a disk of the node, such as '$TMPDIR', to which data.root is copied first, once a node",
        where=True,
    )
    download: bool = key(False, "fetch the set into data.root when it is not there (torchvision's sets)")
    size: int = key(32, "height and width of an image in pixels", low=8, high=512)
    channels: int = key(3, "colour channels", choices=(1, 3))
    classes: int = key(10, "number of classes", low=2)
    validation: float = key(
        0.1, "share of the training images held out, stratified, the same in every phase", low=0.01, high=0.5
    )
    limit: int | None = key(
        None, "take the first N training images (evaluate: the first N evaluated)", low=1, inherited=False
    )
    labels: int | None = key(
        None,
        "keep N labelled training images, stratified: the low-label setting",
        low=1,
        inherited=False,
        needs_labels=True,
    )
    loader: str = key(
        "auto",
        "memory: all images in main memory; ffcv: decoded from .beton files; auto: ffcv where it is installed",
        choices=("auto", "memory", "ffcv"),
        where=True,
    )
    beton: str | None = key(
        None,
        "ffcv: folder of train.beton and test.beton, written where missing; null: in ~/.cache/dist_advss",
        where=True,
    )
    jpeg: float | None = key(
        None, "ffcv: share of the images stored as JPEG; null: none up to 96 pixels, all above", low=0, high=1
    )
    quality: int = key(90, "ffcv: JPEG quality of what is stored", low=1, high=100)
    max_side: int = key(
        512, "ffcv: longest side of a stored image in pixels, where data.size is above 96", low=32, high=8192
    )
    crop: str = key(
        "centre",
        "centre: the largest square; random: in training a random part, scaled (RandomResizedCrop); needs ffcv",
        choices=("centre", "random"),
    )
    crop_area: float = key(0.08, "crop=random: smallest share of an image's area that is shown", low=0.01, high=1.0)


@dataclass
class Model:
    name: str = key(REQUIRED, "backbone", choices=MODELS)
    width: int | None = key(
        None, "channels of the first stage (preact_small); null: the published width", low=4, per_member=True
    )
    members: list[str] | None = key(
        None,
        "ensemble: run folders or checkpoints, as [RUN,RUN,RUN]; fine-tuned ones, or for finetune pre-trained ones",
    )
    mean: list[float] | None = key(
        None, "normalisation inside the model, per channel; null: ImageNet's", per_member=True
    )
    std: list[float] | None = key(
        None, "normalisation inside the model, per channel; null: ImageNet's", per_member=True
    )


@dataclass
class Attack:
    norm: str = key("linf", "norm of the ball", choices=("linf", "l2"))
    eps: float = key(8 / 255, "radius of the ball, images in [0,1]; a fraction such as 8/255 is accepted", low=0.0)
    steps: int = key(
        10, "gradient steps; 0: no attack (eps still says against what RA is measured)", low=0, high=10_000
    )
    step_size: float | None = key(
        None, "length of a step in the ball's norm; null: eps/4, or 1.25 eps/steps for fewer than five steps", low=0.0
    )
    random_start: bool = key(True, "start at a uniform random point of the ball instead of its centre")
    restarts: int = key(1, "independent starts; the one with the highest loss is kept", low=1, high=1000)
    keep: str = key("last", "last: the last iterate; any: the first iterate or restart that fools", ("last", "any"))
    batch_norm: str = key(
        "train",
        "in training: train (statistics move, the paper), batch (batch statistics, nothing moves), eval",
        choices=("train", "batch", "eval"),
    )
    precision: str = key("fp32", "autocast of the attack's forward and backward pass", choices=PRECISIONS)


@dataclass
class Engine:
    name: str = key("single", "how processes share the work", choices=tuple(ENGINES))
    zero: int = key(
        2, "deepspeed: what is in shares; 1: optimizer state, 2: and gradients, 3: and weights", tuple(ZERO)
    )

    @property
    def kind(self) -> EngineKind:
        """Its entry in the table."""
        return ENGINES[self.name]

    @property
    def shards(self) -> frozenset[str]:
        """Which of "weights", "gradients" and "optimizer" are split over the processes."""
        return ZERO[self.zero] if self.kind.zero else self.kind.shards

    @property
    def title(self) -> str:
        """The name as it is printed, such as `deepspeed (ZeRO 2)`."""
        return f"{self.name} (ZeRO {self.zero})" if self.kind.zero else self.name


@dataclass
class Guard:
    hang_s: float = key(
        900, "seconds without a step after which a job writes its stacks and ends with code 75", low=1, high=1e6
    )
    start_s: float = key(
        1800,
        "the same for the first step, which compiles and warms up file systems, and for processes to meet",
        low=1,
        high=1e6,
    )


@dataclass
class Schedule:
    epochs: int = key(100, "passes over the training images", low=1)
    optimizer: str = key("sgd", "optimizer", choices=("sgd", "adamw", "lars"))
    lr: float = key(0.1, "highest learning rate", low=0.0, high=1e38)
    lr_batch: int | None = key(
        None,
        "batch size that lr is meant for: rates are scaled by train.batch_size / lr_batch; null: not scaled",
        low=1,
    )
    momentum: float = key(0.9, "momentum (sgd, lars)", low=0.0, high=1.0)
    nesterov: bool = key(False, "Nesterov momentum (sgd)")
    weight_decay: float = key(3e-4, "weight decay", low=0.0)
    decay: str = key("cosine", "shape after the warm-up", choices=("cosine", "multistep", "onecycle", "constant"))
    final_lr: float = key(0.0, "learning rate at the end (cosine, onecycle)", low=0.0)
    milestones: list[float] = key([0.6, 0.8], "shares of the run at which the rate is multiplied by gamma (multistep)")
    gamma: float = key(0.1, "factor at each milestone (multistep)", low=0.0, high=1.0)
    warmup: float = key(0.0, "length of the linear warm-up, in warmup_unit (onecycle: of the rise)", low=0.0)
    warmup_unit: str = key("epochs", "unit of warmup, which is cut to half of the run", choices=("epochs", "steps"))
    warmup_start: float = key(0.0, "share of lr at the first step of the warm-up", low=0.0, high=1.0)


@dataclass
class Train:
    batch_size: int = key(128, "images per step over all processes; a last, smaller batch is dropped", low=1)
    accumulate: int = key(
        1, "parts in which a process computes its share of a batch, to save memory", low=1, where=True
    )
    precision: str = key("fp32", "autocast of the update's forward and backward pass", choices=PRECISIONS)
    clip: float | None = key(None, "longest gradient (l2 norm over all weights); null: not clipped", low=1e-12)
    sync_bn: bool = key(False, "batch norm over the global batch; false: over each process's share of it")
    threads: int | None = key(
        None, "CPU threads of a process; null: this machine's, shared by its processes", low=1, where=True
    )
    log_every: int = key(20, "steps between two lines of metrics", low=1, where=True)
    checkpoint_every: int = key(
        0, "steps between two checkpoints within an epoch; 0: at the end of epochs only", low=0, where=True
    )


@dataclass
class Validation:
    steps: int = key(10, "attack steps of the validation RA, in the ball of attack.eps", low=1)
    limit: int | None = key(None, "validate on the first N held-out images", low=1)
    every: int = key(1, "epochs between two validations (the last epoch always is one)", low=1)


@dataclass
class Tracking:
    wandb: str = key(
        "disabled",
        "Weights & Biases; online is offline where there is no key or network",
        ("disabled", "offline", "online"),
    )
    project: str = key("dist_advss", "wandb project")
    entity: str | None = key(None, "wandb entity; null: your default")
    group: str | None = key(None, "wandb group; null: the launch this run belongs to")
    tags: list[str] = key([], "wandb tags, such as [ablation,eps4]")
    notes: str | None = key(None, "a sentence shown with the run in wandb")
    checkpoints: bool = key(False, "upload the checkpoints of a finished run as one wandb artifact")
    wait: float = key(30.0, "seconds that a run waits at its end for wandb; dist-advss sync sends the rest", low=0)


@dataclass
class TrainConfig:
    """What `pretrain` and `finetune` take."""

    out: str = key(REQUIRED, "run folder; the same command with the same folder resumes", where=True, per_run=True)
    seed: int = key(0, "names every random draw of the run", low=0)
    device: str = key("auto", "auto: a GPU when there is one", choices=("auto", "cpu", "cuda"), where=True)
    init: str | None = key(
        None, "run folder or checkpoint whose encoder (theta_p) is transferred; null: random (P1)", per_run=True
    )
    freeze: str = key(
        "none", "encoder: theta_p stays as loaded (F1, F2); none: every weight (F3, F4)", ("none", "encoder")
    )
    data: Data = group(Data, inherited=True)
    model: Model = group(Model, inherited=True)
    objective: Any = group(Objective)
    attack: Attack = group(Attack)
    engine: Engine = group(Engine, where=True)
    guard: Guard = group(Guard, where=True)
    schedule: Schedule = group(Schedule)
    train: Train = group(Train)
    validation: Validation = group(Validation)
    tracking: Tracking = group(Tracking, where=True)


@dataclass
class EvaluateConfig:
    """What `evaluate` takes; data and model are those of the checkpoint unless overridden."""

    checkpoint: str | None = key(
        None, "run folder of a fine-tuning, or one of its checkpoint files; needed but for model=ensemble", per_run=True
    )
    pick: str = key("best_ra", "which checkpoint of a run folder", choices=("best_ra", "best_ta", "last"))
    out: str = key(
        REQUIRED, "folder of the evaluation; the same command again resumes or does nothing", where=True, per_run=True
    )
    split: str = key("test", "which images", choices=("test", "validation"))
    seed: int = key(0, "names the attack's random starts", low=0)
    device: str = key("auto", "auto: a GPU when there is one", choices=("auto", "cpu", "cuda"), where=True)
    batch_size: int = key(250, "images per forward pass of a process", low=1)
    threads: int | None = key(
        None, "CPU threads of a process; null: this machine's, shared by its processes", low=1, where=True
    )
    data: Data = group(Data, inherited=True)
    model: Model = group(Model, inherited=True)
    attack: Attack = group(Attack)
    guard: Guard = group(Guard, where=True)
    tracking: Tracking = group(Tracking, where=True)


@dataclass
class TransferConfig:
    """What `transfer` takes; data is that of the first source unless overridden."""

    sources: list[str] = key(
        REQUIRED, "runs or checkpoints on which adversarial images are found, as [RUN,RUN]", per_run=True
    )
    targets: list[str] | None = key(None, "runs or checkpoints on which they are tried; null: the sources")
    pick: str = key("best_ra", "which checkpoint of a run folder", choices=("best_ra", "best_ta", "last"))
    out: str = key(REQUIRED, "folder of the result; the same command again does nothing", where=True, per_run=True)
    split: str = key("test", "which images", choices=("test", "validation"))
    seed: int = key(0, "names the attack's random starts and the pretext tasks' questions", low=0)
    device: str = key("auto", "auto: a GPU when there is one", choices=("auto", "cpu", "cuda"), where=True)
    batch_size: int = key(250, "images per forward pass of a process", low=1)
    threads: int | None = key(
        None, "CPU threads of a process; null: this machine's, shared by its processes", low=1, where=True
    )
    data: Data = group(Data, inherited=True)
    attack: Attack = group(Attack)
    guard: Guard = group(Guard, where=True)
