"""`leaderboard`: the finished evaluations of several launches, ranked by RA, as Markdown, CSV or HTML.

Evaluations share a table only if they judged the same images under the same attack. A rank counts the models that are
better beyond doubt, so two models whose order could be chance share one.
"""

from __future__ import annotations

import csv
import html
import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError
from ..runs.read import read
from ..runs.settings import Setting, apart, filled
from ..runs.table import Row, rows_of
from ..text import printable
from .findings.intervals import independent, paired
from .findings.verdicts import judged

OF_THE_MODEL = ("pick", "model.")  # keys of a setting in which the entries of one table may differ
COLUMNS = ("rank", "RA", "RA low", "RA high", "TA", "TA low", "TA high", "method", "model", "labels", "seed", "folder")
HEADINGS = ("rank", "RA %", "TA %", "method", "model", "labels", "seed", "folder")


@dataclass(frozen=True)
class Entry:
    """One evaluation.

    rank  1 + the number of models of its table whose RA is higher with 95% confidence; of each the first evaluation counts
    """

    rank: int
    row: Row


@dataclass(frozen=True)
class Board:
    """The evaluations on the same images under the same attack, highest RA first."""

    title: str
    n: int | None
    entries: list[Entry]


def boards(directories: Sequence[Path]) -> list[Board]:
    """A table for each set of images and attack, the longest first. Raises UserError without any finished evaluation."""
    found: dict[Path, Row] = {}
    for directory in directories:
        for row in rows_of(read(directory, time.time())):
            if row.ra is not None and row.ta is not None:
                # a folder may be inside another one that was named too, or a link may lead to it
                found.setdefault(row.folder.resolve(), row)
    if not found:
        raise UserError(f"{', '.join(map(str, directories))}: no finished evaluation; run dist-advss evaluate first")
    conditions = filled(_conditions(row.setting) for row in found.values())
    tables: dict[Setting, list[Row]] = {}
    for row in found.values():
        tables.setdefault(conditions[_conditions(row.setting)], []).append(row)
    titles = _titles(tables)
    found_boards = (_board(titles[setting], rows) for setting, rows in tables.items())
    return sorted(found_boards, key=lambda board: (-len(board.entries), board.title))


def _conditions(setting: Setting) -> Setting:
    """The setting without what belongs to the model."""
    others = tuple((name, value) for name, value in setting.others if not name.startswith(OF_THE_MODEL))
    return replace(setting, model="", labels=None, others=others)


def _titles(settings: Iterable[Setting]) -> dict[Setting, str]:
    """The images and the attack of each board, with what distinguishes it from boards of the same ones."""
    shown = {}
    for setting in settings:
        images, rest = setting.get("images"), tuple(pair for pair in setting.others if pair[0] != "images")
        shown[setting] = replace(setting, data=f"{setting.data} ({images})" if images else setting.data, others=rest)
    words = apart(shown.values())
    texts = {s: f"{of.data}, {of.split} images, {of.attack}" for s, of in shown.items()}
    return {s: "; ".join(filter(None, (text, ", ".join(words[shown[s]])))) for s, text in texts.items()}


def _board(title: str, rows: list[Row]) -> Board:
    models: dict[tuple[str, ...], Row] = {}
    for row in rows:
        models.setdefault(row.model, row)
    ordered = sorted(rows, key=lambda row: (-_ra(row), str(row.folder)))
    ranks = [1 + sum(model != row.model and _better(of, row) for model, of in models.items()) for row in ordered]
    return Board(title, rows[0].n, [Entry(rank, row) for rank, row in zip(ranks, ordered, strict=True)])


def _ra(row: Row) -> float:
    assert row.ra is not None
    return row.ra.value


def _better(other: Row, row: Row) -> bool:
    """Whether the interval of RA(other) - RA(row) is above 0: the paired one where both judged the same images."""
    if _ra(other) <= _ra(row):
        return False
    theirs, ours = judged(other.folder), judged(row.folder)
    if theirs is not None and ours is not None and theirs.of_the_images_of(ours):
        return paired(ours.right["ra"], theirs.right["ra"])[0] > 0
    if other.ra is None or row.ra is None or other.ra.interval is None or row.ra.interval is None:
        return True  # results without intervals are compared by their rates
    return independent(row.ra.value, row.ra.interval, other.ra.value, other.ra.interval)[0] > 0


def as_markdown(tables: Sequence[Board]) -> str:
    """A heading and a table for each board."""
    lines: list[str] = []
    for board in tables:
        lines += [f"## {_plain(board.title)}", "", _caption(board), ""]
        lines += [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        for entry in board.entries:
            cells = (entry.rank, entry.row.ra, entry.row.ta, *_about(entry.row))
            lines.append(f"| {' | '.join(_plain(str(cell)) for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def as_csv(tables: Sequence[Board]) -> str:
    """One row an evaluation, with its board in the first columns."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("board", "images", *COLUMNS))
    for board in tables:
        for entry in board.entries:
            row = entry.row
            assert row.ra is not None and row.ta is not None
            rates = [v for rate in (row.ra, row.ta) for v in (rate.value, *(rate.interval or ("", "")))]
            writer.writerow((board.title, board.n, entry.rank, *rates, *_about(row)))
    return file.getvalue()


def as_html(tables: Sequence[Board]) -> str:
    """A page without scripts and without links to other hosts."""
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{padding:.25rem .75rem;text-align:left;border-bottom:1px solid #ddd}"
        "td.number{font-variant-numeric:tabular-nums;white-space:nowrap}"
    )
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Leaderboard</title><style>{style}</style>']
    parts.append("<h1>Leaderboard</h1>")
    for board in tables:
        parts.append(f"<h2>{html.escape(board.title)}</h2><p>{html.escape(_caption(board))}</p><table><thead><tr>")
        parts += [f"<th>{name}</th>" for name in HEADINGS]
        parts.append("</tr></thead><tbody>")
        for entry in board.entries:
            row = entry.row
            numbers = "".join(
                f'<td class="number">{html.escape(str(cell))}</td>' for cell in (entry.rank, row.ra, row.ta)
            )
            words = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in _about(row))
            parts.append(f"<tr>{numbers}{words}</tr>")
        parts.append("</tbody></table>")
    return "\n".join(parts) + "\n"


def _about(row: Row) -> tuple[str, ...]:
    """The texts of the columns after the rates."""
    return (row.name, row.setting.model, str(row.setting.labels or "all"), row.seeds, printable(row.folder))


def _caption(board: Board) -> str:
    images = "" if board.n is None else f"{board.n:,} images. "
    return f"{images}95% intervals. Models share a rank if the difference of their RA may be chance."


def _plain(text: str) -> str:
    """A text in a cell of a Markdown table."""
    return html.escape(printable(text), quote=False).replace("|", "\\|")


FORMS = {".md": as_markdown, ".csv": as_csv, ".html": as_html}


def rendered(tables: Sequence[Board], suffix: str) -> str:
    """The boards in the form that the suffix of a file names, one of FORMS. Raises UserError for another one."""
    if suffix not in FORMS:
        raise UserError(f"-o: a file that ends with {suffix or 'nothing'}; accepted: {', '.join(FORMS)}")
    return FORMS[suffix](tables)
