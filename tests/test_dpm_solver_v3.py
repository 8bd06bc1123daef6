"""DPM-Solver-v3 and the statistics it needs, on Gaussians and mixtures; test_official.py has its authors' numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import like, statistics
from tests.reference import problem
from tests.replay import replay
from tests.test_solvers import exact_problem

VP = js.processes.vp_linear()
MEAN, VARIANCE = np.array([0.7, -0.4]), np.array([0.3, 1.5])
GRID = np.linspace(-5.1, 4.7, 201)


def closed_form(u):
    """``l``, ``s``, ``b`` of ``N(MEAN, VARIANCE)``: ``f = -l MEAN`` is a function of the level alone."""
    u = np.asarray(u)[:, None]
    linear = 1 / (1 + VARIANCE * np.exp(2 * u))
    return linear, 0 * linear, 2 * linear * (1 - linear) * MEAN


def gaussian(process):
    return js.analytic.gaussian_mixture(process, MEAN[None], VARIANCE[None])


def denoise(x, t, **extra):
    return problem.denoise(x, float(VP.alpha(t)), float(VP.sigma(t)))


@functools.cache
def built(steps, options=()):
    return jax.jit(lambda t, known: js.solvers.dpm_solver_v3(VP, t, statistics=known, **dict(options)))


def test_first_order_is_exact_on_a_gaussian(x64):
    """Three steps of one network call each; DDIM is wrong by a tenth."""
    times = js.schedules.half_log_snr(VP, 3)
    x = VP.prior(jax.random.key(0), like((4, 2)))
    alpha, sigma = (np.asarray(f(times)) for f in (VP.alpha, VP.sigma))
    spread = np.sqrt(alpha[:, None] ** 2 * VARIANCE + sigma[:, None] ** 2)
    exact = alpha[-1] * MEAN + spread[-1] / spread[0] * (np.asarray(x) - alpha[0] * MEAN)
    known = js.statistics.Statistics(GRID, *closed_form(GRID))
    options = (("order", 1), ("corrector", "none"))
    out = js.sample(built(3, options)(times, known), gaussian(VP), x)
    np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-6)
    assert np.abs(js.sample(js.solvers.ddim(VP, times), gaussian(VP), x) - exact).max() > 0.05


@pytest.mark.parametrize("origin", [None, 0.5])
def test_empirical_statistics_of_a_gaussian_are_its_closed_form(origin, x64):
    process = VP if origin is None else js.processes.shifted(VP, origin)
    data = MEAN + np.sqrt(VARIANCE) * np.random.default_rng(0).normal(size=(8, 2))
    known = jax.jit(
        lambda data: js.statistics.empirical_statistics(
            gaussian(process), process, data, jax.random.key(0), half_log_snr=jnp.asarray(GRID)
        )
    )(jnp.asarray(data))
    linear, scaling, bias = closed_form(GRID)
    np.testing.assert_allclose(known.linear, linear, rtol=1e-9)
    np.testing.assert_allclose(known.scaling, scaling, atol=1e-6)
    np.testing.assert_allclose(known.bias, bias * (1 - (origin or 0.0) / MEAN), atol=2e-3)  # l' is a difference


def test_what_degenerate_statistics_give(x64):
    """``l = 1`` is DPM-Solver++; ``l = 0, s = -1`` is DPM-Solver."""
    times = js.schedules.uniform(VP, 6)
    one = np.ones(len(GRID))
    for values, solver in (((one, 0 * one, 0 * one), "dpm_solver_pp"), ((0 * one, -one, 0 * one), "dpm_solver")):
        known = js.statistics.Statistics(GRID, *values)
        ours = built(6, (("order", 2), ("corrector", "none")))(times, known)
        other = jax.jit(lambda t, s=solver: js.solvers.registry[s](VP, t, order=2, variant="exact"))(times)
        a, b = [replay(s, denoise, problem.STARTS) for s in (ours, other)]
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_statistics_of_a_mixture_beat_unipc(x64, tmp_path):
    """Mean distance to the exact solution for few calls, with statistics measured on draws and read from a file.

    Measured with ``probes``, the Jacobian's mean diagonal is the exact one within its noise.
    """
    model = js.analytic.gaussian_mixture(VP, problem.MEANS, problem.COVARIANCES, problem.WEIGHTS)
    data = model.draw(jax.random.key(1), 512)
    measure = jax.jit(
        lambda data, probes: js.statistics.empirical_statistics(
            model, VP, data, jax.random.key(0), probes=probes, batch_size=512
        ),
        static_argnums=1,
    )
    known = measure(data, None)
    np.testing.assert_allclose(measure(data, 16).linear, known.linear, atol=0.05)
    js.statistics.save_statistics(tmp_path / "mixture.npz", known)
    known = js.statistics.load_statistics(tmp_path / "mixture.npz")

    x = VP.prior(jax.random.key(2), like((256, 2)))
    exact = np.asarray(js.adaptive.solve(VP, model, x, rtol=1e-9, atol=1e-9))
    error = lambda sampler: np.linalg.norm(np.asarray(js.sample(sampler, model, x)) - exact, axis=-1).mean()
    for steps in (5, 8, 10):
        times = js.schedules.half_log_snr(VP, steps)
        ours = error(built(steps)(times, known))
        unipc = min(error(jax.jit(lambda t, k=k: js.solvers.unipc(VP, t, order=k))(times)) for k in (2, 3))
        assert ours < 0.75 * unipc


def test_third_order_is_three(x64):
    """Whatever the statistics, if they are smooth; without the corrector, whose gain hides the order at this error."""
    process, model, x, exact = exact_problem("vp_linear")
    solve = jax.jit(
        lambda t: js.sample(js.solvers.dpm_solver_v3(process, t, statistics=statistics(), corrector="none"), model, x)
    )
    errors = [np.linalg.norm(solve(js.schedules.half_log_snr(process, n)) - exact, axis=-1).mean() for n in (128, 256)]
    assert errors[1] < 1e-5
    assert abs(np.log2(errors[0] / errors[1]) - 3) < 0.25


def test_damaged_files_are_refused(tmp_path):
    good = tmp_path / "good.npz"
    js.statistics.save_statistics(good, js.statistics.Statistics(GRID, *closed_form(GRID)))
    whole = good.read_bytes()
    for name, content in (("cut", whole[:-200]), ("text", b"no statistics"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is no file of statistics, or damaged"):
            js.statistics.load_statistics(tmp_path / name)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    (tmp_path / "flipped").write_bytes(flipped)
    with pytest.raises(ValueError, match="damaged"):
        js.statistics.load_statistics(tmp_path / "flipped")
    np.savez(tmp_path / "other.npz", half_log_snr=GRID)
    with pytest.raises(ValueError, match="it lacks linear, scaling, bias"):
        js.statistics.load_statistics(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        js.statistics.load_statistics(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s(GRID[::-1], *[np.ones(201)] * 3), "half_log_snr must increase"),
        (lambda s: s(GRID, np.ones(201), np.ones((201, 2)), np.ones(201)), "must have one shape"),
        (lambda s: s(GRID, *[np.full(201, np.nan)] * 3), "linear must be finite, got 201"),
        (lambda s: s(GRID[:1], *[np.ones(1)] * 3), "two levels or more"),
        (lambda s: s(GRID[100:], *[np.ones(101)] * 3), "statistics cover half-log-SNR from -0.2 to 4.7, but times go"),
    ],
)
def test_bad_statistics_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        js.solvers.dpm_solver_v3(VP, js.schedules.uniform(VP, 3), statistics=make(js.statistics.Statistics))
