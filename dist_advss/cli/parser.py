"""The table type and the argument parser that all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from ..errors import UserError

Commands = dict[
    str, tuple[str, Callable[[list[str]], int]]
]  # by name: a sentence, and the function that takes the remaining words


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parser_of(commands: Commands, command: str) -> Parser:
    """The parser of one of these commands, with its sentence."""
    return Parser(prog=f"dist-advss {command}", description=commands[command][0], allow_abbrev=False)
