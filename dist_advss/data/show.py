"""`dist-advss data show` on a data set: a summary and a contact sheet of the images that training and evaluation use."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..config.schema import Data
from ..files import write_whole
from .image_set import Bytes, ImageSet, Integers, NoSuchPart
from .load import SPLITS, load_data
from .sets.sources import read

# fmt: off
COLUMNS = 10  # images of each class in the contact sheet
MARGIN = 120  # pixels for the names of the classes
TILE = 64     # pixels of an image, which is enlarged by whole factors
# fmt: on


def summary(data: Data) -> str:
    """Count, size, checksums, mean and standard deviation (pixels in [0, 1]) of each split, and a table of class counts.

    The training split is that of fine-tuning where data.labels is set, else that of pre-training. Raises UserError.
    """
    splits: dict[str, ImageSet] = {}
    for split in SPLITS:
        # Images without labels may have no test part.
        with contextlib.suppress(NoSuchPart):
            splits[split] = load_data(data, split, labelled=data.labels is not None)
    classes = splits["train"].classes
    counts = {split: _counts(images) for split, images in splits.items()}
    lines = [
        f"{data.name}: {data.size}x{data.size} pixels, {data.channels} channel{'s' * (data.channels > 1)}, {len(classes) or 'no'} classes",
        "",
    ]
    for split, images in splits.items():
        mean, std = mean_std(images)
        unlabelled = f", {counts[split][-1]:,} of them unlabelled" if counts[split][-1] else ""
        shape, megabytes = tuple(images.images.shape[1:]), images.images.numel() / 1e6
        lines += [
            split,
            f"  images  {len(images):,} of shape {shape}, {megabytes:,.1f} MB{unlabelled}",
            f"  mean    {_numbers(mean)}",
            f"  std     {_numbers(std)}",
            f"  sha256  images {_sha256(images.images)}",
            f"          labels {_sha256(images.labels)}",
        ]
    if not classes:
        return "\n".join(lines) + "\n"
    width = max(len(name) for name in [*classes, "class"])
    lines += ["", f"{'class':<{width}}" + "".join(f"{split:>12}" for split in splits)]
    for label, name in enumerate(classes):
        lines.append(f"{name:<{width}}" + "".join(f"{counts[split][label]:>12,}" for split in splits))
    return "\n".join(lines) + "\n"


def mean_std(images: ImageSet) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, pixels in [0, 1]. Exact, from the counts of the 256 values."""
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.images.shape[3]):
        count = np.zeros(256, np.int64)
        for part in images.images[..., channel].split(4096):
            count += np.bincount(part.numpy().reshape(-1), minlength=256)
        mean = float(count @ values / count.sum())
        means.append(mean)
        stds.append(float(np.sqrt(count @ (values - mean) ** 2 / count.sum())))
    return means, stds


def contact_sheet(data: Data, file: Path) -> None:
    """Writes a PNG with a row for each class: its name and its first ten training images. Raises UserError, RunError.

    Images without labels have one row.
    """
    images = load_data(data, "train", labelled=bool(read(data, "train").classes))
    tile = data.size * max(1, TILE // data.size)
    draw_sheet(
        file, images.classes, images.labels.numpy(), tile, lambda row: images.images[row].expand(-1, -1, 3).numpy()
    )


def draw_sheet(file: Path, classes: list[str], labels: Integers, tile: int, picture: Callable[[int], Bytes]) -> None:
    """Writes a PNG with a row for each class: its name and its first ten images. Without classes it has one row.

    `picture(position)` is an image (height, width, 3) uint8. It is scaled to fit a square of `tile` pixels.
    """
    from PIL import Image, ImageDraw

    rows = dict(enumerate(classes)) or {-1: "unlabelled"}
    sheet = Image.new("RGB", (MARGIN + COLUMNS * (tile + 2), len(rows) * (tile + 2)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, name) in enumerate(rows.items()):
        top = row * (tile + 2)
        draw.text((4, top + tile // 2 - 6), name[:18], fill="black")
        for column, position in enumerate(np.flatnonzero(labels == label)[:COLUMNS].tolist()):
            image = Image.fromarray(picture(position))
            scale = tile / max(image.size)
            resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR
            image = image.resize((round(image.width * scale), round(image.height * scale)), resampling)
            sheet.paste(image, (MARGIN + column * (tile + 2), top))
    write_whole(file, lambda stream: sheet.save(stream, format="PNG"))


def _counts(images: ImageSet) -> list[int]:
    """The number of images of each class, then of unlabelled images."""
    labels = torch.where(images.labels < 0, len(images.classes), images.labels)
    return torch.bincount(labels, minlength=len(images.classes) + 1).tolist()


def _numbers(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"


def _sha256(array: torch.Tensor) -> str:
    return hashlib.sha256(array.contiguous().numpy().data).hexdigest()
