"""Finds and reads the files of a data set by `data.name`, with the checks that every set must pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...config.checks import check_shape
from ...config.implementation import implementation
from ...config.schema import Data
from ...config.sets import SETS
from ...errors import UserError
from ..image_set import Source


def files_of(data: Data, part: str) -> list[Path]:
    """The files from which `read` gets a part of the set, and no others; [] for an included set. Raises UserError.

    `part` is "train" (with the files of unlabelled images) or "test". For data.download, missing files are downloaded.
    """
    check_shape(data)
    files: list[Path] = implementation(SETS[data.name].files)(data, part)
    return files


def read(data: Data, part: str, files: list[Path] | None = None) -> Source:
    """The part "train", "train+unlabelled" or "test" of the set that `data` names. Raises UserError.

    "train+unlabelled" adds the images without a label (label -1) after the labelled ones. Only stl10 has both kinds. A folder
    of images without labels has the same images in "train" and "train+unlabelled", all with label -1. `files` are those of
    `files_of`, where they are known.
    """
    check_shape(data)
    if files is None:
        files = files_of(data, "test" if part == "test" else "train")
    source: Source = implementation(SETS[data.name].read)(data, part, files)
    if len(source.labels) == 0:
        raise UserError(f"data.root={data.root}: the {part} part of {data.name} is empty; check the files")
    classes = len(source.classes)
    if data.classes not in (None, classes):
        raise UserError(f"data.classes={data.classes}: {data.name} has {classes} classes; set data.classes={classes}")
    # Only a set with unlabelled images may have -1. Elsewhere it is an error in the labels.
    unlabelled = classes == 0 or (part == "train+unlabelled" and SETS[data.name].unlabelled > 0)
    invalid = np.flatnonzero((source.labels < (-1 if unlabelled else 0)) | (source.labels >= classes))
    if len(invalid):
        raise UserError(
            f"data.root={data.root}: image {invalid[0]} of the {part} part of {data.name} has label "
            f"{source.labels[invalid[0]]}, outside 0..{classes - 1} ({len(invalid)} such images); "
            "correct the labels or data.classes"
        )
    return source
