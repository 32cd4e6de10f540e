"""An objective in a user's file, FILE.py:CLASS: finds it without running the file. No torch here.

The file runs only if the words of the command name it. A run folder names one too, in its config.yaml, and may come from
somebody else. So `transfer`, which builds the objectives of its sources, refuses a file that the key `trust` does not name.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError, nearest
from ..files import read_bytes, read_text


def resolve(objective: str) -> str:
    """`FILE.py:CLASS` with the file's absolute path, so that a run resumes from any folder. Raises UserError."""
    path, _, name = objective.rpartition(":")
    file = Path(path).expanduser().absolute()
    if not os.path.isfile(file):  # unlike Path.is_file, never raises
        raise UserError(
            f"objective={objective}: no such file; give FILE.py:CLASS, or the name of one in configs/objective"
        )
    try:
        found = [node.name for node in ast.parse(read_text(file)).body if isinstance(node, ast.ClassDef)]
    except SyntaxError as error:
        raise UserError(f"objective={objective}: not valid Python ({error.msg}, line {error.lineno})") from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deep for the parser
        raise UserError(f"objective={objective}: cannot be read ({error or 'nested too deep'})") from error
    if name not in found:
        raise UserError(f"objective={objective}: the file defines no class {name}; {nearest(name, found)}")
    return f"{file}:{name}"


def digest(objective: str) -> str:
    """The content of the user's file of FILE.py:CLASS: 16 hexadecimal digits of its SHA-256. Raises UserError."""
    file = Path(objective.rpartition(":")[0])
    try:
        return hashlib.sha256(read_bytes(file)).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"objective={objective}: cannot be read ({error.strerror}); restore the file") from error


def refuse_untrusted(key: str, source: str, objective: str, trusted: Iterable[str]) -> None:
    """Raises UserError unless one of `trusted`, FILE.py:CLASS as a user writes it, is the `objective` of the run `source`."""
    if _identity(objective) not in map(_identity, trusted):
        raise UserError(
            f"{key}: {source} was trained with {objective}, code that this command would run; "
            f"if you trust this file, add trust=[{objective}]"
        )


def _identity(objective: str) -> tuple[str, str]:
    file, _, name = objective.rpartition(":")
    return os.path.realpath(os.path.expanduser(file)), name
