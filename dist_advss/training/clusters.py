"""k-means (Lloyd 1982) from k-means++ starts (Arthur and Vassilvitskii 2007), with the draws of this package.

scikit-learn is no dependency, and scipy's draws are numpy's: the same seed must give the same clusters everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rng import Rng

STARTS = 10  # the one with the smallest distances counts
ITERATIONS = 300  # at most, of a start
CHUNK = 16_384  # points whose distances are in memory at a time


def k_means(points: Tensor, clusters: int, rng: Rng) -> tuple[Tensor, Tensor]:
    """Centres (K, D) float64 and the cluster (N,) int64 of each of the points (N, D), on the CPU; N is at least K.

    Of STARTS starts, the one with the smallest sum of squared distances. A cluster that loses its last point gets the point
    that is farthest from its centre.
    """
    points = points.double()
    best: tuple[float, Tensor, Tensor] | None = None
    for start in range(STARTS):
        centres, cluster, total = _descend(points, _first_centres(points, clusters, rng.at(0, start)))
        if best is None or total < best[0]:
            best = total, centres, cluster
    assert best is not None
    return best[1], best[2]


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre (N,) int64 of each point (N, D), and the squared distance (N,) float64 to it. The first of equals."""
    found = [(part @ centres.T).mul_(-2).add_(centres.square().sum(1)).min(1) for part in points.double().split(CHUNK)]
    distances = torch.cat([minimum.values for minimum in found]) + points.double().square().sum(1)
    return torch.cat([minimum.indices for minimum in found]), distances.clamp_(min=0)


def _first_centres(points: Tensor, clusters: int, rng: Rng) -> Tensor:
    """K of the points: each is drawn with a probability in proportion to its squared distance from those before it."""
    drawn = rng.rows(torch.arange(clusters)).uniform("centre").double()
    chosen = [int(drawn[0] * len(points))]
    distances = nearest(points, points[chosen])[1]
    for place in drawn[1:]:
        weights = distances.cumsum(0)
        # Points that are all the same have no distance: any of them will do.
        chosen.append(min(int(torch.searchsorted(weights, place * weights[-1], right=True)), len(points) - 1))
        distances = torch.minimum(distances, nearest(points, points[chosen[-1:]])[1])
    return points[chosen]


def _descend(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, float]:
    cluster, distances = nearest(points, centres)
    for _ in range(ITERATIONS):
        centres = _means(points, cluster, distances, len(centres))
        before, (cluster, distances) = cluster, nearest(points, centres)
        if torch.equal(before, cluster):
            break
    return centres, cluster, float(distances.sum())


def _means(points: Tensor, cluster: Tensor, distances: Tensor, clusters: int) -> Tensor:
    """The mean (K, D) of each cluster's points."""
    counts = torch.bincount(cluster, minlength=clusters)
    centres = points.new_zeros(clusters, points.shape[1]).index_add_(0, cluster, points)
    centres /= counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero()[:, 0]
    centres[empty] = points[distances.topk(len(empty)).indices]
    return centres
