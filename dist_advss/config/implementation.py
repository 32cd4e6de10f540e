"""Imports the class or function that a table names, when it is needed.

The tables of this package (`COMMANDS`, `SETS`, `BACKBONES`, `ENGINES`, `OBJECTIVES`) hold texts such as
"dist_advss.engines.ddp:DDPEngine", so that reading a table imports no torch. A test imports every one of them.
"""

from __future__ import annotations

import importlib
from typing import Any


def implementation(name: str) -> Any:
    """The attribute that "module:attribute" names. Raises ImportError or AttributeError when there is none."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
