"""Images on the page are those that were saved."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dist_advss.report.images import BUDGET, Gallery, galleries, png
from dist_advss.runs.read import read
from dist_advss.runs.table import rows_of


def pixels(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def galleries_of(run: Path) -> list[Gallery]:
    """The galleries of a single run folder."""
    launch = read(run, 0.0)
    return galleries(launch, rows_of(launch))


def resave(run: Path, **arrays: Any) -> None:
    with np.load(run / "samples" / "samples.npz") as archive:
        kept = dict(archive)
    np.savez(run / "samples" / "samples.npz", **{**kept, **arrays})


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels(channels: int) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (28, 28, channels))
    assert (pixels(png((grey / 255).astype(np.float32))) == grey.squeeze()).all()


def test_values_outside_the_range_are_cut() -> None:
    image = np.array([[[-1.0], [2.0]], [[np.nan], [0.5]]], dtype=np.float32)
    assert pixels(png(image)).tolist() == [[0, 255], [0, 128]]


def test_no_perturbation_is_mid_grey_and_eps_reaches_black_and_white(quickstart: Any) -> None:
    run = quickstart.root / "p3_evaluate"
    clean = np.full((3, 4, 4, 1), 0.5, dtype=np.float32)
    adversarial = clean + np.array([0.0, 0.1, -0.1], dtype=np.float32)[:, None, None, None]
    zeros = np.zeros(3, dtype=np.int64)
    resave(
        run, clean=clean, adversarial=adversarial, label=zeros, clean_prediction=zeros, adversarial_prediction=zeros + 1
    )
    (gallery,) = galleries_of(run)
    assert gallery.factor == pytest.approx(5.0)  # eps is 0.1
    assert [int(pixels(s.perturbation).mean()) for s in gallery.samples] == [128, 255, 0]
    assert [(s.truth, s.clean_correct, s.adversarial_prediction) for s in gallery.samples[:1]] == [
        ("t-shirt", True, "trouser")
    ]


def test_classes_without_names_are_numbers(quickstart: Any) -> None:
    resave(quickstart.root / "p3_evaluate", classes=np.array([], dtype=str), label=np.full(8, 7))
    (gallery,) = galleries_of(quickstart.root / "p3_evaluate")
    assert gallery.samples[0].truth == "7"


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "no array", "wrong shape", "objects"])
def test_damaged_samples_are_left_out(quickstart: Any, damage: str) -> None:
    run = quickstart.root / "p3_evaluate"
    file = run / "samples" / "samples.npz"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "no array":
        np.savez(file, clean=np.zeros((1, 4, 4, 1)))
    elif damage == "wrong shape":
        resave(run, label=np.zeros(3))
    else:
        resave(run, classes=np.array([object()]))
    assert galleries_of(run) == []


def test_thirty_runs_of_large_images_stay_within_the_budget(quickstart: Any) -> None:
    run = quickstart.root / "p3_evaluate"
    rng = np.random.default_rng(0)
    clean = rng.random((8, 224, 224, 3), dtype=np.float32)
    resave(run, clean=clean, adversarial=clean)
    launch = read(run, 0.0)
    (row,) = rows_of(launch)
    found = galleries(launch, [replace(row, seed=seed) for seed in range(30)])
    assert len(found) == 30
    assert sum(sample.size for gallery in found for sample in gallery.samples) < 1.3 * BUDGET
    assert all(gallery.samples and gallery.scaled_down for gallery in found)
    assert pixels(found[0].samples[0].clean).shape == (96, 96, 3)
