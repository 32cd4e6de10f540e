"""`dist-advss data show FILE` on a beton: a summary and a contact sheet. Reads the whole file, without FFCV."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import UserError
from ..show import draw_sheet
from .beton import RAW, Beton, damaged, open_beton

TILE = 64  # pixels of a picture in the contact sheet


def summary_of(path: Path) -> str:
    """Source, counts, shapes, sizes, checksum and class counts. Raises UserError for a damaged file."""
    beton = open_beton(path)
    if not beton.is_intact():
        raise damaged(path, "its images fail their checksum")
    about, raw = beton.about, beton.mode == RAW
    encodings = [
        f"{int(chosen.sum()):,} {name}, {beton.size[chosen].mean():,.0f} bytes each"
        for name, chosen in (("raw", raw), (f"JPEG of quality {about.quality}", ~raw))
        if chosen.any()
    ]
    lines = [
        f"{path}: the {about.part} part of {about.name}",
        "",
        f"  images       {len(beton):,} of {_shapes(beton)} pixels, {about.channels} channel{'s' * (about.channels > 1)}",
        f"  stored       {'; '.join(encodings)}",
        f"  file         {path.stat().st_size / 1e6:,.1f} MB",
        f"  sha256       {beton.sha256} (of description and images; verified)",
        f"  fingerprint  {about.fingerprint} (of the names and the content of the source files)",
        "",
    ]
    counts = np.bincount(beton.labels[beton.labels >= 0], minlength=len(about.classes))
    width = max(len(name) for name in [*about.classes, "unlabelled"])
    lines += [f"{name:<{width}}{count:>12,}" for name, count in zip(about.classes, counts, strict=True)]
    if unlabelled := int((beton.labels < 0).sum()):
        lines.append(f"{'unlabelled':<{width}}{unlabelled:>12,}")
    return "\n".join(lines) + "\n"


def contact_sheet_of(path: Path, file: Path) -> None:
    """Writes a PNG with a row for each class: its name and its first ten images. Raises UserError, RunError."""
    beton = open_beton(path)
    if len(beton) == 0:
        raise UserError(f"{path}: contains no images")
    tile = max(TILE, beton.about.size) if beton.about.stored == "pixels" else TILE
    draw_sheet(file, beton.about.classes, beton.labels, tile, beton.picture)


def _shapes(beton: Beton) -> str:
    """height x width, each as a range where images differ."""
    sides = [(int(side.min()), int(side.max())) for side in (beton.height, beton.width)]
    return "x".join(f"{low}" if low == high else f"{low}-{high}" for low, high in sides)
