"""Fitted solvers, against the algorithm written out with NumPy's least squares, and where the fit can be perfect."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.solvers.iia import RIDGE
from tests.cases import mixture
from tests.reference import problem
from tests.replay import replay

VP = js.processes.vp_linear()
EDM = js.processes.edm()


def network(process):
    """The peers' mixture as a denoiser in JAX, and the same in NumPy."""
    model = js.analytic.gaussian_mixture(process, problem.MEANS, problem.COVARIANCES, problem.WEIGHTS)
    levels = lambda t: (float(process.alpha(t)), float(process.sigma(t)))
    return model, lambda x, t: problem.denoise(x, *levels(t))


def least_squares(ways, target):
    """With the ridge as more rows of the system."""
    matrix = np.stack([way.ravel() for way in ways], axis=1)
    ridge = np.sqrt(RIDGE) * np.diag(np.linalg.norm(matrix, axis=0))
    padded = np.append(target.ravel(), np.zeros(len(ways)))
    return np.linalg.lstsq(np.concatenate([matrix, ridge]), padded, rcond=None)[0]


def parts(start, end, count):
    return itertools.pairwise(start + (end - start) * k / count for k in range(count + 1))


def test_iia_ddim_written_out(x64):
    process, substeps = VP, 3
    model, denoise = network(process)
    times = np.asarray(js.schedules.half_log_snr(process, 4))
    level = lambda t: (float(process.alpha(t)), float(process.sigma(t)))

    def ddim(x, t, t_next):
        (alpha, sigma), (alpha_next, sigma_next) = level(t), level(t_next)
        m = denoise(x, t)
        e = (x - alpha * m) / sigma
        return alpha_next * m + sigma_next * e, m, e

    x, before = problem.STARTS, None
    for t, t_next in itertools.pairwise(times):
        fine = x
        for a, b in parts(t, t_next, substeps):
            fine = ddim(fine, a, b)[0]
        x, m, e = ddim(x, t, t_next)
        if before is not None:
            ways = [m - before[0], e - before[1]]
            x = x + sum(c * way for c, way in zip(least_squares(ways, fine - x), ways, strict=True))
        before = m, e
    fitted = jax.jit(lambda t, x: js.solvers.iia_ddim(process, t, model, x, substeps=substeps))
    sampler = fitted(times, problem.STARTS)
    assert len(sampler) == 4
    np.testing.assert_allclose(replay(sampler, denoise, problem.STARTS), x, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["iia_heun", "biia_heun"])
def test_iia_edm_written_out(name, x64):
    """In the paper's terms: ``d = (z - D) / t``, and ``z - D`` and ``D' - D`` as the directions of IIA."""
    substeps = 2
    model, denoise = network(EDM)
    times = np.append(np.asarray(js.schedules.karras(EDM, 4)), 0.0)

    def heun(z, t, t_next):
        clean = denoise(z, t)
        d = (z - clean) / t
        ahead = z + (t_next - t) * d
        clean_next = denoise(ahead, t_next)
        slope = (d + (ahead - clean_next) / t_next) / 2
        ways = [z - clean, clean_next - clean] if name == "iia_heun" else [slope]
        return z + (t_next - t) * slope, ways

    z, before = problem.STARTS * times[0], []
    start = z
    for t, t_next in itertools.pairwise(times[:-1]):
        fine = z
        for a, b in parts(t, t_next, substeps):
            fine = heun(fine, a, b)[0]
        z, ways = heun(z, t, t_next)
        known = ways + before
        z = z + sum(c * way for c, way in zip(least_squares(known, fine - z), known, strict=True))
        before = ways
    z = denoise(z, times[-2])  # the step to the clean end
    fitted = jax.jit(lambda t, x: getattr(js.solvers, name)(EDM, t, model, x, substeps=substeps))
    sampler = fitted(times, start)
    assert len(sampler) == 9
    np.testing.assert_allclose(replay(sampler, denoise, start), z, rtol=1e-5, atol=1e-7)


def test_the_fit_is_perfect_on_isotropic_gaussian_data(x64):
    """Every sample is the same affine function of its noise, so two directions reach the finer solution exactly."""
    model = js.analytic.gaussian_mixture(VP, np.array([[0.5, -1.0]]), 0.3 * np.eye(2)[None], np.ones(1))
    times = js.schedules.half_log_snr(VP, 5)
    fit_on, x = (VP.prior(jax.random.key(i), jax.ShapeDtypeStruct((8, 2), jnp.float64)) for i in range(2))
    sampler = jax.jit(lambda t: js.solvers.iia_ddim(VP, t, model, fit_on, substeps=8))(times)
    pieces = [jnp.linspace(a, b, 9)[1:] for a, b in itertools.pairwise(times[1:])]
    finer = jnp.concatenate([times[:2], *pieces])  # the first step is not fitted
    teacher = jax.jit(lambda t: js.solvers.ddim(VP, t))(finer)
    run = jax.jit(lambda sampler: js.sample(sampler, model, x))
    np.testing.assert_allclose(run(sampler), run(teacher), rtol=1e-5)


@pytest.mark.parametrize("process", [VP, EDM], ids=["vp", "edm"])
def test_it_is_nearer_to_the_solution_on_other_noises(process, x64):
    """At ten steps; measured 0.04 against 0.19, and for Heun in six steps 0.03 against 0.06 and 0.14."""
    model = mixture(process)
    fit_on, x = (process.prior(jax.random.key(i), jax.ShapeDtypeStruct((64, 2), jnp.float64)) for i in range(2))
    exact = js.adaptive.solve(process, model, x, rtol=1e-8, atol=1e-8)

    @functools.partial(jax.jit, static_argnums=0)
    def error(solver, times):
        return jnp.linalg.norm(js.sample(solver(process, times), model, x) - exact, axis=-1).mean()

    ten, six = js.schedules.karras(process, 10), js.schedules.karras(process, 6)
    fitted = lambda solver: lambda process, times: solver(process, times, model, fit_on)
    assert error(fitted(js.solvers.iia_ddim), ten) < 0.4 * error(js.solvers.ddim, ten)
    assert error(fitted(js.solvers.iia_heun), six) < 0.7 * error(js.solvers.heun, six)


def test_a_constant_denoiser_needs_no_correction():
    """And the step to the clean end returns it, in float32, for a pytree."""
    clean = {"a": jnp.ones((4, 2)), "b": jnp.full((4, 3), -2.0)}
    x = VP.prior(jax.random.key(0), clean)
    times = js.schedules.cosine(VP, 5, t_end=0.0)
    for solver in (js.solvers.iia_ddim, js.solvers.iia_heun, js.solvers.biia_heun):
        sampler = jax.jit(lambda t, solver=solver: solver(VP, t, lambda x, t: clean, x))(times)
        out = js.sample(sampler, lambda x, t: clean, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), out, clean)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, x: js.solvers.iia_ddim(VP, [1.0, 0.5, 0.1], m, x, substeps=1), "substeps must be at least 2, got 1"),
        (lambda m, x: js.solvers.iia_heun(VP, [1.0, 0.5, 0.1], m, x, remember=-1), "remember must be at least 0"),
        (lambda m, x: js.solvers.iia_ddim(VP, [1.0, 0.5, 0.1], lambda x, t: x[:1], x), "must return what looks like x"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(lambda x, t: x, jnp.ones((3, 2)))
