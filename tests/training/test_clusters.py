"""k-means finds what is there, stops where no point would move, and a clustering becomes the classes of a pre-training."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_advss import objectives
from dist_advss.config.inherit import configure
from dist_advss.data import load_data
from dist_advss.errors import UserError
from dist_advss.objectives.features import features_of
from dist_advss.rng import Rng
from dist_advss.training import pseudo_labels
from dist_advss.training.clusters import k_means, nearest
from dist_advss.training.pseudo import matched
from dist_advss.training.run import train

if TYPE_CHECKING:
    from tests.training.conftest import Runs

DYNACL = ["objective=dynacl", "objective.projector=8", "objective.anneal_every=1", "attack.batch_norm=eval"]


def test_separate_groups_are_found_whatever_the_seed() -> None:
    drawn = torch.Generator().manual_seed(0)
    group = torch.arange(90) % 3
    points = torch.randn(90, 5, generator=drawn) + 20 * torch.eye(3, 5)[group]
    for seed in range(5):
        centres, cluster = k_means(points, 3, Rng(seed, "clusters"))
        names = {int(g): int(c) for g, c in zip(group, cluster, strict=True)}
        assert sorted(names.values()) == [0, 1, 2]
        assert all(names[int(g)] == int(c) for g, c in zip(group, cluster, strict=True))
        for g, c in names.items():
            torch.testing.assert_close(centres[c], points.double()[group == g].mean(0))


@given(st.integers(1, 6), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_no_point_would_move_and_every_centre_is_the_mean_of_its_points(clusters: int, seed: int) -> None:
    points = torch.rand(30, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centres, cluster = k_means(points, clusters, Rng(seed, "clusters"))
    distances = np.array([[float(((p - c) ** 2).sum()) for c in centres] for p in points])
    assert (distances.argmin(1) == cluster.numpy()).all()
    for k in range(clusters):
        assert np.allclose(centres[k].numpy(), points[cluster == k].mean(0).numpy())
    again = k_means(points, clusters, Rng(seed, "clusters"))
    assert torch.equal(again[0], centres) and torch.equal(again[1], cluster)
    torch.testing.assert_close(nearest(points, centres)[1].numpy(), distances.min(1))


def test_points_that_are_all_the_same_are_no_trouble() -> None:
    centres, cluster = k_means(torch.ones(6, 3), 3, Rng(0, "clusters"))
    assert centres.isfinite().all() and len(cluster) == 6


def test_the_accuracy_of_a_clustering_is_that_of_the_best_matching() -> None:
    drawn = np.random.default_rng(0)
    cluster, label = drawn.integers(0, 4, 50), drawn.integers(0, 4, 50)
    best = max(np.mean(np.array(names)[cluster] == label) for names in permutations(range(4)))
    assert matched(cluster, label, 4) == pytest.approx(100 * best, abs=1e-3)
    assert np.isnan(matched(cluster, np.full(50, -1), 4))


@pytest.fixture
def cluster(runs: Runs) -> Callable[..., Path]:
    """A pre-training `RUNS/pre` by DynACL. Called, clusters of its features are learned, as by the command line."""
    runs.train(*DYNACL, name="pre")

    def learn(*words: str, name: str) -> Path:
        words = (*runs.words, "pseudo.clusters=5", "attack.batch_norm=eval", "schedule.epochs=1", *words)
        return train(configure("pretrain", [*words, f"out={runs.folder(name)}"]), "pretrain")

    return learn


def test_dynacl_plus_plus_head_first_and_then_all_weights_on_the_same_clusters(
    runs: Runs, cluster: Callable[..., Path]
) -> None:
    pre, head, whole = (runs.folder(name) for name in ("pre", "head", "whole"))
    linear = ["objective=classify", "attack=none", "reuse=backbone", "freeze=backbone", f"pseudo.source={pre}"]
    cluster(*linear, f"init={pre}", name="head")
    kept = pseudo_labels.read(head / "pseudo_labels.npz")
    config = runs.config(*DYNACL, name="pre")
    images = [load_data(config.data, split, labelled=False) for split in ("train", "validation")]
    assert sorted(kept.index) == sorted(i for part in images for i in part.index.tolist())
    assert kept.clusters == 5 and set(kept.label) <= set(range(5))

    # The clusters are those of the features on the route of clean images.
    model = objectives.build(config)
    model.load_state_dict(runs.load("pre")["model"])
    model.eval()
    pixels = [part.images.permute(0, 3, 1, 2) / 255 for part in images]
    points = features_of(model, "pre", pixels[0])
    assert not torch.equal(points, other_route(model, pixels[0]))
    own, order = (
        k_means(points, 5, Rng(0, "clusters")),
        dict(zip(kept.index.tolist(), kept.label.tolist(), strict=True)),
    )
    assert [order[i] for i in images[0].index.tolist()] == own[1].tolist()
    beside = nearest(features_of(model, "pre", pixels[1]), own[0])[0]
    assert [order[i] for i in images[1].index.tolist()] == beside.tolist()

    # Only the head has moved, and the second stage begins with it.
    first = runs.load("head")["model"]
    assert all(
        torch.equal(first[name], t) for name, t in runs.load("pre")["model"].items() if name.startswith("encoder.")
    )
    assert first["top.linear.weight"].shape[0] == 5
    both = ["objective=trades", "reuse=classifier", f"init={head}", f"pseudo.source={head / 'pseudo_labels.npz'}"]
    cluster(*both, "schedule.lr=1e-30", "schedule.final_lr=0", "schedule.weight_decay=0", name="still")
    for name, tensor in runs.load("still")["model"].items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(tensor, first[name], msg=name)
    cluster(*both, name="whole")
    assert not torch.equal(runs.load("whole")["model"]["encoder.conv1.weight"], first["encoder.conv1.weight"])
    assert runs.result("whole")["pseudo"]["source"] == kept.digest()

    # The encoder goes into a fine-tuning. The clusters do not: they are no classes.
    tuned = [*runs.words, "data.labels=20", "schedule.epochs=1", f"init={whole}", f"out={runs.folder('tuned')}"]
    train(configure("finetune", [*tuned, "protocol=slf", "attack.steps=0", "train.batch_size=16"]), "finetune")
    with pytest.raises(
        UserError, match=r"reuse=classifier: the linear layer of init=.* has 5 clusters, and this run tells apart"
    ):
        configure("finetune", [*tuned, "reuse=classifier"])
    with pytest.raises(UserError, match="pre-trained on clusters and has no classifier; fine-tune it first"):
        configure("evaluate", [f"checkpoint={whole}", f"out={runs.folder('judged')}"])


def other_route(model: objectives.SimCLR, x: torch.Tensor) -> torch.Tensor:
    """The features by the batch norms of adversarial images."""
    seen: list[torch.Tensor] = []
    with torch.no_grad(), model.projector[0].linear.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        model.project(x)
    return seen[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pseudo.source=null"], "pseudo.clusters=5: needs a model that labels images"),
        (["objective=rotation"], "pseudo.clusters=5: gives labels, and objective=rotation learns without"),
        (["pseudo.share=0.25"], "pseudo.share=0.25: in pretrain every image has a pseudo-label; drop it"),
        (["pseudo.clusters=65"], "pseudo.clusters=65: more than the 64 training images; lower it"),
    ],
)
def test_what_cannot_be_clustered_is_refused(
    runs: Runs, cluster: Callable[..., Path], words: list[str], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        cluster(
            "objective=classify", f"pseudo.source={runs.folder('pre')}", "validation.limit=null", *words, name="head"
        )
    assert said in str(caught.value)
    assert not runs.folder("head").exists()
