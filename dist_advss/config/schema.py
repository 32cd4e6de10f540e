"""All configuration keys, as dataclasses. YAML files and `key=value` words must fit them.

Each field holds a sentence with its meaning and unit, and its accepted values. `--help` prints them. This module imports
no torch, so a login node checks a configuration within a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .attack import Attack
from .corruptions import CORRUPTIONS
from .engines import ENGINES, ZERO, EngineKind
from .keys import REQUIRED, group, key
from .objectives import Objective
from .overfitting import Overfitting
from .profile import Profile
from .protocols import PROTOCOLS
from .pseudo import Pseudo
from .sets import DATASETS
from .suites import Suite
from .sweep import Sweep
from .tracking import Tracking
from .training import THREADS, Schedule, Train, Validation
from .unforeseen import STRENGTHS, UNFORESEEN


@dataclass
class Data:
    name: str = key(REQUIRED, "image set to read", choices=DATASETS)
    root: str | None = key(
        None,
        "folder of the image set; fashion_mini needs none, fashion_mnist defaults to Debian's package",
        where=True,
        path=True,
    )
    stage: str | None = key(
        None,
        "copy the set, or the beton, to this node-local folder first, such as '$TMPDIR'; once per node",
        where=True,
        path=True,
        inherited=False,
    )
    download: bool = key(False, "download the set into data.root if it is missing (torchvision's sets)", where=True)
    size: int = key(32, "height and width of an image in pixels", low=8, high=512)
    channels: int = key(3, "colour channels", choices=(1, 3))
    classes: int | None = key(
        10,
        "number of classes; null: as many as the set has, or none for images without labels (pretrain)",
        low=1,
        high=1_000_000,
    )
    validation: float = key(
        0.1,
        "fraction of the training images to hold out, stratified; all phases hold out the same images",
        low=0.01,
        high=0.5,
    )
    limit: int | None = key(
        None,
        "use the first N training images (evaluate, transfer: the first N images of split)",
        low=1,
        inherited=False,
    )
    labels: int | None = key(
        None,
        "use N labelled training images, stratified, one or more of each class (low-label setting); at most data.limit",
        low=1,
        inherited=False,
        needs_labels=True,
    )
    loader: str = key(
        "auto",
        "memory: keep all images in main memory; ffcv: decode .beton files; auto: ffcv if it is installed",
        choices=("auto", "memory", "ffcv"),
        where=True,
    )
    beton: str | None = key(
        None,
        "ffcv: folder of train.beton and test.beton; the run writes missing ones; null: in ~/.cache/dist_advss",
        where=True,
        path=True,
    )
    jpeg: float | None = key(
        None, "ffcv: fraction of the images to store as JPEG; null: 0 for data.size up to 96, 1 above", low=0, high=1
    )
    quality: int = key(90, "ffcv: JPEG quality of the images that data.jpeg selects", low=1, high=100)
    max_side: int = key(
        512, "ffcv: longest side of a stored image in pixels; used for data.size above 96", low=32, high=8192
    )
    crop: str = key(
        "centre",
        "centre: show the largest square; random: RandomResizedCrop in training, needs data.loader=ffcv",
        choices=("centre", "random"),
    )
    crop_area: float = key(0.08, "data.crop=random: smallest fraction of an image's area to show", low=0.01, high=1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.size, self.size


@dataclass
class Model:
    name: str = key(
        REQUIRED,
        "backbone: one of configs/model, timm:NAME or torchvision:NAME; commands that judge also take FILE.py:FUNCTION",
    )
    width: int | None = key(
        None, "preact_small: channels of the first stage; null: the published width", low=4, high=4096, per_member=True
    )
    patch: int | None = key(
        None,
        "model=timm:NAME: side of a patch in pixels, such as 4 for a ViT on small images; null: as in the name",
        low=1,
        per_member=True,
    )
    members: list[str] | None = key(
        None,
        "model=ensemble: run folders or checkpoints, as [RUN,RUN,RUN]; fine-tuned, for finetune also pre-trained",
        path=True,
    )
    mean: list[float] | None = key(
        None, "mean that the model subtracts, per channel; null: ImageNet's (timm: that of the name)", per_member=True
    )
    std: list[float] | None = key(
        None,
        "standard deviation that the model divides by, per channel; null: ImageNet's (timm: that of the name)",
        per_member=True,
    )


@dataclass
class Engine:
    name: str = key("single", "how to split the work over processes; single: one process", choices=tuple(ENGINES))
    zero: int = key(
        2, "deepspeed: parts to shard; 0: none, 1: optimizer state, 2: also gradients, 3: also weights", tuple(ZERO)
    )

    @property
    def kind(self) -> EngineKind:
        """The engine's entry in `ENGINES`."""
        return ENGINES[self.name]

    @property
    def shards(self) -> frozenset[str]:
        """The parts among "weights", "gradients" and "optimizer" that the processes shard."""
        return ZERO[self.zero] if self.kind.zero else self.kind.shards

    @property
    def title(self) -> str:
        """The name to print, such as `deepspeed (ZeRO 2)`."""
        return f"{self.name} (ZeRO {self.zero})" if self.kind.zero else self.name


@dataclass
class Guard:
    hang_s: float = key(
        900.0,
        "end a job with code 75 after this many seconds without a step; it writes its stacks first",
        low=1,
        high=1e6,
    )
    start_s: float = key(
        1800.0,
        "the same limit for the first step, which includes compilation but not reading images, and for processes to connect",
        low=1,
        high=1e6,
    )


@dataclass
class TrainConfig:
    """The keys of `pretrain` and `finetune`."""

    out: str = key(REQUIRED, "run folder; rerun the same command to resume", where=True, per_run=True, path=True)
    seed: int = key(0, "seed of every random draw of the run", low=0)
    device: str = key("auto", "auto: a GPU if there is one", choices=("auto", "cpu", "cuda"), where=True)
    init: str | None = key(
        None,
        "run folder or checkpoint to load the encoder (theta_p) from; null: random weights (P1)",
        per_run=True,
        path=True,
    )
    protocol: str | None = key(
        None,
        "fine-tuning as later papers do it, from all of a backbone but its linear layer; the group sets reuse, freeze, "
        "objective, attack, schedule and train.batch_size. slf: train a zero linear layer on clean images; alf: on PGD-10 "
        "images; aff: train all weights with TRADES; aff_plus: aff with train.ema and train.awp",
        choices=(None, *PROTOCOLS),
        needs_labels=True,
    )
    reuse: str = key(
        "encoder",
        "what init gives. encoder: theta_p, all stages but the last (F1 to F4); backbone: also the last stage, where init has one; "
        "classifier: also the linear layer, of the same classes",
        choices=("encoder", "backbone", "classifier"),
    )
    freeze: str = key(
        "none",
        "encoder: keep theta_p as loaded from init (F1, F2); backbone: train the linear layer only, with reuse=backbone (SLF, "
        "ALF); none: train all weights (F3, F4, AFF)",
        ("none", "encoder", "backbone"),
    )
    data: Data = group(Data, inherited=True)
    pseudo: Pseudo = group(Pseudo)
    model: Model = group(Model, inherited=True)
    objective: Any = group(Objective)
    attack: Attack = group(Attack)
    engine: Engine = group(Engine, where=True)
    guard: Guard = group(Guard, where=True)
    schedule: Schedule = group(Schedule)
    train: Train = group(Train)
    validation: Validation = group(Validation)
    overfitting: Overfitting = group(Overfitting)
    tracking: Tracking = group(Tracking, where=True)
    profile: Profile = group(Profile, where=True)


@dataclass
class JudgeConfig:
    """What `evaluate`, `corruptions` and `unforeseen` share. `data` and `model` come from the checkpoint unless you override them."""

    checkpoint: str | None = key(
        None,
        "fine-tuned run folder, or one of its checkpoint files; required unless model=ensemble",
        per_run=True,
        path=True,
    )
    pick: str = key("best_ra", "checkpoint to read from a run folder", choices=("best_ra", "best_ta", "last"))
    out: str = key(
        REQUIRED,
        "folder of the evaluation; rerun the same command to resume, a finished one is kept",
        where=True,
        per_run=True,
        path=True,
    )
    split: str = key("test", "images to use", choices=("test", "validation"))
    seed: int = key(0, "seed of the random draws: starts of the attack, corruptions", low=0)
    device: str = key("auto", "auto: a GPU if there is one", choices=("auto", "cpu", "cuda"), where=True)
    batch_size: int = key(
        250, "images that a process takes at a time; a rerun with AutoAttack or unforeseen may change it", low=1
    )
    threads: int | None = key(None, THREADS, low=1, high=4096, where=True)
    data: Data = group(Data, inherited=True)
    model: Model = group(Model, inherited=True)
    guard: Guard = group(Guard, where=True)
    tracking: Tracking = group(Tracking, where=True)


@dataclass
class EvaluateConfig(JudgeConfig):
    """The keys of `evaluate`."""

    attack: Attack = group(Attack)
    sweep: Sweep = group(Sweep)
    suite: Suite = group(Suite)


@dataclass
class CorruptionsConfig(JudgeConfig):
    """The keys of `corruptions`."""

    kinds: list[str] = key(list(CORRUPTIONS), "corruptions to apply, such as [fog,snow]")
    severities: list[int] = key([1, 2, 3, 4, 5], "severities to apply, 1 to 5")
    published: str | None = key(
        None,
        "folder of published corrupted images, KIND.npy and labels.npy as in CIFAR-10-C; null: corrupt the images here",
        path=True,
    )
    baseline: str | None = key(
        None, "finished corruptions run on the same images whose errors count as 100 in mCE", path=True
    )


@dataclass
class UnforeseenConfig(JudgeConfig):
    """The keys of `unforeseen`."""

    kinds: list[str] = key(list(UNFORESEEN), "attacks to run, such as [l1,elastic]")
    strengths: list[str] = key(list(STRENGTHS), "calibrated strengths to run, some of low, medium and high")
    steps: int = key(20, "gradient steps in the latent of an attack", low=1, high=10_000)


@dataclass
class TransferConfig:
    """The keys of `transfer`. `data` comes from the first source unless you override it."""

    sources: list[str] = key(
        REQUIRED, "runs, checkpoints or FILE.py:FUNCTION to attack, as [RUN,RUN]", per_run=True, path=True
    )
    targets: list[str] | None = key(
        None, "runs, checkpoints or FILE.py:FUNCTION to test on the adversarial images; null: the sources", path=True
    )
    pick: str = key("best_ra", "checkpoint to read from a run folder", choices=("best_ra", "best_ta", "last"))
    out: str = key(
        REQUIRED,
        "folder of the result; rerunning the same command keeps a finished one",
        where=True,
        per_run=True,
        path=True,
    )
    trust: list[str] = key(
        [],
        "files that this command may run, as [FILE.py:CLASS]: the objectives of runs with a pretext task of yours",
        where=True,
    )
    split: str = key("test", "images to use", choices=("test", "validation"))
    seed: int = key(0, "seed of the attack's random starts and of the pretext tasks' draws", low=0)
    device: str = key("auto", "auto: a GPU if there is one", choices=("auto", "cpu", "cuda"), where=True)
    batch_size: int = key(250, "images per forward pass of a process", low=1)
    threads: int | None = key(None, THREADS, low=1, high=4096, where=True)
    data: Data = group(Data, inherited=True)
    attack: Attack = group(Attack)
    guard: Guard = group(Guard, where=True)
