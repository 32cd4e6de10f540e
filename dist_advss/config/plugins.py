"""Resolves an objective in a user's file, FILE.py:CLASS, without running the file. No torch here."""

from __future__ import annotations

import ast
from pathlib import Path

from ..errors import UserError, nearest


def resolve(objective: str) -> str:
    """`FILE.py:CLASS` with the file's absolute path, so that a run resumes from any folder. Raises UserError."""
    path, _, name = objective.rpartition(":")
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise UserError(
            f"objective={objective}: no such file; give FILE.py:CLASS, or the name of one in configs/objective"
        )
    try:
        found = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"objective={objective}: cannot be read ({error})") from error
    except SyntaxError as error:
        raise UserError(f"objective={objective}: not valid Python ({error.msg}, line {error.lineno})") from error
    if name not in found:
        raise UserError(f"objective={objective}: the file defines no class {name}; {nearest(name, found)}")
    return f"{file}:{name}"
