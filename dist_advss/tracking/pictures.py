"""Images and tables of an evaluation for wandb: a grid of samples, the verdict on every image, and RA along a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import read_arrays

HEIGHT = 96  # pixels; small images are enlarged by an integer factor up to it


def grid(samples: Path, eps: float) -> Iterator[tuple[np.ndarray, str]]:
    """Strips of clean | perturbation | adversarial, uint8 (H, 3W, C), with a caption, from a samples.npz.

    A perturbation of +-eps is drawn as white and black; eps is in [0,1] pixel units.
    """
    found = read_arrays(samples)
    classes = [str(name) for name in found["classes"]]
    for i, (clean, adversarial) in enumerate(zip(found["clean"], found["adversarial"], strict=True)):
        perturbation = 0.5 + (adversarial - clean) / (2 * eps if eps else 2)
        strip = np.concatenate([clean, perturbation, adversarial], axis=1)
        times = max(1, HEIGHT // len(clean))
        strip = np.repeat(np.repeat(strip, times, axis=0), times, axis=1)
        label, before, after = (
            classes[found[name][i]] for name in ("label", "clean_prediction", "adversarial_prediction")
        )
        yield (strip.clip(0, 1) * 255).round().astype(np.uint8), f"{label}: {before} → {after}"


def verdict_rows(verdicts: Path, classes: list[str]) -> tuple[list[str], list[list[Any]]]:
    """Column names, and one row an image: position, label, both predictions, and "wrong", "robust" or "fooled"."""
    arrays = read_arrays(verdicts)
    columns = [arrays[name] for name in ("index", "label", "clean_prediction", "adversarial_prediction")]
    rows = []
    for index, label, before, after in zip(*(column.tolist() for column in columns), strict=True):
        verdict = "wrong" if before != label else "robust" if after == label else "fooled"
        rows.append([index, *(classes[k] if k < len(classes) else str(k) for k in (label, before, after)), verdict])
    return ["index", "label", "clean", "adversarial", "verdict"], rows


def curve_rows(sweep: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Column names, the first "eps" or "steps", and one row a point: RA with its 95% interval, in percent. Point 0 is clean."""
    axis = "steps" if "steps" in sweep else "eps"
    points = zip(sweep[axis], sweep["ra"], sweep["ra_interval"], strict=True)
    return [axis, "ra", "ra_low", "ra_high"], [[at, ra, *interval] for at, ra, interval in points]
