"""The configurations of the many runs of a launch. Runs that differ in nothing but their names share one composition.

A launch of thousands of runs has a handful of different ones: the others have another seed, another folder, and start from
another run. What they inherit from that run is compared by its content, so a source with other images is another composition.
Whether a run fits what its source has learned is checked for each source.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from . import checks
from .commands import COMMANDS
from .compose import compose, parse_words, set_value
from .inherit import NOTHING, inherited
from .keys import REQUIRED
from .paths import absolute, make_absolute
from .pseudo_source import begun_without, check_starts
from .source_run import NODES, run_folder
from .teacher import check_teacher

NAMES = ("out", "seed")  # and the run to start from: `compose` asks for no more than whether there is one


class Compositions:
    """`inherit.configure` for many runs.

    The runs that it returns share their nodes (`data`, `attack`, …), so none of them may be changed.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Any, dict[str, Any], Any]] = {}
        self._fit: set[tuple[Any, ...]] = set()  # compositions with a source that fits

    def configure(
        self, command: str, words: Sequence[str], planned: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The checked configuration of a run, and the same as nested mappings. Arguments and errors as of `inherit.configure`."""
        others = dict(parse_words(words))
        source = COMMANDS[command].source
        own = {name: others.pop(name) for name in (*NAMES, source) if name in others}
        # A planned source that shares its nodes with that of an earlier run passes on the same. Others are read.
        found = (planned or {}).get(str(run_folder(os.path.expanduser(own[source])))) if source in own else None
        nodes = inherited(command, words, planned) if found is None else None
        passed = (
            repr(nodes) if found is None else tuple(id(found.get(node)) for node in (*NODES, "objective", "pseudo"))
        )
        key = (command, *others.items(), *((name, value in NOTHING) for name, value in own.items()), passed)
        if key not in self._known or REQUIRED in own.values():
            config = compose(command, words, inherited(command, words, planned) if nodes is None else nodes)
            make_absolute(config)
            self._known[key] = (config, dataclasses.asdict(config), found)  # keeps `found`, so that its ids stay taken

        # The names are converted and checked as in a composition of its own.
        known, mapping, _ = self._known[key]
        config = copy.copy(known)
        for name, value in own.items():
            set_value(config, name, value)
        checks.check_out(config.out)
        self._check_sources(config, (key, own.get(source or "")), planned)
        if source in own and getattr(config, source) is not None:
            setattr(config, source, absolute(getattr(config, source)))
        return config, mapping | {name: getattr(config, name) for name in own}

    def _check_sources(self, config: Any, start: tuple[Any, ...], planned: Mapping[str, Any] | None) -> None:
        """The checks of `inherit.configure` that read the runs which this one starts from, once for each `start`.

        A run that has its pseudo-labels may start without the run that gave them. Raises UserError.
        """
        labels = getattr(config, "pseudo", None)
        start = (*start, labels is not None and labels.source is not None and begun_without(config.out, labels.source))
        if start not in self._fit:
            check_teacher(config, planned)
            check_starts(config, planned)
            self._fit.add(start)
