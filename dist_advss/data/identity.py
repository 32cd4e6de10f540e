"""What a run remembers of its images, and the comparison wherever it meets images again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config.schema import Data
from ..config.sets import SETS
from ..errors import UserError
from .betons.beton import SQUARES, Beton
from .betons.origin import find_beton, source_here
from .betons.write import describe
from .image_set import Integers
from .sets.fingerprint import Files
from .sets.sources import read


@dataclass(frozen=True)
class Identity:
    """One part of a data set, as it was when a run read it.

    name:        data.name
    part:        "train" (held-out images included) or "test"
    root:        the absolute path of the set; None for an included set
    classes:     the names of the classes: label k is classes[k]; [] for images without labels
    images:      their number, unlabelled ones included
    fingerprint: a hash of names and content of the part's own files; equal for a copy elsewhere; "" where it is unknown
    pixels:      how the loader made pixels of the files (`Description.pixels`); "" where it is unknown
    """

    name: str
    part: str
    root: str | None
    classes: list[str]
    images: int
    fingerprint: str
    pixels: str = ""

    def as_record(self) -> dict[str, Any]:
        """Plain values, for JSON and for checkpoints."""
        return asdict(self)


def restore(record: Any) -> Identity | None:
    """The identity that `as_record` gave; None for anything else, such as a checkpoint of an older version."""
    try:
        found = Identity(**record)
    except TypeError:
        return None
    texts = (found.name, found.part, found.fingerprint, found.pixels, *found.classes)
    return found if all(isinstance(text, str) for text in texts) and isinstance(found.images, int) else None


def identify(data: Data, part: str) -> Identity:
    """The images that `data` names now. `part` is "train" or "test". Raises UserError for files that are missing.

    Where data.root is not on this machine and data.beton is, the beton's description gives the answer. Their `pixels` are ""
    where data.loader=auto may give either.
    """
    source = source_here(data, part)
    found = (
        identity_of_beton(data, find_beton(data, part, None))
        if source is None
        else identity_of_files(data, part, source)
    )
    decoded = describe(data, part, [], "").pixels
    loaders = {"memory": SQUARES, "ffcv": decoded}
    return replace(found, pixels=loaders.get(data.loader, decoded if decoded == SQUARES else ""))


def identity_of_files(data: Data, part: str, files: Files) -> Identity:
    """The identity of a part that the memory loader reads from its files.

    No image of a tree is decoded; sets of arrays are loaded for their labels.
    """
    source = read(data, "train+unlabelled" if part == "train" else part, files.paths)
    count, root = len(source.labels), _absolute_root(data)
    return Identity(data.name, part, root, source.classes, count, files.fingerprint, SQUARES)


def identity_of_beton(data: Data, beton: Beton) -> Identity:
    """The identity of a part from the description of its beton."""
    about, root = beton.about, _absolute_root(data)
    return Identity(data.name, about.part, root, about.classes, len(beton), about.fingerprint, about.pixels)


def _absolute_root(data: Data) -> str | None:
    configured = data.root or SETS[data.name].root
    return None if configured is None else str(Path(configured).expanduser().resolve())


def is_here(data: Data) -> bool:
    """Whether data.root is on this machine. An empty folder is not: it may be where a disk is mounted on other machines."""
    root = _absolute_root(data)
    return root is None or (Path(root).is_dir() and any(Path(root).iterdir()))


def difference(before: Identity, now: Identity) -> str | None:
    """How the images differ from those of a record, for a message: "12 images, now 13". None where they are the same.

    The place does not count: a copy elsewhere is the same set. Nor do the pixels (`other_pixels`): which images are held out
    does not depend on them.
    """
    for text, old, new in (
        ("set", before.name, now.name),
        ("part", before.part, now.part),
        ("classes", _listed(before.classes), _listed(now.classes)),
        ("images", before.images, now.images),
        ("fingerprint", before.fingerprint or now.fingerprint, now.fingerprint or before.fingerprint),
    ):
        if old != new:
            return f"{text} {old}, now {new}"
    return None


def other_pixels(before: Identity, now: Identity) -> str | None:
    """How the same images differ in their pixels: "pixels squares, now original up to 512". None where they are the same."""
    old, new = before.pixels, now.pixels
    return f"pixels {old}, now {new}" if old and new and old != new else None


def class_order(key: str, model: Sequence[str], data: Sequence[str]) -> Integers | None:
    """For each class of `data`, the label that a model with the classes `model` gives it: (len(data),) int64.

    None where the two lists are the same. Raises UserError, with both lists, where they do not hold the same names. The
    message begins with `key`, such as "checkpoint=RUN".
    """
    if list(model) == list(data):
        return None
    position: Mapping[str, int] = {name: label for label, name in enumerate(model)}
    if len(position) != len(model) or sorted(model) != sorted(data):
        raise UserError(
            f"{key}: was trained on the classes {_listed(model)}, and these images have {_listed(data)}; "
            "give a data set with the same classes"
        )
    return np.array([position[name] for name in data], np.int64)


def _listed(names: Sequence[str], most: int = 20) -> str:
    """[cat, dog]; of a long list the first names and the number of the rest."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return f"[{', '.join(names[:most])}{more}]"
