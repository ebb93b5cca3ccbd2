"""Every decoder once more, one joint at a time in numpy and OpenCV, as plainly as it can be said.

What the batched ones are tested against, and what ``benchmarks/decoding.py`` times. Those of
published code (docs/protocols.md, Decoders) follow its steps and its precision.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

Joint = tuple[float, float, float]  # x, y, score


def over_joints(one: Callable[..., Joint], maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, K, H, W) maps to (B, K, 2) joints and (B, K) scores."""
    found = np.array([[one(joint) for joint in person] for person in maps], dtype=np.float64)
    return found[..., :2], found[..., 2]


def highest(hm: np.ndarray) -> tuple[int, int, float]:
    index = int(hm.argmax())
    peak = float(hm.flat[index])
    if peak <= 0:
        return 0, 0, peak
    return index % hm.shape[1], index // hm.shape[1], peak


def score(peak: float) -> float:
    return min(max(peak, 0.0), 1.0)


def argmax(hm: np.ndarray) -> Joint:
    x, y, peak = highest(hm)
    return x, y, score(peak)


def quarter_offset(hm: np.ndarray) -> Joint:
    """HRNet's: both axes or none."""
    x, y, peak = highest(hm)
    height, width = hm.shape
    if 1 < x < width - 1 and 1 < y < height - 1:
        dx, dy = hm[y, x + 1] - hm[y, x - 1], hm[y + 1, x] - hm[y - 1, x]
        return x + 0.25 * np.sign(dx), y + 0.25 * np.sign(dy), score(peak)
    return x, y, score(peak)


def quarter_offset_mmpose(hm: np.ndarray) -> Joint:
    """mmpose's: each axis by its own rule."""
    x, y, peak = highest(hm)
    height, width = hm.shape
    dx = dy = 0.0
    if 1 < x < width - 1 and 0 < y < height:
        dx = hm[y, x + 1] - hm[y, x - 1]
    if 1 < y < height - 1 and 0 < x < width:
        dy = hm[y + 1, x] - hm[y - 1, x]
    return x + 0.25 * np.sign(dx), y + 0.25 * np.sign(dy), score(peak)


def barycentre(hm: np.ndarray, radius: int = 2) -> Joint:
    x, y, _ = highest(hm)
    mass = np.maximum(hm, 0)
    top, left = max(y - radius, 0), max(x - radius, 0)
    near = mass[top : y + radius + 1, left : x + radius + 1]
    total = near.sum()
    if total <= 0:
        return x, y, 0.0
    rows, columns = np.arange(near.shape[0]) + top, np.arange(near.shape[1]) + left
    return near.sum(0) @ columns / total, near.sum(1) @ rows / total, total / mass.sum()


def soft_argmax(hm: np.ndarray, temperature: float = 1.0, radius: float = 2.0) -> Joint:
    weights = np.maximum(hm, 0)
    if weights.max() <= 0:
        return 0.0, 0.0, 0.0
    if temperature != 1:
        weights = (weights / weights.max()) ** (1 / temperature)
    weights = weights / weights.sum()
    rows, columns = np.arange(hm.shape[0]), np.arange(hm.shape[1])
    x, y = weights.sum(0) @ columns, weights.sum(1) @ rows
    near = weights[np.abs(rows - y) <= radius][:, np.abs(columns - x) <= radius]
    return x, y, near.sum()


def blurred(hm: np.ndarray, kernel: int) -> np.ndarray:
    """Zero beyond the border, the peak as it was; stored in the map's own precision."""
    border = kernel // 2
    padded = np.zeros((hm.shape[0] + 2 * border, hm.shape[1] + 2 * border))
    inside = slice(border, border + hm.shape[0]), slice(border, border + hm.shape[1])
    padded[inside] = hm
    blur = cv2.GaussianBlur(padded, (kernel, kernel), 0)[inside].astype(hm.dtype)
    return blur * (hm.max() / blur.max())


def dark(hm: np.ndarray, kernel: int = 11) -> Joint:
    x, y, peak = highest(hm)
    height, width = hm.shape
    log = np.log(np.maximum(blurred(hm, kernel), 1e-10))
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return x, y, score(peak)
    dx, dy = newton(log, x, y)
    return x + dx, y + dy, score(peak)


def newton(log: np.ndarray, x: int, y: int) -> tuple[float, float]:
    gradient = 0.5 * np.array([log[y, x + 1] - log[y, x - 1], log[y + 1, x] - log[y - 1, x]])
    dxx = 0.25 * (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2])
    dyy = 0.25 * (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x])
    dxy = 0.25 * (log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1])
    if dxx * dyy - dxy**2 == 0:
        return 0.0, 0.0
    dx, dy = -np.linalg.inv(np.array([[dxx, dxy], [dxy, dyy]])) @ gradient
    return float(dx), float(dy)


def dark_edge(hm: np.ndarray, kernel: int = 11) -> Joint:
    """The map continued beyond its border by the Gaussian that fits the pixels around the peak."""
    x, y, peak = highest(hm)
    if peak <= 0:
        return x, y, 0.0
    reach = 2 + kernel // 2
    height, width = hm.shape
    around = np.zeros((2 * reach + 1, 2 * reach + 1))
    points, values = [], []
    for v in range(-reach, reach + 1):
        for u in range(-reach, reach + 1):
            if 0 <= x + u < width and 0 <= y + v < height:
                value = float(hm[y + v, x + u]) / peak
                around[v + reach, u + reach] = value
                if value > 0:
                    points.append((1.0, u, v, u * u + v * v))
                    values.append(value)
    if len(points) > 4:
        terms, values = np.array(points), np.array(values)
        weights = values * np.exp(-terms[:, 3] / reach**2)  # squared by the least squares
        fit, _, rank, _ = np.linalg.lstsq(
            weights[:, None] * terms, weights * np.log(values), rcond=1e-7
        )
        for v in range(-reach, reach + 1):
            for u in range(-reach, reach + 1):
                on_grid = 0 <= x + u < width and 0 <= y + v < height
                if rank == 4 and fit[3] < 0 and not on_grid:
                    exponent = fit @ (1, u, v, u * u + v * v)
                    around[v + reach, u + reach] = math.exp(min(exponent, 0))
    blur = cv2.GaussianBlur(around, (kernel, kernel), 0, borderType=cv2.BORDER_CONSTANT)
    dx, dy = newton(np.log(np.maximum(blur, 1e-10)), reach, reach)
    return x + min(max(dx, -1), 1), y + min(max(dy, -1), 1), score(peak)


def udp(hm: np.ndarray, kernel: int = 11) -> Joint:
    """mmpose's, but for the floor of maps whose peak is below 1."""
    x, y, peak = highest(hm)
    if peak <= 0:
        return x, y, 0.0
    log = np.log(np.maximum(blurred(hm, kernel), 1e-3 * min(peak, 1)))
    log = np.pad(log, 1, mode="edge")
    u, v = x + 1, y + 1
    middle, east, west = log[v, u], log[v, u + 1], log[v, u - 1]
    south, north = log[v + 1, u], log[v - 1, u]
    dxy = 0.5 * (log[v + 1, u + 1] + log[v - 1, u - 1] - east - west - south - north + 2 * middle)
    hessian = np.array(
        [[east - 2 * middle + west, dxy], [dxy, south - 2 * middle + north]], dtype=np.float64
    )
    hessian += np.finfo(np.float32).eps * np.eye(2)
    dx, dy = -np.linalg.inv(hessian) @ (0.5 * np.array([east - west, south - north]))
    return x + dx, y + dy, score(peak)


def udp_combined(joint: np.ndarray, kernel: int = 11, radius_share: float = 0.0546875) -> Joint:
    """(3, H, W): class, x and y offset."""
    wide = 2 * kernel + 1
    x, y, peak = highest(cv2.GaussianBlur(joint[0], (wide, wide), 0))
    radius = radius_share * joint.shape[1]
    dx, dy = (cv2.GaussianBlur(one, (kernel, kernel), 0)[y, x] * radius for one in joint[1:])
    return x + dx, y + dy, score(peak)


LOOPS: dict[str, Callable[..., Joint]] = {
    "argmax": argmax,
    "quarter_offset": quarter_offset,
    "quarter_offset_mmpose": quarter_offset_mmpose,
    "barycentre": barycentre,
    "soft_argmax": soft_argmax,
    "soft_argmax sharpened": functools.partial(soft_argmax, temperature=0.1),
    "dark": dark,
    "dark_edge": dark_edge,
    "udp": udp,
    "udp_combined": udp_combined,
}
