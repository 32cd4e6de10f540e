"""A job keeps the words with which it was queued, so a launch with others is refused while it waits or runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dist_advss.cli import main
from dist_advss.errors import RunError, UserError
from launch.queue.journal import FOLDER
from launch.submit import launch


class Folder:
    """A launch folder with the experiment `chain` on Slurm."""

    def __init__(self, chain: str, path: Path) -> None:
        self.chain, self.path = chain, path

    def launch(self, *words: str, **more: Any) -> int:
        return launch(self.chain, "slurm", self.path, words, **more)

    def content(self) -> dict[str, bytes]:
        """The experiment, the journal and the tasks."""
        files = [
            self.path / "experiment.yaml",
            *(self.path / FOLDER).glob("*.jsonl"),
            *(self.path / FOLDER).glob("*/*"),
        ]
        return {str(file): file.read_bytes() for file in files if file.is_file()}

    def refuses(self, *words: str, **more: Any) -> str:
        """The line that refuses these words. Nothing is written."""
        before = self.content()
        with pytest.raises(UserError) as refused:
            self.launch(*words, **more)
        assert self.content() == before
        assert "\n" not in str(refused.value)
        return str(refused.value)


@pytest.fixture
def folder(chain: str, tmp_path: Path, fake_slurm: Any) -> Folder:
    return Folder(chain, tmp_path / "out")


def test_a_stage_in_the_queue_keeps_its_words(folder: Folder, fake_slurm: Any) -> None:
    folder.launch(only=["p3_pretrain"])
    said = folder.refuses("schedule.epochs=8")
    assert said == (
        f"out={folder.path}: p3_pretrain was queued as job 1 with schedule.epochs=100, now it has schedule.epochs=8; "
        f"cancel it first (dist-advss cancel {folder.path} p3_pretrain), or keep that value"
    )
    assert list(fake_slurm.jobs) == ["1"]


def test_after_the_cancel_the_new_words_count(folder: Folder, fake_slurm: Any) -> None:
    folder.launch(only=["p3_pretrain"])
    assert main(["cancel", str(folder.path), "p3_pretrain"]) == 0
    assert folder.launch("schedule.epochs=8") == 0
    assert len(fake_slurm.jobs) == 1 + 5


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_so_does_one_that_has_started_and_written_nothing_yet(state: str, folder: Folder, fake_slurm: Any) -> None:
    folder.launch()
    fake_slurm.end("2", state=state)
    assert "p3_pretrain was queued as job 2 with seed=0, now it has seed=4" in edited(
        folder, "[attack=pgd5]", "[attack=pgd5, seed=4]"
    )


def edited(folder: Folder, old: str, new: str) -> str:
    """The line that refuses an edited experiment file."""
    text = Path(folder.chain).read_text()
    assert old in text
    Path(folder.chain).write_text(text.replace(old, new))
    return folder.refuses()


def test_what_a_stage_in_the_queue_inherits_counts_too(folder: Folder) -> None:
    """Both are in the queue; only the words of the source change, and the message names the source."""
    folder.launch(only=["p3_finetune"])
    assert "p3_pretrain was queued as job 1 with model.width=" in folder.refuses("model.width=4")


def test_a_stage_of_an_array_is_compared_with_its_own_task(write: Any, tmp_path: Path, fake_slurm: Any) -> None:
    text = 'stages: {"p_{n}": {matrix: {n: [0, 1, 2]}, command: pretrain, overrides: ["seed={n}"]}}'
    array = Folder(write(text), tmp_path / "out")
    array.launch()
    said = edited(array, '["seed={n}"]', '["seed={n}", "schedule.epochs={n}1"]')
    assert "p_0 was queued as job 1_0 with schedule.epochs=100, now it has schedule.epochs=1;" in said
    fake_slurm.end("1_0", "1_1", state="CANCELLED")
    assert "p_2 was queued as job 1_2 with schedule.epochs=100, now it has schedule.epochs=21;" in array.refuses()


def test_a_stage_that_the_experiment_lacks_or_that_is_another_command_is_refused(folder: Folder) -> None:
    folder.launch()
    said = edited(folder, "p1_evaluate: {command: evaluate", "p1_evaluate: {command: unforeseen")
    assert "p1_evaluate was queued as job 4 with command=evaluate, now it has command=unforeseen" in said
    said = edited(folder, "p1_evaluate:", "p1_other:")
    assert "p1_evaluate was queued as job 4, and experiment chain has no such stage with these words" in said


@pytest.mark.parametrize("word", ["data.root=/images", "train.threads=2", "engine=ddp", "tracking.wandb=offline"])
def test_keys_that_say_where_a_run_computes_may_differ(word: str, folder: Folder, fake_slurm: Any) -> None:
    folder.launch()
    assert folder.launch(word) == 0
    assert len(fake_slurm.jobs) == 5


def test_the_engine_of_several_processes_is_no_change(folder: Folder, fake_slurm: Any) -> None:
    """The tasks of such a job have engine=ddp, which the experiment has not."""
    for _ in range(2):
        assert folder.launch("cluster.tasks_per_node=2") == 0
    assert len(fake_slurm.jobs) == 5
    assert "p1_finetune was queued as job 1 with schedule.epochs=" in folder.refuses("schedule.epochs=8")


def test_a_job_of_another_cluster_counts(folder: Folder, fake_slurm: Any) -> None:
    folder.launch()
    fake_slurm.configures(ClusterName="other")
    assert "p1_finetune was queued as job 1 with schedule.epochs=" in folder.refuses("schedule.epochs=8")


def test_the_job_of_a_killed_launcher_counts(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.queue.submission.IN_FLIGHT", 0.0)
    folder.launch(only=["p1_finetune"])
    journal = folder.path / FOLDER / "jobs.jsonl"
    journal.write_text(journal.read_text().splitlines()[0] + "\n")  # killed before it wrote the id
    with pytest.raises(UserError, match=r"p1_finetune was queued as job 1 with schedule\.epochs="):
        folder.launch("schedule.epochs=8")


def test_a_slurm_that_does_not_answer_leaves_the_experiment_as_it_was(folder: Folder, fake_slurm: Any) -> None:
    folder.launch()
    before = folder.content()
    fake_slurm.breaks("squeue")
    with pytest.raises(RunError, match="squeue: Unable to contact slurm controller"):
        folder.launch("schedule.epochs=8")
    assert folder.content() == before


def test_words_that_cannot_be_read_any_more_are_refused(folder: Folder) -> None:
    folder.launch(only=["p1_finetune"])
    (task,) = (folder.path / FOLDER / "tasks").glob("*.jsonl")
    task.unlink()
    assert "p1_finetune was queued as job 1, and its words cannot be read; cancel it first" in folder.refuses()
