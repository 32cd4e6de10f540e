"""The table of objectives, and the keys of each. `objective.name` accepts its names.

A new objective is a subclass of `dist_advss.objectives.Objective`, a dataclass of its keys here with an entry in OBJECTIVES,
and `configs/objective/NAME.yaml`. Its class variables hold the facts that checks, `plan` and engines need.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .keys import REQUIRED, key


@dataclass
class Objective:
    """The keys and facts of every objective.

    build               "module:class", called as build(keys, backbone), or build(keys, backbone, classes) when labelled
    labelled            learns from labels, in `finetune`; otherwise a pretext task, in `pretrain`
    joinable            can be learned together with other pretext tasks (objective=joint)
    looks_at_patches    its encoder sees patches of an image, which can use separate batch norms (objective.patch_bn)
    needs_attack        has no loss without adversarial examples
    needs_random_start  the gradient of its attack's loss is zero at the clean image
    double_backward     its loss contains gradients, so training differentiates twice
    couples_rows        the loss of an image depends on the other images of the batch
    views               number of independently augmented versions of each image that `prepare` gets
    """

    build: ClassVar[str] = ""
    labelled: ClassVar[bool] = False
    joinable: ClassVar[bool] = False
    looks_at_patches: ClassVar[bool] = False
    needs_attack: ClassVar[bool] = False
    needs_random_start: ClassVar[bool] = False
    double_backward: ClassVar[bool] = False
    couples_rows: ClassVar[bool] = False
    views: ClassVar[int] = 1
    name: str = key(REQUIRED, "what to learn")
    flip: bool = key(True, "augmentation: mirror half of the images")
    pad: int = key(4, "augmentation: pad by this many pixels, then crop at random; 0: no crop", low=0, high=64)

    def of_epoch(self, epoch: int, epochs: int) -> dict[str, float]:
        """What the keys come to in an epoch, counted from 0, of a run of `epochs`, by its name in metrics.jsonl."""
        return {}


@dataclass
class TwoPasses:
    """The key of objectives whose step runs the network on clean and on adversarial inputs."""

    first: str = key(
        "adversarial",
        "inputs that the network sees first in a step; the later ones count more in batch norm's running statistics",
        choices=("adversarial", "clean"),
    )


@dataclass
class RotationKeys:
    """Rotation's keys, alone and in joint pre-training."""

    balanced: bool = key(
        False, "true: turn one of every four images of a batch by each angle; false: draw each image's angle alone"
    )


@dataclass
class Rotation(RotationKeys, TwoPasses, Objective):
    build: ClassVar[str] = "dist_advss.objectives.rotation:Rotation"
    joinable: ClassVar[bool] = True
    name: str = key("rotation", "what to learn", choices=("rotation",))


@dataclass
class JigsawKeys:
    """Jigsaw's keys, alone and in joint pre-training."""

    grid: int = key(4, "tiles per side; must divide data.size", low=2, high=8)
    permutations: int = key(30, "fixed random permutations to tell apart (the answer 0 is 'untouched')", low=1)
    untouched: float = key(0.1, "probability of forcing 'untouched', in addition to drawing it", low=0, high=1)


@dataclass
class Jigsaw(JigsawKeys, TwoPasses, Objective):
    build: ClassVar[str] = "dist_advss.objectives.jigsaw:Jigsaw"
    joinable: ClassVar[bool] = True
    name: str = key("jigsaw", "what to learn", choices=("jigsaw",))


@dataclass
class SelfieKeys:
    """Selfie's keys, alone and in joint pre-training."""

    grid: int = key(4, "patches per side; must divide data.size", low=2, high=8)
    masked: int = key(4, "patches to mask, the same for the whole batch; fewer than grid*grid", low=2, high=32)
    layers: int = key(13, "transformer layers of the attention pooling", low=1, high=48)
    heads: int = key(16, "attention heads; must divide the width of theta_p's output", low=1, high=64)
    ffn: int = key(2048, "width inside the feed-forward parts", low=8, high=65_536)
    dropout: float = key(0.1, "dropout in the attention pooling", low=0.0, high=0.9)
    double_softmax: bool = key(False, "feed probabilities to the cross-entropy, as the published code does by mistake")


@dataclass
class Selfie(SelfieKeys, TwoPasses, Objective):
    build: ClassVar[str] = "dist_advss.objectives.selfie:Selfie"
    joinable: ClassVar[bool] = True
    looks_at_patches: ClassVar[bool] = True
    name: str = key("selfie", "what to learn", choices=("selfie",))
    flip: bool = key(False, "augmentation: mirror half of the images")
    pad: int = key(2, "augmentation: pad by this many pixels, then crop at random; 0: no crop", low=0, high=64)


@dataclass
class Diversity:
    """h, the mean log-determinant of the tasks' input gradients. It is 0 for orthogonal gradients and falls as they align."""

    weight: float = key(0.1, "weight of the diversity term h; 0: do not compute it", low=0.0)
    sign: str = key(
        "published",
        "published: the weights descend loss + weight*h, which aligns gradients (a fault); reward: loss - weight*h",
        choices=("published", "reward"),
    )
    in_attack: bool = key(
        True, "true: the attack ascends the losses + weight*h; false: the losses alone, in a third less time"
    )


@dataclass
class Joint(Objective):
    build: ClassVar[str] = "dist_advss.objectives.joint:Joint"
    double_backward: ClassVar[bool] = True
    name: str = key("joint", "what to learn", choices=("joint",))
    tasks: list[str] = key(
        ["selfie", "jigsaw", "rotation"], "tasks to learn together: two or more of selfie, jigsaw, rotation"
    )
    patch_bn: bool = key(
        False, "true: separate batch norms for Selfie's patches; false: the same as for whole images (published)"
    )
    first: str = key(
        "adversarial",
        "inputs that the network sees first in a step; published: Jigsaw clean, then adversarial, Rotation adversarial, then "
        "clean, Selfie clean, then adversarial",
        choices=("adversarial", "clean", "published"),
    )
    diversity: Diversity = field(default_factory=Diversity)
    rotation: RotationKeys = field(default_factory=RotationKeys)
    jigsaw: JigsawKeys = field(default_factory=JigsawKeys)
    selfie: SelfieKeys = field(default_factory=SelfieKeys)


@dataclass
class Contrastive(Objective):
    """The keys of objectives that compare two strong views of each image, `data/views.py`."""

    couples_rows: ClassVar[bool] = True
    views: ClassVar[int] = 2
    pad: int = key(0, "augmentation: not used, as views are resized crops", low=0, high=0)
    crop_area: float = key(
        0.1, "augmentation: smallest fraction of an image's area that a view shows", low=0.01, high=1.0
    )
    jitter: float = key(
        0.4,
        "augmentation: change of brightness, contrast and saturation, and four times that of hue; 0: none",
        low=0,
        high=1,
    )
    grey: float = key(0.2, "augmentation: probability of a grey view; for images with three channels", low=0, high=1)
    anneal_every: int = key(
        0,
        "weaken crop, jitter and grey every N epochs, from the full strength in the first epoch towards none at the end of "
        "the run (DynACL: 50 of 1,000); 0: full strength throughout",
        low=0,
    )

    def strength(self, epoch: int, epochs: int) -> float:
        """s of the epoch, counted from 0, in a run of `epochs`: 1 - (K floor(epoch / K)) / epochs with K = anneal_every.

        Luo et al. 2023 (arXiv 2303.01289) count from 1: s(e) = 1 - (e - 1) / E at e = 1, K + 1, 2 K + 1, …
        """
        return 1 - epoch // self.anneal_every * self.anneal_every / epochs if self.anneal_every else 1.0

    def of_epoch(self, epoch: int, epochs: int) -> dict[str, float]:
        return {"view_strength": self.strength(epoch, epochs)} if self.anneal_every else {}


@dataclass
class SimCLR(TwoPasses, Contrastive):
    build: ClassVar[str] = "dist_advss.objectives.simclr:SimCLR"
    name: str = key("simclr", "what to learn", choices=("simclr",))
    temperature: float = key(0.5, "temperature of NT-Xent", low=0.01, high=10)
    projector: int = key(512, "width of the three layers between the backbone and the loss", low=2, high=65_536)
    pairs: str = key(
        "ds",
        "with an attack, the views that meet. ds: two clean ones and two adversarial ones; a2a: two adversarial ones; a2s: an "
        "adversarial and a clean one",
        choices=("ds", "a2a", "a2s"),
    )
    dual_norms: bool = key(
        False, "true: clean images have batch norms of their own (ACL), and those of adversarial images are transferred"
    )
    momentum: float = key(
        0.0,
        "the second view goes through a moving average of the network, which keeps this share of itself in each update and is "
        "transferred and judged (DynACL: 0.99); 0: both views go through the network itself",
        low=0.0,
        high=0.99999,
    )
    reweight: float = key(
        0.0,
        "pairs=ds: weigh the adversarial loss by (1 + r) / 2 and the clean one by (1 - r) / 2, where r is this times the part of "
        "the run that is over and moves every objective.anneal_every epochs (DynACL: 2/3); 0: half and half",
        low=0.0,
        high=10.0,
    )

    def adversarial_weight(self, epoch: int, epochs: int) -> float:
        """w of the epoch, counted from 0: min(1 + reweight K floor(e / K) / epochs, 2), e = epoch + 1 and K = anneal_every.

        The loss is ((2 - w) clean + w adversarial) / 2. e counts from 1 as in the published code, so w moves an epoch before
        the strength of the views does.
        """
        if not self.reweight:
            return 1.0
        return min(1 + self.reweight * ((epoch + 1) // self.anneal_every) * self.anneal_every / epochs, 2.0)

    def of_epoch(self, epoch: int, epochs: int) -> dict[str, float]:
        weight = {"adversarial_weight": self.adversarial_weight(epoch, epochs)} if self.reweight else {}
        return super().of_epoch(epoch, epochs) | weight


@dataclass
class Anchor(Objective):
    build: ClassVar[str] = "dist_advss.objectives.anchor:Anchor"
    needs_random_start: ClassVar[bool] = True
    name: str = key("anchor", "what to learn", choices=("anchor",))
    teacher: str | None = key(
        None,
        "run folder or checkpoint of the frozen teacher, which has the student's network; null: the teacher is a copy of the "
        "student at its start, as init gives it",
        per_run=True,
        path=True,
    )
    distance: str = key(
        "cosine",
        "distance of features; cosine: 1 - cos of their angle; l2: squared Euclidean distance",
        choices=("cosine", "l2"),
    )
    clean: float = key(1.0, "weight of the distance from the student's clean features to the teacher's", low=0.0)
    adversarial: float = key(2.0, "weight of the distance from the adversarial features to objective.toward", low=0.0)
    toward: str = key(
        "student",
        "whose features of the clean image pull the adversarial ones; the gradient goes through the student's too",
        choices=("student", "teacher"),
    )
    away_from: str = key(
        "teacher",
        "whose features of the clean image the attack moves away from",
        choices=("student", "teacher"),
    )
    projector: int | None = key(
        None,
        "width of the projector of a simclr teacher: it stays frozen on teacher and student, and half of each distance is that "
        "of its outputs; null: features alone",
        low=2,
        high=65_536,
    )


@dataclass
class Plugin(TwoPasses, Objective):
    """A pretext task from the user's file; see `config/plugins.py`."""

    name: str = key(REQUIRED, "FILE.py:CLASS")


@dataclass
class Supervised(Objective):
    """The keys of objectives that learn from labels."""

    labelled: ClassVar[bool] = True
    label_smoothing: float = key(
        0.0,
        "share of each label that is spread evenly over all classes, in the cross-entropy that the weights descend; the attack "
        "and the logged losses keep the label itself",
        low=0.0,
        high=0.99,
    )
    zero_linear: bool = key(
        False,
        "true: the linear layer starts at zero, so the first step's attack has no gradient and stays at its start; false: random",
    )


@dataclass
class Classify(Supervised):
    build: ClassVar[str] = "dist_advss.objectives.classify:Classify"
    name: str = key("classify", "what to learn", choices=("classify",))


@dataclass
class CleanFirst(TwoPasses):
    """The key of fine-tuning losses that need both passes: the published code of these runs the clean one first."""

    first: str = key(
        "clean",
        "inputs that the network sees first in a step; the later ones count more in batch norm's running statistics",
        choices=("adversarial", "clean"),
    )


@dataclass
class Trades(CleanFirst, Supervised):
    build: ClassVar[str] = "dist_advss.objectives.trades:Trades"
    needs_attack: ClassVar[bool] = True
    needs_random_start: ClassVar[bool] = True
    name: str = key("trades", "what to learn", choices=("trades",))
    beta: float = key(6.0, "weight of the KL term (Zhang et al. 2019, eq. 5: 1/lambda)", low=0.0)


@dataclass
class Mart(CleanFirst, Supervised):
    build: ClassVar[str] = "dist_advss.objectives.mart:Mart"
    needs_attack: ClassVar[bool] = True
    name: str = key("mart", "what to learn", choices=("mart",))
    weight: float = key(5.0, "weight of the KL term (Wang et al. 2020: lambda)", low=0.0)


OBJECTIVES: dict[str, type[Objective]] = {
    "rotation": Rotation,
    "jigsaw": Jigsaw,
    "selfie": Selfie,
    "joint": Joint,
    "simclr": SimCLR,
    "anchor": Anchor,
    "classify": Classify,
    "trades": Trades,
    "mart": Mart,
}
PRETEXT = tuple(name for name, keys in OBJECTIVES.items() if not keys.labelled)
SUPERVISED = tuple(name for name, keys in OBJECTIVES.items() if keys.labelled)
TASKS = tuple(name for name, keys in OBJECTIVES.items() if keys.joinable)


def is_plugin(objective: str) -> bool:
    """Whether an objective's name is a FILE.py:CLASS."""
    return ".py:" in objective


def is_pretext(objective: str) -> bool:
    """Whether an objective learns without labels."""
    return objective in PRETEXT or is_plugin(objective)


def keys_of(objective: str) -> type[Objective]:
    """The dataclass of an objective's keys. Raises KeyError for an unknown name."""
    return Plugin if is_plugin(objective) else OBJECTIVES[objective]
