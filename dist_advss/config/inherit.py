"""What a run takes over from the run that it starts from.

A fine-tuning looks at the same images through the same backbone as the pre-training that `init` names, and an evaluation
as the fine-tuning that `checkpoint` names. So the nodes `data` and `model` come from that run's config.yaml, except how
many images it used (`data.limit`, `data.labels`), unless the user chooses these groups. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from .compose import compose, parse_words
from .objectives import is_pretext

SOURCE_KEY = {"pretrain": "init", "finetune": "init", "evaluate": "checkpoint", "transfer": "sources"}
NODES = ("data", "model")
NOT_INHERITED = ("limit", "labels")
NOTHING = ("", "null", "none", "None")


def configure(command: str, words: Sequence[str], planned: Mapping[str, Any] | None = None) -> Any:
    """The checked configuration of `pretrain`, `finetune` or `evaluate`, with what it inherits.

    `planned` holds, by run folder as the words write it, the configurations (nested mappings) of runs that are yet to
    come; they count before what is on disk. Raises UserError.
    """
    return compose(command, words, inherited(command, words, planned))


def inherited(
    command: str, words: Sequence[str], planned: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """The nodes that the run named by `init` or `checkpoint` gives: `{"data": {…}, "model": {…}}`, or fewer. Raises UserError."""
    chosen = dict(parse_words(words))
    if command == "transfer" or (chosen.get("model") == "ensemble" and chosen.get(SOURCE_KEY[command], "") in NOTHING):
        from .members import data_of

        return data_of(command, chosen, planned)
    key = SOURCE_KEY[command]
    source = chosen.get(key, "")
    if source in NOTHING:
        return {}
    wanted = [node for node in NODES if node not in chosen]
    folder = run_folder(source)
    config = (planned or {}).get(str(folder))
    if config is None:
        config = read(key, source, wanted)
    if config is None:
        return {}
    if "objective" not in config:
        raise UserError(f"{key}={source}: an evaluation, which leaves no weights; give a pretrain or finetune run")
    objective = config["objective"].get("name")
    if command == "evaluate" and is_pretext(str(objective)):
        raise UserError(
            f"{key}={source}: pre-trained on {objective}, it has no classes to tell; fine-tune it first, with init={folder}"
        )
    return {node: passed_on(config[node]) for node in wanted}


def run_folder(source: str) -> Path:
    """The run folder that `source` names: itself, or the one around a checkpoint file (RUN/checkpoints/best_ra.pt)."""
    path = Path(source)
    if path.suffix != ".pt":
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def passed_on(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name not in NOT_INHERITED}


def read(key: str, source: str, wanted: Sequence[str]) -> dict[str, Any] | None:
    """The config.yaml of a run on disk; None for a lone checkpoint when the words already choose all that it would give."""
    path, folder = Path(source), run_folder(source)
    if not path.exists():
        raise UserError(f"{key}={source}: no such {'checkpoint' if path.suffix == '.pt' else 'run folder'}")
    file = folder / "config.yaml"
    if not file.is_file():
        if path.is_file() and not wanted:
            return None
        if path.is_file():
            missing = " ".join(f"{node}=…" for node in wanted)
            raise UserError(
                f"{key}={source}: no config.yaml beside this checkpoint says what it was made from; add {missing}"
            )
        raise UserError(f"{key}={source}: not a run folder (no config.yaml in it); give the out=… of an earlier run")
    if path.is_dir() and not (folder / "result.json").is_file():
        raise UserError(
            f"{key}={source}: not finished (no result.json); end that run first, or name one of its files, "
            f"{key}={folder / 'checkpoints' / 'best_ra.pt'}"
        )
    try:
        config = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{key}={source}: its config.yaml cannot be read ({str(error).splitlines()[0]})") from error
    config = config if isinstance(config, dict) else {}
    if not all(isinstance(node, dict) for node in (*map(config.get, NODES), config.get("objective", {}))):
        raise UserError(f"{key}={source}: its config.yaml is not one of dist-advss (no data and model in it)")
    return config
