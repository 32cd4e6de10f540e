"""The names of the 15 common corruptions, and the check of the command that applies them. No torch here."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .backbones import refuse_no_weights
from .keys import check_chosen

# in the order of the paper: noise, blur, weather, digital (Hendrycks and Dietterich 2019)
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
SMALLEST = 28  # pixels


def check_corruptions(command: str, config: Any) -> None:
    """The checks of `corruptions`. Raises UserError."""
    refuse_no_weights(config)
    check_chosen("kinds", config.kinds, CORRUPTIONS)
    check_chosen("severities", config.severities, (1, 2, 3, 4, 5))
    if config.data.size < SMALLEST:
        raise UserError(
            f"data.size={config.data.size}: the corruptions are defined for images of {SMALLEST} pixels or more"
        )
