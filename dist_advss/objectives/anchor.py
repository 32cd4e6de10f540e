"""A student anchored to a frozen teacher: DeACL, ProFeAT, FARE and Sim-CLIP as settings of one objective.

DeACL (Zhang et al., ECCV 2022, arXiv 2207.10899), ProFeAT (Addepalli et al., TMLR 2024, arXiv 2406.05796), FARE (Schlarmann
et al., ICML 2024, arXiv 2402.12336), Sim-CLIP (Hossain and Imteaj 2024, arXiv 2407.14971). docs/methods.md has their settings.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..config.objectives import Anchor as AnchorConfig
from ..images import Images, alone
from ..models import Backbone
from ..models.backbone import LINEAR, last_stage, sequence
from ..precision import at_least_fp32, autocast
from ..rng import Rng
from .base import Judgement, Objective, Outcome, Task
from .simclr import projector

Points = tuple[Tensor, ...]
UNUSED = 2  # the width of a projector that is not kept


class Anchor(Objective):
    """The student keeps the teacher's features of clean images, and keeps them under attack.

    With f the student's features, g the teacher's and d the distance, the loss is clean * d(f(x), g(x)) + adversarial *
    d(f(x'), f(x) or g(x)). The gradient goes through f(x) too. Clean and adversarial images are one batch of the network.

    The teacher and its projector never move, and stay in eval mode. They are part of every checkpoint, so that a resume does
    not need the file that they came from. Fine-tuning takes the student alone: `encoder`, with reuse=backbone `top` too.
    """

    def __init__(self, config: AnchorConfig, backbone: Backbone) -> None:
        super().__init__()
        self.distance = {"cosine": cosine, "l2": squared_l2}[config.distance]
        self.clean, self.adversarial = config.clean, config.adversarial
        self.toward, self.away_from = config.toward, config.away_from
        head = projector(backbone, config.projector or UNUSED)
        whole = head.get_submodule("0")
        linear = whole.get_submodule(LINEAR)
        self.encoder = backbone.encoder
        self.top = sequence(**{name: whole.get_submodule(name) for name in last_stage(whole)})
        self.teacher, self.teacher_top = copy.deepcopy(self.encoder), copy.deepcopy(self.top)
        self.projector = None if config.projector is None else nn.Sequential(linear, *head[1:])
        self.freeze("teacher", "teacher_top", *([] if self.projector is None else ["projector"]))

    @property
    def encoders(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.teacher

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        """The targets are the teacher's features (N, D). It computes in the precision of the update, and in fp32 in validation."""
        x = alone(images)
        with torch.no_grad(), autocast(x.device, self.precision if self.training else "fp32"):
            features, *projected = self.points(self.teacher, self.teacher_top, x)
        return Task(x, features, rng, by_row=dict(zip(("projected",), projected, strict=False)))

    def points(self, encoder: nn.Module, top: nn.Module, x: Tensor) -> Points:
        """What is compared of images (M, C, H, W), in at least fp32: features (M, D), what comes out of the last stage and the
        pooling, and with a projector its outputs (M, P).
        """
        features = top(encoder(x))
        points = (features,) if self.projector is None else (features, self.projector(features))
        return tuple(map(at_least_fp32, points))

    def own(self, x: Tensor) -> Points:
        """The student's points."""
        return self.points(self.encoder, self.top, x)

    def judge(self, x: Images, task: Task) -> Judgement:
        """The loss is the distance (N,) to the teacher's points of the clean image."""
        found = self.own(alone(x))
        return agreement(self.apart(found, anchors(task)), found, task)

    def attack_loss(self, x_adv: Images, task: Task) -> Tensor:
        """The distance (N,) that the attack ascends. Projections always move away from the teacher's (ProFeAT)."""
        fled = anchors(task)
        if self.away_from == "student":
            if "own" not in task.by_row:
                with torch.no_grad():
                    task.by_row["own"] = self.own(alone(task.inputs))[0]
            fled = (task.by_row["own"], *fled[1:])
        return self.apart(self.own(alone(x_adv)), fled)

    def outcome(self, task: Task, x_adv: Images | None) -> Outcome:
        if x_adv is None:
            judged = self.judge(task.inputs, task)
            return Outcome(self.clean * judged.loss.mean(), judged, None)
        if self.clean == 0 and self.toward == "teacher":  # nothing depends on f(x), as in FARE
            judged = self.judge(x_adv, task)
            return Outcome(self.adversarial * judged.loss.mean(), None, judged)

        # One batch of clean and adversarial images, so that batch norm has one set of statistics for both.
        both = [p.chunk(2) for p in self.own(torch.cat([alone(task.inputs), alone(x_adv)]))]
        clean, attacked = (tuple(halves[i] for halves in both) for i in range(2))
        kept = self.apart(clean, anchors(task))
        pulled = self.apart(attacked, clean if self.toward == "student" else anchors(task))
        loss = self.clean * kept.mean() + self.adversarial * pulled.mean()
        return Outcome(loss, agreement(kept, clean, task), agreement(pulled, attacked, task))

    def apart(self, ones: Points, others: Points) -> Tensor:
        """The distance (N,) of features; with a projector, its mean with the distance of projections."""
        return torch.stack([self.distance(a, b) for a, b in zip(ones, others, strict=True)]).mean(0)


def anchors(task: Task) -> Points:
    """The teacher's points of the clean images."""
    return (task.targets, *(task.by_row[name] for name in ("projected",) if name in task.by_row))


def agreement(loss: Tensor, found: Points, task: Task) -> Judgement:
    """A judgement with these losses. `correct` is the cosine of the angle to the teacher's features, and 0 beyond 90 degrees."""
    return Judgement(loss, nn.functional.cosine_similarity(found[0].detach(), task.targets).clamp(0, 1).float())


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of the angle between rows, (N,) from two (N, D)."""
    return 1 - nn.functional.cosine_similarity(a, b)


def squared_l2(a: Tensor, b: Tensor) -> Tensor:
    """The squared Euclidean distance of rows, (N,) from two (N, D), not divided by D."""
    return (a - b).square().sum(1)
