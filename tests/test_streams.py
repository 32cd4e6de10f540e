"""Standard output and error may be closed, full or left unread. Work goes on, and what only prints ends as a filter does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.streams import Descriptor, OutputLost, guarded, output_is_optional

TINY = (
    "data.limit=64 train.batch_size=32 train.threads=1 train.log_every=1 model.width=4 attack.steps=1 attack.eps=0.1 "
    "schedule.epochs=2 validation.limit=20 validation.steps=1 device=cpu data.loader=memory"
)
Shell = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path, repository: Path) -> Shell:
    """Runs a line of bash in which `D` is dist-advss. Its exit code is that of `D`."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        script = f'set -o pipefail; D() {{ {sys.executable} -m dist_advss "$@"; }}; {line}'
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        return subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


DEAD = {"closed pipe": "| true", "full": "> /dev/full 2>&1", "closed": ">&- 2>&-", "no reader": "2>&1 | sleep 0.01"}


@pytest.mark.parametrize("where", DEAD)
def test_a_training_ends_with_its_result_whatever_becomes_of_its_output(
    shell: Shell, tmp_path: Path, where: str
) -> None:
    ran = shell(f"D pretrain {TINY} out=run {DEAD[where]}")
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 4
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (kinds.count("train"), kinds.count("validation")) == (4, 2)


def test_a_launch_an_evaluation_a_transfer_and_a_report_do_too(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"""
stages:
  a: {{command: finetune, overrides: [{", ".join(TINY.split())}, schedule.epochs=1]}}
  e: {{command: evaluate, overrides: [checkpoint=@a, data.limit=20, attack.steps=1, attack.eps=0.1]}}
  r: {{command: report}}
""")
    assert shell("D launch experiment=own.yaml out=inline > /dev/full 2>&1").returncode == 0
    assert shell("D launch experiment=own.yaml cluster=local out=local | true").returncode == 0
    few = "data.limit=20 attack.steps=1 attack.eps=0.1"
    assert shell(f"D evaluate checkpoint=inline/a {few} out=e >&- 2>&-").returncode == 0
    assert shell(f"D transfer sources=[inline/a] {few} out=t > /dev/full").returncode == 0
    assert shell("D report inline -o page.html > /dev/full").returncode == 0
    for file in ("inline/report.html", "local/report.html", "e/result.json", "t/result.json", "page.html"):
        assert (tmp_path / file).is_file()


def test_what_only_prints_ends_quietly_for_a_reader_that_has_seen_enough(shell: Shell) -> None:
    for words in (
        "--help",
        "pretrain --help",
        "pretrain --print out=x",
        "data show",
        "launch experiment=quickstart --print",
    ):
        ran = shell(f"D {words} | true")
        assert (ran.returncode, ran.stderr) == (0, ""), words


def test_what_only_prints_says_in_one_line_that_it_cannot(shell: Shell) -> None:
    ran = shell("D pretrain --print out=x > /dev/full")
    assert ran.returncode == 1
    assert ran.stderr == "dist-advss: standard output: could not be written (No space left on device)\n"


def test_a_refusal_keeps_its_exit_code_without_standard_error(shell: Shell) -> None:
    assert shell("D pretrain seed=x out=run 2> /dev/full").returncode == 2
    assert shell("D pretrain seed=x out=run 2>&-").returncode == 2


def test_no_file_gets_the_number_of_a_closed_standard_stream(shell: Shell, tmp_path: Path) -> None:
    """Text that a library writes to descriptor 1 or 2 would land in that file."""
    code = "from dist_advss.cli import main; import os; main(['--version']); print(os.open('file', os.O_CREAT))"
    ran = shell(f'{sys.executable} -c "{code}" <&- 2>&- ')
    assert int(ran.stdout.split()[-1]) > 2


def written(data: list[bytes], optional: bool) -> tuple[int, bytes]:
    """Writes to a pipe that is read to its end. Returns the number of bytes accepted, and those that arrived."""
    reader, writer = os.pipe()
    arrived = bytearray()

    def read() -> None:
        while part := os.read(reader, 65536):
            arrived.extend(part)

    thread = threading.Thread(target=read)
    thread.start()
    accepted = sum(Descriptor(writer, optional).write(part) for part in data)
    os.close(writer)
    thread.join()
    os.close(reader)
    return accepted, bytes(arrived)


@pytest.mark.parametrize("optional", [False, True])
def test_everything_arrives_at_a_reader_that_reads(optional: bool) -> None:
    data = [b"x" * 100_000, b"", b"y" * 5]
    assert written(data, optional) == (100_005, b"".join(data))


def test_a_reader_that_stopped_reading_delays_work_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_advss.streams.PATIENCE_S", 0.05)
    reader, writer = os.pipe()
    stream = Descriptor(writer, optional=True)
    assert stream.write(b"x" * 1_000_000) == 1_000_000
    assert stream.write(b"dropped") == 7
    size = 0
    os.set_blocking(reader, False)
    while part := _read(reader):
        size += len(part)
    assert size < 1_000_000
    stream.write(b"read again")
    assert _read(reader) == b"read again"
    os.close(reader)
    os.close(writer)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


def test_a_dead_reader_ends_what_prints_and_not_what_works() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(OutputLost) as caught:
        Descriptor(writer, optional=False).write(b"x")
    assert caught.value.broken_pipe
    assert Descriptor(writer, optional=True).write(b"x") == 1
    os.close(writer)


def test_text_that_the_terminal_cannot_show_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with guarded():
            output_is_optional()
            print("P1→F4")
    assert (tmp_path / "log").read_text() == "P1\\u2192F4\n"


def test_a_stream_of_a_notebook_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cell(io.StringIO):
        def fileno(self) -> int:
            return 1  # of the terminal in which the notebook was started

    cell = Cell()
    monkeypatch.setattr(sys, "stdout", cell)
    with guarded():
        print("shown")
    assert cell.getvalue() == "shown\n"
