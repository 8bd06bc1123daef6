"""The problem that every peer solves: a Gaussian mixture in two dimensions, in float64 and NumPy alone.

A peer's script draws nothing: it starts from ``STARTS`` (times the noise level it begins at), takes its noise from
``NOISE`` row by row, asks ``denoise`` (or ``epsilon``, ``velocity``) for its network, and stores what it ends with by
``save``. The tests read the file with ``load`` and need no peer.
"""

from __future__ import annotations

import datetime
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

WEIGHTS = np.array([0.2, 0.3, 0.5])
MEANS = np.array([[-1.2, 0.4], [0.3, 1.1], [1.0, -0.9]])
COVARIANCES = np.array([[[0.09, 0.02], [0.02, 0.04]], [[0.05, -0.03], [-0.03, 0.12]], [[0.06, 0.0], [0.0, 0.16]]])
STARTS = np.random.default_rng(1).normal(size=(16, 2))
NOISE = np.random.default_rng(2).normal(size=(256, 16, 2))  # row after row of a stochastic method
FOLDER = Path(__file__).parent


def denoise(x, alpha, sigma):
    """``E[x0 | x]`` for ``x = alpha x0 + sigma eps``; ``x`` is ``[n, 2]``, the levels are numbers."""
    x = np.asarray(x, np.float64)
    spread = alpha**2 * COVARIANCES + sigma**2 * np.eye(2)
    precision = np.linalg.inv(spread)
    away = x[:, None] - alpha * MEANS
    solved = np.einsum("kij,nkj->nki", precision, away)
    log_density = np.log(WEIGHTS) - 0.5 * np.linalg.slogdet(spread)[1] - 0.5 * np.sum(away * solved, axis=-1)
    chosen = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    chosen /= chosen.sum(axis=1, keepdims=True)
    means = MEANS + alpha * np.einsum("kij,nkj->nki", COVARIANCES, solved)
    return np.einsum("nk,nki->ni", chosen, means)


def epsilon(x, alpha, sigma):
    """The noise that ``denoise`` implies."""
    return (np.asarray(x, np.float64) - alpha * denoise(x, alpha, sigma)) / sigma


def velocity(x, t):
    """``dx/dt`` of the straight path ``x_t = (1 - t) x0 + t eps``."""
    return epsilon(x, 1 - t, t) - denoise(x, 1 - t, t)


def bridge(x, levels, slopes):
    """Velocity and denoiser of ``a x0 + b x1 + gamma z`` from ``x0 ~ N(0, I)`` to the mixture ``x1``.

    ``levels`` are ``a, b, gamma``; ``slopes`` are ``a a', b', gamma gamma'``, finite at both ends.
    """
    (a, b, gamma), (a_slope, b_slope, gamma_slope) = levels, slopes
    sigma = np.hypot(a, gamma)
    target = denoise(x, b, sigma)
    noise = (x - b * target) / sigma**2
    return b_slope * target + (a_slope + gamma_slope) * noise, gamma * noise


def save(name, results, packages, command):
    """Write ``<name>.npz``: arrays by key, and where they came from."""
    provenance = {
        "command": command,
        "packages": {package: version(package) for package in packages},
        "date": datetime.date.today().isoformat(),
    }
    np.savez_compressed(FOLDER / f"{name}.npz", provenance=json.dumps(provenance), **results)
    print(f"{len(results)} arrays in {name}.npz: {json.dumps(provenance)}")


def load(name):
    """What ``save`` wrote, without its provenance."""
    with np.load(FOLDER / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files if key != "provenance"}
