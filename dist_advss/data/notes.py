"""Remarks on a data set that do not stop a run, such as files that are not read."""

from __future__ import annotations

import functools
import os
import sys

import numpy as np

from ..config.schema import Data
from .image_set import Integers

NAMED = 5  # classes that a remark names


@functools.cache  # a set is read several times in a run, for each split
def say(text: str) -> None:
    """Prints a remark to standard error, once in a run: rank 0 prints it, and does not repeat it."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        print(text, file=sys.stderr)


def say_classes_without_images(data: Data, split: str, labels: Integers, classes: list[str]) -> None:
    """Names the classes of which a split has no image. `labels` (N,) int64 are those of the split."""
    missing = sorted(set(range(len(classes))) - set(np.unique(labels).tolist()))
    if not missing:
        return
    # The key that leaves them out. A test part that is not limited lacks them on disk.
    key = f"data.validation={data.validation:g}"
    if split == "test":
        key = f"data.root={data.root}"
    if split != "validation" and data.limit is not None:
        key = f"data.limit={data.limit}"
    named = ", ".join(classes[label] for label in missing[:NAMED])
    more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
    images = {"train": "training", "validation": "held-out", "test": "test"}[split]
    say(f"{key}: leaves {len(missing):,} of {len(classes):,} classes without {images} images: {named}{more}")
