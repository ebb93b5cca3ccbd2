"""Differences between trainings with their uncertainty: over photos, and over seeds.

What is asked is what another set of photos of the same kind, and other seeds of the same recipe,
would have shown. Both are sampled, and they are crossed: every training is scored on the same
photos.

Photos are resampled with replacement (bootstrap); all people of a photo go together, since they
share its difficulty, and a draw is the same for a and b, so that what is hard for both cancels.
Limits are percentiles, expanded for the number of photos P: that of the normal distribution at
sqrt(P / (P - 1)) times Student's quantile with P - 1 degrees of freedom (Hesterberg 2015, "What
teachers should know about the bootstrap"), as plain percentiles are too narrow for few photos.

Seeds are few. Resampling three trainings misses much of their spread (resampled variance is
(n - 1) / n of the sample's), so their part is not resampled but taken from Student's t with n - 1
degrees of freedom. The variance of the mean difference over n seeds is the sample variance over
seeds / n, plus the photos' variance less what of it is in the former already, the seeds' own
scatter over photos / n (Obuchowski and Rockette 1995: cases are photos, readers are seeds). The
quantiles of both parts are weighed by their variances, as Cochran (1964) does for the
Behrens-Fisher problem.

a and b are paired by seed where both have the same seeds (initial weights and the order of people
are then common); else their seeds are independent samples, and the degrees of freedom Welch's. Of
one training against several, the spread over the several's seeds is assumed for the one, too. With
one training on each side nothing is known of seeds: the interval is about these two trainings. Two
seeds on a side are too few for an interval: Student's t of one degree of freedom multiplies their
spread by 12.7, which gives limits that no figure has. The interval is then about the trainings at
hand, over photos alone, and the standard deviation over seeds stands beside it. Where a few seeds
agree by chance the interval is too narrow, which is made up for where they do not. (Never narrower
than the photos' part alone, it covered 98 to 99 % of 2,000 simulated comparisons instead of 95 to
97 %.) What the intervals cover is simulated in tests/reports/test_coverage.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from posematch.errors import PosematchError
from posematch.metrics.columns import lower_is_better
from posematch.runs.finished import Run
from posematch.runs.predictions import PredictionTable
from posematch.statistics.figures import Floats, OfPhotos, of_photos

Group = Sequence[Run | PredictionTable]
_CHUNK_FLOATS = 4_000_000  # of a matrix of multiplicities
# So many seeds a side, or one, or else the interval says nothing of seeds.
LEAST_SEEDS = 3


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
    seeds_std
        Where a side has more than one and fewer than `LEAST_SEEDS` seeds: the standard deviation of
        the figure (or difference) of one training over seeds, and ``low`` to ``high`` is about
        photos alone. None elsewhere.
    """

    value: float
    low: float
    high: float
    better: float
    level: float = 0.95
    seeds_std: float | None = None


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
        Names, see `posematch.statistics.figures.of_photos`.
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
    found = intervals([one_of(x) for x in a], [one_of(x) for x in b], figures, draws, seed, level)
    return {name: interval for name, (_, interval) in found.items()}


def figure_intervals(
    runs: Group,
    figures: Sequence[str],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Figures of one group, each the mean over its seeds; as `paired_intervals`."""
    found = intervals(None, [one_of(x) for x in runs], figures, draws, seed, level)
    return {name: interval for name, (_, interval) in found.items()}


def one_of(run: Run | PredictionTable) -> PredictionTable:
    """A run's last predictions, or what is such already."""
    return run if isinstance(run, PredictionTable) else run.last_predictions


def intervals(
    a: Sequence[PredictionTable] | None,
    b: Sequence[PredictionTable],
    figures: Sequence[str],
    draws: int,
    seed: int,
    level: float,
) -> dict[str, tuple[Floats, Interval]]:
    """`paired_intervals`, or `figure_intervals` where ``a`` is None.

    With each interval come the mean figures of the groups, one or two.
    """
    groups = [b] if a is None else [a, b]
    if not all(groups):
        raise PosematchError("There is nothing to compare: a group has no runs.")
    first = groups[0][0]
    photos = first.photos
    for one in [one for group in groups for one in group]:
        if not np.array_equal(one.photos, photos):
            raise PosematchError(
                f"{first.name} and {one.name} cannot be compared: {len(photos)} and"
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
            sign = -1 if lower_is_better(name) else 1
            better = float(np.mean(sign * sorted_draws > 0) + np.mean(sorted_draws == 0) / 2)
        means = np.array([of_group[:, f].mean() for of_group in points])
        spread = seeds_std(of_a and of_a[0], of_b[0], paired)
        found[name] = means, Interval(value, float(low), float(high), better, level, spread)
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
    too_few = _too_few([points for points, _ in samples])
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
    spread, scatter, freedom = _of_seeds(samples)
    if spread == 0 or too_few:
        return value, value + quantiles
    common = max(float(np.var(by_photo)) - scatter, 0.0)
    of_photos = quantiles / max(float(np.std(by_photo)), 1e-300)
    of_seeds = stats.t.ppf(level, freedom)
    deviation = (common * of_photos + spread * of_seeds) / np.sqrt(common + spread)
    return value, value + deviation


def seeds_std(a: Floats | None, b: Floats, paired: bool) -> float | None:
    """Standard deviation over seeds, where they are too few for an interval; else None.

    Parameters
    ----------
    a, b
        (n,) figures of each seed's training; ``a`` is None for one group.
    paired
        Whether a[i] and b[i] have the same seed.

    Returns
    -------
    float or None
        Of b - a of one training each. Where one side has a single seed, the other's spread is
        assumed for it, too.
    """
    samples = [b] if a is None else [b - a] if paired else [b, a]
    if not _too_few(samples):
        return None
    variances = [points.var(ddof=1) for points in samples if len(points) > 1]
    return float(np.sqrt(len(samples) * np.mean(variances)))


def _too_few(samples: Sequence[Floats]) -> bool:
    """Whether some sample has a spread over seeds that tells next to nothing."""
    return any(1 < len(points) < LEAST_SEEDS for points in samples)


def _of_seeds(samples: Sequence[tuple[Floats, Floats]]) -> tuple[float, float, float]:
    """Variance of the samples' summed means over seeds, the scatter's part in it, its freedom."""
    measured = [
        (points.var(ddof=1), (drawn - points[:, None]).var(axis=0, ddof=1).mean(), len(points) - 1)
        for points, drawn in samples
        if len(points) > 1
    ]
    if not measured:
        return 0.0, 0.0, 1.0
    if len(measured) < len(samples):  # the spread of the other one is assumed for one training
        share = sum(1 / len(points) for points, _ in samples)
        variance, scatter, freedom = measured[0]
        return float(variance * share), float(scatter * share), float(freedom)
    shares = [(v / (f + 1), s / (f + 1), f) for v, s, f in measured]
    spread = float(sum(v for v, _, _ in shares))
    welch = sum(v**2 / f for v, _, f in shares)
    return spread, float(sum(s for _, s, _ in shares)), spread**2 / welch if welch > 0 else 1.0
