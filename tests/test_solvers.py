"""Properties of every solver, on the one table of ``cases.py``."""

import dataclasses
import functools
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.solvers.grid import phi
from tests.cases import CASES, DETERMINISTIC, PROCESSES, STOCHASTIC, like, mixture, name_of, on_processes
from tests.linear_gaussian import moments

KEY = jax.random.key(2)


# built in one compiled piece: one operation at a time would compile each of them
half_log_snr = jax.jit(js.schedules.half_log_snr, static_argnums=1)


@functools.cache
def exact_problem(name):
    """A mixture, starts and the exact solution, in float64."""
    process = PROCESSES[name]
    model = mixture(process)
    x = process.prior(jax.random.key(0), like((8, 2)))
    return process, model, x, np.asarray(js.adaptive.solve(process, model, x, rtol=1e-11, atol=1e-11))


@pytest.mark.parametrize("case", DETERMINISTIC, ids=name_of)
@on_processes("vp_linear rectified_flow", slow="edm")
def test_order_of_convergence(case, name, x64):
    """The slope of log error is the method's order, to 0.25; to 0.6 for order 4, whose first steps are lower."""
    process, model, x, exact = exact_problem(name)
    steps = (128, 256) if case.order < 4 else (64, 128)
    errors = []
    for n in steps:
        times = half_log_snr(process, n)
        distance = np.linalg.norm(jax.jit(lambda t: js.sample(case(process, t), model, x))(times) - exact, axis=-1)
        errors.append(distance.mean())
    assert errors[1] < 0.05
    assert abs(np.log2(errors[0] / errors[1]) - case.order) < (0.25 if case.order < 4 else 0.6), errors


@pytest.mark.parametrize("case", CASES, ids=name_of)
@on_processes("edm", slow="vp_linear")
def test_finite_in_float32_for_any_number_of_steps(case, name):
    process = PROCESSES[name]
    for steps in (1, 3, 1000):
        sampler = jax.jit(lambda times: case(process, times))(half_log_snr(process, steps))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(sampler))
        assert len(sampler) == case.calls(steps)


TO_CLEAN = {
    "vp_linear": js.processes.vp_linear(),
    "edm": js.processes.edm(),
    "rectified_flow": js.processes.rectified_flow(),
}


@pytest.mark.parametrize(
    ("process", "case"),
    [
        pytest.param(p, c, id=f"{p}-{c.name}", marks=[pytest.mark.slow] if p == "edm" else [])
        for c in CASES
        for p in TO_CLEAN
        if not c.name.endswith("-full") and (c.affine or p != "vp_linear") and (c.from_noise or p != "rectified_flow")
    ],
)
def test_the_step_to_the_clean_end_returns_the_estimate(case, process):
    """To rounding, for every solver that is exact when the denoiser is constant; and with finite gradients."""
    process = TO_CLEAN[process]
    times = js.schedules.cosine(process, 5, t_end=0.0)
    x = process.prior(jax.random.key(0), (3, 2))
    c = jnp.broadcast_to(jnp.array([1.0, -2.0]), x.shape)

    def draw(times):
        out = js.sample(case(process, times), lambda x, t: c, x, KEY)
        return jnp.sum(out), out

    (_, out), gradient = jax.jit(jax.value_and_grad(draw, has_aux=True))(times)
    np.testing.assert_allclose(out, c, rtol=5e-5)
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("case", CASES, ids=name_of)
@on_processes("vp_linear", slow="edm")
def test_float32_agrees_with_float64(case, name):
    process = PROCESSES[name]
    solve = jax.jit(lambda times, model, noise: js.sample(_quiet(case(process, times)), model, noise, KEY))
    with jax.enable_x64(True):
        noise = np.asarray(process.prior(jax.random.key(0), like((16, 2))))
        times = half_log_snr(process, 20)
        exact = np.asarray(solve(times, mixture(process), jnp.asarray(noise)))
        times = np.asarray(times)
    rough = solve(jnp.asarray(times, jnp.float32), mixture(process), jnp.asarray(noise, jnp.float32))
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, rtol=2e-3, atol=2e-3)


def _quiet(sampler):
    """Without its noise, which has other bits in another precision."""
    return dataclasses.replace(sampler, rows=dataclasses.replace(sampler.rows, noise=0 * sampler.rows.noise))


@pytest.mark.parametrize("case", STOCHASTIC, ids=name_of)
@on_processes("vp_linear rectified_flow", slow="vp_cosine edm")
def test_stochastic_solvers_keep_the_marginals_of_a_point(case, name, x64):
    """Data at one point: mean and variance are exact at every row, at the time that the next one is shown."""
    process = PROCESSES[name]
    times = half_log_snr(process, 12)
    start = float(process.alpha(times[0])) * 0.8, float(process.sigma(times[0])) ** 2
    sampler = jax.jit(lambda t: case(process, t))(times)
    mean, variance = moments(process, sampler, 0.8, 0.0, *start)
    reached = jnp.append(sampler.rows.time[1:], times[-1])
    np.testing.assert_allclose(mean, process.alpha(reached) * 0.8, rtol=1e-9)
    np.testing.assert_allclose(variance, process.sigma(reached) ** 2, rtol=1e-9)


@pytest.mark.parametrize("case", STOCHASTIC, ids=name_of)
@on_processes("vp_linear rectified_flow", slow="vp_cosine edm")
def test_stochastic_solvers_converge_to_the_marginals_of_a_gaussian(case, name, x64):
    """Data ``N(0.8, 0.5)``: the error of the final variance falls at least at first order (exact recursion)."""
    process = PROCESSES[name]
    errors = []
    for n in (100, 200):
        times = half_log_snr(process, n)
        alpha, sigma = float(process.alpha(times[0])), float(process.sigma(times[0]))
        sampler = jax.jit(lambda t: case(process, t))(times)
        mean, variance = moments(process, sampler, 0.8, 0.5, alpha * 0.8, alpha**2 * 0.5 + sigma**2)
        true = float(process.alpha(times[-1])) ** 2 * 0.5 + float(process.sigma(times[-1])) ** 2
        errors.append(abs(variance[-1] - true))
        np.testing.assert_allclose(mean[-1], 0.8, rtol=0.02)
    assert errors[1] < 0.05
    assert np.log2(errors[0] / errors[1]) > 0.85, errors


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_gradients_equal_finite_differences(case, x64):
    """With respect to the sampler, the times, the network's parameters and the noise, in float64."""
    process = js.processes.vp_linear()
    times = half_log_snr(process, 5)
    x = process.prior(jax.random.key(0), like((3, 2)))
    weight = jnp.array([[0.6, -0.3], [0.2, 0.5]])

    changes = jax.tree.map(jnp.zeros_like, jax.jit(lambda t: case(process, t))(times))

    @jax.jit
    def loss(arguments):
        times, changes, weight, x = arguments
        sampler = jax.tree.map(jnp.add, case(process, times), changes)
        return jnp.sum(jnp.sin(js.sample(sampler, lambda x, t: jnp.tanh(x @ weight) * (1 - t / 2), x, KEY)))

    arguments = (times, changes, weight, x)
    gradients = jax.jit(jax.grad(loss))(arguments)
    rng = np.random.default_rng(0)
    for which in range(4):
        direction = [
            jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)) * 1e-2 * (i == which), argument)  # noqa: B023
            for i, argument in enumerate(arguments)
        ]
        along = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True))
        moved = lambda step, d=tuple(direction): loss(jax.tree.map(lambda a, b: a + step * b, arguments, d))
        assert abs(float(along)) > 1e-8
        np.testing.assert_allclose(along, (moved(1e-4) - moved(-1e-4)) / 2e-4, rtol=1e-5)


def test_equal_methods_are_equal(x64):
    """Derived apart, the same by mathematics."""
    for process in PROCESSES.values():
        times = js.schedules.half_log_snr(process, 7)
        same = lambda a, b: jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-9), a.rows, b.rows)
        same(js.solvers.ddim(process, times), js.solvers.dpm_solver_pp(process, times, order=1))
        same(js.solvers.ddim(process, times, eta=1.0), js.solvers.ddpm(process, times))
    for process in (js.processes.edm(), js.processes.rectified_flow()):
        times = js.schedules.uniform(process, 7)
        same(js.solvers.ddim(process, times), js.solvers.euler(process, times))


def test_euler_ancestral_is_k_diffusions_step(x64):
    """Written out as k-diffusion does it, where alpha is 1: ``get_ancestral_step``, Euler to sigma_down, noise."""
    times, eta = js.schedules.karras(js.processes.edm(), 6), 0.7
    rows = js.solvers.euler_ancestral(js.processes.edm(), times, eta=eta).rows
    sigma, to = np.asarray(times[:-1]), np.asarray(times[1:])
    up = np.minimum(to, eta * np.sqrt(to**2 * (sigma**2 - to**2) / sigma**2))
    down = np.sqrt(to**2 - up**2)
    x, m = 3.0, -0.4  # x + (x - m) / sigma * (down - sigma) + up z
    np.testing.assert_allclose(rows.weights[:, 0] @ np.array([x, m]), x + (x - m) / sigma * (down - sigma), rtol=1e-9)
    np.testing.assert_allclose(rows.noise[:, 0], up, rtol=1e-9)


def test_eta_may_differ_from_step_to_step():
    process = js.processes.vp_linear()
    times = js.schedules.uniform(process, 3)
    mixed = js.solvers.ddim(process, times, eta=jnp.array([0.0, 1.0, 0.5])).rows.noise
    np.testing.assert_allclose(mixed[1], js.solvers.ddpm(process, times).rows.noise[1], rtol=1e-5)
    assert float(mixed[0, 0]) == 0


@pytest.mark.parametrize("k", range(5))
def test_phi_functions(k, x64):
    """Against their defining integral by Gauss-Legendre quadrature, across the switch from series to recursion."""
    z = np.array([-12.0, -3.0, -1.0001, -0.9999, -0.1, -1e-6, 0.0, 1e-9, 0.5, 2.0])
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u, w = (nodes + 1) / 2, weights / 2
    integrand = lambda: np.exp((1 - u) * z[:, None]) * u ** (k - 1) / factorial(k - 1)
    expected = np.exp(z) if k == 0 else integrand() @ w
    np.testing.assert_allclose(phi(k, jnp.asarray(z)), expected, rtol=1e-11)
    single = phi(k, jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(single, expected, rtol=2e-5)


VP = js.processes.vp_linear()
TIMES = js.schedules.uniform(VP, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: js.solvers.ddim(VP, TIMES, eta=1.5), "eta must be at least 0 and at most 1, got 1.5"),
        (lambda: js.solvers.ddim(VP, TIMES, eta=float("nan")), "eta must be at least 0"),
        (lambda: js.solvers.restart(VP, TIMES, intervals=3), "intervals must map an index to"),
        (lambda: js.solvers.dpm_solver_v3(VP, TIMES, statistics=3), "statistics must be a Statistics"),
        (lambda: js.solvers.dpm_solver_pp(VP, TIMES, order=4), "order must be from 1 to 3, got 4"),
        (lambda: js.solvers.dpm_solver_pp(VP, TIMES, order=2.0), "order must be an integer, got 2.0"),
        (lambda: js.solvers.dpm_solver_pp(VP, TIMES, variant="exakt"), "unknown variant 'exakt': did you mean exact"),
        (
            lambda: js.solvers.heun(VP, js.schedules.uniform(VP, 4, t_end=0.0), lower_order_final=False),
            "use lower_order_final=True",
        ),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_options_a_solver_does_not_have_are_refused():
    with pytest.raises(TypeError, match="eta"):
        js.solvers.heun(VP, TIMES, eta=0.5)


@pytest.mark.parametrize("case", [c for c in CASES if not c.from_noise], ids=name_of)
def test_noise_prediction_needs_signal(case):
    process = js.processes.rectified_flow()
    with pytest.raises(ValueError, match="needs signal at its first time"):
        case(process, js.schedules.uniform(process, 4))
