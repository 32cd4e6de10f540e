"""`corruptions`: verdicts by image, kind and severity that do not depend on how they were computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_advss.config.inherit import configure
from dist_advss.data import load_data
from dist_advss.data.corruptions import corrupt
from dist_advss.errors import RunError, UserError
from dist_advss.evaluation import by_image
from dist_advss.evaluation import corruptions as module
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.evaluation.corruptions import corruptions
from dist_advss.rng import Rng

from .conftest import cut_after

FEW = ["kinds=[fog,gaussian_noise]", "severities=[1,5]", "data.limit=40", "batch_size=20", "threads=1", "device=cpu"]


@pytest.fixture
def judged(tmp_path: Path, trained: Path) -> Callable[..., tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Runs the command with these words; gives result.json and the verdicts."""

    def run(*words: str, name: str = "run") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        out = corruptions(configure("corruptions", [f"checkpoint={trained}", *FEW, *words, f"out={tmp_path / name}"]))
        with np.load(out / "verdicts.npz") as archive:
            return json.loads((out / "result.json").read_text()), {key: archive[key] for key in archive.files}

    return run


def test_verdicts_and_rates_are_those_of_the_plain_computation(judged: Any, trained: Path) -> None:
    result, verdicts = judged()
    config = configure("corruptions", [f"checkpoint={trained}", *FEW, "out=x"])
    images = load_data(config.data, "test", labelled=True)
    model, _ = load_classifier(config, images.classes)
    right = np.zeros((40, 2, 2), bool)
    for i, image in enumerate(images.images.numpy()):
        for k, kind in enumerate(("fog", "gaussian_noise")):
            for s, severity in enumerate((1, 5)):
                x = (
                    torch.from_numpy(corrupt(image, kind, severity, Rng(0, "evaluation"), i)).permute(2, 0, 1)[None]
                    / 255
                )
                with torch.no_grad():
                    right[i, k, s] = int(model.eval().logits(x).argmax()) == int(images.labels[i])
    assert np.array_equal(verdicts["prediction"] == verdicts["label"][:, None, None], right)
    assert result["accuracy"]["fog"] == pytest.approx(list(100 * right[:, 0].mean(0)), abs=1e-4)
    assert result["mean"] == pytest.approx(100 * right.mean(), abs=1e-4)
    assert result["groups"] == pytest.approx({"weather": 100 * right[:, 0].mean(), "noise": 100 * right[:, 1].mean()})
    assert result["n"] == 40
    assert "mce" not in result


def test_the_batch_size_and_an_interruption_change_nothing(
    judged: Any, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = judged()
    judged("batch_size=7", name="small")
    remaining = module.judge_remaining
    monkeypatch.setattr(by_image, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(module, "judge_remaining", lambda batches, *rest: remaining(cut_after(1, batches), *rest))
    with pytest.raises(SystemExit, match="power cut"):
        judged(name="cut")
    monkeypatch.setattr(module, "judge_remaining", remaining)
    _, resumed = judged(name="cut")
    assert not list((tmp_path / "cut").glob("verdicts.partial*"))
    for name in ("small", "cut"):
        assert (tmp_path / name / "verdicts.npz").read_bytes() == (tmp_path / "run" / "verdicts.npz").read_bytes()
    assert resumed.keys() == whole.keys()


def test_mce_is_the_mean_ratio_of_errors_to_those_of_the_baseline(judged: Any, tmp_path: Path) -> None:
    result, _ = judged(name="base")
    weaker = {kind: [rate / 2 for rate in rates] for kind, rates in result["accuracy"].items()}
    (tmp_path / "base" / "result.json").write_text(json.dumps({**result, "accuracy": weaker}))
    against, _ = judged(f"baseline={tmp_path / 'base'}")
    ratios = [
        100 * sum(100 - rate for rate in result["accuracy"][kind]) / sum(100 - rate for rate in weaker[kind])
        for kind in result["accuracy"]
    ]
    assert against["mce"] == pytest.approx(np.mean(ratios), abs=1e-3)
    assert against["baseline"] == {kind: pytest.approx([100 - r for r in rates]) for kind, rates in weaker.items()}


def test_an_mce_is_stale_once_its_baseline_has_other_errors(
    judged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = judged(name="base")
    words = ("kinds=[fog]", f"baseline={tmp_path / 'base'}")
    assert judged(*words)[0]["mce"] == 100
    file = tmp_path / "base" / "result.json"
    other = {kind: [rate / 2 for rate in rates] for kind, rates in result["accuracy"].items()}
    file.write_text(
        json.dumps({**result, "accuracy": {**result["accuracy"], "gaussian_noise": other["gaussian_noise"]}})
    )
    assert judged(*words)[0]["mce"] == 100  # a kind that this run does not have
    file.write_text(json.dumps({**result, "accuracy": other}))
    capsys.readouterr()
    with pytest.raises(
        UserError, match=r"^baseline=.*base: its errors under fog were \[.*\] when mCE was computed, and are now"
    ):
        judged(*words)
    assert "finished already" not in capsys.readouterr().out
    (tmp_path / "run" / "result.json").unlink()
    assert judged(*words)[0]["mce"] < 100
    file.unlink()
    assert judged(*words)[0]["mce"] < 100


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("split=validation", "split=validation instead of test"),
        ("data.limit=30", "data.limit=30 instead of 40"),
        ("seed=1", "seed=1 instead of 0"),
        ("data.crop=random", "data.crop=random instead of centre"),
    ],
)
def test_a_baseline_of_other_images_is_refused(judged: Any, tmp_path: Path, word: str, said: str) -> None:
    made: tuple[str, ...] = () if "crop" in word else (word,)
    judged("kinds=[fog]", *made, name="base")
    if not made:  # only ffcv has random crops
        file = tmp_path / "base" / "config.yaml"
        file.write_text(file.read_text().replace("crop: centre", "crop: random"))
    with pytest.raises(UserError, match=rf"^baseline=.*base: judged other images \({said}\), .* give a run") as caught:
        judged("kinds=[fog]", f"baseline={tmp_path / 'base'}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_baseline_of_another_fingerprint_is_refused_and_one_without_is_not(judged: Any, tmp_path: Path) -> None:
    result, _ = judged("kinds=[fog]", name="base")
    file = tmp_path / "base" / "result.json"
    result["made_from"]["data"]["fingerprint"] = "f" * 32
    file.write_text(json.dumps(result))
    with pytest.raises(UserError, match="images ffffffff instead of"):
        judged("kinds=[fog]", f"baseline={tmp_path / 'base'}")
    del result["made_from"]
    file.write_text(json.dumps(result))
    (tmp_path / "base" / "made_from.json").unlink()
    (tmp_path / "base" / "config.yaml").unlink()
    assert judged("kinds=[fog]", f"baseline={tmp_path / 'base'}")[0]["mce"] == 100


def test_a_baseline_may_have_judged_more_kinds(judged: Any, tmp_path: Path) -> None:
    judged(name="base")
    assert judged("kinds=[fog]", f"baseline={tmp_path / 'base'}")[0]["mce"] == 100


@pytest.fixture
def published(tmp_path: Path, trained: Path) -> Path:
    """Files in the layout of CIFAR-10-C for the included test set: fog at severity s is the image plus 20 s."""
    config = configure("corruptions", [f"checkpoint={trained}", "out=x"])
    images = load_data(config.data, "test", labelled=True)
    folder = tmp_path / "published"
    folder.mkdir()
    brighter = [np.minimum(images.images.numpy().astype(int) + 20 * s, 255) for s in range(1, 6)]
    np.save(folder / "fog.npy", np.concatenate(brighter).astype(np.uint8))
    np.save(folder / "labels.npy", np.tile(images.labels.numpy(), 5))
    return folder


def test_published_files_are_judged_in_place_of_our_own_corruptions(
    judged: Any, published: Path, trained: Path
) -> None:
    _, verdicts = judged("kinds=[fog]", f"published={published}")
    config = configure("corruptions", [f"checkpoint={trained}", *FEW, "out=x"])
    images = load_data(config.data, "test", labelled=True)
    model, _ = load_classifier(config, images.classes)
    pixels = (images.images.int() + 100).clamp_max(255).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        assert np.array_equal(verdicts["prediction"][:, 0, 1], model.eval().logits(pixels).argmax(1).numpy())


def test_published_files_of_other_images_are_refused(judged: Any, published: Path) -> None:
    labels = np.load(published / "labels.npy")
    by_class = labels.reshape(5, -1).copy()
    by_class.sort(axis=1)  # the order of class folders
    np.save(published / "labels.npy", by_class.ravel())
    with pytest.raises(RunError, match=r"labels\.npy is not in the order of this set"):
        judged("kinds=[fog]", f"published={published}", name="order")
    np.save(published / "labels.npy", np.concatenate([labels[:2000], by_class[1:].ravel()]))
    with pytest.raises(UserError, match=r"labels\.npy differs between severities"):
        judged("kinds=[fog]", f"published={published}", name="severities")
    np.save(published / "labels.npy", labels[:100])
    with pytest.raises(UserError, match=r"labels\.npy does not hold a class"):
        judged("kinds=[fog]", f"published={published}", name="few")
    with pytest.raises(UserError, match=r"snow\.npy is missing or damaged"):
        judged("kinds=[snow]", f"published={published}", name="absent")
    np.save(published / "fog.npy", np.load(published / "fog.npy")[:500])
    with pytest.raises(UserError, match=r"fog\.npy is uint8 \[500, 28, 28, 1\], not uint8 \[10000, 28, 28, 1\]"):
        judged("kinds=[fog]", f"published={published}", name="short")


def repaint(published: Path) -> None:
    """Other images of fog in a file of the same size."""
    np.save(published / "fog.npy", 255 - np.load(published / "fog.npy"))


def test_a_finished_result_of_published_files_is_refused_once_one_of_them_has_changed(
    judged: Any, published: Path, tmp_path: Path
) -> None:
    words = ["kinds=[fog]", f"published={published}"]
    result, _ = judged(*words)
    assert set(result["made_from"]["published"]) == {"fog.npy", "labels.npy"}
    np.save(published / "snow.npy", np.load(published / "fog.npy"))  # not of this run
    judged(*words)
    repaint(published)
    with pytest.raises(UserError, match=r"its result is of other images \(.*fog\.npy had digest .*, now .*\); restore"):
        judged(*words)
    (published / "fog.npy").unlink()
    with pytest.raises(UserError, match=r"its result is of other images \(.*fog\.npy: cannot be read"):
        judged(*words)
    published.rename(tmp_path / "gone")
    assert judged(*words)[0] == result


def test_an_interrupted_run_starts_over_where_published_files_have_changed(
    judged: Any, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["kinds=[fog]", f"published={published}"]
    before, _ = judged(*words)
    (tmp_path / "run" / "result.json").unlink()  # as after a full disk: the verdicts are there
    repaint(published)
    resumed, verdicts = judged(*words)
    assert "40 images are judged again" in capsys.readouterr().out
    fresh, expected = judged(*words, name="fresh")
    assert np.array_equal(verdicts["prediction"], expected["prediction"])
    assert resumed["made_from"]["published"] == fresh["made_from"]["published"] != before["made_from"]["published"]
    assert json.loads((tmp_path / "run" / "made_from.json").read_text()) == resumed["made_from"]


def test_a_baseline_has_the_same_published_files(judged: Any, published: Path, tmp_path: Path) -> None:
    words = ["kinds=[fog]", f"published={published}"]
    judged(*words, name="base")
    judged("kinds=[fog]", name="drawn")
    copy = tmp_path / "copy"
    shutil.copytree(published, copy)
    assert judged("kinds=[fog]", f"published={copy}", f"baseline={tmp_path / 'base'}", name="a")[0]["mce"] == 100
    with pytest.raises(UserError, match="published=null instead of FOLDER"):
        judged(*words, f"baseline={tmp_path / 'drawn'}")
    repaint(copy)
    with pytest.raises(UserError, match=r"published files \w{8} instead of \w{8}"):
        judged("kinds=[fog]", f"published={copy}", f"baseline={tmp_path / 'base'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("kinds=[fogg]", "kinds=fogg: not accepted; did you mean 'fog'"),
        ("kinds=[]", "at least one"),
        ("kinds=[fog,fog]", "each one once"),
        ("severities=[0]", "severities=0: not accepted"),
        ("baseline=/nowhere", "no finished corruptions run"),
    ],
)
def test_a_users_mistakes_are_one_line(judged: Any, tmp_path: Path, word: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        judged(word)
    assert not (tmp_path / "run").exists()
