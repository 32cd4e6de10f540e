"""Text for terminals and log files: times, numbers, aligned columns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence


def printable(text: str | os.PathLike[str], keep: str = "") -> str:
    """A file's name or another text for messages and records: one line of valid Unicode. The characters `keep` stay.

    Bytes that are not UTF-8, as in names of older systems, and control characters become escapes: "caf\\xe9.png".
    """
    shown = os.fspath(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() or c in keep else _escape(c) for c in shown)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code < 0xDD00:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def clock(seconds: float | None) -> str:
    """A duration as "1:02:05" or "2:05"; "" for None, zero for a negative one."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(seconds: float) -> str:
    """A duration in words: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, noun: str) -> str:
    """ "1 line", "3 lines"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def number_text(value: float | None, form: str) -> str:
    """The number in this format; "" for None."""
    return "" if value is None else f"{value:{form}}"


def one_line(text: str, longest: int = 2000) -> str:
    """A message of an error: its lines joined, `printable`, and cut in the middle above `longest` characters."""
    line = printable(" ".join(text.splitlines()).replace("\t", " "))
    half = longest // 2
    return line if len(line) <= longest else f"{line[:half]} … {line[-half:]}"


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """One line a row, its texts in columns, without trailing blanks."""
    lines = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
