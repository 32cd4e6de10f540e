"""Classification: standard (cross-entropy on clean images) and adversarial training (Madry et al. 2018), for fine-tuning."""

from __future__ import annotations

from torch import Tensor, nn

from ..config.objectives import Supervised
from ..images import Images, alone
from ..models import Backbone
from ..models.backbone import LINEAR
from ..precision import at_least_fp32
from ..rng import Rng
from .base import Judgement, Objective, Outcome, Task, cross_entropy


class Classify(Objective):
    """Cross-entropy on the adversarial images (F2, F4), or on the clean ones without an attack (F1, F3).

    `label_smoothing` changes what the weights descend, and neither the attack's loss nor a judgement.
    """

    clean_weight = 0.0

    def __init__(self, config: Supervised, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.encoder = backbone.encoder
        self.top = backbone.top(classes)
        if config.zero_linear:
            for name, parameter in self.top.named_parameters():
                if LINEAR in name.split("."):
                    nn.init.zeros_(parameter)
        self.label_smoothing = config.label_smoothing

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        return Task(images, labels, rng)

    def logits(self, x: Tensor) -> Tensor:
        """(N, classes), from images (N, C, H, W) in [0,1]."""
        return self.top(self.encoder(x))

    def judge(self, x: Images, task: Task) -> Judgement:
        return cross_entropy(self.logits(alone(x)), task.targets)

    def outcome(self, task: Task, x_adv: Images | None) -> Outcome:
        judged = self.judge(task.inputs if x_adv is None else x_adv, task)
        clean, adversarial = (judged, None) if x_adv is None else (None, judged)
        return Outcome(self.descended(judged, task), clean, adversarial)

    def descended(self, judged: Judgement, task: Task) -> Tensor:
        """Mean cross-entropy, a scalar, against labels that keep 1 - label_smoothing and share the rest with all classes."""
        if self.label_smoothing == 0 or judged.logits is None:
            return judged.loss.mean()
        logits = at_least_fp32(judged.logits)
        return nn.functional.cross_entropy(logits, task.targets, label_smoothing=self.label_smoothing)

    def both_logits(self, task: Task, x_adv: Images) -> tuple[Tensor, Tensor]:
        """Logits of the clean and of the adversarial images, (N, classes) each, in the order of passes of `first`."""
        if self.first == "clean":
            clean, adversarial = self.logits(alone(task.inputs)), self.logits(alone(x_adv))
        else:
            adversarial, clean = self.logits(alone(x_adv)), self.logits(alone(task.inputs))
        return clean, adversarial
