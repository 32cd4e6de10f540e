"""Runs wrong inputs through the command line, and collects those that end in another way than they should."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from dist_advss.cli import main

LIMIT_S = 60  # of one input; it interrupts an endless loop, and is no measure of speed
# fmt: off
NASTY = [
    "", " ", "null", "none", "true", "yes", "0", "-1", "1", "010", "1e3", "1e999", "nan", "-inf", "8/255", "8/0", "1:30",
    "2020-01-01", "9" * 5000, "a" * 300, "a/" * 3000, "/", "..", "../..", "~", "~nobody/x", ".", "[]", "[", "]", "{}", "{a: 1}",
    "[a", "[a,b]", "[[a]]", "[null]", "[1,2,3]", "[0.5]", "[" * 3000, "{a: " * 3000, "&a [*a]", "*a", "<<: 1",
    "!!python/object/apply:os.system [id]", "${oc.env:HOME}", "${seed}", "${", "$HOME", "$(id)", "`id`", "@x", "@", "=", "a=b",
    ":", "x.py:X", "\x1b[2J", "a\nb", "\t", "\x00", "\udcff", "\ud800", "\u202e", "ä", "😀", "%s", "{x}", "*", "?", "-", "--",
    "-h", "'", '"', "\\", "???", "/dev/zero", "/dev/null", "/proc/self/mem",
]
TREE = [
    None, True, False, 0, -1, 10**30, 1.5, float("nan"), float("inf"), "", "x", "\x1b[2J", "a\nb", "../x",
    [], [[]], {}, {"a": {}}, [1, "a"],
]
BYTES = [
    b"", b"\x00", b"\xff\xfe", b"[" * 3000, b"{" * 3000, b"null", b"[]", b"{}", b"1", b'"x"', b"\x1b[2J", b"\n",
    b"a: &a [*a]\n", b"-" * 999,
]
# fmt: on


@dataclass
class Fuzzer:
    """Runs inputs in `desk` and collects what is wrong with their ends."""

    desk: Path
    draw: random.Random
    count: int = 0
    replaced: Callable[[Any], None] | None = None  # what is called instead of a run
    wrong: list[str] = field(default_factory=list)

    def run(self, words: list[str], shown: object = "") -> None:
        """One command line; `shown` describes the file that it reads."""
        self.count += 1
        before = listing(self.desk)
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), at_most(LIMIT_S):
                code = main(words)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            trace = error.__traceback__
            while trace and trace.tb_next:
                trace = trace.tb_next
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
            return self._note(words, shown, f"{type(error).__name__}: {str(error)[:200]} at {place}")
        said = err.getvalue()
        if code not in (0, 1, 2):
            self._note(words, shown, f"exit code {code}")
        lines = [line for line in said.splitlines() if line.startswith("dist-advss:")]
        found = words[:1] in (["verify"], ["watch"]) and code == 1  # the output says what failed
        if "Traceback" in said or (code and len(lines) != 1 and not found):
            self._note(words, shown, f"not one line: {said[:300]!r}")
        if any(not c.isprintable() and c not in "\n\r\t" for c in said + out.getvalue()):
            self._note(words, shown, f"a control character: {(said + out.getvalue())[:300]!r}")
        if code == 2 and listing(self.desk) != before:
            self._note(words, shown, f"left behind: {sorted(set(listing(self.desk)) ^ set(before))}")
        for made in sorted(
            set(listing(self.desk)) - set(before), reverse=True
        ):  # what is in a folder before the folder
            path = self.desk / made
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
        return None

    def _note(self, words: list[str], shown: object, text: str) -> None:
        line = " ".join(word if len(word) < 80 else f"{word[:80]}…" for word in words)
        self.wrong.append(f"{text}\n    {line!r} {str(shown)[:300]}")

    def over(self, file: Path, changed: bytes, words: list[list[str]], shown: object = "") -> None:
        """The command lines with other bytes in `file`, which is restored."""
        content, times = file.read_bytes(), file.stat()
        try:
            file.write_bytes(changed)
            for line in words:
                self.run(line, f"{file.relative_to(self.desk)}: {shown or changed[:200]!r}")
        finally:
            file.write_bytes(content)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    def mutated(self, content: bytes) -> bytes:
        """The bytes flipped, cut, doubled, or with something inserted; often as a tree of values with another leaf."""
        draw = self.draw
        at, length = draw.randrange(len(content) + 1), draw.choice([1, 1, 4, 16, 200])
        match draw.randrange(6):
            case 0:
                flipped = bytearray(content)
                for _ in range(draw.choice([1, 1, 3, 30])):
                    flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
                return bytes(flipped)
            case 1:
                return content[:at]
            case 2:
                return content[:at] + content[max(0, at - length) :]
            case 3:
                return content[:at] + content[at + length :]
            case 4:
                return content[:at] + draw.choice(BYTES) + content[at:]
            case _:
                return draw.choice(BYTES)

    def changed_tree(self, tree: Any) -> Any:
        """The tree with one leaf, branch or name replaced."""
        draw = self.draw
        if isinstance(tree, dict) and tree:
            name = draw.choice(list(tree))
            kind = draw.randrange(10)
            if kind == 0:
                return {k: v for k, v in tree.items() if k != name}
            if kind == 1:
                return {(draw.choice(NASTY) if k == name else k): v for k, v in tree.items()}
            if kind == 2:
                return {**tree, draw.choice(NASTY): draw.choice(TREE)}
            return {**tree, name: self.changed_tree(tree[name])}
        if isinstance(tree, list) and tree and draw.random() < 0.8:
            at = draw.randrange(len(tree))
            return [*tree[:at], self.changed_tree(tree[at]), *tree[at + 1 :]]
        return draw.choice([*TREE, draw.choice(NASTY)])


def listing(folder: Path) -> list[str]:
    """All names below the folder."""
    found = []
    for place, folders, files in os.walk(folder):
        found += [os.path.relpath(os.path.join(place, name), folder) for name in folders + files]
    return sorted(found)


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
