"""Named problems whose perfect network is known in closed form: for demos, comparisons and benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from jaxsamplers import datasets
from jaxsamplers.analytic import empirical, gaussian_mixture

if TYPE_CHECKING:
    from jaxsamplers.core import Model
    from jaxsamplers.processes import Process

DIGITS_BANDWIDTH = 0.15


@dataclasses.dataclass(frozen=True)
class Problem:
    """What there is to sample from.

    Attributes:
        shape: of one sample.
        denoiser: for a process, its perfect network, or a trained one.
    """

    shape: tuple[int, ...]
    denoiser: Callable[[Process], Model]


def digits() -> Problem:
    """Real 8x8 handwritten digits, smoothed by a Gaussian kernel."""
    data = datasets.digits().train
    return Problem(data.shape[1:], lambda process: empirical(process, data, DIGITS_BANDWIDTH))


def mixture(dimensions: int = 2, components: int = 5) -> Problem:
    """A Gaussian mixture with full covariances and unequal weights, of about unit scale, fixed once and for all."""
    rng = np.random.default_rng(dimensions)
    means = rng.normal(size=(components, dimensions))
    roots = rng.normal(size=(components, dimensions, dimensions)) * 0.3 / np.sqrt(dimensions)
    covariances = roots @ roots.transpose(0, 2, 1) + 0.02 * np.eye(dimensions)
    weights = np.arange(1, components + 1)
    return Problem((dimensions,), lambda process: gaussian_mixture(process, means, covariances, weights))


def mixture_8() -> Problem:
    """The same in eight dimensions."""
    return mixture(8)


def mixture_64() -> Problem:
    """The same in sixty-four dimensions."""
    return mixture(64)


registry: dict[str, Callable[[], Problem]] = {
    "digits": digits,
    "mixture": mixture,
    "mixture-8": mixture_8,
    "mixture-64": mixture_64,
}
