"""A stage has one wandb id: fixed at launch, the same for all who ask, and none where wandb is not asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dist_advss.tracking.identity import group_of, method_label, run_id
from launch.submit import launch


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_the_id_is_there_before_a_stage_begins_and_stays(tmp_path: Path, mode: str) -> None:
    experiment = tmp_path / "two.yaml"
    experiment.write_text(
        "name: two\ndescription: two stages\nstages:\n  a: {command: pretrain}\n  b: {command: finetune, overrides: ['init=@a']}\n"
    )
    seen: list[dict[str, str]] = []

    def run_stage(directory: Path, stage: object) -> None:
        seen.append({file.parent.name: file.read_text() for file in directory.glob("*/wandb_id")})
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            launch(str(experiment), "inline", tmp_path / "out", [f"tracking.wandb={mode}"], run_stage=run_stage)
    assert seen[0] == seen[1]
    assert seen[0].keys() == (set() if mode == "disabled" else {"a", "b"})
    assert len(set(seen[0].values())) == len(seen[0])


def test_all_who_ask_at_once_get_the_same_id(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        ids = set(pool.map(run_id, [tmp_path / "run"] * 200))
    assert len(ids) == 1
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["wandb_id"]


def test_a_group_is_the_launch_unless_one_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "night" / "p3"
    folder.mkdir(parents=True)
    assert group_of(folder, {"group": None}) is None
    (tmp_path / "night" / "experiment.yaml").touch()
    assert group_of(folder, {"group": None}) == "night"
    assert group_of(folder, {"group": "mine"}) == "mine"


def test_a_method_is_named_as_in_the_paper(tmp_path: Path) -> None:
    configs = {
        "p3": "objective: {name: rotation}\nattack: {steps: 10}\nfreeze: none\n",
        "p3_f4": f"objective: {{name: classify}}\nattack: {{steps: 10}}\nfreeze: none\ninit: {tmp_path}/p3\n",
        "p3_f4_eval": f"checkpoint: {tmp_path}/p3_f4\n",
        "transfer": f"sources: [{tmp_path}/p3_f4]\ntargets: null\npick: best_ra\n",
    }
    for name, text in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    labels = {name: method_label(tmp_path / name) for name in configs}
    assert labels == {
        "p3": "P3 rotation",
        "p3_f4": "P3→F4 rotation",
        "p3_f4_eval": "P3→F4 rotation",
        "transfer": "transfer",
    }
