"""An objective or a model in a user's file, FILE.py:NAME: finds it without running the file. No torch here.

The file runs only if the words of the command name it. A run folder names one too, in its config.yaml, and may come from
somebody else. So `transfer`, which builds the objectives of its sources, refuses a file that the key `trust` does not name. A model
in a file is never inherited: it and `checkpoint` exclude each other.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError, nearest
from ..files import read_bytes, read_text


def resolve(own: str, key: str = "objective") -> str:
    """`FILE.py:NAME` with the file's absolute path, so that a run resumes from any folder. Raises UserError.

    An objective is a class of the file. A model may be any name that the file binds somewhere.
    """
    path, _, name = own.rpartition(":")
    what = "class" if key == "objective" else "function"
    else_ = f"the name of one in configs/{key}" if key in ("objective", "model") else "a run folder"
    file = Path(path).expanduser().absolute()
    if not os.path.isfile(file):  # unlike Path.is_file, never raises
        raise UserError(f"{key}={own}: no such file; give FILE.py:{what.upper()}, or {else_}")
    try:
        tree = ast.parse(read_text(file))
    except SyntaxError as error:
        raise UserError(f"{key}={own}: not valid Python ({error.msg}, line {error.lineno})") from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deep for the parser
        raise UserError(f"{key}={own}: cannot be read ({error or 'nested too deep'})") from error
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = classes if key == "objective" else functions + classes
    if name not in found and not (key != "objective" and _binds(tree, name)):
        raise UserError(f"{key}={own}: the file defines no {what} {name}; {nearest(name, found)}")
    return f"{file}:{name}"


def _binds(tree: ast.Module, name: str) -> bool:
    """Whether a file may bind a name other than by a definition at its top: an assignment, an import, a branch."""
    for node in ast.walk(tree):
        bound = [getattr(node, "id", None)] if isinstance(node, ast.Name) else [getattr(node, "name", None)]
        if isinstance(node, ast.alias):
            bound = [node.asname or node.name]
        if name in bound or bound == ["*"]:
            return True
    return False


def digest(own: str, key: str = "objective") -> str:
    """The content of the user's file of FILE.py:NAME: 16 hexadecimal digits of its SHA-256. Raises UserError."""
    file = Path(own.rpartition(":")[0])
    try:
        return hashlib.sha256(read_bytes(file)).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{key}={own}: cannot be read ({error.strerror}); restore the file") from error


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
