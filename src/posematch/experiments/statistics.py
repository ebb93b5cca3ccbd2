"""Differences between trainings with their uncertainty: over photos, and over seeds.

What is asked is what another set of photos of the same kind, and other seeds of the same recipe,
would have shown. Both are sampled, and they are crossed: every training is scored on the same
photos.

Photos are resampled with replacement (bootstrap); all people of a photo go together, since they
share its difficulty, and a draw is the same for a and b, so that what is hard for both cancels.
Limits are percentiles, expanded for the number of photos P: that of the normal distribution at
sqrt(P / (P - 1)) times Student's quantile with P - 1 degrees of freedom (Hesterberg 2015, "What
teachers should know about the bootstrap"), as plain percentiles are too narrow for few photos.

Seeds are few. Resampling two or three trainings misses most of their spread (resampled variance is
(n - 1) / n of the sample's, and there are three distinct means of two), so their part is not
resampled but taken from Student's t with n - 1 degrees of freedom. The variance of the mean
difference over n seeds is the sample variance over seeds / n, plus the photos' variance less what
of it is in the former already, the seeds' own scatter over photos / n (Obuchowski and Rockette 1995:
cases are photos, readers are seeds). The quantiles of both parts are weighed by their variances, as
Cochran (1964) does for the Behrens-Fisher problem. a and b are paired by seed where both have the
same seeds (initial weights and the order of people are then common), else independent. Of one
training against several the spread over seeds of the several is assumed for it, too. With one
training on each side nothing is known of seeds: the interval is about these two trainings. With two
seeds intervals are wide and rough: their multiplier is up to 12.7 instead of 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from posematch.errors import PosematchError
from posematch.experiments.figures import (
    LOWER_IS_BETTER,
    Floats,
    OfPhotos,
    Predicted,
    of_photos,
    predicted,
)
from posematch.experiments.runs import Run

Group = Sequence[Run | Predicted]
_CHUNK_FLOATS = 4_000_000  # of a matrix of multiplicities


@dataclass(frozen=True)
class Interval:
    """A figure, or a difference of figures, and how sure it is.

    Attributes
    ----------
    value
        Figure of b less that of a, each the mean over its seeds; or the figure of one group.
    low, high
        Limits of the interval. NaN where it cannot be told.
    better
        Share of draws in which b is better, ties counting half: of a figure that should be low, in
        which b is lower. NaN for one group.
    level
        Probability that the interval holds the true value.
    """

    value: float
    low: float
    high: float
    better: float
    level: float = 0.95


def paired_interval(a: Group, b: Group, figure: str, draws: int = 2000, seed: int = 0) -> Interval:
    """Figure of b less figure of a; `paired_intervals` of one figure."""
    return paired_intervals(a, b, [figure], draws, seed)[figure]


def figure_interval(runs: Group, figure: str, draws: int = 2000, seed: int = 0) -> Interval:
    """Figure of one group; `figure_intervals` of one figure."""
    return figure_intervals(runs, [figure], draws, seed)[figure]


def paired_intervals(
    a: Group,
    b: Group,
    figures: Sequence[str],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Differences b - a of figures, in the same draws.

    Parameters
    ----------
    a, b
        Trainings of two recipes, one or more seeds each, all scored on the same photos.
    figures
        Names, see `posematch.experiments.figures.of_photos`.
    draws
        Resamplings of the photos.
    seed
        Of the resampling.
    level
        Of the interval.

    Raises
    ------
    PosematchError
        A group is empty, photos differ, there are fewer than two of them, or there is no such
        figure.
    """
    return intervals([one_of(x) for x in a], [one_of(x) for x in b], figures, draws, seed, level)


def figure_intervals(
    runs: Group,
    figures: Sequence[str],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Figures of one group, each the mean over its seeds; as `paired_intervals`."""
    return intervals(None, [one_of(x) for x in runs], figures, draws, seed, level)


def one_of(run: Run | Predicted) -> Predicted:
    """A run's last predictions, or what is such already."""
    return run if isinstance(run, Predicted) else predicted(run)


def intervals(
    a: Sequence[Predicted] | None,
    b: Sequence[Predicted],
    figures: Sequence[str],
    draws: int,
    seed: int,
    level: float,
) -> dict[str, Interval]:
    """`paired_intervals`, or `figure_intervals` where ``a`` is None."""
    groups = [b] if a is None else [a, b]
    if not all(groups):
        raise PosematchError("There is nothing to compare: a group has no runs.")
    photos = b[0].photos
    for one in [one for group in groups for one in group]:
        if not np.array_equal(one.photos, photos):
            raise PosematchError(
                f"{b[0].name} and {one.name} cannot be compared: {len(photos)} and"
                f" {len(one.photos)} photos are scored, not the same ones."
            )
    if len(photos) < 2:
        raise PosematchError("There is one photo; an interval needs two at least.")
    # (runs, 1 + draws, figures): every photo once, and the draws.
    points, resampled = [], []
    for group in groups:
        measures = [of_photos(one, figures) for one in group]
        points.append(np.stack([m(np.ones((1, len(photos))))[0] for m in measures]))
        resampled.append(_resample(measures, len(photos), draws, seed))
    seeds = [[one.seed for one in group] for group in groups]
    paired = len(groups) == 2 and _same_seeds(*seeds)
    if paired:
        for g in range(2):
            order = np.argsort(np.array(seeds[g], dtype=np.int64))
            points[g], resampled[g] = points[g][order], resampled[g][order]
    found = {}
    for f, name in enumerate(figures):
        of_a = (points[0][:, f], resampled[0][:, :, f]) if a is not None else None
        of_b = (points[-1][:, f], resampled[-1][:, :, f])
        value, sorted_draws = distribution(of_a, of_b, paired, len(photos))
        low, high = np.quantile(sorted_draws, [(1 - level) / 2, (1 + level) / 2])
        better = float("nan")
        if a is not None and np.isfinite(sorted_draws).all():
            sign = -1 if name.split("/")[0] in LOWER_IS_BETTER else 1
            better = float(np.mean(sign * sorted_draws > 0) + np.mean(sorted_draws == 0) / 2)
        found[name] = Interval(value, float(low), float(high), better, level)
    return found


def _same_seeds(a: Sequence[int | None], b: Sequence[int | None]) -> bool:
    return None not in a and len(set(a)) == len(a) and sorted(map(str, a)) == sorted(map(str, b))


def multiplicities(photos: int, draws: int, generator: np.random.Generator) -> Floats:
    """(draws, photos) how often each photo is drawn, with replacement, as many as there are."""
    drawn = generator.integers(photos, size=(draws, photos))
    places = (drawn + photos * np.arange(draws)[:, None]).ravel()
    counts = np.bincount(places, minlength=draws * photos)
    return counts.reshape(draws, photos).astype(np.float64)


def _resample(measures: Sequence[OfPhotos], photos: int, draws: int, seed: int) -> Floats:
    """(runs, draws, F) figures of resampled photos; the same photos for the same seed."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK_FLOATS // photos)
    parts = []
    for start in range(0, draws, at_once):
        weights = multiplicities(photos, min(at_once, draws - start), generator)
        parts.append(np.stack([measure(weights) for measure in measures]))
    return np.concatenate(parts, axis=1)


def distribution(
    a: tuple[Floats, Floats] | None, b: tuple[Floats, Floats], paired: bool, photos: int
) -> tuple[float, Floats]:
    """What is known of a difference, or of one group, by the method of this module.

    Parameters
    ----------
    a, b
        (n,) figures of each seed's training on all photos, and (n, D) on resampled ones; ``a`` is
        None for one group.
    paired
        Whether row i of a and row i of b have the same seed.
    photos
        Their number P.

    Returns
    -------
    value, sorted_draws
        The mean difference, and (D,) equally likely values of the true one, ascending. NaN where a
        figure is not defined.
    """
    # Independent samples of seeds, whose means add up to the value.
    samples = [b] if a is None else [b, (-a[0], -a[1])]
    if a is not None and paired:
        samples = [(b[0] - a[0], b[1] - a[1])]
    value = float(sum(points.mean() for points, _ in samples))
    # A figure may have nothing to count in a draw (no large person in it): such draws are left out.
    defined = np.logical_and.reduce([np.isfinite(drawn).all(axis=0) for _, drawn in samples])
    size = samples[0][1].shape[1]
    if not (np.isfinite(value) and defined.sum() > size / 2):
        return value, np.full(size, np.nan)
    samples = [(points, drawn[:, defined]) for points, drawn in samples]
    by_photo = sum((drawn.mean(axis=0) for _, drawn in samples), np.zeros(())) - value
    level = (np.arange(size) + 0.5) / size
    expanded = stats.norm.cdf(np.sqrt(photos / (photos - 1)) * stats.t.ppf(level, photos - 1))
    quantiles = np.quantile(by_photo, expanded)
    over_seeds, common = [], float(np.var(by_photo))
    for (spread, scatter, freedom), (points, _) in zip(_of_seeds(samples), samples, strict=True):
        over_seeds.append((spread / len(points), freedom))
        common -= scatter / len(points)
    common = max(common, 0.0)
    total = common + sum(variance for variance, _ in over_seeds)
    if not any(variance for variance, _ in over_seeds):
        return value, value + quantiles
    deviation = common * quantiles / max(float(np.std(by_photo)), 1e-300)
    for variance, freedom in over_seeds:
        if variance:
            deviation = deviation + variance * stats.t.ppf(level, freedom)
    return value, value + deviation / np.sqrt(total)


def _of_seeds(samples: Sequence[tuple[Floats, Floats]]) -> list[tuple[float, float, int]]:
    """Of each sample: variance over seeds, what scatter over photos gives it, degrees of freedom."""
    found = []
    for points, drawn in samples:
        if len(points) > 1:
            scatter = (drawn - points[:, None]).var(axis=0, ddof=1).mean()
            found.append((float(points.var(ddof=1)), float(scatter), len(points) - 1))
        else:
            found.append((0.0, 0.0, 0))
    if len(found) == 2:  # the spread of the other one is assumed for a single training
        found = [own if own[2] else other for own, other in zip(found, found[::-1], strict=True)]
    return found
