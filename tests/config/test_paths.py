"""A path in a configuration means one place: from every folder, however it is written, and in later versions."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dist_advss.config.compose import as_yaml, compose, compose_data
from dist_advss.config.inherit import configure
from dist_advss.config.paths import same_place
from dist_advss.errors import UserError
from dist_advss.training.folder import refuse_other_config

CIFAR = "data=cifar10"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and beside it the current folder `here`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def finished_run(folder: Path, *words: str) -> Path:
    """A run folder of this configuration, with a result and a checkpoint file."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.pt").write_bytes(b"")
    command = "pretrain" if "objective=rotation" in words else "finetune"
    (folder / "config.yaml").write_text(as_yaml(configure(command, [*words, f"out={folder}"])))
    (folder / "result.json").write_text("{}")
    return folder


def test_a_tilde_is_the_home_folder_in_every_path(home: Path) -> None:
    config = compose(
        "finetune", [CIFAR, "data.root=~/images", "data.beton=~/b", "data.stage=~/s", "init=~/pre", "out=~/r"]
    )
    assert (config.data.root, config.data.beton, config.data.stage) == (f"{home}/images", f"{home}/b", f"{home}/s")
    assert (config.init, config.out) == (f"{home}/pre", f"{home}/r")
    assert compose_data([CIFAR, "data.root=~/images"]).root == f"{home}/images"
    one, two = finished_run(home / "one"), finished_run(home / "two")
    assert configure("evaluate", ["checkpoint=~/one", "out=x"]).checkpoint == str(one)
    transfer = configure("transfer", ["sources=[~/one,~/two]", "targets=[~/two]", "out=x"])
    assert (transfer.sources, transfer.targets) == ([str(one), str(two)], [str(two)])
    ensemble = configure("evaluate", ["model=ensemble", "model.members=[~/one, ~/two]", "out=x"])
    assert ensemble.model.members == [str(one), str(two)]


def test_a_configured_run_holds_absolute_paths_and_keeps_links_and_variables(home: Path) -> None:
    here = home.parent / "here"
    (home.parent / "elsewhere").mkdir()
    (here / "link").symlink_to(home.parent / "elsewhere")
    words = [CIFAR, "data.root=link/../images", "data.beton=b", "data.stage=$TMPDIR", "out=run"]
    config = configure("pretrain", words)
    assert config.data.root == f"{here}/link/../images"  # where the system looks: beside `elsewhere`, not beside `link`
    assert config.data.beton == f"{here}/b"
    assert (config.data.stage, config.out) == ("$TMPDIR", "run")
    assert compose("pretrain", words).data.root == "link/../images"


def test_an_evaluation_from_another_folder_gets_the_images_of_its_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder of the same name is not taken for it."""
    here, there = home.parent / "here", home.parent / "there"
    for folder in (here, there):
        (folder / "images").mkdir(parents=True)
    run = finished_run(home / "run", CIFAR, "data.root=images")
    monkeypatch.chdir(there)
    for command, words in (
        ("evaluate", [f"checkpoint={run}"]),
        ("transfer", [f"sources=[{run}]"]),
        ("finetune", [f"init={run}"]),
    ):
        assert configure(command, [*words, "out=x"]).data.root == f"{here}/images"
    assert configure("evaluate", [f"checkpoint={run}", "data.root=images", "out=x"]).data.root == f"{there}/images"


@pytest.mark.parametrize("spelling", ["pre", "./pre", "../here/pre", "link", "ABSOLUTE", "~/../here/pre", "pre/"])
def test_one_path_may_be_written_in_every_way(home: Path, spelling: str) -> None:
    here = home.parent / "here"
    finished_run(here / "pre", "objective=rotation")
    (here / "link").symlink_to(here / "pre")
    out = home / "tuned"
    out.mkdir(parents=True)
    (out / "config.yaml").write_text(as_yaml(configure("finetune", ["init=pre", f"out={out}"])))
    written = spelling.replace("ABSOLUTE", str(here / "pre"))
    refuse_other_config(out, configure("finetune", [f"init={written}", f"out={out}"]))
    finished_run(here / "other", "objective=rotation")
    with pytest.raises(UserError, match=f"init={here}/other: {out} holds a run with init={here}/pre"):
        refuse_other_config(out, configure("finetune", ["init=other", f"out={out}"]))


def test_lists_of_paths_are_compared_path_by_path(home: Path) -> None:
    assert same_place(["a", "b/"], [str(home.parent / "here" / "a"), "./b"])
    assert not same_place(["a", "b"], ["b", "a"])
    assert not same_place(["a"], "a")
    assert same_place(None, None) and not same_place(None, "a")


def test_where_the_images_are_may_change_and_which_ones_may_not(home: Path) -> None:
    out = finished_run(home / "run", CIFAR, "data.root=images")
    refuse_other_config(out, configure("finetune", [CIFAR, "data.root=/copy", "data.download=true", f"out={out}"]))
    with pytest.raises(UserError, match=r"data\.name=cifar100"):
        refuse_other_config(out, configure("finetune", ["data=cifar100", "data.root=images", f"out={out}"]))


def edit(folder: Path, *names: str, **values: object) -> None:
    """Removes dotted keys from a config.yaml and sets others, with __ for a dot."""
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for name in names:
        *nodes, last = name.split(".")
        node = config
        for part in nodes:
            node = node[part]
        del node[last]
    for name, value in values.items():
        node, last = name.split("__")
        config[node][last] = value
    file.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    "names",
    [["data.crop_area"], ["attack.keep", "attack.restarts"], ["freeze"], ["guard"], ["validation"], ["objective.pad"]],
)
def test_a_key_that_an_older_version_did_not_have_is_at_its_default(home: Path, names: list[str]) -> None:
    run = finished_run(home / "run")
    edit(run, *names)
    refuse_other_config(run, configure("finetune", [f"out={run}"]))


def test_a_key_that_an_older_version_did_not_have_may_not_be_set(home: Path) -> None:
    run = finished_run(home / "run")
    edit(run, "attack.restarts")
    with pytest.raises(UserError, match=r"attack\.restarts=2: .* holds a run with attack\.restarts=1"):
        refuse_other_config(run, configure("finetune", ["attack.restarts=2", f"out={run}"]))


def test_what_is_inherited_from_an_older_version_is_completed_by_defaults(home: Path) -> None:
    run = finished_run(home / "run", CIFAR, "data.root=/images")
    edit(run, "data.crop", "data.crop_area", "data.max_side", "model.mean")
    for command, word in (("evaluate", f"checkpoint={run}"), ("finetune", f"init={run}")):
        config = configure(command, [word, "out=x"])
        assert (config.data.crop, config.data.crop_area, config.data.max_side) == ("centre", 0.08, 512)


def test_a_key_of_a_newer_version_is_one_line_that_names_it(home: Path) -> None:
    run = finished_run(home / "run")
    edit(run, data__shade="dark")
    for command, words in (("evaluate", [f"checkpoint={run}"]), ("transfer", [f"sources=[{run}]"])):
        with pytest.raises(UserError) as caught:
            configure(command, [*words, "out=x"])
        assert "data.shade" in str(caught.value) and "version" in str(caught.value)
        assert str(run) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"data\.shade: .*which this version of dist-advss .* does not know"):
        refuse_other_config(run, configure("finetune", [f"out={run}"]))
