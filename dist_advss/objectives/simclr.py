"""SimCLR (Chen et al. 2020, arXiv 2002.05709), adversarial contrastive learning (ACL; Jiang et al. 2020, arXiv 2010.13337) and
DynACL (Luo et al. 2023, arXiv 2303.01289).

Which of all views of a batch shows the same image? The loss is NT-Xent over the views of all processes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..collectives import first_row, gather_rows
from ..config.objectives import SimCLR as SimCLRConfig
from ..images import Images, pack
from ..models import Backbone
from ..models.norms import NormSet
from ..precision import at_least_fp32, in_fp32
from ..rng import Rng
from .base import Judgement, Objective, Outcome, Task


class SimCLR(Objective):
    """Two views of each image, an encoder, and a projector of three linear layers, each followed by batch norm.

    Without an attack it is SimCLR (ACL's S2S). With one, `pairs` says which views meet: "ds" two clean ones and two
    adversarial ones, half of the loss each; "a2a" two adversarial ones; "a2s" an adversarial first and a clean second view.
    With `dual_norms`, clean images have batch norms of their own. Those of adversarial images are transferred, and judged.

    With `momentum`, the weights that learn are in `online`, which sees the first view. `encoder`, `projector` and
    `clean_norms` are their moving average. They see the second view, in the attack too, and are transferred and judged. Their
    batch norms keep statistics of their own.
    """

    def __init__(self, config: SimCLRConfig, backbone: Backbone) -> None:
        super().__init__()
        self.keys = config
        self.encoder = backbone.encoder
        self.projector = projector(backbone, config.projector)
        parts = [self.encoder, self.projector] if config.dual_norms else []
        self.clean_norms = nn.ModuleList(NormSet(part) for part in parts)
        self.online: nn.ModuleList | None = None
        if config.momentum:
            self.online = copy.deepcopy(nn.ModuleList(self._own()))
            for part in self._own():
                part.requires_grad_(False)

    def _own(self) -> tuple[nn.Module, nn.Module, nn.ModuleList]:
        """The parts that are judged: with momentum, the average of `online`, which has the same parts in the same order."""
        return self.encoder, self.projector, self.clean_norms

    def _learning(self) -> tuple[nn.Module, nn.Module, nn.ModuleList]:
        """The same parts of the network that learns."""
        if self.online is None:
            return self._own()
        encoder, projector, norms = self.online
        assert isinstance(norms, nn.ModuleList)
        return encoder, projector, norms

    @property
    def trained_encoder(self) -> nn.Module:
        return self._learning()[0]

    @property
    def encoders(self) -> tuple[nn.Module, ...]:
        return (self.encoder,) if self.online is None else (self.online[0], self.encoder)

    @torch.no_grad()
    def after_transfer(self) -> None:
        """The batch norms for clean images, and the online network, begin as copies of what was loaded."""
        for norms, part in zip(self.clean_norms, (self.encoder, self.projector), strict=False):
            norms.load_state_dict(NormSet(part).state_dict())
        if self.online is not None:
            self.online.load_state_dict(nn.ModuleList(self._own()).state_dict())

    @torch.no_grad()
    def after_update(self) -> None:
        if self.online is not None:
            averages: list[Tensor] = [p for part in self._own() for p in part.parameters()]
            weights: list[Tensor] = list(self.online.parameters())
            torch._foreach_lerp_(averages, weights, 1 - self.keys.momentum)

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        assert isinstance(images, tuple)  # two views, as the configuration's `views` says
        return Task(images, torch.arange(len(labels), device=labels.device), rng)

    def project(self, x: Tensor, clean: bool = False, online: bool = False) -> Tensor:
        """Images (M, C, H, W) to points (M, projector) of length 1, in at least fp32; `online`: in the network that learns."""
        encoder, projector, norms = self._learning() if online else self._own()
        for place, part in enumerate((encoder, projector)):
            x = norms[place](part, x) if clean and len(norms) else part(x)
        return nn.functional.normalize(at_least_fp32(x), dim=1)

    def judge(self, x: Images, task: Task) -> Judgement:
        """Both views in the network that is transferred."""
        one, two = self.project(torch.cat(pack(x))).chunk(2)
        return nt_xent(one, two, self.keys.temperature)

    def attack_loss(self, x_adv: Images, task: Task) -> Tensor:
        return (self._mixed(x_adv, task) if self.keys.pairs == "a2s" else self._compare(x_adv, clean=False)).loss

    def outcome(self, task: Task, x_adv: Images | None) -> Outcome:
        if x_adv is None:
            clean = self._compare(task.inputs, clean=True)
            return Outcome(clean.loss.mean(), clean, None)
        if self.keys.pairs != "ds":
            adversarial = self._mixed(x_adv, task) if self.keys.pairs == "a2s" else self._compare(x_adv, clean=False)
            return Outcome(adversarial.loss.mean(), None, adversarial)
        judged = {}
        for part in ("clean", "adversarial") if self.first == "clean" else ("adversarial", "clean"):
            judged[part] = self._compare(task.inputs if part == "clean" else x_adv, clean=part == "clean")
        weight = self.keys.adversarial_weight(task.rng.epoch, self.epochs)
        loss = ((2 - weight) * judged["clean"].loss.mean() + weight * judged["adversarial"].loss.mean()) / 2
        return Outcome(loss, judged["clean"], judged["adversarial"])

    def _compare(self, views: Images, clean: bool) -> Judgement:
        """The two views of a step. In one network they are one batch to batch norm, with momentum each is one in its own."""
        if self.online is None:
            one, two = self.project(torch.cat(pack(views)), clean).chunk(2)
        else:
            one, two = self.project(views[0], clean, online=True), self.project(views[1], clean)
        return nt_xent(one, two, self.keys.temperature)

    def _mixed(self, x_adv: Images, task: Task) -> Judgement:
        one, two = self.project(x_adv[0], online=True), self.project(task.inputs[1], clean=True)
        return nt_xent(one, two, self.keys.temperature)


def projector(backbone: Backbone, width: int) -> nn.Sequential:
    """The encoder's maps to points (N, width): the last stage and three linear layers, each followed by batch norm."""
    return nn.Sequential(
        backbone.top(width), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width),
    )  # fmt: skip


def nt_xent(one: Tensor, two: Tensor, temperature: float) -> Judgement:
    """NT-Xent (Chen et al. 2020, eq. 1) of two views (N, D) of length 1: the mean over both directions, (N,) float32 or 64.

    The other view of the same image is told from all other views of all images of all processes, which hold N images each.
    `correct` is the share of the two views whose nearest neighbour is the other one.
    """
    place = first_row(one) + torch.arange(len(one), device=one.device)
    ones, twos = gather_rows(one), gather_rows(two)
    itself = nn.functional.one_hot(place, len(ones)).bool()
    loss, correct = [], []
    with in_fp32(one.device):  # fewer bits would round the similarities of close points alike
        for own, same, other in ((one, ones, twos), (two, twos, ones)):
            within = (own @ same.T).masked_fill(itself, -torch.inf)
            logits = torch.cat([own @ other.T, within], 1) / temperature
            loss.append(nn.functional.cross_entropy(logits, place, reduction="none"))
            correct.append((logits.detach().argmax(1) == place).float())
    return Judgement(torch.stack(loss).mean(0), torch.stack(correct).mean(0))
