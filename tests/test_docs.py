"""The pages hold: every link leads somewhere, every file they name exists, every command line is accepted."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_advss.cli import main

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
RUNS = ("pretrain", "finetune", "evaluate", "unforeseen", "transfer")
PLACEHOLDERS = {"SEED": "0", "PRECISION": "bf16", "STAGE": "p3_pretrain"}
ONLY_OF_PLAN = ("gpu=", "nodes=", "network=", "images=", "gpus_per_node=")
# a name or a key that does not exist, an option that the parser does not know
STALE = re.compile(r"unrecognized|invalid choice|no such (key|command|profile)|no such file in configs|not about data")


def fences(text: str) -> Iterator[str]:
    yield from re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)


def prose(text: str) -> str:
    return re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The names under which GitHub reaches the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def spans(text: str) -> list[str]:
    """What the text sets in backticks, each on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def commands(text: str) -> Iterator[str]:
    """The words behind `dist-advss` or `python -m dist_advss`, and spans such as `evaluate checkpoint=RUN`."""
    for block in fences(text):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            match = re.search(r"(?:dist-advss|-m dist_advss) ([a-z].*?)(?:\s+#.*)?$", line)
            if match:
                yield match[1]
    for span in spans(text):
        match = re.search(r"(?:^|\s)(?:dist-advss|-m dist_advss) ([a-z].*)$", span)
        if match:
            yield match[1]
        elif re.match(rf"({'|'.join((*RUNS, 'launch'))}) .*\w=", span):
            yield span


def documented() -> list[str]:
    return sorted({" ".join(line.split()) for page in PAGES for line in commands(page.read_text())})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    tops = [REPOSITORY, REPOSITORY / "dist_advss", REPOSITORY / "docs"]
    for span in spans(page.read_text()):
        if re.fullmatch(r"[a-z][a-z_]*/[\w./]*(\w\.(py|yaml|sbatch|sh|md)|/)", span) and not re.search(
            r"[A-Z]|^runs/", span
        ):
            assert any((top / span).exists() for top in tops), span


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+\.md)", (REPOSITORY / "README.md").read_text()))
    assert linked == {page.name for page in PAGES[1:]}


@pytest.fixture
def desk(tmp_path: Path, own_task: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages assume: a profile, a pretext task, a network, and the configurations of runs."""
    shutil.copy(REPOSITORY / "slurm" / "profiles" / "a100.yaml", tmp_path / "mine.yaml")
    shutil.copy(own_task, tmp_path / "mine.py")
    (tmp_path / "net.py").write_text("def build(): ...")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def accepted(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Lets the front door read a documented command without running it. Returns what it prints."""
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(re.sub(r"\[(-[^\]]*)\]", r" \1 ", line))]
    words = [re.sub("=(SEED|PRECISION)$", lambda m: "=" + PLACEHOLDERS[m[1]], word) for word in words]
    whole = "…" not in line and "out=" in line
    words = [word for word in words if "…" not in word and word != "--dry-run"]
    command, *rest = words
    if command == "plan" and rest:
        command, rest = rest[0], [word for word in rest[1:] if not word.startswith(ONLY_OF_PLAN)]
    if command in (*RUNS, "launch"):
        rest = [*rest, "--print"]
        if command in RUNS and not any(word.startswith("out=") for word in rest):
            rest.append("out=OUT")
    code = main([command, *rest])
    printed = capsys.readouterr()
    assert not STALE.search(printed.err), f"{line}: {printed.err}"
    if whole and command in (*RUNS, "launch"):
        assert code == 0, f"{line}: {printed.err}"
    return printed.out if code == 0 else ""


@pytest.mark.parametrize("line", [line for line in documented() if not line.startswith(("doctor", "--"))])
def test_every_documented_command_is_accepted(line: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if line.startswith(RUNS):
        tuned = accepted("finetune attack=pgd10 out=RUN", capsys)
        for name in sorted(set(re.findall(r"(?:[=\[,])((?:RUN|runs/|DIR/|seed)[\w/]*)", line))):
            (desk / name).mkdir(parents=True)
            (desk / name / "config.yaml").write_text(tuned)
            (desk / name / "result.json").write_text("{}")
    accepted(line, capsys)
