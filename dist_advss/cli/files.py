"""Commands on what lies on disk: reports and dashboards of runs, sets of images, this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from .parser import Commands, parser_of


def _report(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "report")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    parser.add_argument("-o", metavar="FILE", dest="file", type=Path, help="the page (default DIR/report.html)")
    parser.add_argument(
        "--watch", action="store_true", help="write it again while the launch is under way, until it is over"
    )
    given = parser.parse_args(rest)
    file = given.file or given.directory / "report.html"
    from ..report.page import keep_writing, write

    if given.watch:
        keep_writing(
            given.directory,
            file,
            on_first=lambda file: print(f"report: {file}, rewritten until the launch is over", flush=True),
        )
    else:
        print(f"report: {write(given.directory, file)}")
    return 0


def _sync(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "sync")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=float,
        const=60.0,
        help="look again every so often (60 s) until nothing runs and all has arrived",
    )
    given = parser.parse_args(rest)
    from ..tracking.sync import sync

    return sync(given.directory, given.watch)


def _dashboard(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "dashboard")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    parser.add_argument("-o", metavar="FILE", dest="file", type=Path, help="its layout (default DIR/dashboard.json)")
    given = parser.parse_args(rest)
    from ..tracking.dashboard import dashboard

    return dashboard(given.directory, given.file or given.directory / "dashboard.json")


def _data(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "data")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "show   counts per split and class and what the images look like, of a set (data=NAME data.root=FOLDER …)\n"
        "       or of a .beton file (FILE), which is read as a whole and held against its checksum\n"
        "write  the set as train.beton and test.beton in out=FOLDER, or its part=train|test as out=FILE.beton;\n"
        "       data.jpeg, data.quality and data.max_side say how images are stored"
    )
    parser.add_argument("action", choices=("show", "write"))
    parser.add_argument(
        "words", nargs="*", metavar="key=value|FILE", help="data=NAME data.key=value …, as for pretrain"
    )
    parser.add_argument("--png", metavar="FILE", type=Path, help="show: write a sheet of images of every class")
    given = parser.parse_intermixed_args(rest)
    if given.action == "write":
        return _write_betons(given.words)
    if len(given.words) == 1 and "=" not in given.words[0]:
        from ..data.betons.show_beton import contact_sheet_of, summary_of

        print(summary_of(Path(given.words[0])), end="")
        if given.png:
            contact_sheet_of(Path(given.words[0]), given.png)
        return 0
    from ..config.compose import compose_data

    data = compose_data(given.words)
    from ..data.show import contact_sheet, summary

    print(summary(data), end="")
    if given.png:
        contact_sheet(data, given.png)
    return 0


def _write_betons(words: list[str]) -> int:
    from ..config.compose import compose_data, parse_words

    chosen = dict(parse_words(words))
    out, part = chosen.pop("out", None), chosen.pop("part", None)
    if not out:
        raise UserError("out: missing; give out=FOLDER for train.beton and test.beton, or out=FILE.beton for one part")
    data = compose_data([f"{name}={value}" for name, value in chosen.items()])
    from ..data.betons.origin import write_betons
    from ..data.betons.progress_bar import ProgressBar

    with ProgressBar() as on_progress:
        for path in write_betons(data, Path(out), part, on_progress):
            print(path)
    return 0


def _doctor(rest: list[str]) -> int:
    parser_of(COMMANDS, "doctor").parse_args(rest)
    from ..doctor import doctor

    return doctor()


COMMANDS: Commands = {
    "report": ("one self-contained HTML page of a launch or a run", _report),
    "sync": ("show in wandb what runs have recorded: one wandb run each, safe to repeat and to interrupt", _sync),
    "dashboard": (
        "the wandb workspace of a launch: robust accuracy, methods, diversity, throughput, images",
        _dashboard,
    ),
    "data": ("what a set of images or a .beton file holds; write a set as .beton files", _data),
    "doctor": ("what this machine has, what is missing, and how to get it", _doctor),
}
