"""Commands that exchange trained networks with others, and compare them: export, import, leaderboard."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..files import named_file, write_text
from ..text import printable
from .parser import Commands, parser_of


def _export(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "export")
    parser.add_argument(
        "run", metavar="RUN", help="a pre-trained or fine-tuned run folder, or one of its checkpoint files"
    )
    parser.add_argument(
        "out", metavar="DIR", type=Path, help="new folder to write: weights, program, card, probe, load.py"
    )
    parser.add_argument(
        "--pick",
        choices=("best_ra", "best_ta", "last"),
        help="checkpoint of a run folder (default: best_ra of a fine-tuning, last of a pre-training)",
    )
    parser.add_argument(
        "--evaluation",
        metavar="EVAL",
        type=Path,
        action="append",
        default=[],
        help="evaluation of these weights to show on the card; repeat it for several",
    )
    given = parser.parse_args(rest)
    from ..exchange.export import export

    print(f"export: {printable(export(given.run, given.out, given.pick, given.evaluation))}")
    return 0


def _import(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "import")
    parser.add_argument(
        "source",
        metavar="DIR|FILE",
        type=Path,
        help="folder that export wrote, or a state dict that another program wrote; no code in it is run",
    )
    parser.add_argument(
        "out", metavar="RUN", type=Path, help="new run folder, for evaluate checkpoint=RUN or finetune init=RUN"
    )
    parser.add_argument(
        "words",
        metavar="key=value",
        nargs="*",
        help="of a state dict: model=wrn28_10, timm:NAME or torchvision:NAME, model.mean, model.std, data=…",
    )
    parser.add_argument(
        "--card",
        metavar="FILE",
        type=Path,
        help="JSON with images and outputs to compare a state dict with (default: FILE.json beside it, else the library's network)",
    )
    given = parser.parse_args(rest)
    if not given.source.exists():
        raise UserError(f"{given.source}: no such file or folder")
    if not given.source.is_file():
        if given.words or given.card:
            extra = given.words[0] if given.words else f"--card {given.card}"
            raise UserError(f"{extra}: only for a state dict, and {given.source} is no file; drop it")
        from ..exchange.receive import receive

        print(f"import: {printable(receive(given.source, given.out))}, its outputs are those recorded on export")
        return 0
    from ..exchange.library import receive_file

    compared = receive_file(given.source, given.out, given.words, given.card)
    print(f"import: {printable(given.out)}, its logits are those of {printable(compared)}")
    return 0


def _leaderboard(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "leaderboard")
    parser.add_argument("directories", metavar="DIR", type=Path, nargs="+", help="launch folders, or folders of runs")
    parser.add_argument(
        "-o", metavar="FILE", dest="file", type=Path, help="file to write: .md, .csv or .html (default: print Markdown)"
    )
    given = parser.parse_args(rest)
    file = named_file("-o", given.file) if given.file else None
    from ..report.leaderboard import boards, rendered

    text = rendered(boards(given.directories), ".md" if given.file is None else given.file.suffix)
    if file is None:
        print(text, end="")
    else:
        write_text(file, text)
        print(f"leaderboard: {printable(file)}")
    return 0


COMMANDS: Commands = {
    "export": (
        "write a trained network for others: safetensors, a program for plain torch, a card, probe outputs",
        _export,
    ),
    "import": (
        "read an exported network or a published state dict as a run, after its outputs were compared",
        _import,
    ),
    "leaderboard": ("rank the evaluations of several launches by RA, as Markdown, CSV or HTML", _leaderboard),
}
