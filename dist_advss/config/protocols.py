"""The table of fine-tuning protocols, and the checks of what a fine-tuning reuses and freezes. No torch here.

`protocol=slf` chooses configs/protocol/slf.yaml, which sets keys of several groups. Other words win over it. Those that would
make it another protocol are refused, so that a run that says `protocol: slf` is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .backbones import ENSEMBLE


@dataclass(frozen=True)
class Protocol:
    """What makes a protocol. Its YAML file sets these keys and those that a user may change.

    title      its name in papers and in the report
    freeze     the part of the network that stays as `init` gives it
    objective  the loss
    attacked   whether it trains on adversarial images
    plus       whether weights are averaged (train.ema) and perturbed (train.awp)
    """

    title: str
    freeze: str
    objective: str
    attacked: bool
    plus: bool = False


PROTOCOLS: dict[str, Protocol] = {
    "slf": Protocol("SLF", freeze="backbone", objective="classify", attacked=False),
    "alf": Protocol("ALF", freeze="backbone", objective="classify", attacked=True),
    "aff": Protocol("AFF", freeze="none", objective="trades", attacked=True),
    "aff_plus": Protocol("AFF+", freeze="none", objective="trades", attacked=True, plus=True),
}


def check_protocol(command: str, config: Any) -> None:
    """The keys `protocol`, `reuse` and `freeze` of a training. Raises UserError."""
    if config.protocol is not None:
        _check_is(config.protocol, config)
    for key in ("dual_norms", "patch_bn"):
        if config.freeze == "encoder" and getattr(config.objective, key, False):
            raise UserError(
                f"freeze=encoder: objective.{key}=true gives the encoder further batch norms, which would learn; set freeze=none, "
                f"or objective.{key}=false"
            )
    if config.freeze == "backbone" and config.reuse == "encoder":
        raise UserError(
            "freeze=backbone: keeps the last stage too, and reuse=encoder leaves it random; set reuse=backbone"
        )
    if config.reuse != "encoder" and not config.objective.labelled:
        raise UserError(
            f"reuse={config.reuse}: {command} takes theta_p only, as each task has its own last stage; drop it"
        )
    if config.reuse == "classifier" and config.objective.zero_linear:
        raise UserError(
            "objective.zero_linear=true: reuse=classifier takes the linear layer from init; drop it, or set reuse=backbone"
        )
    if config.reuse != "encoder" and config.model.name == ENSEMBLE:
        raise UserError(f"reuse={config.reuse}: an ensemble takes theta_p of pre-trained members; set reuse=encoder")


def _check_is(name: str, config: Any) -> None:
    """Whether the configuration is the protocol that it says. Raises UserError."""
    protocol = PROTOCOLS[name]
    for key, value, expected in (
        ("reuse", config.reuse, "backbone"),
        ("freeze", config.freeze, protocol.freeze),
        ("objective", config.objective.name, protocol.objective),
        ("attack.steps", config.attack.steps, protocol.attacked),
        ("train.ema", config.train.ema, protocol.plus),
        ("train.awp", config.train.awp, protocol.plus),
    ):
        # True and False: any number above 0, and 0
        if isinstance(expected, bool):
            expected = value if (value > 0) == expected else "a number above 0" if expected else "0"
        if value != expected:
            raise UserError(f"{key}={value}: protocol={name} has {key}={expected}; drop one of the two words")
    if protocol.freeze != "none" and config.init is None:
        raise UserError(
            f"protocol={name}: keeps the backbone of a pre-training; give init=RUN, or protocol=aff for random weights"
        )
