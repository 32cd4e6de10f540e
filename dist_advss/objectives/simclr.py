"""SimCLR (Chen et al. 2020, arXiv 2002.05709) and adversarial contrastive learning (ACL; Jiang et al. 2020, arXiv 2010.13337).

Which of all views of a batch shows the same image? The loss is NT-Xent over the views of all processes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..collectives import first_row, gather_rows
from ..config.objectives import SimCLR as SimCLRConfig
from ..images import Images, pack
from ..models import Backbone
from ..models.norms import NormSet
from ..precision import at_least_fp32
from ..rng import Rng
from .base import Judgement, Objective, Outcome, Task


class SimCLR(Objective):
    """Two views of each image, an encoder, and a projector of three linear layers, each followed by batch norm.

    Without an attack it is SimCLR (ACL's S2S). With one, `pairs` says which views meet: "ds" two clean ones and two
    adversarial ones, half of the loss each; "a2a" two adversarial ones; "a2s" an adversarial first and a clean second view.
    With `dual_norms`, clean images have batch norms of their own. Those of adversarial images are transferred, and judged.
    """

    def __init__(self, config: SimCLRConfig, backbone: Backbone) -> None:
        super().__init__()
        width = config.projector
        self.temperature, self.pairs = config.temperature, config.pairs
        self.encoder = backbone.encoder
        self.projector = nn.Sequential(
            backbone.top(width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width),
        )  # fmt: skip
        parts = [self.encoder, self.projector] if config.dual_norms else []
        self.clean_norms = nn.ModuleList(NormSet(part) for part in parts)

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        assert isinstance(images, tuple)  # two views, as the configuration's `views` says
        return Task(images, torch.arange(len(labels), device=labels.device), rng)

    def project(self, x: Tensor, clean: bool = False) -> Tensor:
        """Images (M, C, H, W) to points (M, projector) of length 1, in at least fp32."""
        for place, part in enumerate((self.encoder, self.projector)):
            x = self.clean_norms[place](part, x) if clean and len(self.clean_norms) else part(x)
        return nn.functional.normalize(at_least_fp32(x), dim=1)

    def judge(self, x: Images, task: Task) -> Judgement:
        return self._judge(x, clean=False)

    def attack_loss(self, x_adv: Images, task: Task) -> Tensor:
        if self.pairs != "a2s":
            return self._judge(x_adv, clean=False).loss
        return self._mixed(x_adv, task).loss

    def outcome(self, task: Task, x_adv: Images | None) -> Outcome:
        if x_adv is None:
            clean = self._judge(task.inputs, clean=True)
            return Outcome(clean.loss.mean(), clean, None)
        if self.pairs != "ds":
            adversarial = self._judge(x_adv, clean=False) if self.pairs == "a2a" else self._mixed(x_adv, task)
            return Outcome(adversarial.loss.mean(), None, adversarial)
        judged = {}
        for part in ("clean", "adversarial") if self.first == "clean" else ("adversarial", "clean"):
            judged[part] = self._judge(task.inputs if part == "clean" else x_adv, clean=part == "clean")
        loss = (judged["clean"].loss.mean() + judged["adversarial"].loss.mean()) / 2
        return Outcome(loss, judged["clean"], judged["adversarial"])

    def _judge(self, views: Images, clean: bool) -> Judgement:
        """Both views go through the network together, so that batch norm sees them as one batch."""
        one, two = self.project(torch.cat(pack(views)), clean).chunk(2)
        return nt_xent(one, two, self.temperature)

    def _mixed(self, x_adv: Images, task: Task) -> Judgement:
        return nt_xent(self.project(x_adv[0]), self.project(task.inputs[1], clean=True), self.temperature)


def nt_xent(one: Tensor, two: Tensor, temperature: float) -> Judgement:
    """NT-Xent (Chen et al. 2020, eq. 1) of two views (N, D) of length 1: the mean over both directions, (N,) float32 or 64.

    The other view of the same image is told from all other views of all images of all processes, which hold N images each.
    `correct` is the share of the two views whose nearest neighbour is the other one.
    """
    place = first_row(one) + torch.arange(len(one), device=one.device)
    ones, twos = gather_rows(one), gather_rows(two)
    itself = nn.functional.one_hot(place, len(ones)).bool()
    loss, correct = [], []
    for own, same, other in ((one, ones, twos), (two, twos, ones)):
        within = (own @ same.T).masked_fill(itself, -torch.inf)
        logits = torch.cat([own @ other.T, within], 1) / temperature
        loss.append(nn.functional.cross_entropy(logits, place, reduction="none"))
        correct.append((logits.detach().argmax(1) == place).float())
    return Judgement(torch.stack(loss).mean(0), torch.stack(correct).mean(0))
