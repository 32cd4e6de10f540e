"""The keys of `suite`: several evaluations, or checks of one, by one command. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import UserError
from .attack import CASCADE, Attack, check_autoattack
from .backbones import is_own
from .corruptions import SMALLEST
from .keys import key
from .plugins import resolve

NONE = "none"
PARTS = {  # of a suite of several evaluations, in order
    "quick": ("sanity", "pgd20"),
    "standard": ("sanity", "pgd20", "autoattack"),
    "full": ("sanity", "pgd20", "autoattack", "corruptions", "unforeseen"),
}
IMAGES = {"quick": 500, "standard": 1000, "full": None}  # of the split, unless data.limit says another number
SUITES = (NONE, "sanity", *PARTS)
KEPT = ("norm", "eps", "precision")  # keys of the attack that a suite reads
FEWEST = 20  # images; with fewer, one image is more than all that the checks allow


@dataclass
class Suite:
    name: str = key(NONE, "what to run in place of one evaluation", choices=SUITES)
    images: int = key(200, "sanity: number of images to check the model on, the first of split", low=FEWEST)
    source: str | None = key(
        None,
        "sanity: another fine-tuned run, or FILE.py:FUNCTION, whose adversarial images are tried on this model; null: leave that "
        "check out",
        path=True,
    )


def check_suite(config: Any) -> None:
    """The checks of an evaluation whose suite is not `none`. Raises UserError."""
    attack, suite = config.attack, config.suite
    if suite.name == NONE:
        if suite.source is not None:
            raise UserError(
                f"suite.source={suite.source}: only the sanity checks read it; add suite=sanity, or drop it"
            )
        if suite.images != Suite().images:
            raise UserError(
                f"suite.images={suite.images}: only the sanity checks read it; add suite=sanity, or drop it and set data.limit"
            )
        return
    if suite.source is not None and is_own(suite.source):
        resolve(suite.source, "suite.source")
    if attack.eps == 0:
        raise UserError(f"attack.eps=0: suite={suite.name} attacks the model; set it to 8/255 for example")
    if config.data.limit is not None and config.data.limit < FEWEST:
        raise UserError(
            f"data.limit={config.data.limit}: suite={suite.name} needs at least {FEWEST} images; set it to 200 for example"
        )
    check_radius(attack, config.data.shape)
    usual = asdict(replace(Attack(steps=20), **{name: getattr(attack, name) for name in KEPT}))
    for name, value in asdict(attack).items():
        if value != usual[name]:
            raise UserError(
                f"attack.{name}={value}: suite={suite.name} reads {', '.join(f'attack.{kept}' for kept in KEPT)} and has "
                "attacks of its own; drop it, or drop the suite"
            )
    if "autoattack" in PARTS.get(suite.name, ()):
        check_autoattack(part_attack("autoattack", config), config.data.classes)
    if "corruptions" in PARTS.get(suite.name, ()) and config.data.size < SMALLEST:
        raise UserError(
            f"data.size={config.data.size}: suite={suite.name} includes corruptions and unforeseen attacks, which need "
            f"{SMALLEST} pixels or more; choose suite=standard"
        )
    if (config.data.classes or 2) < 2:
        raise UserError(f"data.classes={config.data.classes}: suite={suite.name} needs at least two classes")


def largest_radius(norm: str, shape: Sequence[int]) -> float:
    """The radius of a ball that holds all images (C, H, W) in [0,1], whatever its centre."""
    return {"linf": 1.0, "l2": math.sqrt(math.prod(shape))}.get(norm, float(math.prod(shape)))


def check_radius(attack: Attack, shape: Sequence[int]) -> None:
    """Refuses a ball that holds more than all images (C, H, W) in [0,1], where no RA can be told from 0. Raises UserError."""
    largest = largest_radius(attack.norm, shape)
    if attack.eps > largest:
        raise UserError(
            f"attack.eps={attack.eps:g}: images of {'x'.join(map(str, shape))} numbers in [0,1] are at most {largest:.4g} apart in "
            f"{attack.norm}; for a radius in grey levels write {attack.eps:g}/255"
        )


def part_attack(part: str, config: Any) -> Attack:
    """The attack of the part `pgd20` or `autoattack` of a suite, as configs/attack/PART.yaml has it for these classes."""
    kept = {name: getattr(config.attack, name) for name in KEPT}
    if part == "pgd20":
        return replace(Attack(steps=20), **kept)
    classes = config.data.classes or 10
    cascade = [name for name in CASCADE if name != "apgd-t" or classes >= 4]
    return Attack(algorithm="autoattack", steps=100, cascade=cascade, targets=min(9, classes - 1), **kept)
