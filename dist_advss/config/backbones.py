"""The table of backbones. `model.name` accepts its names. The checks read the accepted image sizes here.

A new backbone is a function that returns a `Backbone`, one entry in BACKBONES and `configs/model/NAME.yaml`. Networks of
other packages need neither: `model=timm:NAME` and `model=torchvision:NAME` (`models/adopted.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class Network:
    """One backbone.

    build      "module:function", called as build(normalise, channels, **arguments)
    arguments  the arguments that distinguish networks of one family
    smallest   side of the smallest accepted images, in pixels
    largest    side of the largest accepted images; None: no limit
    free_width whether model.width sets the argument `width`
    """

    build: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    smallest: int = 28
    largest: int | None = 96
    free_width: bool = False

    def takes(self, size: int) -> bool:
        """Whether it takes images of `size` x `size` pixels."""
        return self.smallest <= size and (self.largest is None or size <= self.largest)


# fmt: off
BACKBONES: dict[str, Network] = {
    "preact_small":    Network("dist_advss.models.preact:preact_resnet", {"blocks": (1, 1, 1, 1), "width": 16}, free_width=True),
    "preact_resnet18": Network("dist_advss.models.preact:preact_resnet", {"blocks": (2, 2, 2, 2)}),
    "preact_resnet34": Network("dist_advss.models.preact:preact_resnet", {"blocks": (3, 4, 6, 3)}),
    "preact_resnet18_raw": Network("dist_advss.models.preact:preact_resnet", {"blocks": (2, 2, 2, 2), "raw_shortcut": True}),
    "resnet18":        Network("dist_advss.models.resnet:resnet", {"blocks": (2, 2, 2, 2)}),
    "resnet50v2":      Network("dist_advss.models.resnet50v2:bottleneck_resnet50"),
    "wrn28_10":        Network("dist_advss.models.wideresnet:wide_resnet", {"depth": 28, "widen": 10}),
    "wrn34_10":        Network("dist_advss.models.wideresnet:wide_resnet", {"depth": 34, "widen": 10}),
    "dm_wrn28_10":     Network("dist_advss.models.dm_wideresnet:swish_wide_resnet", {"depth": 28, "widen": 10}),
    "tv_resnet18":     Network("dist_advss.models.torchvision:torchvision_resnet", {"name": "resnet18"}, smallest=64, largest=None),
    "tv_resnet50":     Network("dist_advss.models.torchvision:torchvision_resnet", {"name": "resnet50"}, smallest=64, largest=None),
}
# fmt: on
ENSEMBLE = "ensemble"  # several runs' backbones as one model
MODELS = (*BACKBONES, ENSEMBLE)
LIBRARIES = ("timm", "torchvision")  # packages whose networks model=PACKAGE:NAME builds


def is_adopted(model: str) -> bool:
    """Whether a model is another package's, PACKAGE:NAME."""
    return model.startswith(tuple(f"{library}:" for library in LIBRARIES))


def is_own(model: str) -> bool:
    """Whether a model is one of a user's file, FILE.py:FUNCTION."""
    return ".py:" in model


def refuse_no_weights(config: Any, or_else: str = "") -> None:
    """Raises UserError unless a command that judges has a checkpoint, or a model in a user's file, which has its weights."""
    if config.checkpoint is None and not is_own(config.model.name):
        raise UserError(
            f"checkpoint: missing; give checkpoint=… (a fine-tuned run folder){or_else}, or model=FILE.py:FUNCTION"
        )
