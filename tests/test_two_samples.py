"""Samples of stochastic solvers against the distribution they should have, in every direction at once.

The projection of a Gaussian mixture on a line is a mixture with a known distribution function ``F``. By the inequality
of Dvoretzky, Kiefer, Wolfowitz and Massart the empirical one of ``n`` draws is further than ``e`` from it with
probability at most ``2 exp(-2 n e^2)``. With ``e`` set so, all comparisons of this file together fail by chance once in
a million keys at most; the key is fixed.
"""

import dataclasses
import functools
from math import log, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtr

import jaxsamplers as js
from tests.reference import problem

N, LINES, ERROR_RATE = 50_000, 8, 1e-6
PROCESS = js.processes.vp_linear()
s = js.solvers
SOLVERS = {  # and the steps that make their bias small against the bound
    "ddpm": (s.ddpm, 400),
    "flow_sde": (s.flow_sde, 400),
    "sde_dpm_solver_pp-2": (functools.partial(s.sde_dpm_solver_pp, order=2), 80),
    "sa_solver-3-4": (functools.partial(s.sa_solver, order=3, corrector_order=4), 80),
    "er_sde-3": (s.er_sde, 80),
    "seeds-2": (functools.partial(s.seeds, order=2), 60),
    "seeds-3": (s.seeds, 40),
}
BOUND = sqrt(log(2 * LINES * (len(SOLVERS) + 1) / ERROR_RATE) / (2 * N))
ANGLES = np.arange(LINES) * np.pi / LINES
DIRECTIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)])  # [2, LINES]


def distance(samples, means, deviations, weights):
    """The largest distance of the distribution functions, line by line; the mixture's moments are ``[k, lines]``."""
    ordered = jnp.sort(samples, axis=0)
    true = jnp.einsum("k,nkl->nl", weights, ndtr((ordered[:, None] - means) / deviations))
    rank = jnp.arange(len(samples) + 1)[:, None] / len(samples)
    return jnp.maximum(jnp.abs(true - rank[:-1]).max(axis=0), jnp.abs(true - rank[1:]).max(axis=0))


def of_mixture(samples, t):
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    covariances = alpha**2 * problem.COVARIANCES + sigma**2 * np.eye(2)
    deviations = jnp.sqrt(jnp.einsum("il,kij,jl->kl", DIRECTIONS, covariances, DIRECTIONS))
    return distance(samples @ DIRECTIONS, alpha * problem.MEANS @ DIRECTIONS, deviations, problem.WEIGHTS)


@functools.partial(jax.jit, static_argnums=(0, 1))
def measure(solver, steps, loudness):
    model = js.analytic.gaussian_mixture(PROCESS, problem.MEANS, problem.COVARIANCES, problem.WEIGHTS)
    times = js.schedules.half_log_snr(PROCESS, steps)
    sampler = solver(PROCESS, times)
    sampler = dataclasses.replace(sampler, rows=dataclasses.replace(sampler.rows, noise=loudness * sampler.rows.noise))
    start, noise = jax.random.split(jax.random.key(11))
    return of_mixture(js.sample(sampler, model, PROCESS.prior(start, (N, 2)), noise), times[-1])


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_of_a_mixture_have_its_distribution(name):
    """In eight directions; with a tenth less noise they have not."""
    assert float(measure(*SOLVERS[name], 1.0).max()) < BOUND
    if name == "seeds-2":
        assert float(measure(*SOLVERS[name], 0.9).max()) > BOUND


def test_four_consistency_steps_are_exact():
    """With the exact consistency function of Gaussian data, which a denoiser's mean is not."""
    mean, variance = 0.8, 0.5

    def function(x, t):
        alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
        return mean + jnp.sqrt(variance / (alpha**2 * variance + sigma**2)) * (x - alpha * mean)

    times = jnp.array([1.0, 0.6, 0.3, 0.1, 0.0])
    far = {}
    for name, model in {"function": function, "mean": lambda x, t: mean + 0.9 * (function(x, t) - mean)}.items():
        draw = jax.jit(lambda x, key: js.sample(s.consistency(PROCESS, times), model, x, key))  # noqa: B023
        samples = draw(PROCESS.prior(jax.random.key(1), (N, 1)), jax.random.key(2))
        far[name] = float(distance(samples, jnp.full((1, 1), mean), jnp.full((1, 1), variance**0.5), jnp.ones(1))[0])
    assert far["function"] < BOUND < far["mean"]
