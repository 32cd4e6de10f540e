"""What commands share: how their words are parsed, and how they are listed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from ..errors import UserError

Commands = dict[str, tuple[str, Callable[[list[str]], int]]]  # by name: a sentence, and what takes the words behind it


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parser_of(commands: Commands, command: str) -> Parser:
    """The parser of one of these commands, with its sentence."""
    return Parser(prog=f"dist-advss {command}", description=commands[command][0], allow_abbrev=False)
