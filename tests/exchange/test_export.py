"""An exported network gives the same answers without this package, and its card says how it was made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dist_advss.config.compose import compose_data
from dist_advss.config.inherit import configure
from dist_advss.data import load_data
from dist_advss.errors import UserError
from dist_advss.evaluation.run import evaluate
from dist_advss.exchange import plain
from dist_advss.exchange.card import card_of, readme
from dist_advss.exchange.export import export
from dist_advss.exchange.network import trained
from dist_advss.training import checkpoint

# In a process that cannot import this package: TA and RA verdicts of FGSM, written without any of its code.
PLAIN = """
import sys
sys.modules["dist_advss"] = None
sys.path.insert(0, sys.argv[1])
import numpy as np
import torch
from load import load

images, labels, eps = torch.from_numpy(np.load("images.npy")), torch.from_numpy(np.load("labels.npy")), float(sys.argv[2])
network, predictions = load(), []
for x, y in zip(images.split(250), labels.split(250)):
    x = (x.float() / 255).requires_grad_()
    logits = network(x)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y, reduction="sum"), x)
    attacked = (x + eps * gradient.sign()).clamp(0, 1).detach()
    with torch.no_grad():
        predictions.append(torch.stack([logits.argmax(1), network(attacked).argmax(1)]))
np.save("predictions.npy", torch.cat(predictions, 1).numpy())
"""


def test_plain_torch_gives_the_1000_verdicts_of_the_evaluation(
    exported: Path, evaluation: Path, tmp_path: Path
) -> None:
    images = load_data(compose_data(["data=fashion_mini"]), "test", labelled=True).first(1000)
    np.save(tmp_path / "images.npy", images.images.permute(0, 3, 1, 2).contiguous().numpy())
    np.save(tmp_path / "labels.npy", images.labels.numpy())
    (tmp_path / "plain.py").write_text(PLAIN)
    subprocess.run([sys.executable, "plain.py", str(exported), "0.02"], cwd=tmp_path, check=True)

    clean, attacked = np.load(tmp_path / "predictions.npy")
    with np.load(evaluation / "verdicts.npz") as verdicts:
        assert len(clean) == len(verdicts["label"]) == 1000
        assert (clean == verdicts["label"]).sum() > 200  # there is something to get wrong
        assert (clean != attacked).sum() > 50
        assert (clean == verdicts["clean_prediction"]).all()
        assert (attacked == verdicts["adversarial_prediction"]).all()


def test_the_weights_are_those_of_the_checkpoint(exported: Path, classifier: Path) -> None:
    weights = load_file(exported / "model.safetensors")
    theirs = torch.load(classifier / "checkpoints" / "best_ra.pt", weights_only=True)["model"]
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)


def test_the_card_says_how_the_network_was_trained_and_judged(
    exported: Path, classifier: Path, evaluation: Path
) -> None:
    card = json.loads((exported / "config.json").read_text())
    result = json.loads((evaluation / "result.json").read_text())
    weights = torch.load(classifier / "checkpoints" / "best_ra.pt", weights_only=True)["model"]
    assert card["weights"] == checkpoint.digest(weights)
    assert card["config"]["schedule"]["epochs"] == 1
    assert card["data"]["fingerprint"] == json.loads((classifier / "made_from.json").read_text())["data"]["fingerprint"]
    assert card["classes"][0] == "T-shirt/top"
    (judged,) = card["evaluations"]
    assert (judged["ta"], judged["ra"], judged["n"], judged["attack"]["eps"]) == (
        result["ta"],
        result["ra"],
        1000,
        0.02,
    )
    text = (exported / "README.md").read_text()
    assert f"| {result['ta']:.1f} | {result['ra']:.1f} |" in text
    assert text.startswith("---\npipeline_tag: image-classification\n")


def test_the_rows_of_two_evaluations_say_how_these_differ(classifier: Path, evaluation: Path, tmp_path: Path) -> None:
    def judged(name: str, words: list[str]) -> Path:
        given = [f"checkpoint={classifier}", "attack.eps=0.02", *words, "threads=1", "device=cpu"]
        return evaluate(configure("evaluate", [*given, f"out={tmp_path / name}"]))

    usual, weak = ["attack=pgd3", "data.limit=20"], ["attack.step_size=0.0001", "attack.random_start=false", "seed=1"]
    square = ["attack=square", "attack.queries=5", "data.limit=20"]
    found = [judged("usual", usual), judged("weak", [*usual, *weak]), judged("square", square)]
    other = shutil.copytree(found[0], tmp_path / "other")  # as if it had judged other images of as many
    result = json.loads((other / "result.json").read_text())
    result["made_from"]["data"] |= {"fingerprint": "0123456789abcdef", "pixels": "original up to 512"}
    (other / "result.json").write_text(json.dumps(result))

    card = card_of(trained("run", str(classifier), None), [*found, other])
    rows = [line.split(" | ")[:2] for line in readme(card, "shared").splitlines() if line.startswith("| fashion_mini")]
    images = "| fashion_mini ({}), test, 20 images"
    here = images.format(json.loads((evaluation / "result.json").read_text())["made_from"]["data"]["fingerprint"][:8])
    attack = "PGD-3, l∞ eps 0.02"
    assert rows == [
        [here, attack],
        [here, f"{attack}, attack.step_size=0.0001, attack.random_start=false, seed=1"],
        [here, "AutoAttack of square, l∞ eps 0.02, attack.queries=5"],
        [images.format("01234567"), f"{attack}, pixels=original up to 512"],
    ]
    conditions = [e["conditions"] for e in card["evaluations"]]
    assert conditions[3]["images"] == "0123456789abcdef" and conditions[1]["attack.step_size"] == "0.0001"
    assert str(tmp_path) not in json.dumps(card)


def test_the_card_has_the_curve_of_a_sweep(classifier: Path, tmp_path: Path) -> None:
    words = [f"checkpoint={classifier}", "attack=fgsm", "attack.eps=8/255", "sweep.eps=[0.1]", "data.limit=20"]
    words += ["threads=1", "device=cpu", f"out={tmp_path / 'swept'}"]
    swept = evaluate(configure("evaluate", words))
    card = card_of(trained("run", str(classifier), None), [swept])
    curve = json.loads((swept / "result.json").read_text())["sweep"]
    assert card["evaluations"][0]["sweep"] == curve
    lines = readme(card, "shared").splitlines()
    start = lines.index("| eps | RA | 95% interval |")
    images = f"fashion_mini ({card['data']['fingerprint'][:8]}), test, 20 images"
    assert lines[start - 2] == f"RA against eps, on {images}, with the other settings of PGD-1, l∞ eps 8/255:"
    shown = zip(("0 (clean)", "8/255", "0.1"), curve["ra"], curve["ra_interval"], strict=True)
    assert lines[start + 2 : start + 6] == [
        *(f"| {eps} | {ra:.1f} | {low:.1f} to {high:.1f} |" for eps, ra, (low, high) in shown),
        "",
    ]


def test_an_export_names_no_path_of_the_machine_that_wrote_it(exported: Path, classifier: Path) -> None:
    for name in ("config.json", "README.md", "load.py"):
        text = (exported / name).read_text()
        assert str(classifier.parent) not in text
        assert str(Path.home()) not in text


def test_the_loader_is_short_and_refuses_other_outputs(exported: Path, tmp_path: Path) -> None:
    code = [line for line in (exported / "load.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 20
    copy = shutil.copytree(exported, tmp_path / "copy")
    probe = torch.load(copy / "probe.pt", weights_only=True)
    torch.save({**probe, "outputs": probe["outputs"] * 1.01}, copy / "probe.pt")
    with pytest.raises(ValueError, match="differ from those recorded"):
        plain.load(copy)


def test_a_pre_trained_encoder_gives_its_features_in_plain_torch(encoder: Path, tmp_path: Path) -> None:
    network = plain.load(export(str(encoder), tmp_path / "shared"))
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert network(images).shape == (3, 32)  # 4 x model.width feature maps
    assert "means of the feature maps" in (tmp_path / "shared" / "README.md").read_text()


def test_a_users_mistakes_are_one_line_and_nothing_is_written(
    classifier: Path, encoder: Path, evaluation: Path, exported: Path, tmp_path: Path
) -> None:
    for match, run, words in (
        ("no such run folder", str(tmp_path / "none"), {}),
        ("leaves no weights", str(evaluation), {}),
        ("judged other weights", str(encoder), {"evaluations": [evaluation]}),
        ("no finished evaluation there", str(classifier), {"evaluations": [encoder]}),
    ):
        with pytest.raises(UserError, match=match):
            export(run, tmp_path / "shared", **words)
        assert not (tmp_path / "shared").exists()
    with pytest.raises(UserError, match="is not empty"):
        export(str(classifier), exported)
