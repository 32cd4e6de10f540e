"""The images and the weights that a run was made from: made_from.json in its folder, and the comparison in later sessions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..config import plugins
from ..config.pseudo import FILE as PSEUDO_LABELS
from ..config.schema import Data
from ..data.betons.beton import SQUARES
from ..data.identity import Identity, difference, identify, is_here, other_pixels, restore
from ..data.published import digests_of
from ..errors import UserError
from ..files import read_text, write_json
from ..runs.folders import lookup
from . import checkpoint, pseudo_labels

FILE = "made_from.json"
NO_CLASSES = "holds no class names; its outputs are taken for the classes of this set, in their order"


@dataclass(frozen=True)
class MadeFrom:
    """What determines a run's result beside its configuration.

    data:      the images of the part that it reads, training or test
    weights:   the digest of every checkpoint that it loads, by the absolute path of the file; for a model in a user's file,
               the digest of this file, and by FILE.py:FUNCTION that of the weights that it made
    version:   of dist_advss, in the run's first session
    code:      the digest of the user's file with the objective; None without one
    published: the digest of every file of published corrupted images that it reads, by its name; {} without any
    """

    data: Identity
    weights: dict[str, str]
    version: str = __version__
    code: str | None = None
    published: dict[str, str] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Plain values, for made_from.json and result.json."""
        record: dict[str, Any] = {"data": self.data.as_record(), "weights": self.weights, "version": self.version}
        if self.code is not None:
            record["code"] = self.code
        if self.published:
            record["published"] = self.published
        return record


def survey(data: Data, split: str) -> Identity:
    """The images of the part that contains `split`, as they are now. Raises UserError for files that are missing."""
    return identify(data, "test" if split == "test" else "train")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint whose weights a run loaded: its absolute path, its digest, the images that trained it, and data.validation.

    `data` is None for a checkpoint that an earlier version wrote, `held_out` for one without a configuration.
    """

    path: Path
    digest: str
    data: Identity | None
    held_out: float | None = None

    @property
    def classes(self) -> list[str] | None:
        """The names of its classes: label k is classes[k]. None where they are unknown."""
        return None if self.data is None else self.data.classes


def load_weights(path: Path) -> tuple[dict[str, Tensor], Loaded]:
    """The state dict in a checkpoint file, and its identity. Raises UserError for a file that cannot be used."""
    content = checkpoint.load(path)
    weights = checkpoint.judged(content)
    share = lookup(content, "config.data.validation")
    held_out = share if isinstance(share, float) else None
    return weights, Loaded(path.resolve(), checkpoint.digest(weights), restore(content.get("data")), held_out)


def digest_of(file: Path) -> str:
    """The digest of a checkpoint's weights, of pseudo-labels, or of a user's .py file. Raises UserError for a file that cannot be used."""
    if file.name == PSEUDO_LABELS:
        return pseudo_labels.read(file).digest()
    return plugins.digest(f"{file}:", "model") if file.suffix == ".py" else load_weights(file)[1].digest


def digests(loaded: Iterable[Loaded]) -> dict[str, str]:
    """The digest of each checkpoint by its absolute path, for `MadeFrom.weights`."""
    return {str(source.path): source.digest for source in loaded}


def recorded(folder: Path) -> MadeFrom | None:
    """The content of FOLDER/made_from.json. None where there is none: an earlier version wrote the folder.

    Raises UserError for a file that dist-advss did not write.
    """
    file = folder / FILE
    try:
        content = json.loads(read_text(file))
        images, weights = restore(content["data"]), {str(k): str(v) for k, v in content["weights"].items()}
        published = {str(k): str(v) for k, v in content.get("published", {}).items()}
        if images is None:
            raise ValueError
        return MadeFrom(images, weights, str(content["version"]), content.get("code"), published)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"out={folder}: its {FILE} was not written by dist-advss; choose another out, or remove that file"
        ) from error


def write(folder: Path, made_from: MadeFrom) -> None:
    """Writes FOLDER/made_from.json. Raises RunError when the disk is full."""
    write_json(folder / FILE, made_from.as_record())


def other_images(before: MadeFrom, now: Identity) -> str | None:
    """How the images differ from those of a record, such as "30 images, now 31"; None where they are the same."""
    return difference(before.data, now)


def other_weights(before: MadeFrom, now: dict[str, str]) -> str | None:
    """The first checkpoint whose weights have changed, with both digests; None where all are the same.

    A run lists its checkpoints in one order, so a moved file is compared too.
    """
    for (path, new), old in zip(now.items(), before.weights.values(), strict=False):
        if new != old:
            return f"{'file' if path.endswith('.py') else 'checkpoint'} {path} had digest {old}, now {new}"
    return None


def other_published(before: Mapping[str, str], folder: Path) -> str | None:
    """The first file of published images in `folder` that is not as its digest says; None where all are, or the folder is gone."""
    if not before or not os.path.isdir(folder):  # unlike Path.is_dir, never raises
        return None
    try:
        now = digests_of(str(folder), before)
    except (UserError, ValueError) as error:  # the latter for a name that no file can have
        return str(error)
    for name, old in before.items():
        if now.get(name) != old:
            return f"{folder / name} had digest {old}, now {now.get(name)}"
    return None


def refuse_to_resume(folder: Path, before: MadeFrom, now: MadeFrom) -> None:
    """Raises UserError when a run would continue with other images, or begin with other weights, than it started with."""
    images = other_images(before, now.data)
    if images is not None:
        raise UserError(
            f"data.root={now.data.root}: the images have changed since the run in {folder} began ({images}); restore them, "
            "or choose another out"
        )
    pixels = other_pixels(before.data, now.data)
    if pixels is not None:
        loader = "memory" if before.data.pixels == SQUARES else "ffcv"
        raise UserError(
            f"data.loader: the run in {folder} began with other pixels of its images ({pixels}); set data.loader={loader}, or "
            "choose another out"
        )
    weights = other_weights(before, now.weights)
    if weights is not None:
        raise UserError(
            f"out={folder}: its run began with other weights ({weights}); choose another out, or remove the folder"
        )


def refuse_trained_on(key: str, source: Loaded, now: Identity, data: Data) -> None:
    """Raises UserError when the weights of `source` were trained on images that `data` holds out for validation.

    That is so when the folder `now.root` has changed since, because the split is another one then, and when `data` holds out
    more of the same images than that training did. Images in another folder are another set, which may be chosen on
    purpose. The message begins with `key`, such as "init=RUN", or with data.validation.
    """
    then = source.data
    if then is None or (then.name, then.part) != (now.name, now.part):
        return
    changed = difference(then, now)
    if changed is not None and now.root is not None and then.root == now.root:
        raise UserError(
            f"{key}: the images in data.root={now.root} have changed since it was trained on them ({changed}), so the "
            "held-out images would not be the same; restore them, or give a copy in another folder as data.root"
        )
    if changed is None and now.part == "train" and source.held_out is not None and data.validation > source.held_out:
        raise UserError(
            f"data.validation={data.validation:g}: {source.path} held out {source.held_out:g} of these images and was trained "
            f"on the others; set data.validation={source.held_out:g}, or less"
        )


def refuse_stale(folder: Path, data: Data, split: str, files: Sequence[Path], published: str | None = None) -> None:
    """Raises UserError when a finished folder's result is of other images or of other weights than there are now.

    `published` is the folder of published images. Checkpoints that no longer exist are not compared, nor is a set or a folder
    of published images that is gone: the result is kept. A set that is there and can no longer be read as it was, for example
    without one of its classes, has changed.
    """
    before = recorded(folder)
    if before is None:
        return
    present = all(file.exists() for file in files)
    weights = other_weights(before, {str(file.resolve()): digest_of(file) for file in files}) if present else None
    if weights is not None:
        raise UserError(
            f"out={folder}: its result is of other weights ({weights}); choose another out, or remove the folder"
        )
    try:
        now = survey(data, split)
        images = other_images(before, now) or other_pixels(before.data, now)
    except UserError as error:
        images = str(error) if is_here(data) else None
    if images is None and published is not None:
        images = other_published(before.published, Path(published))
    if images is not None:
        raise UserError(
            f"out={folder}: its result is of other images ({images}); restore them, choose another out, or remove the folder"
        )
