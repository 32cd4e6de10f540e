"""The images section: clean images, perturbations and adversarial images of the evaluations, as PNG data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arrays import read_arrays
from ..runs.folders import lookup
from ..runs.read import Launch, Run, number
from ..runs.table import Row, full_names
from ..text import one_line

# fmt: off
BUDGET = 2_500_000  # bytes of data URIs on a page, over all its evaluations
PER_RUN = 8         # samples of one evaluation
LARGEST = 96        # pixels a side; larger images are scaled down
MOST_BYTES = 256 * 2**20  # of a file's arrays; 16 pairs of images of 512 pixels take 100 MB
# fmt: on

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One image, its perturbation and their sum as PNG data URIs, its true class, and the model's predictions."""

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
    """The samples of one evaluation, and its full name.

    factor:      what the perturbation is multiplied by, around mid grey, to be visible
    scaled_down: whether the images are larger than the page shows them
    """

    row: Row
    name: str
    factor: float
    scaled_down: bool
    samples: list[Sample]


def galleries(launch: Launch, rows: list[Row]) -> list[Gallery]:
    """Samples of the finished evaluations: the highest RA first, then the baseline, then the others.

    The page's budget is divided evenly; an evaluation that needs less leaves the rest to those after it.
    """
    shown: list[Gallery] = []
    left = BUDGET
    ordered, names = _in_order(rows), full_names(rows)
    for done, row in enumerate(ordered):
        gallery = _gallery(launch.runs[row.evaluation], row, names[row.evaluation], left // (len(ordered) - done))
        if gallery and gallery.samples:
            left -= sum(sample.size for sample in gallery.samples)
            shown.append(gallery)
    return shown


def _in_order(rows: list[Row]) -> list[Row]:
    finished = [row for row in rows if row.ra]
    strongest = sorted(finished, key=lambda row: -(row.ra.value if row.ra else 0))[:1]
    baseline = [row for row in finished if row.method.label == "P1→F4"][:1]
    return list(dict.fromkeys([*strongest, *baseline, *finished]))


def _gallery(run: Run, row: Row, name: str, budget: int) -> Gallery | None:
    """As many of the run's samples as fit into `budget` bytes, at least one; None without samples."""
    arrays = _load(run.path / "samples" / "samples.npz")
    if arrays is None:
        return None
    perturbation = arrays["adversarial"] - arrays["clean"]
    factor = _factor(run, perturbation)
    samples: list[Sample] = []
    for i in range(min(len(perturbation), PER_RUN)):
        sample = _sample(arrays, i, png(0.5 + factor * perturbation[i], smooth=False))
        if samples and sample.size > budget:
            break
        budget -= sample.size
        samples.append(sample)
    return Gallery(row, name, factor, max(perturbation.shape[1:3]) > LARGEST, samples)


def _sample(arrays: dict[str, NDArray[Any]], i: int, perturbation: str) -> Sample:
    """Image `i` of the saved ones."""
    classes = [one_line(str(name), 80) for name in arrays.get("classes", np.array([], dtype=str)).ravel()]
    label = int(arrays["label"][i])
    clean = int(arrays["clean_prediction"][i])
    adversarial = int(arrays["adversarial_prediction"][i])
    return Sample(
        truth=_name(label, classes),
        clean=png(arrays["clean"][i]),
        perturbation=perturbation,
        adversarial=png(arrays["adversarial"][i]),
        clean_prediction=_name(clean, classes),
        clean_correct=clean == label,
        adversarial_prediction=_name(adversarial, classes),
        adversarial_correct=adversarial == label,
    )


def _load(file: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of samples.npz; None where the file is missing, damaged, or its shapes do not fit together."""
    try:
        arrays = read_arrays(file, MOST_BYTES)
    except (OSError, ValueError):
        return None
    clean, adversarial = arrays.get("clean"), arrays.get("adversarial")
    numbers = [arrays.get(name) for name in ("label", "clean_prediction", "adversarial_prediction")]
    if clean is None or adversarial is None or clean.shape != adversarial.shape or clean.ndim != 4:
        return None
    if clean.shape[-1] not in (1, 3) or any(
        a is None or a.shape != (len(clean),) or a.dtype.kind not in "iu" for a in numbers
    ):
        return None
    if clean.size == 0 or clean.dtype.kind != "f" or adversarial.dtype.kind != "f":
        return None
    # The few that are shown, in the range of images: a difference cannot overflow.
    for name in ("clean", "adversarial"):
        arrays[name] = np.clip(np.nan_to_num(arrays[name][:PER_RUN]), 0.0, 1.0).astype(np.float32)
    return arrays


def _factor(run: Run, perturbation: Floats) -> float:
    """The factor at which the largest perturbation reaches black or white: 1/(2 eps) in an l-infinity ball, else measured."""
    attack = run.result.get("attack") or lookup(run.config, "attack") or {}
    eps = number(lookup(attack, "eps"))
    if lookup(attack, "norm", "linf") != "linf" or not eps:
        eps = float(np.abs(perturbation).max(initial=0.0))
    return 0.5 / eps if eps > 0 else 1.0


def _name(index: int, classes: list[str]) -> str:
    return classes[index] if 0 <= index < len(classes) else str(index)


def png(image: Floats, smooth: bool = True) -> str:
    """An image (H, W, 1 or 3), float in [0, 1], as a PNG data URI of at most 96 pixels a side. Values outside are cut.

    `smooth` averages pixels where the image is scaled down. Not for a perturbation, which would average out.
    """
    grey = np.rint(np.clip(np.nan_to_num(image), 0.0, 1.0) * 255).astype(np.uint8)
    picture = Image.fromarray(grey[..., 0] if grey.shape[-1] == 1 else grey)
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX if smooth else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
