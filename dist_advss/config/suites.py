"""The keys of `suite`: several evaluations, or checks of one, by one command. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .keys import key

NONE = "none"
SUITES = (NONE, "sanity")
FEWEST = 20  # images; with fewer, one image is more than all that the checks allow


@dataclass
class Suite:
    name: str = key(NONE, "what to run in place of one evaluation", choices=SUITES)
    images: int = key(200, "sanity: number of images to check the model on, the first of split", low=FEWEST)
    source: str | None = key(
        None,
        "sanity: another fine-tuned run, whose adversarial images are tried on this model; null: leave that check out",
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
        return
    if attack.eps == 0:
        raise UserError(f"attack.eps=0: suite={suite.name} attacks the model; set it to 8/255 for example")
    if config.data.limit is not None and config.data.limit < FEWEST:
        raise UserError(
            f"data.limit={config.data.limit}: suite={suite.name} needs at least {FEWEST} images; set it to 200 for example"
        )
    if (config.data.classes or 2) < 2:
        raise UserError(f"data.classes={config.data.classes}: suite={suite.name} needs at least two classes")
