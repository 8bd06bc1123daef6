"""Exact moments of a sampler on Gaussian data: no Monte Carlo.

For data ``N(mean, variance)`` in one dimension the denoiser is affine in ``x``, so every row of a table maps
Gaussian registers to Gaussian registers, and mean and covariance follow a recursion.
"""

from __future__ import annotations

import numpy as np


def moments(process, tableau, mean, variance, start_mean, start_variance):
    """Mean and variance of the sample after every row, from a Gaussian start; float64 NumPy arrays ``[n]``."""
    rows, count = tableau.rows, tableau.registers
    alphas, sigmas = np.asarray(process.alpha(rows.time)), np.asarray(process.sigma(rows.time))
    m, cov = np.zeros(count), np.zeros((count, count))
    m[0], cov[0, 0] = start_mean, start_variance
    means, variances = [], []
    levels = zip(alphas, sigmas, np.asarray(rows.weights), np.asarray(rows.noise), strict=True)
    for alpha, sigma, weights, noise in levels:
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        step = weights[:, :count].copy()
        step[:, 0] += weights[:, count] * gain
        m = step @ m + weights[:, count] * (mean - gain * alpha * mean)
        cov = step @ cov @ step.T + np.outer(noise, noise)
        means.append(m[0])
        variances.append(cov[0, 0])
    return np.array(means), np.array(variances)
