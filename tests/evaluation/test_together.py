"""Ensembles judged as one model, fine-tuned together, and the transfer of adversarial images from model to model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dist_advss.attacks import PGD
from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.data import Batch, MemoryLoader, as_float, load_data
from dist_advss.data.sets.fashion import CLASSES as FASHION
from dist_advss.errors import UserError
from dist_advss.evaluation import by_image
from dist_advss.evaluation import transfer as transfer_module
from dist_advss.evaluation.by_image import judge_remaining
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.evaluation.others import load_model
from dist_advss.evaluation.run import evaluate
from dist_advss.evaluation.transfer import transfer
from dist_advss.objectives.base import Task
from dist_advss.rng import Rng
from dist_advss.training.run import train

from .conftest import SMALL, TRAINED

FEW = ["data.limit=40", "attack.steps=3", "attack.eps=0.1", "threads=1", "device=cpu"]
BRIEF = [*TRAINED, "data.limit=200", "schedule.epochs=1"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second, narrower fine-tuning."""
    out = tmp_path_factory.mktemp("other") / "run"
    return train(compose("finetune", [*TRAINED, "model.width=4", "seed=5", f"out={out}"]), "finetune")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pretrained")
    return {
        task: train(compose("pretrain", [*BRIEF, f"objective={task}", f"out={root / task}"]), "pretrain")
        for task in ("rotation", "jigsaw")
    }


def members(*runs: Path) -> list[str]:
    return ["model=ensemble", f"model.members=[{','.join(map(str, runs))}]"]


def first(config: Any, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images of the test split, (n, C, H, W) in [0,1], and their labels."""
    images = load_data(config.data, "test", labelled=True)
    batch = next(iter(MemoryLoader(images, 1, Rng(0, "evaluation"), "cpu").in_order(n)))
    return as_float(batch.images), batch.labels


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_an_ensemble_of_runs_is_judged_as_one_model(trained: Path, other: Path, tmp_path: Path) -> None:
    config = configure("evaluate", [*members(trained, other), *SMALL, f"out={tmp_path / 'both'}"])
    found = result(evaluate(config))
    assert found["checkpoint"] is None and found["members"] == [str(trained), str(other)]
    x, labels = first(config, 60)
    singles = [
        load_classifier(configure("evaluate", [f"checkpoint={run}", *SMALL, "out=X"]), FASHION)[0]
        for run in (trained, other)
    ]

    def average(z: torch.Tensor) -> torch.Tensor:
        return sum(m.eval().logits(z).softmax(1) for m in singles).log()  # type: ignore[union-attr]

    task = Task(x, labels, Rng(0, "evaluation").rows(torch.arange(60)))
    for m in singles:
        m.requires_grad_(False)
    attack = PGD(config.attack, singles[0].eval())
    x_adv = attack(lambda z, t: torch.nn.functional.cross_entropy(average(z), t.targets, reduction="none"), task)
    for name, shown in (("ta", x), ("ra", x_adv)):
        expected = 100 * (average(shown).argmax(1) == labels).float().mean().item()
        assert found[name] == pytest.approx(expected, abs=100 / 60 + 1e-3)  # one image on a knife's edge


def test_members_are_fine_tuned_together_and_the_whole_is_judged_again(
    pretrained: dict[str, Path], tmp_path: Path
) -> None:
    words = [*members(*pretrained.values()), *(w for w in BRIEF if not w.startswith("model.")), "attack.steps=1"]
    run = train(configure("finetune", [*words, f"out={tmp_path / 'run'}"]), "finetune")
    start = torch.load(pretrained["jigsaw"] / "checkpoints" / "last.pt")["model"]["encoder.conv1.weight"]
    end = torch.load(run / "checkpoints" / "last.pt")["model"]
    assert end["encoder.member1.conv1.weight"].shape == start.shape
    assert 0 < (end["encoder.member1.conv1.weight"] - start).abs().max() < 1
    assert result(run)["transferred"]["matched"] == sum(name.startswith("encoder.") for name in end)
    judged = result(evaluate(configure("evaluate", [f"checkpoint={run}", *FEW, f"out={tmp_path / 'judged'}"])))
    assert judged["n"] == 40


def test_what_does_not_fit_together_is_refused_in_one_line(
    trained: Path, pretrained: dict[str, Path], tmp_path: Path
) -> None:
    def copy(folder: str, **data: Any) -> Path:
        config = yaml.safe_load((trained / "config.yaml").read_text())
        config["data"] |= data
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / folder / "result.json").write_text("{}")
        return tmp_path / folder

    hundred, large, empty = copy("hundred", name="folder", classes=100), copy("large", size=32), copy("empty")
    for run, said in (
        (hundred, "has data.classes=100; all must use the same classes"),
        (large, "has data.size=32, the first run 28"),
        (tmp_path / "nowhere", "no such run folder"),
        (pretrained["rotation"], "pre-trained on rotation and has no classifier"),
        (empty, "no such checkpoint"),
    ):
        with pytest.raises(UserError) as caught:
            evaluate(configure("evaluate", [*members(trained, run), *FEW, f"out={tmp_path / 'judged'}"]))
        assert said in str(caught.value) and "\n" not in str(caught.value)
        assert str(run) in str(caught.value)
    assert not (tmp_path / "judged").exists()


def test_the_transfer_matrix_holds_each_pair(trained: Path, other: Path, tmp_path: Path) -> None:
    """On the diagonal stands what `evaluate` finds; beside it, what its adversarial images do to the other model."""
    found = result(transfer(configure("transfer", [f"sources=[{trained},{other}]", *SMALL, f"out={tmp_path / 'm'}"])))
    assert found["kind"] == "transfer"
    assert found["sources"] == found["targets"] == [str(trained), str(other)]
    for i, run in enumerate((trained, other)):
        alone = result(evaluate(configure("evaluate", [f"checkpoint={run}", *SMALL, f"out={tmp_path / f'e{i}'}"])))
        assert found["ra"][i][i] == pytest.approx(alone["ra"], abs=1e-3)
        assert found["ta"][i] == pytest.approx(alone["ta"], abs=1e-3)
        assert found["ra"][i][i] <= found["ra"][1 - i][i]  # nobody else knows the weakness as well
    assert transfer(configure("transfer", [f"sources=[{trained},{other}]", *SMALL, f"out={tmp_path / 'm'}"])).is_dir()


def test_an_interrupted_transfer_goes_on_where_it_was(
    trained: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, batches: int) -> tuple[Path, int]:
        """The folder, and how many batches were judged before the power cut."""
        judged = 0

        def cut(loaded: Iterable[Batch], judge: Any, *rest: Any) -> Any:
            def noted(batch: Batch) -> Any:
                nonlocal judged
                if judged == batches:
                    raise SystemExit("power cut")
                judged += 1
                return judge(batch)

            return judge_remaining(loaded, noted, *rest)

        monkeypatch.setattr(transfer_module, "judge_remaining", cut)
        words = [f"sources=[{trained},{other}]", *FEW, "batch_size=9", f"out={tmp_path / name}"]
        with contextlib.suppress(SystemExit):
            transfer(configure("transfer", words))
        return tmp_path / name, judged

    monkeypatch.setattr(by_image, "SAVE_EVERY_S", -1.0)  # after every batch
    whole, _ = run("whole", 100)
    folder, _ = run("cut", 3)
    assert not (folder / "result.json").exists()
    assert run("cut", 100)[1] == 2  # 40 images, 9 a batch
    assert {**result(folder), "seconds": 0} == {**result(whole), "seconds": 0}
    assert not list(folder.glob("verdicts.partial.*"))
    kept = np.load(folder / "verdicts.npz")
    assert kept["correct"].shape == (40, 3, 2)
    assert result(folder)["ra"] == pytest.approx(100 * kept["correct"][:, :2].mean(0), abs=1e-3)


def test_pretext_tasks_are_attacked_and_judged_on_their_own_questions(
    trained: Path, pretrained: dict[str, Path], tmp_path: Path
) -> None:
    """Turned and shuffled pixels are those of the image: the attack on them is the attack on what is made of them."""
    sources = f"sources=[{pretrained['rotation']},{pretrained['jigsaw']}]"
    config = configure(
        "transfer", [sources, f"targets=[{pretrained['rotation']},{trained}]", *FEW, f"out={tmp_path / 'm'}"]
    )
    found = result(transfer(config))
    assert [len(row) for row in found["ra"]] == [2, 2]
    model = load_model("sources", str(pretrained["rotation"]), "best_ra")[0].eval()
    clean, labels = first(config, 40)
    task = model.prepare(clean, labels, Rng(0, "evaluation").rows(torch.arange(40)))
    pgd = PGD(config.attack, model)
    (start,) = pgd.start(Task(clean, labels, task.rng), 0)
    turned = torch.stack([x.rot90(int(k), (1, 2)) for x, k in zip(start, task.targets, strict=True)])
    with pgd._undisturbed():
        (x_adv,) = pgd.ascend(model.attack_loss, task, (turned,))
    expected = 100 * model.judge(x_adv, task).correct.mean().item()
    assert found["ra"][0][0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sources=[nowhere]"], "sources=nowhere: no such run folder"),
        (["sources=[nowhere]", "attack=none"], "sources=nowhere"),
        ([], "sources: missing"),
    ],
)
def test_a_transfer_without_models_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        configure("transfer", [*words, "out=RUN"])
