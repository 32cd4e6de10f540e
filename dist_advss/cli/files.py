"""Commands on files and on this machine: report, verify, sync, dashboard, data, doctor."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from ..files import named_file
from ..streams import output_is_optional
from ..text import printable
from .parser import Commands, parser_of


def _report(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "report")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    parser.add_argument("-o", metavar="FILE", dest="file", type=Path, help="file to write (default DIR/report.html)")
    parser.add_argument("--watch", action="store_true", help="rewrite the page until the launch ends")
    given = parser.parse_args(rest)
    file = named_file("-o", given.file) if given.file else given.directory / "report.html"
    from ..report.page import keep_writing, write

    output_is_optional()
    if given.watch:
        keep_writing(
            given.directory,
            file,
            on_first=lambda file: print(f"report: {printable(file)}, rewritten until the launch ends", flush=True),
        )
    else:
        print(f"report: {printable(write(given.directory, file))}")
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
        help="repeat every SECONDS (60) until all runs have ended and are sent",
    )
    given = parser.parse_args(rest)
    from ..tracking.sync import sync

    output_is_optional()
    return sync(given.directory, given.watch)


def _dashboard(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "dashboard")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    parser.add_argument(
        "-o", metavar="FILE", dest="file", type=Path, help="layout to write (default DIR/dashboard.json)"
    )
    given = parser.parse_args(rest)
    file = named_file("-o", given.file) if given.file else given.directory / "dashboard.json"
    from ..tracking.dashboard import dashboard

    output_is_optional()
    return dashboard(given.directory, file)


def _verify(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "verify")
    parser.add_argument(
        "directory", metavar="DIR", type=Path, help="a launch folder, a folder of runs, or one run folder"
    )
    given = parser.parse_args(rest)
    from ..verify import verify

    return verify(given.directory)


def _data(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "data")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "show   print counts per split and class and image statistics of a set (data=NAME data.root=FOLDER …) or of\n"
        "       a .beton file (FILE); a .beton file is read in full and its checksum verified\n"
        "write  write the set as train.beton and test.beton in out=FOLDER, or one part=train|test as out=FILE.beton;\n"
        "       data.jpeg, data.quality and data.max_side set how images are stored"
    )
    parser.add_argument("action", choices=("show", "write"))
    parser.add_argument(
        "words", nargs="*", metavar="key=value|FILE", help="data=NAME data.key=value …, as for pretrain"
    )
    parser.add_argument(
        "--png", metavar="FILE", type=Path, help="show: write a contact sheet with images of every class"
    )
    given = parser.parse_intermixed_args(rest)
    if given.action == "write":
        return _write_betons(given.words)
    png = named_file("--png", given.png) if given.png else None
    if len(given.words) == 1 and "=" not in given.words[0]:
        from ..data.betons.show_beton import contact_sheet_of, summary_of

        print(summary_of(Path(given.words[0])), end="")
        if png:
            contact_sheet_of(Path(given.words[0]), png)
        return 0
    from ..config.compose import compose_data

    data = compose_data(given.words)
    from ..data.show import contact_sheet, summary

    print(summary(data), end="")
    if png:
        contact_sheet(data, png)
    return 0


def _write_betons(words: list[str]) -> int:
    from ..config.compose import compose_data, parse_words

    chosen = dict(parse_words(words))
    out, part = chosen.pop("out", None), chosen.pop("part", None)
    if not out:
        raise UserError("out: missing; give out=FOLDER for train.beton and test.beton, or out=FILE.beton for one part")
    place = Path(out).expanduser()
    file = named_file("out", place) if out.endswith(".beton") else place
    for name in ("data.limit", "data.labels"):
        if name in chosen:
            raise UserError(
                f"{name}={chosen[name]}: a beton holds a whole part, of which each run reads its own images; give it to the run"
            )
    data = compose_data([f"{name}={value}" for name, value in chosen.items()])
    from ..data.betons.origin import write_betons
    from ..data.betons.progress_bar import ProgressBar

    output_is_optional()
    with ProgressBar() as on_progress:
        for path in write_betons(data, file, part, on_progress):
            print(path)
    return 0


def _doctor(rest: list[str]) -> int:
    parser_of(COMMANDS, "doctor").parse_args(rest)
    from ..doctor import doctor

    return doctor()


COMMANDS: Commands = {
    "report": ("write a self-contained HTML page of a launch or a run", _report),
    "verify": (
        "compare runs with the images, weights and verdicts that they were made from; 1 if any differs",
        _verify,
    ),
    "sync": ("send recorded runs to wandb, one wandb run each; safe to repeat and to interrupt", _sync),
    "dashboard": (
        "create the wandb workspace of a launch: robust accuracy, methods, diversity, throughput, images",
        _dashboard,
    ),
    "data": ("show an image set or a .beton file; write a set as .beton files", _data),
    "doctor": ("check this machine: what is installed, what is missing, how to get it", _doctor),
}
