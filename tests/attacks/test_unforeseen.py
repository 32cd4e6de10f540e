"""The unforeseen attacks: each rendering against an independent computation, and what all of them promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import idctn
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor, nn

from dist_advss.attacks import PGD
from dist_advss.attacks.unforeseen import KINDS, L1, search
from dist_advss.attacks.unforeseen.filters import LUMINANCE, PIXEL, blurred, quantisation
from dist_advss.attacks.unforeseen.overlays import gabor_kernel
from dist_advss.attacks.unforeseen.rendered import Rendered
from dist_advss.attacks.unforeseen.warps import ELASTIC, WHIRLPOOL, sampled, smooth
from dist_advss.config.attack import Attack
from dist_advss.objectives.base import Judgement, Task
from dist_advss.rng import Rng

SHAPES = [(1, 28, 28), (3, 32, 44), (3, 37, 29)]


def images(shape: tuple[int, ...] = (3, 32, 32), n: int = 5) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def rows(n: int = 5) -> Rng:
    return Rng(0).rows(torch.arange(n))


def numbers(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(1)) - 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_images_stay_in_the_box_and_a_step_of_ascent_ascends(kind: str, shape: tuple[int, ...]) -> None:
    """`weights` times the image is the loss, so that every latent has a gradient."""
    x, weights = images(shape), numbers(5, *shape)
    threat = KINDS[kind].threat(KINDS[kind].strengths["high"])
    z = threat.start(x, rows(), "start").requires_grad_()
    before = threat.apply(x, z)
    (gradient,) = torch.autograd.grad((before * weights).sum(), z)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    after = threat.apply(x, threat.project(threat.step(z.detach(), gradient, 0.05), x))
    for y in (before, after):
        assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1 and not torch.equal(y, x)
    assert ((after - before.detach()) * weights).sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_and_the_latent_0_change_nothing(kind: str) -> None:
    x = images()
    still, threat = KINDS[kind].threat(0.0), KINDS[kind].threat(KINDS[kind].strengths["high"])
    assert torch.allclose(still.apply(x, still.start(x, rows(), "start")), x, atol=1e-6)
    assert torch.allclose(threat.apply(x, threat.start(x, None, "start")), x, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_own_draws_alone(kind: str) -> None:
    x, threat, index = images(), KINDS[kind].threat(KINDS[kind].strengths["medium"]), torch.tensor([3, 1])
    whole = threat.apply(x, threat.start(x, rows(), "start"))
    part = threat.apply(x[index], threat.start(x[index], rows().select(index), "start"))
    assert torch.allclose(part, whole[index], atol=1e-6)  # kernels of another shape sum in another order
    assert not torch.allclose(threat.apply(x, threat.start(x, rows(), "other")), whole, atol=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "l1"])
def test_what_was_drawn_stays_and_a_nan_moves_nothing(kind: str) -> None:
    x, threat = images(), KINDS[kind].threat(KINDS[kind].strengths["medium"])
    z = threat.start(x, rows(), "start").requires_grad_()
    (gradient,) = torch.autograd.grad(threat.apply(x, z).sum(), z)
    drawn = int(np.prod(threat.rendering.drawn(tuple(x.shape[1:]))))  # type: ignore[attr-defined]
    moved = threat.project(threat.step(z.detach(), gradient, 0.3), x)
    free = z.shape[1] - drawn
    assert torch.equal(moved[:, free:], z.detach()[:, free:])
    assert moved[:, :free].min() >= threat.rendering.low and moved[:, :free].max() <= 1  # type: ignore[attr-defined]
    assert torch.equal(threat.step(z.detach(), torch.full_like(z, torch.nan), 0.3), z.detach())


def test_pixels_are_moved_as_scipy_moves_them() -> None:
    x, down, right = images((3, 30, 34), 2), 4 * numbers(2, 30, 34), 6 * numbers(2, 34, 30).transpose(1, 2)
    found = sampled(x, down, right)
    row, column = np.mgrid[:30, :34]
    for i in range(2):
        for c in range(3):
            places = [row + down[i].numpy(), column + right[i].numpy()]
            expected = map_coordinates(x[i, c].double().numpy(), places, order=1, mode="nearest")
            assert np.allclose(found[i, c], expected, atol=1e-5)


def test_an_elastic_displacement_is_a_share_of_the_side() -> None:
    """A constant latent of 1 moves everything by strength times the side: here 3 pixels down, 3 left."""
    x = images((1, 30, 30), 1)
    z = torch.stack([torch.ones(7, 7), -torch.ones(7, 7)]).reshape(1, -1)
    found = Rendered(ELASTIC, 0.1).apply(x, z)
    assert torch.allclose(found[..., :-3, 3:], x[..., 3:, :-3], atol=1e-5)
    assert smooth(z.view(1, 2, 7, 7), (1, 30, 30)).std((2, 3)).max() < 1e-6


def test_a_whirl_turns_its_centre_by_its_angle() -> None:
    """Near a centre the map is a rotation by `strength` radians: a quarter turn puts the right neighbour above or below."""
    x = torch.zeros(1, 1, 65, 65)
    x[0, 0, 32, 33] = 1
    free = torch.tensor([[1.0, 0, 0, 0]])
    drawn = torch.tensor([[0.5, 0.5, 0, 0, 0, 0, 0, 0]])
    found = Rendered(WHIRLPOOL, torch.pi / 2).apply(x, torch.cat([free, drawn], 1))[0, 0]
    assert max(found[31, 32], found[33, 32]) > 0.9 and found[32, 33] < 0.1


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 32, 40)])
def test_jpeg_adds_the_inverse_cosine_transform_of_its_latent(shape: tuple[int, ...]) -> None:
    x = torch.full((1, *shape), 0.5)
    rows_, columns = -(-shape[1] // 8), -(-shape[2] // 8)
    free = numbers(1, 1, rows_, columns, 8, 8)
    found = KINDS["jpeg"].threat(0.25).apply(x, free.flatten(1))[0, 0]
    steps = np.maximum((np.array(LUMINANCE).reshape(8, 8) * 40 + 50) // 100, 1)  # libjpeg's tables at quality 80
    expected = np.full(shape[1:], 0.5)
    for i in range(rows_):
        for j in range(columns):
            block = idctn(0.25 * free[0, 0, i, j].double().numpy() * steps, norm="ortho") / 255
            part = expected[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            part += block[: part.shape[0], : part.shape[1]]
    assert np.allclose(found, expected, atol=1e-6)
    assert torch.equal(quantisation(LUMINANCE), torch.from_numpy(steps).double())


def test_blur_is_scipys_gaussian() -> None:
    x = images((3, 31, 40), 2)
    expected = gaussian_filter(x.double().numpy(), (0, 0, 1.7, 1.7), mode="nearest", radius=6)
    assert np.allclose(blurred(x, 1.7), expected, atol=1e-5)


def test_a_gabor_kernel_is_its_formula() -> None:
    angle, x = torch.tensor([0.3, 2.0]), torch.zeros(2, 1, 30, 40)
    kernel = gabor_kernel(x, angle).double().numpy()
    reach = kernel.shape[1] // 2
    assert reach == 6
    for i, a in enumerate([0.3, 2.0]):
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                wave = np.cos(2 * np.pi * 4 / 30 * (right * np.cos(a) + down * np.sin(a)))
                value = np.exp(-np.pi * (down**2 + right**2) / 6**2) * wave
                assert kernel[i, down + reach, right + reach] == pytest.approx(value, abs=1e-5)


def test_pixelation_takes_the_mean_of_each_block() -> None:
    x = images((3, 32, 32), 2)
    threat = Rendered(PIXEL, 1 / 8)
    opaque = torch.ones_like(threat.start(x, rows(2), "start"))
    blocks = x.view(2, 3, 8, 4, 8, 4).mean((3, 5))
    assert torch.allclose(threat.apply(x, opaque), blocks.repeat_interleave(4, 2).repeat_interleave(4, 3), atol=1e-6)


def onto_ball(delta: np.ndarray, base: np.ndarray, radius: float) -> np.ndarray:
    """The projection by sorting the breakpoints of its piecewise linear length, in float64."""
    size, room = np.abs(delta), np.where(delta > 0, 1 - base, base)
    if np.minimum(size, room).sum() <= radius:
        return np.sign(delta) * np.minimum(size, room)
    breaks = np.unique(np.concatenate([[0.0], size, np.maximum(size - room, 0)]))
    lengths = np.array([np.clip(size - t, 0, room).sum() for t in breaks])  # falls with t
    threshold = np.interp(-radius, -lengths, breaks)
    return np.sign(delta) * np.clip(size - threshold, 0, room)


def test_the_l1_projection_is_the_one_by_sorting() -> None:
    clean = images((3, 28, 28), 4)
    z = clean + numbers(4, 3, 28, 28) * torch.tensor([0.01, 0.1, 0.8, 3.0]).view(4, 1, 1, 1)
    threat = L1(0.02)
    found = threat.project(z, clean)
    assert ((found - clean).abs().flatten(1).sum(1) <= 0.02 * 2352 * (1 + 1e-4)).all()
    for i in range(4):
        delta, base = ((a.double().numpy().ravel()) for a in (z[i] - clean[i], clean[i]))
        assert np.allclose((found[i] - clean[i]).numpy().ravel(), onto_ball(delta, base, 0.02 * 2352), atol=1e-5)


class Linear(nn.Module):
    """Two classes: on which side of a plane the image is. The weights vary over about four pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.functional.interpolate(numbers(1, 1, 9, 9), size=(28, 28), mode="bilinear")[0]
        self.weights -= self.weights.mean()

    def forward(self, x: Tensor) -> Tensor:
        side = ((x - 0.5) * self.weights).mean((1, 2, 3))
        return 20 * torch.stack([side, -side], 1)


def judge(x: Tensor, task: Task) -> Judgement:
    logits = Linear()(x)
    loss = nn.functional.cross_entropy(logits, task.targets, reduction="none")
    return Judgement(loss, (logits.argmax(1) == task.targets).float(), logits)


def question(n: int = 70) -> Task:
    coarse = nn.functional.interpolate(images((1, 9, 9), n), size=(28, 28), mode="bilinear")
    x = (coarse + 0.1 * images((1, 28, 28), n)).clamp(0, 1)
    return Task(x, Linear()(x).argmax(1), Rng(0).rows(torch.arange(n)))


@pytest.mark.parametrize("kind", KINDS)
def test_more_images_fall_as_strength_grows(kind: str) -> None:
    task, standing = question(40), torch.arange(40)
    share = []
    for factor in (1 / 16, 1 / 4, 1 / 2):
        threat = KINDS[kind].threat(factor * KINDS[kind].strengths["medium"])
        _, seen = search(judge, task, threat, 4, kind, standing)
        share.append(float((seen == task.targets).float().mean()))
    assert share[0] >= share[1] >= share[2] and share[0] > share[2]


@pytest.mark.parametrize("kind", ["l1", "elastic", "snow"])
def test_the_search_finds_the_same_in_any_batch(kind: str) -> None:
    threat = KINDS[kind].threat(KINDS[kind].strengths["medium"])
    task = question()
    whole, seen = search(judge, task, threat, 4, kind, torch.arange(70))
    index = torch.arange(50, 70)
    part, others = search(judge, task.select(index), threat, 4, kind, torch.arange(20))
    assert torch.equal(part, whole[index]) and torch.equal(others, seen[index])
    assert 0 < (seen == task.targets).sum() < 70


def test_rows_that_are_not_attacked_stay() -> None:
    task = question()
    found, seen = search(judge, task, KINDS["fog"].threat(0.3), 2, "fog", torch.tensor([5]))
    others = torch.arange(70) != 5
    assert torch.equal(found[others], torch.as_tensor(task.inputs)[others]) and (seen[others] == -1).all()
    assert seen[5] in (0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_pgd_takes_each_threat(kind: str) -> None:
    task = question(8)
    pgd = PGD(Attack(steps=2, step_size=0.25), nn.Identity(), threat=KINDS[kind].threat(0.1))
    found = pgd.fool(judge, task)
    assert found.shape == (8, 1, 28, 28) and found.min() >= 0 and found.max() <= 1
