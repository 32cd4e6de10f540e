"""Standard output and error that may be closed, full or left unread: a run goes on without them.

`main` wraps both (`guarded`). Standard error never stops a command. Standard output stops those commands whose product it
is, such as `status`. A command that does work calls `output_is_optional`: text that cannot be written is then dropped.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO

PATIENCE_S = 1.0  # how long a write waits for a reader that does not read
PIPE_BUF = 4096  # bytes that a writable pipe takes without blocking


class OutputLost(Exception):
    """Standard output cannot be written. `broken_pipe`: its reader has exited, as `head` does."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: could not be written ({error.strerror})")
        self.broken_pipe = error.errno == errno.EPIPE


class Descriptor(io.FileIO):
    """A file descriptor. With `optional`, what cannot be written is dropped; otherwise a write raises OutputLost."""

    def __init__(self, number: int, optional: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.optional = optional
        self._stalled = False

    def write(self, data: Any) -> int:
        """Writes all bytes. Returns their number, also when it dropped them."""
        left = memoryview(data).cast("B")
        count = len(left)
        try:
            while left:
                if self.optional and not self._ready():
                    break
                written = super().write(left[:PIPE_BUF] if self.optional else left)
                if written is None:  # the descriptor does not block, and has no room
                    select.select([], [self], [], PATIENCE_S)
                left = left[written or 0 :]
        except OSError as error:
            if not self.optional:
                raise OutputLost(error) from error
        return count

    def _ready(self) -> bool:
        """Whether there is room. Waits for a slow reader, but not again for one that did not read last time."""
        _, ready, _ = select.select([], [self], [], 0.0 if self._stalled else PATIENCE_S)
        self._stalled = not ready
        return bool(ready)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """A context with standard output and error as `Descriptor`s. Closed descriptors are opened on the null device first.

    Otherwise the next file that is opened would get the number of standard output, and the text of a library in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _wrapped(sys.stdout, 1, optional=False), _wrapped(sys.stderr, 2, optional=True)
    try:
        yield
    finally:
        output_is_optional()  # what is left in its buffer after an error is dropped
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        sys.stdout, sys.stderr = before


def output_is_optional() -> None:
    """From now on, text that standard output does not take is dropped: the command's work matters more."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, Descriptor):
        raw.optional = True


def _wrapped(stream: TextIO | None, number: int, optional: bool) -> TextIO:
    """The stream over a `Descriptor`; unchanged where it has no descriptor, as in a test. Text of any kind can be printed."""
    encoding = "utf-8"
    if stream is not None:
        if not isinstance(stream, io.TextIOWrapper):  # as in a notebook, which shows its text elsewhere
            return stream
        try:
            number, encoding = stream.fileno(), stream.encoding
        except (OSError, ValueError, AttributeError):
            return stream
        with contextlib.suppress(OSError):
            stream.flush()
    raw = io.BufferedWriter(Descriptor(number, optional))
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", line_buffering=True)
