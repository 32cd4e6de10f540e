"""The images behind the rates of `corruptions` and `unforeseen`: which they are, and what changed them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .folders import lookup
from .metrics import number
from .settings import Conditions, fingerprint_in, moving_keys, pixels_in, value_text


@dataclass(frozen=True)
class Changed(Conditions):
    """The conditions under which a run judged changed images. Rates are compared only where they are equal.

    title: what the page shows of them; kinds: the corruptions or attacks
    """

    title: str
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        return self.title


def judged_images(
    config: Mapping[str, Any], result: Mapping[str, Any], made_from: Mapping[str, Any], kinds: Iterable[str]
) -> dict[str, str | None]:
    """The images that a run judged under `kinds`, and the draws that changed them, by key. None where a value is not known.

    data.limit:      how many they are
    images:          the fingerprint of the set
    pixels:          how its loader decoded them
    published:       "FOLDER" with published images, which need no seed
    published files: a hash of those of `kinds` and of the labels
    """
    config, n = dict(config), number(result.get("n"))
    split, seed = (result.get(name, config.get(name)) for name in ("split", "seed"))
    found = {
        "data.name": lookup(config, "data.name"),
        "split": split,
        "data.limit": None if n is None else f"{n:.0f}",
        "images": fingerprint_in(made_from),
        "pixels": pixels_in(made_from),
    }
    for name, default in moving_keys().items():
        if name.startswith("data.") and (name != "data.validation" or split == "validation"):
            found[name] = value_text(lookup(config, name, default)) if isinstance(config.get("data"), dict) else None
    if config.get("published"):
        found |= {"published": "FOLDER", "published files": _of_files(made_from.get("published"), kinds)}
    else:
        found |= {"published": "null" if config else None, "seed": seed}
    return {name: None if value is None else value_text(value) for name, value in found.items()}


def _of_files(digests: Any, kinds: Iterable[str]) -> str | None:
    """One hash of the digests of the files of `kinds` and of the labels; None where one is not recorded."""
    names = sorted(f"{name}.npy" for name in (*kinds, "labels"))
    if not isinstance(digests, dict) or any(name not in digests for name in names):
        return None
    return hashlib.sha256(repr([(name, digests[name]) for name in names]).encode(errors="replace")).hexdigest()[:32]
