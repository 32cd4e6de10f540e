"""Clean, perturbation and adversarial images of the evaluations as PNG data URIs."""

from __future__ import annotations

import base64
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..runs.read import Run, lookup, number

BUDGET = 2_500_000  # bytes of data URIs on a page, over all its evaluations
PER_RUN = 8
LARGEST = 96  # pixels a side; larger images are scaled down to keep the page small

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One image three ways (PNG data URIs), its class, and what the model takes it for."""

    truth: str
    clean: str
    perturbation: str
    adversarial: str
    clean_prediction: str
    clean_correct: bool
    adversarial_prediction: str
    adversarial_correct: bool

    @property
    def size(self) -> int:
        """Bytes on the page."""
        return len(self.clean) + len(self.perturbation) + len(self.adversarial)


@dataclass(frozen=True)
class Gallery:
    """The samples of one evaluation; differences were multiplied by `factor` around mid grey to be seen."""

    stage: str
    factor: float
    scaled_down: bool
    samples: list[Sample]


def galleries(runs: list[Run]) -> list[Gallery]:
    """The saved samples of these evaluations, as many of each as the page can hold; runs without any are left out."""
    found: list[Gallery] = []
    left, waiting = BUDGET, len(runs)
    for run in runs:
        gallery = _gallery(run, left // max(waiting, 1))
        waiting -= 1
        if gallery and gallery.samples:
            left -= sum(sample.size for sample in gallery.samples)
            found.append(gallery)
    return found


def _gallery(run: Run, budget: int) -> Gallery | None:
    arrays = _load(run.path / "samples" / "samples.npz")
    if arrays is None:
        return None
    clean, adversarial = arrays["clean"], arrays["adversarial"]
    difference = adversarial - clean
    factor = _factor(run, difference)
    classes = [str(name) for name in arrays.get("classes", np.array([], dtype=str))]
    samples: list[Sample] = []
    for i in range(min(len(clean), PER_RUN)):
        label, before, after = (int(arrays[k][i]) for k in ("label", "clean_prediction", "adversarial_prediction"))
        sample = Sample(
            truth=_name(label, classes),
            clean=png(clean[i]),
            perturbation=png(0.5 + factor * difference[i], smooth=False),
            adversarial=png(adversarial[i]),
            clean_prediction=_name(before, classes),
            clean_correct=before == label,
            adversarial_prediction=_name(after, classes),
            adversarial_correct=after == label,
        )
        if samples and sample.size > budget:
            break
        budget -= sample.size
        samples.append(sample)
    return Gallery(run.stage, factor, max(clean.shape[1:3]) > LARGEST, samples)


def _load(file: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of samples.npz when they are all there and fit each other, else None."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    images = [arrays.get("clean"), arrays.get("adversarial")]
    numbers = [arrays.get(name) for name in ("label", "clean_prediction", "adversarial_prediction")]
    clean, adversarial = images
    if clean is None or adversarial is None or clean.shape != adversarial.shape or clean.ndim != 4:
        return None
    if clean.shape[-1] not in (1, 3) or any(a is None or a.shape != (len(clean),) for a in numbers):
        return None
    return arrays


def _factor(run: Run, difference: Floats) -> float:
    """What makes the largest difference span the grey range: 1/(2 eps) for an l-infinity ball, else from what is there."""
    attack = run.result.get("attack") or lookup(run.config, "attack") or {}
    eps = number(lookup(attack, "eps"))
    if lookup(attack, "norm", "linf") != "linf" or not eps:
        eps = float(np.abs(difference).max(initial=0.0))
    return 0.5 / eps if eps > 0 else 1.0


def _name(index: int, classes: list[str]) -> str:
    return classes[index] if 0 <= index < len(classes) else str(index)


def png(image: Floats, smooth: bool = True) -> str:
    """An image (H, W, 1 or 3), float in [0,1] (values outside are cut), as a PNG data URI of at most 96 pixels a side.

    `smooth` says whether a larger one may be averaged; a perturbation must not be, since it would average out.
    """
    grey = np.rint(np.clip(np.nan_to_num(image), 0.0, 1.0) * 255).astype(np.uint8)
    picture = Image.fromarray(grey[..., 0] if grey.shape[-1] == 1 else grey)
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX if smooth else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
