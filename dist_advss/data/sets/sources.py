"""The readers of data sets by `data.name`, and the checks that every set must pass.

A new set is one reader `(data, part) -> Source` and one entry in `config/sets.py`; `part` is "train", "train+unlabelled" or
"test".
"""

from __future__ import annotations

import numpy as np

from ...config.checks import check_shape
from ...config.implementation import implementation
from ...config.schema import Data
from ...config.sets import SETS
from ...errors import UserError
from ..image_set import Source
from .stage import staged


def read(data: Data, part: str) -> Source:
    """The part "train", "train+unlabelled" or "test" of the set that `data` names. Raises UserError.

    "train+unlabelled" adds the images without a label (label -1) after the labelled ones. Only stl10 has any.
    """
    check_shape(data)
    source: Source = implementation(SETS[data.name].read)(staged(data), part)
    if len(source.labels) == 0:
        raise UserError(f"data.root={data.root}: the {part} part of {data.name} is empty; check the files")
    if len(source.classes) != data.classes:
        raise UserError(
            f"data.classes={data.classes}: {data.name} has {len(source.classes)} classes; "
            f"set data.classes={len(source.classes)}"
        )
    lowest = -1 if part == "train+unlabelled" else 0
    invalid = np.flatnonzero((source.labels < lowest) | (source.labels >= data.classes))
    if len(invalid):
        raise UserError(
            f"data.root={data.root}: image {invalid[0]} of the {part} part of {data.name} has label "
            f"{source.labels[invalid[0]]}, outside 0..{data.classes - 1} ({len(invalid)} such images); "
            "correct the labels or data.classes"
        )
    return source
