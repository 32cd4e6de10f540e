"""Attacks that no training foresaw: a dozen threats beyond the norm balls, each at three calibrated strengths.

They follow Kaufmann et al. 2019 (arXiv 1908.08016, ImageNet-UA): each is a differentiable rendering whose latent the
attacker moves within a box. The renderings are this project's own, for images of 28 pixels and more, with 1 or 3 channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..threat import Threat
from . import filters, overlays, warps
from .l1 import L1
from .rendered import Rendered, Rendering
from .search import search

__all__ = ["KINDS", "L1", "Kind", "Rendered", "Rendering", "search"]


@dataclass(frozen=True)
class Kind:
    """An unforeseen attack: its threat at a strength, and the strengths that it calls low, medium and high."""

    threat: Callable[[float], Threat]
    strengths: dict[str, float]


def _kind(threat: Callable[[float], Threat] | Rendering, low: float, medium: float, high: float) -> Kind:
    strengths = {"low": low, "medium": medium, "high": high}
    if isinstance(threat, Rendering):
        rendering = threat
        return Kind(lambda strength: Rendered(rendering, strength), strengths)
    return Kind(threat, strengths)


# Calibrated by benchmarks/unforeseen.py, see docs/methods.md, "Unforeseen attacks".
# fmt: off
KINDS = {
    "l1":           _kind(L1,                    0.015, 0.03, 0.044),
    "jpeg":         _kind(filters.JPEG,          1.8, 2.6, 3),
    "elastic":      _kind(warps.ELASTIC,         0.028, 0.044, 0.08),
    "whirlpool":    _kind(warps.WHIRLPOOL,       0.65, 1.3, 2.4),
    "glitch":       _kind(warps.GLITCH,          0.11, 0.25, 0.35),
    "fog":          _kind(overlays.FOG,          0.18, 0.22, 0.3),
    "snow":         _kind(overlays.SNOW,         0.3, 0.4, 0.56),
    "gabor":        _kind(overlays.GABOR,        0.23, 0.31, 0.43),
    "wood":         _kind(overlays.WOOD,         0.27, 0.33, 0.43),
    "kaleidoscope": _kind(overlays.KALEIDOSCOPE, 0.33, 0.53, 0.87),
    "pixel":        _kind(filters.PIXEL,         0.2, 0.34, 0.5),
    "blur":         _kind(filters.BLUR,          0.12, 0.27, 0.37),
}
# fmt: on
