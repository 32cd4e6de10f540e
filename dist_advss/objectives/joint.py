"""Several pretext tasks on one encoder, and how diverse their input gradients are (Chen et al. 2020, section 3.3).

Each task asks its own question about each image, and has its own head and its own input to attack. With g_i the gradient of task
i's adversarial loss on its own input, scaled to unit length, and G = [g_1 … g_K] of an image,

    h = log det(GᵀG + 1e-5 I)

is 0 where gradients are orthogonal. It falls as they align: an image that fools one task then fools the others too. The
attack ascends the losses + weight * h. As published, the weights descend weight * h, which aligns gradients;
`diversity.sign=reward` lets them ascend it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..config.implementation import implementation
from ..config.objectives import OBJECTIVES
from ..config.objectives import Joint as JointConfig
from ..images import Images, alone, pack
from ..models import Backbone, Encoder
from ..models.norms import NormSet
from ..precision import at_least_fp32, in_fp32
from ..rng import Rng
from ..row_maths import differentiable_unit
from .base import Judgement, Objective, Outcome, Task

RIDGE = 1e-5  # keeps the determinant of aligned gradients above 0
PUBLISHED_ORDER = [
    ("jigsaw", "clean"),
    ("jigsaw", "adversarial"),
    ("rotation", "adversarial"),
    ("rotation", "clean"),
    ("selfie", "clean"),
    ("selfie", "adversarial"),
]


@dataclass
class JointTask(Task):
    """`parts` are the tasks in the order of `inputs`; `targets` (N, …) holds all their answers side by side."""

    parts: tuple[Task, ...] = ()

    def select(self, index: Tensor) -> JointTask:
        chosen = super().select(index)
        assert isinstance(chosen, JointTask)
        return replace(chosen, parts=tuple(part.select(index) for part in self.parts))


class SharedEncoder(Encoder):
    """An encoder that another objective owns: a function that runs it, without weights or state in this place."""

    def __init__(self, encode: Callable[[Tensor], Tensor], out_channels: int) -> None:
        super().__init__(out_channels)
        self.encode = encode

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)


class Joint(Objective):
    """The mean of the tasks' losses, plus the diversity term. Each task's own class judges, through this encoder."""

    def __init__(self, config: JointConfig, backbone: Backbone) -> None:
        super().__init__()
        self.diversity = config.diversity
        self.encoder = backbone.encoder
        self.patches = NormSet(backbone.encoder) if config.patch_bn else None
        self.heads = nn.ModuleDict({name: self._head(name, config, backbone) for name in config.tasks})

    def _head(self, name: str, config: JointConfig, backbone: Backbone) -> Objective:
        """The objective of one task, which encodes through this one's encoder."""
        kind = OBJECTIVES[name]
        encode = self._encode_patches if kind.looks_at_patches and self.patches is not None else self._encode
        shared = replace(backbone, encoder=SharedEncoder(encode, backbone.encoder.out_channels))
        keys = getattr(config, name, config)  # a task without its own keys has no node in the configuration
        head: Objective = implementation(kind.build)(keys, shared)
        return head

    def _encode(self, x: Tensor) -> Tensor:
        features: Tensor = self.encoder(x)
        return features

    def _encode_patches(self, x: Tensor) -> Tensor:
        assert self.patches is not None
        features: Tensor = self.patches(self.encoder, x)
        return features

    @torch.no_grad()
    def after_transfer(self) -> None:
        """The batch norms for patches begin as copies of what was loaded."""
        if self.patches is not None:
            self.patches.load_state_dict(NormSet(self.encoder).state_dict())

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> JointTask:
        parts = tuple(head.prepare(images, labels, rng) for head in self._heads())
        answers = torch.cat(
            [part.targets.flatten(1) if part.targets.dim() > 1 else part.targets[:, None] for part in parts], 1
        )
        return JointTask(tuple(alone(part.inputs) for part in parts), answers, rng, parts=parts)

    def judge(self, x: Images, task: Task) -> Judgement:
        """Means over the tasks; x holds an input for each."""
        return _mean(self._judge_each(x, task))

    def attack_loss(self, x_adv: Images, task: Task) -> Tensor:
        """The sum of the tasks' losses, so that each input's gradient is that of its own task, plus weight * h."""
        if self.diversity.weight == 0 or not self.diversity.in_attack:
            return _total(self._judge_each(x_adv, task))
        with torch.enable_grad():  # PGD compares restarts without gradients
            x = [piece if piece.requires_grad else piece.detach().requires_grad_() for piece in pack(x_adv)]
            with _attention(True):
                judged = self._judge_each(x, task)
            return _total(judged) + self.diversity.weight * diversity([j.loss for j in judged], x)

    def outcome(self, task: Task, x_adv: Images | None) -> Outcome:
        if x_adv is None:
            clean = self._judge_each(task.inputs, task)
            return Outcome(_mean(clean).loss.mean(), _mean(clean), None, self._by_task("clean", clean))
        clean, adversarial, h = self._judge_both(task, x_adv)
        loss = (_mean(clean).loss.mean() + _mean(adversarial).loss.mean()) / 2
        also = self._by_task("clean", clean) | self._by_task("adversarial", adversarial)
        if h is not None:
            weight = self.diversity.weight
            loss = loss + (weight if self.diversity.sign == "published" else -weight) * h
            also["diversity"] = h
        return Outcome(loss, _mean(clean), _mean(adversarial), also)

    def _judge_both(self, task: Task, x_adv: Images) -> tuple[list[Judgement], list[Judgement], Tensor | None]:
        """Judgements of the clean and of the adversarial inputs by task, and the mean h, if it has a weight.

        The network runs in the order of `first`.
        """
        assert isinstance(task, JointTask)
        diverse = self.diversity.weight > 0  # h needs gradients, also in an evaluation
        # attack=free listens to the gradient of the update in its images.
        x = [piece if piece.requires_grad else piece.detach().requires_grad_(diverse) for piece in pack(x_adv)]
        inputs = {"clean": pack(task.inputs), "adversarial": x}
        judged: dict[str, dict[int, Judgement]] = {"clean": {}, "adversarial": {}}
        h = None
        for i, part in self._passes():
            with (
                torch.set_grad_enabled(torch.is_grad_enabled() or (diverse and part == "adversarial")),
                _attention(diverse),
            ):
                judged[part][i] = self._heads()[i].judge(inputs[part][i], task.parts[i])
                if part == "adversarial" and diverse and len(judged[part]) == len(x):
                    h = diversity([judged[part][k].loss for k in range(len(x))], x).mean()
        clean, adversarial = ([judged[part][k] for k in range(len(x))] for part in ("clean", "adversarial"))
        return clean, adversarial, h

    def _passes(self) -> list[tuple[int, str]]:
        """The runs of the network in a step, as (number of the task, "clean" or "adversarial"), in the order of `first`."""
        parts = ("clean", "adversarial") if self.first == "clean" else ("adversarial", "clean")
        passes = [(i, part) for part in parts for i in range(len(self.heads))]
        if self.first == "published":
            names = list(self.heads)
            passes.sort(key=lambda one: PUBLISHED_ORDER.index((names[one[0]], one[1])))
        return passes

    def _heads(self) -> list[Objective]:
        return list(self.heads.values())  # type: ignore[arg-type]

    def _judge_each(self, x: Images | list[Tensor], task: Task) -> list[Judgement]:
        assert isinstance(task, JointTask)
        return [head.judge(piece, part) for head, piece, part in zip(self._heads(), x, task.parts, strict=True)]

    def _by_task(self, part: str, judged: list[Judgement]) -> dict[str, Tensor]:
        return {f"accuracy_{part}.{name}": j.correct.mean() for name, j in zip(self.heads, judged, strict=True)}


def _attention(twice: bool) -> contextlib.AbstractContextManager[None]:
    """With `twice`, attention that can be differentiated twice; torch's fused kernels cannot."""
    return sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext()


def diversity(losses: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """h of each image, (N,) in at least fp32 and differentiable again, from K losses (N,) and the inputs (N, …) of each."""
    gradients = torch.autograd.grad([loss.sum() for loss in losses], inputs, create_graph=True)
    with in_fp32(inputs[0].device):
        g = torch.stack([differentiable_unit(at_least_fp32(gradient).flatten(1)) for gradient in gradients], 2)
        gram = g.transpose(1, 2) @ g + RIDGE * torch.eye(len(losses), dtype=g.dtype, device=g.device)
        return torch.linalg.slogdet(gram).logabsdet


def _total(judged: list[Judgement]) -> Tensor:
    return torch.stack([j.loss for j in judged]).sum(0)


def _mean(judged: list[Judgement]) -> Judgement:
    loss = torch.stack([j.loss for j in judged]).mean(0)
    return Judgement(loss, torch.stack([j.correct for j in judged]).mean(0))
