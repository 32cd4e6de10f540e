"""Runs that share a composition have the configuration, and the errors, that each has alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dist_advss.config import alike
from dist_advss.config.alike import Compositions
from dist_advss.config.compose import as_yaml
from dist_advss.config.inherit import configure
from dist_advss.errors import UserError

SEEDS = range(4)


def launch() -> Iterator[tuple[str, list[str]]]:
    """The commands and words of a launch with seeds: two kinds of pre-training, and a fine-tuning and an evaluation of each."""
    for seed in SEEDS:
        for kind, words in {"jigsaw": ["objective=jigsaw"], "wide": ["model.width=8"]}.items():
            run = f"/runs/{kind}{seed}"
            yield "pretrain", [*words, f"seed={seed}", f"out={run}"]
            yield "finetune", [f"init={run}", "attack=pgd3", f"seed={seed}", f"out={run}_f"]
            yield "evaluate", [f"checkpoint={run}_f/checkpoints/best_ra.pt", f"out={run}_e"]
        yield "finetune", ["init=null", f"seed={seed}", f"out=/runs/p1{seed}"]


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of each composition that was made."""
    made: list[list[str]] = []
    compose = alike.compose

    def counted(command: str, words: Any, nodes: Any) -> Any:
        made.append(list(words))
        return compose(command, words, nodes)

    monkeypatch.setattr(alike, "compose", counted)
    return made


def test_each_run_has_the_configuration_that_it_has_alone_and_each_kind_is_composed_once(
    composed: list[list[str]],
) -> None:
    compositions, planned, alone = Compositions(), dict[str, Any](), dict[str, Any]()
    for command, words in launch():
        out = words[-1].removeprefix("out=")
        config, planned[out] = compositions.configure(command, words, planned)
        expected = configure(command, words, alone)
        alone[out] = asdict(expected)
        assert (config, planned[out]) == (expected, alone[out])
    assert len(planned) == 7 * len(SEEDS) and len(composed) == 7
    assert planned["/runs/wide3_e"]["model"]["width"] == 8


def test_a_source_that_differs_is_another_composition(composed: list[list[str]]) -> None:
    """Also one with the same names and other content, as after a change of its config.yaml."""
    compositions, widths = Compositions(), []
    for seed, width in enumerate([4, 8, 4]):
        source = asdict(configure("pretrain", ["objective=rotation", f"model.width={width}", "out=/runs/p"]))
        words = ["init=/runs/p", f"seed={seed}", "out=/runs/f"]
        widths.append(compositions.configure("finetune", words, {"/runs/p": source})[0].model.width)
    assert widths == [4, 8, 4]


@pytest.mark.parametrize(
    "word", ["seed=one", "seed=-1", "seed=1.5", "out=", "out=???", f"out={'x' * 256}", "out=a\nb", "init=\x07"]
)
def test_a_wrong_name_is_refused_as_it_is_alone(word: str) -> None:
    source = asdict(configure("pretrain", ["objective=rotation", "out=/runs/p"]))
    planned = {"/runs/p": source, "\x07": source}
    words, compositions = ["init=/runs/p", "seed=0", "out=/runs/f"], Compositions()
    compositions.configure("finetune", words, planned)
    with pytest.raises(UserError) as alone:
        configure("finetune", [*words, word], planned)
    with pytest.raises(UserError) as shared:
        compositions.configure("finetune", [*words, word], planned)
    assert str(shared.value) == str(alone.value)
    assert compositions.configure("finetune", words, planned)[1] == asdict(configure("finetune", words, planned))


def test_what_happens_to_one_mapping_does_not_reach_the_next() -> None:
    compositions, words = Compositions(), ["objective=rotation", "out=/runs/p"]
    for _ in range(2):
        config, mapping = compositions.configure("pretrain", words)
        assert config.seed == mapping.pop("seed") == 0
        config.seed = 5


@pytest.fixture
def on_disk(tmp_path: Path) -> Callable[..., str]:
    """`on_disk(name, command, *words)` is the folder of a finished run."""

    def run(name: str, command: str, *words: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(as_yaml(configure(command, [*words, f"out={folder}"])))
        (folder / "result.json").write_text("{}")
        return str(folder)

    return run


def refused_as_alone(compositions: Compositions, command: str, words: list[str]) -> str:
    with pytest.raises(UserError) as alone:
        configure(command, words)
    with pytest.raises(UserError) as shared:
        compositions.configure(command, words)
    assert str(shared.value) == str(alone.value)
    return str(shared.value)


def test_what_each_source_on_the_disk_has_learned_is_checked(
    on_disk: Callable[..., str], composed: list[list[str]]
) -> None:
    """Sources with the same images and network share a composition, whatever they have learned."""
    classes, rotations = on_disk("classes", "finetune"), on_disk("rotations", "pretrain", "objective=rotation")
    compositions = Compositions()
    compositions.configure("finetune", [f"init={classes}", "reuse=classifier", "out=/runs/a"])
    said = refused_as_alone(compositions, "finetune", [f"init={rotations}", "reuse=classifier", "out=/runs/b"])
    assert "has the answers of objective=rotation" in said
    assert len(composed) == 1


def test_the_projector_of_each_teacher_on_the_disk_is_checked(on_disk: Callable[..., str]) -> None:
    narrow, wide = (on_disk(f"s{n}", "pretrain", "objective=simclr", f"objective.projector={n}") for n in (64, 128))
    words, compositions = ["objective=anchor", "objective.projector=64"], Compositions()
    compositions.configure("pretrain", [*words, f"init={narrow}", "out=/runs/a"])
    said = refused_as_alone(compositions, "pretrain", [*words, f"init={wide}", "out=/runs/b"])
    assert "has a projector of 128" in said


def test_a_source_of_pseudo_labels_that_is_gone_is_missed_by_each_run_without_the_labels(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pseudo_labels.npz").touch()
    words, compositions = [f"pseudo.source={tmp_path / 'gone'}", "data.labels=100"], Compositions()
    compositions.configure("finetune", [*words, f"out={tmp_path / 'a'}"])
    said = refused_as_alone(compositions, "finetune", [*words, f"out={tmp_path / 'b'}"])
    assert "no such run folder" in said


def test_a_source_that_many_runs_share_is_checked_once(
    on_disk: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    check = alike.check_starts

    def counted(config: Any, planned: Any) -> None:
        checked.append(config.out)
        check(config, planned)

    monkeypatch.setattr(alike, "check_starts", counted)
    words, compositions = [f"init={on_disk('classes', 'finetune')}", "reuse=classifier"], Compositions()
    for seed in SEEDS:
        compositions.configure("finetune", [*words, f"seed={seed}", f"out=/runs/f{seed}"])
    assert checked == ["/runs/f0"]
