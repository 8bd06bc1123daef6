"""Solvers that live on remembered values, against the programs of their authors and against what they reduce to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from experiments.stability_regions import spectral_radius
from jaxsamplers.tableau import table
from tests.linear_gaussian import moments
from tests.reference import problem
from tests.replay import replay

VP = js.processes.vp_linear()


def build(function, process, times, /, **options):
    """A table, compiled in one piece: one operation at a time would compile each of them."""
    return jax.jit(lambda times: function(process, times, **options))(np.asarray(times))


def denoise(process):
    """The peers' problem as a denoiser in NumPy."""
    levels = jax.jit(lambda t: (process.alpha(t), process.sigma(t)))
    return lambda x, t, **extra: problem.denoise(x, *[float(level) for level in levels(t)])


@pytest.mark.parametrize("steps", [5, 8, 10, 20])
@pytest.mark.parametrize("name", ["plms", "pndm"])
def test_pndm_is_diffusers(name, steps, x64):
    stored = problem.load("pndm")
    process = js.processes.from_betas(stored["betas"])
    count = len(stored["betas"])
    indices = np.append(np.arange(steps)[::-1] * (count // steps) + 1, 0)
    sampler = build(js.solvers.registry[name], process, (indices + 1) / count)
    np.testing.assert_allclose(sampler.rows.time * count - 1, stored[f"{name}_{steps}_asked"], atol=1e-9)
    ours = replay(sampler, denoise(process), problem.STARTS)
    np.testing.assert_allclose(ours, stored[f"{name}_{steps}"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [5, 8, 10, 20])
def test_momentum_and_gradient_estimation_are_their_authors(steps, x64):
    """A fractional order of the authors' is ours rounded up, with its fraction as ``beta``."""
    stored = problem.load("history")
    process = js.processes.edm()
    sigmas = stored[f"sigmas_{steps}"]
    start = problem.STARTS * sigmas[0]
    makers = {
        f"gradient_{gamma}": functools.partial(js.solvers.gradient_estimation, gamma=gamma) for gamma in (1.5, 2.0)
    }
    for name, order, beta in (("0.6", 1, 0.6), ("1.8", 2, 0.8), ("2.5", 3, 0.5), ("3.7", 4, 0.7)):
        plain = functools.partial(js.solvers.ipndm, order=order)
        makers[f"hb_{name}"] = functools.partial(js.solvers.heavy_ball, solver=plain, beta=beta)
        makers[f"ghvb_{name}"] = functools.partial(js.solvers.ghvb, order=order, beta=beta)
    samplers = jax.jit(lambda times: {name: make(process, times) for name, make in makers.items()})(sigmas)
    for name, sampler in samplers.items():
        ours = replay(sampler, denoise(process), start)
        np.testing.assert_allclose(ours, stored[f"{name}_{steps}"], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("steps", [5, 8, 10, 20])
def test_accelerated_ddim_is_its_authors(steps, x64):
    """Up to the last step: to the clean end theirs is no estimate."""
    stored = problem.load("history")
    process = js.processes.from_betas(stored["betas"])
    times = np.append((stored[f"indices_{steps}"] + 1) / len(stored["betas"]), 0.0)
    sampler = build(js.solvers.accelerated_ddim, process, times)[:-1]
    ours = replay(sampler, denoise(process), problem.STARTS)
    np.testing.assert_allclose(ours, stored[f"accelerated_{steps}"], rtol=1e-6, atol=1e-9)


def test_accelerated_ddpm_on_gaussian_data(x64):
    """The variance converges at second order, DDPM's at first (exact recursion); a point keeps its own exactly."""
    start = float(VP.alpha(1.0)), float(VP.sigma(1.0))
    error = {"ddpm": [], "accelerated_ddpm": []}
    for n in (100, 200):
        times = js.schedules.half_log_snr(VP, n)
        alpha, sigma = float(VP.alpha(times[-1])), float(VP.sigma(times[-1]))
        for name, errors in error.items():
            sampler = build(js.solvers.registry[name], VP, times)
            _, variance = moments(VP, sampler, 0.8, 0.5, start[0] * 0.8, start[0] ** 2 * 0.5 + start[1] ** 2)
            errors.append(abs(variance[-1] - alpha**2 * 0.5 - sigma**2))
            mean, variance = moments(VP, sampler, 0.8, 0.0, start[0] * 0.8, start[1] ** 2)
            np.testing.assert_allclose([mean[-1], variance[-1]], [alpha * 0.8, sigma**2], rtol=1e-9)
    slope = {name: np.log2(a / b) for name, (a, b) in error.items()}
    assert 0.85 < slope["ddpm"] < 1.15
    assert 1.8 < slope["accelerated_ddpm"] < 2.2


def test_accelerated_ddpm_on_a_mixture(x64):
    """The density itself, carried from row to row on a grid: half of DDPM's distance in total variation."""
    weights, means, variances = np.array([0.3, 0.5, 0.2]), np.array([-1.0, 0.4, 1.2]), np.array([0.02, 0.05, 0.01])
    times = np.asarray(js.schedules.half_log_snr(VP, 32, t_end=0.05))
    alpha, sigma = np.asarray(VP.alpha(times)), np.asarray(VP.sigma(times))
    x = np.linspace(-6, 6, 1201)
    width = x[1] - x[0]

    def parts(i):
        """Each component's density at time ``i``, and its estimate."""
        spread = alpha[i] ** 2 * variances + sigma[i] ** 2
        away = x[:, None] - alpha[i] * means
        return (
            weights * np.exp(-(away**2) / 2 / spread) / np.sqrt(2 * np.pi * spread),
            means + alpha[i] * variances * away / spread,
        )

    distance = {}
    for name in ("ddpm", "accelerated_ddpm"):
        rows = build(js.solvers.registry[name], VP, times).rows
        density = parts(0)[0].sum(axis=1)
        for i in range(len(times) - 1):
            each, estimates = parts(i)
            mean = rows.weights[i, 0, 0] * x + rows.weights[i, 0, 1] * (each * estimates).sum(1) / each.sum(1)
            spread = float(rows.noise[i, 0])
            kernel = np.exp(-((x[:, None] - np.asarray(mean)) ** 2) / 2 / spread**2) / np.sqrt(2 * np.pi) / spread
            density = kernel @ density * width
        assert density.sum() * width == pytest.approx(1, abs=1e-6)
        distance[name] = np.abs(density - parts(-1)[0].sum(axis=1)).sum() * width / 2
    assert distance["ddpm"] > 0.02
    assert distance["accelerated_ddpm"] < 0.6 * distance["ddpm"]


def test_what_momentum_reduces_to(x64):
    """No momentum is the method itself, and both kinds agree at first order; also for estimates instead of noises."""
    times = js.schedules.uniform(VP, 7)
    solvers = js.solvers
    data = functools.partial(solvers.dpm_solver_pp, order=3)
    pairs = [
        ((solvers.ghvb, {"order": 3, "beta": 1.0}), (solvers.ipndm, {"order": 3})),
        ((solvers.ghvb, {"order": 1, "beta": 0.6}), (solvers.heavy_ball, {"solver": solvers.ddim, "beta": 0.6})),
        ((solvers.heavy_ball, {"solver": solvers.deis, "beta": 1.0}), (solvers.deis, {})),
        ((solvers.heavy_ball, {"solver": data, "beta": 1.0, "prediction": "x0"}), (data, {})),
        ((solvers.gradient_estimation, {"gamma": 1.5}), (solvers.ipndm, {"order": 2})),
        ((solvers.gradient_estimation, {"gamma": 1.0}), (solvers.ddim, {})),
    ]
    tables = jax.jit(lambda t: [[solver(VP, t, **options) for solver, options in pair] for pair in pairs])(times)
    for pair in tables:
        a, b = (replay(sampler, denoise(VP), problem.STARTS) for sampler in pair)
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_heavy_ball_averages_the_estimates_of_dpm_solver_pp(x64):
    """Written out: ``v' = (1 - beta) v + beta d`` with 2M's extrapolated estimate ``d``."""
    n, beta = 6, 0.7
    times = js.schedules.half_log_snr(VP, n)
    alpha, sigma, h = (np.asarray(f(times)) for f in (VP.alpha, VP.sigma, VP.half_log_snr))
    h = np.diff(h)
    x, previous, velocity = problem.STARTS, None, None
    for i in range(n):
        m = problem.denoise(x, alpha[i], sigma[i])
        last = i == 0 or i == n - 1
        d = m if last else m + h[i] / h[i - 1] / 2 * (m - previous)
        velocity = d if velocity is None else (1 - beta) * velocity + beta * d
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * np.expm1(-h[i]) * velocity
        previous = m
    options = {"solver": js.solvers.dpm_solver_pp, "prediction": "x0"}
    sampler = build(js.solvers.heavy_ball, VP, times, beta=beta, **options)
    np.testing.assert_allclose(replay(sampler, denoise(VP), problem.STARTS), x, rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: js.solvers.plms(VP, t, order=1), "order must be from 2 to 4, got 1"),
        (lambda t: js.solvers.ghvb(VP, t, beta=0.0), "beta must be above 0 and at most 1, got 0"),
        (lambda t: js.solvers.heavy_ball(VP, t, solver=js.solvers.ddpm), "deterministic solver with one network call"),
        (
            lambda t: build(js.solvers.heavy_ball, VP, t, solver=js.solvers.heun),
            "deterministic solver with one network call",
        ),
        (lambda t: js.solvers.heavy_ball(VP, t, prediction="x"), "unknown prediction 'x'"),
        (lambda t: js.solvers.dualfast(VP, t, strength=-0.1), "strength must be at least 0, got -0.1"),
        (lambda t: js.solvers.dualfast(VP, t, strength=np.ones(3)), "one value for each of 4 rows, got shape \\(3,\\)"),
        (lambda t: js.solvers.gradient_estimation(VP, t, gamma=0.5), "gamma must be at least 1, got 0.5"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(js.schedules.uniform(VP, 4))


@pytest.mark.parametrize(
    ("solver", "options", "end"),
    [
        ("ipndm", {"order": 2}, -1.0),
        ("ipndm", {"order": 3}, -6 / 11),
        ("ipndm", {"order": 4}, -3 / 10),
        ("ghvb", {"order": 1, "beta": 0.5}, -6.0),  # -2 (2 - beta) / beta
        ("heavy_ball", {"solver": js.solvers.ddim, "beta": 0.2}, -18.0),
        ("ghvb", {"order": 2, "beta": 0.5}, -1.5),  # -(2 - beta)
    ],
)
def test_where_stability_ends_on_the_real_axis(solver, options, end):
    """Closed forms: there an eigenvalue is -1."""
    solver = functools.partial(js.solvers.registry[solver], **options)
    inside, border, outside = spectral_radius(solver, end * np.array([0.99, 1.0, 1.01]))
    assert border == pytest.approx(1, abs=1e-5)
    assert inside < 1 < outside


class Corrected:
    """DualFast as a network with a memory: ``(1 + c) e - c e_T``, ``c`` counting calls."""

    def __init__(self, process, strengths):
        self.denoise, self.process, self.strengths = denoise(process), process, list(strengths)
        self.first, self.call = None, 0

    def __call__(self, x, t, **extra):
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        e = (x - alpha * self.denoise(x, t)) / sigma
        self.first = e if self.first is None else self.first
        c = self.strengths[self.call]
        self.call += 1
        return (x - sigma * ((1 + c) * e - c * self.first)) / alpha


def with_constants(process, times):
    """A table that adds something whatever the network says."""
    return table(process, times[:-1], [[0.9, 0.05, 0.1], [0, 0.5, 1]], constant=[times[1:], -times[1:]])


@pytest.mark.parametrize("solver", ["dpm_solver_pp", "heun", "unipc", "sde_dpm_solver_pp", with_constants])
def test_dualfast_corrects_every_answer(solver, x64):
    solver = js.solvers.registry.get(solver, solver)
    times = js.schedules.half_log_snr(VP, 6)
    plain = build(solver, VP, times)
    noise = problem.NOISE
    strengths = 0.0, 0.3, np.linspace(0.2, 0.4, len(plain))
    make = lambda t: [js.solvers.dualfast(VP, t, solver=solver, strength=strength) for strength in strengths]
    for strength, sampler in zip(strengths, jax.jit(make)(times), strict=True):
        c = np.linspace(0, strength, len(plain)) if np.ndim(strength) == 0 else strength
        expected = replay(plain, Corrected(VP, c), problem.STARTS, noise)
        ours = replay(sampler, denoise(VP), problem.STARTS, noise)
        np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-10)


def test_dualfast_returns_a_constant_estimate():
    """In float32, and with finite gradients, at the clean end."""
    clean = jnp.broadcast_to(jnp.array([1.0, -2.0]), (3, 2))
    x = VP.prior(jax.random.key(0), (3, 2))

    def draw(times, strength):
        out = js.sample(js.solvers.dualfast(VP, times, strength=strength), lambda x, t: clean, x)
        return jnp.sum(out), out

    arguments = js.schedules.cosine(VP, 5, t_end=0.0), jnp.array(0.2)
    (_, out), gradients = jax.jit(jax.value_and_grad(draw, argnums=(0, 1), has_aux=True))(*arguments)
    np.testing.assert_allclose(out, clean, rtol=5e-5)
    assert all(bool(jnp.isfinite(gradient).all()) for gradient in gradients)
