"""Stochastic solvers: what they reduce to, what they keep, and the programs of their authors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.boundary import consistency_model, latent_consistency_model
from jaxsamplers.solvers import learned_variance
from tests.cases import PROCESSES, like
from tests.linear_gaussian import moments
from tests.reference import problem
from tests.replay import replay

VP, EDM = PROCESSES["vp_linear"], PROCESSES["edm"]
KEY = jax.random.key(5)
s = js.solvers
power = lambda exponent: lambda rho: rho**exponent


def build(solver, process, times):
    """The table, made in one compiled piece."""
    return jax.jit(lambda t: solver(process, t))(times)


def ends(process, solvers, n=7):
    """What each solver makes of the mixture, from one start and one noise, in NumPy."""
    times = js.schedules.half_log_snr(process, n)
    model = lambda x, t: problem.denoise(x, float(process.alpha(t)), float(process.sigma(t)))
    start = float(process.sigma(times[0])) * problem.STARTS
    return [replay(build(solver, process, times), model, start, problem.NOISE) for solver in solvers]


def test_equal_methods_are_equal(x64):
    """Derived apart, the same by mathematics: other registers, other formulas, one sample."""
    part = functools.partial
    pairs = [
        (part(s.sa_solver, order=3, corrector_order=0), part(s.sde_dpm_solver_pp, order=3, variant="exact")),
        (part(s.sa_solver, order=2, corrector_order=3, eta=0.0), part(s.unipc, order=2, variant="exact")),
        (part(s.sa_solver, order=1, corrector_order=2, eta=0.0, variant="bh1"), part(s.unipc, order=1, variant="bh1")),
        (part(s.seeds, order=3, eta=0.0), part(s.dpm_solver_pp_singlestep, order=3)),
        (part(s.seeds, order=1, eta=0.7), part(s.sde_dpm_solver_pp, order=1, eta=0.7)),
        (part(s.er_sde, order=1, noise_function=power(1.7)), part(s.sde_dpm_solver_pp, order=1, eta=0.7)),
        (part(s.tcd, gamma=0.0), s.ddim),
        (part(s.tcd, gamma=1.0), s.consistency),
        (part(s.coefficients_preserving, eta=1.0), s.ddcm),
    ]
    for left, right in pairs:
        a, b = ends(VP, [left, right])
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=str(left))


def test_cps_is_ddim_with_a_share_of_noise_that_ignores_the_step(x64):
    process = PROCESSES["rectified_flow"]
    times = js.schedules.uniform(process, 6, t_start=0.95)
    half_log_snr = process.half_log_snr(times)
    eta = jnp.sin(0.7 * jnp.pi / 2) / jnp.sqrt(-jnp.expm1(-2 * jnp.diff(half_log_snr)))
    assert float(eta.max()) > 1 > float(eta.min())  # beyond ddim's range in the shortest steps
    ours = build(functools.partial(s.coefficients_preserving, eta=0.7), process, times).rows
    fresh = eta * process.sigma(times[1:]) * jnp.sqrt(-jnp.expm1(-2 * jnp.diff(half_log_snr)))
    np.testing.assert_allclose(ours.noise[:, 0], fresh, rtol=1e-9)


FROM_NOISE = {
    "sde_dpm_solver_pp": functools.partial(s.sde_dpm_solver_pp, order=3),
    "sa_solver": functools.partial(s.sa_solver, order=3, corrector_order=3),
    "er_sde": s.er_sde,
    "consistency": s.consistency,
    "tcd": s.tcd,
    "coefficients_preserving": s.coefficients_preserving,
    "ddpm": s.ddpm,
}


@pytest.mark.parametrize("name", FROM_NOISE)
def test_from_pure_noise_to_the_clean_end(name, x64):
    """Data at one point on the straight path, both ends included: mean and variance exact at every row."""
    process = js.processes.rectified_flow()
    times = js.schedules.uniform(process, 6)
    mean, variance = moments(process, build(FROM_NOISE[name], process, times), 0.8, 0.0, 0.0, 1.0)
    np.testing.assert_allclose(mean, process.alpha(times[1:]) * 0.8, rtol=1e-9)
    np.testing.assert_allclose(variance, process.sigma(times[1:]) ** 2, rtol=1e-9)


WEAK = {  # what the variance of Gaussian data is computed to, at eta = 1
    "sa_solver-2-2": (s.sa_solver, 3.0),
    "seeds-2": (functools.partial(s.seeds, order=2), 2.0),
    "er_sde-2": (functools.partial(s.er_sde, order=2), 2.0),
    "er_sde-3": (functools.partial(s.er_sde, noise_function=power(1.0)), 3.0),
    "er_sde-3-published": (functools.partial(s.er_sde, noise_function=power(1.0), variant="published"), 2.0),
    "flow_sde": (s.flow_sde, 1.0),
}


@pytest.mark.parametrize("name", WEAK)
def test_weak_orders_on_gaussian_data(name, x64):
    """By exact recursion; the published order 3 of ER-SDE is order 2 even where there is no noise."""
    solver, order = WEAK[name]
    errors = []
    for n in (200, 400):
        times = js.schedules.half_log_snr(EDM, n)
        variance = moments(EDM, build(solver, EDM, times), 0.8, 0.5, 0.8, 0.5 + 80.0**2)[1]
        errors.append(abs(variance[-1] - 0.5 - 0.002**2))
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.25, errors


STRONG = {
    "sa_solver": functools.partial(s.sa_solver, order=3, corrector_order=4),
    "seeds-2": functools.partial(s.seeds, order=2),
    "seeds-3": s.seeds,
}


def strong_error(make, n, eta, data=0.5):
    """Root mean square distance at the end from the exact solution on the same Brownian path, for data ``N(0, data)``.

    On ``edm`` the reverse SDE is ``dx = (1 + eta) (m - x) dl + sigma sqrt(2 eta) dW`` in half-log-SNR, here linear, so
    that solver and solution together are Gaussian. A row's ``z`` is the part of the path that an exact step would take;
    ``both`` is its covariance with the noise of the solution, ``own`` what the solution has besides.
    """
    times = js.schedules.half_log_snr(EDM, n)
    sampler = make(times, eta)
    count = sampler.registers
    visited = np.append(np.asarray(sampler.rows.time), float(times[-1]))
    nodes, node_weights = np.polynomial.legendre.leggauss(12)
    decay = lambda sigma, to: ((data + to**2) / (data + sigma**2)) ** ((1 + eta) / 2)
    covariance = np.zeros((count + 1, count + 1))  # the registers and the solution
    covariance[np.ix_([0, count], [0, count])] = data + visited[0] ** 2
    rows = zip(visited[:-1], visited[1:], np.asarray(sampler.rows.weights), np.asarray(sampler.rows.noise), strict=True)
    for sigma, to, weights, noise in rows:
        h = np.log(sigma / to)
        part, dl = (nodes + 1) / 2 * h, node_weights / 2 * h
        spread = decay(sigma * np.exp(-part), to) * sigma * np.exp(-part)
        both = 2 * eta * np.sum(dl * np.exp(-eta * (h - part)) * spread) / np.sqrt(-np.expm1(-2 * eta * h))
        own = 2 * eta * np.sum(dl * spread**2) - both**2
        step = np.zeros_like(covariance)
        step[:count, :count] = weights[:, :count]
        step[:count, 0] += weights[:, count] * data / (data + sigma**2)
        step[count, count] = decay(sigma, to)
        drawn = np.append(noise, both)
        covariance = step @ covariance @ step.T + np.outer(drawn, drawn)
        covariance[count, count] += max(own, 0.0)
    return np.sqrt(covariance[0, 0] + covariance[count, count] - 2 * covariance[0, count])


@pytest.mark.parametrize("name", STRONG)
def test_strong_order_is_one(name, x64):
    """As their theorems say, and small with ``tau``, the square root of ``eta``, unlike first-order methods."""
    make = jax.jit(lambda times, eta: STRONG[name](EDM, times, eta=eta))
    coarse, fine = strong_error(make, 200, 1.0), strong_error(make, 400, 1.0)
    assert abs(np.log2(coarse / fine) - 1) < 0.1
    assert strong_error(make, 400, 0.01) < 0.1 * fine


def test_er_sde_is_exact_for_a_quadratic_estimate(x64):
    """Where ``m`` is a quadratic polynomial of ``rho``, against the integral ``int d phi / phi^2 m`` on 2000 points."""
    phi = lambda rho: rho * (np.exp(rho**0.3) + 10)
    slope = lambda rho: np.exp(rho**0.3) + 10 + 0.3 * rho**0.3 * np.exp(rho**0.3)
    m = lambda rho: 0.3 - 0.8 * rho + 0.5 * rho**2
    times = js.schedules.karras(EDM, 6)
    sampler = build(s.er_sde, EDM, times)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x, start = 1.7, 2  # the third step is the first that sees three estimates
    for i in range(start, 6):
        rho, to = float(times[i]), float(times[i + 1])
        log_inside = np.log(to) + (nodes + 1) / 2 * np.log(rho / to)
        inside = np.exp(log_inside)
        integral = np.sum(weights / 2 * np.log(rho / to) * inside * slope(inside) / phi(inside) ** 2 * m(inside))
        expected = phi(to) / phi(rho) * x + phi(to) * integral
        sources = np.array([x, m(float(times[i - 1])), m(float(times[i - 2])), m(rho)])
        got = float(np.asarray(sampler.rows.weights[i, 0]) @ sources)
        np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("solver", "option", "value"),
    [
        (s.consistency, "boundary", 0.004),
        (s.tcd, "gamma", 0.4),
        (s.flow_sde, "eta", 0.5),
        (s.ddpm, "variance", 0.7),
    ],
)
def test_options_have_gradients(solver, option, value, x64):
    """Of the samples, with respect to the times and the option, against finite differences; finite at the clean end."""
    model = lambda x, t: jnp.tanh(1.2 * x - t)
    x = VP.prior(KEY, like((3, 2)))
    times = js.schedules.half_log_snr(VP, 4, t_end=0.01)

    @jax.jit
    def loss(times, value):
        return jnp.sum(jnp.sin(js.sample(solver(VP, times, **{option: value}), model, x, KEY)))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    slope_t, slope = gradients(times, value)
    bend = jnp.array([0.0, 1.0, -0.5, 0.3, 0.0]) * times
    np.testing.assert_allclose(slope, (loss(times, value + 1e-5) - loss(times, value - 1e-5)) / 2e-5, rtol=1e-6)
    moved = (loss(times + 1e-5 * bend, value) - loss(times - 1e-5 * bend, value)) / 2e-5
    np.testing.assert_allclose(slope_t @ bend, moved, rtol=1e-6)
    if option != "boundary":
        assert all(bool(jnp.isfinite(g).all()) for g in gradients(times.at[-1].set(0.0), value))


def test_ddpm_variances(x64):
    """Both bounds and what lies between, from the betas of a table."""
    betas = np.linspace(1e-4, 0.02, 1000)
    process = js.processes.from_betas(betas, t_min=0.0)
    index = np.array([999, 700, 400, 100, 0])
    times = jnp.asarray(np.append(index + 1, 0) / 1000)
    bar = np.append(np.cumprod(1 - betas)[index], 1.0)
    beta = 1 - bar[:-1] / bar[1:]
    small = beta * (1 - bar[1:]) / (1 - bar[:-1])
    for variance in (0.0, 0.3, 1.0):
        noise = build(functools.partial(s.ddpm, variance=variance), process, times).rows.noise[:, 0]
        expected = beta**variance * small ** (1 - variance)
        np.testing.assert_allclose(noise[:-1] ** 2, expected[:-1], rtol=1e-9)
        assert float(noise[-1]) == 0


REFERENCE = problem.load("stochastic")
STEPS = (5, 8, 10, 20)
LINEAR, STRAIGHT = js.processes.vp_linear(), js.processes.rectified_flow()
with jax.enable_x64(True):
    DISCRETE = js.processes.from_betas(np.linspace(1e-4, 0.02, 1000), t_min=0.0)


def discrete(name):
    """The indices that diffusers went through, and their times without the last."""
    index = [REFERENCE[f"{name}-{n}-times"] for n in STEPS]
    return index, [(i + 1) / 1000 for i in index]


def compare(name, solver, process, all_times, values=None, noise=problem.NOISE, model=None):
    """Our tables, made together and interpreted in NumPy, against stored samples: to a millionth of their size.

    ``solver(process, times, value)`` gets what ``values`` has for each number of steps.
    """
    values = [None] * len(STEPS) if values is None else values
    make = jax.jit(lambda all_times: [solver(process, t, v) for t, v in zip(all_times, values, strict=True)])
    samplers = make([jnp.asarray(t) for t in all_times])
    levels = jax.jit(lambda t: (process.alpha(t), process.sigma(t)))
    model = model or (lambda x, t: problem.denoise(x, *map(float, levels(t))))
    for n, sampler in zip(STEPS, samplers, strict=True):
        expected = REFERENCE[f"{name}-{n}"]
        start = problem.STARTS * float(levels(sampler.rows.time[0])[1] if process is EDM else 1.0)
        got = replay(sampler, model, start, noise)
        assert np.abs(got - expected).max() < 1e-6 * np.abs(expected).max(), (name, n)


UNIFORM = [np.linspace(1.0, 1e-3, n + 1) for n in STEPS]


@pytest.mark.parametrize(("orders", "tau", "variant"), [((3, 4), 0.6, "exact"), ((2, 2), 1.0, "bh1")])
def test_sa_solver_is_its_authors(orders, tau, variant, x64):
    """Their last step is deterministic."""
    eta = [np.append(np.full(n - 1, tau**2), 0.0) for n in STEPS]
    options = {"order": orders[0], "corrector_order": orders[1], "variant": variant}
    name = f"sa_solver-{orders[0]}-{orders[1]}-{tau}-{variant}"
    compare(name, lambda p, t, v: s.sa_solver(p, t, eta=v, **options), LINEAR, UNIFORM, eta)


def test_sa_solver_is_diffusers(x64):
    """Noise in the middle of the schedule only, as is its default; the last time is index 0."""
    options = {"order": 3, "corrector_order": 4, "variant": "bh1"}
    name = "diffusers_sa_solver-3-4"
    index, times = discrete(name)
    eta = [1.0 * ((i >= 200) & (i <= 800)) for i in index]
    times = [np.append(t, 1e-3) for t in times]
    compare(name, lambda p, t, v: s.sa_solver(p, t, eta=v, **options), DISCRETE, times, eta)


def test_er_sde_is_its_authors(x64):
    for order in (2, 3):
        solver = lambda p, t, _: s.er_sde(p, t, order=order, variant="published")  # noqa: B023
        compare(f"er_sde-{order}", solver, LINEAR, UNIFORM)


def test_seeds_is_its_authors(x64):
    """They subtract their noise."""
    for order in (2, 3):
        solver = lambda p, t, _: s.seeds(p, t, order=order, lower_order_final=False)  # noqa: B023
        compare(f"seeds-{order}", solver, LINEAR, UNIFORM, noise=-problem.NOISE)


def test_flow_samplers_are_their_authors(x64):
    """From pure noise to the clean end; Flow-GRPO's noise level 0.7 is ``eta = 0.7^2 / 2``."""
    times = [np.linspace(1.0, 0.0, n + 1) for n in STEPS]
    compare("flow_sde", lambda p, t, _: s.flow_sde(p, t, eta=0.245), STRAIGHT, times)
    compare("coefficients_preserving", lambda p, t, _: s.coefficients_preserving(p, t, eta=0.7), STRAIGHT, times)


def test_tcd_is_diffusers(x64):
    """It rounds ``s`` down to an index, and ends without noise at index 0."""
    index, times = discrete("TCD")
    times = [np.append(t, 1e-3) for t in times]
    between = [np.append((np.floor((1 - 0.3) * i[1:]) + 1) / 1000, 1e-3) for i in index]
    gamma = [1 - b / t[1:] for b, t in zip(between, times, strict=True)]
    compare("TCD", lambda p, t, v: s.tcd(p, t, gamma=v), DISCRETE, times, gamma)


def peers_mixture(process):
    return js.analytic.gaussian_mixture(process, problem.MEANS, problem.COVARIANCES, problem.WEIGHTS)


def test_latent_consistency_models_are_diffusers(x64):
    model = jax.jit(latent_consistency_model(peers_mixture(DISCRETE)))
    times = [np.append(t, 0.0) for t in discrete("LCM")[1]]
    compare("LCM", lambda p, t, _: s.consistency(p, t), DISCRETE, times, model=model)


def test_consistency_models_are_diffusers(x64):
    """Noise is added to samples that are not quite clean; at the boundary the answer is the sample itself."""
    model = jax.jit(consistency_model(lambda x, c: jnp.tanh(x[:, ::-1] + c)))
    times = [REFERENCE[f"consistency-{n}-times"] for n in STEPS]
    compare("consistency", lambda p, t, _: s.consistency(p, t, boundary=0.002), EDM, times, model=model)
    np.testing.assert_array_equal(model(problem.STARTS, 0.002), problem.STARTS)


def test_learned_variance_is_diffusers(x64, monkeypatch):
    """The network has twice the channels, and the noise is its own size in every value."""
    noise = jnp.asarray(problem.NOISE)
    monkeypatch.setattr(learned_variance, "step_key", lambda state, role: state.step)
    monkeypatch.setattr(learned_variance, "normal_like", lambda step, x: noise[step])
    epsilon = js.predict(peers_mixture(DISCRETE), DISCRETE, "epsilon")
    network = lambda x, t: jnp.concatenate([epsilon(x, t), jnp.tanh(x[:, ::-1] - 0.3)], axis=1)
    model = s.with_variance(js.denoiser(network, DISCRETE, "epsilon"))
    for n, times in list(zip(STEPS, discrete("learned_variance")[1], strict=True))[::3]:
        sampler = s.ddpm_learned_variance(DISCRETE, jnp.append(times, 0.0))
        assert len(sampler) == js.network_calls(sampler) == n
        got = jax.jit(js.sample)(sampler, model, jnp.asarray(problem.STARTS), KEY)
        expected = REFERENCE[f"learned_variance-{n}"]
        assert np.abs(got - expected).max() < 1e-6 * np.abs(expected).max()


def test_learned_variance_at_its_bounds_is_ddpm():
    """``v = -1`` and ``1``: the same noise as ``ddpm``'s, bit by bit the same key; in two parts; with a key only."""
    times = js.schedules.half_log_snr(VP, 5)
    x = VP.prior(KEY, (4, 2))
    sampler = build(s.ddpm_learned_variance, VP, times)
    plain, mean = js.denoiser(lambda x, t: jnp.tanh(x), VP, "x0"), lambda v, x, t: (jnp.tanh(x), jnp.full_like(x, v))
    draw = jax.jit(js.sample)
    for v in (-1.0, 1.0):
        pair = jax.tree_util.Partial(mean, v)
        expected = draw(s.ddpm(VP, times, variance=jnp.full(5, (1 + v) / 2)), plain, x, KEY)
        np.testing.assert_allclose(draw(sampler, pair, x, KEY), expected, rtol=1e-5, atol=1e-6)
    parts = draw(sampler[2:], pair, jax.jit(js.run)(sampler[:2], pair, x, KEY))
    np.testing.assert_allclose(parts, draw(sampler, pair, x, KEY), rtol=1e-6)
    with pytest.raises(ValueError, match="give it a PRNG key"):
        js.sample(sampler, pair, x)
    with pytest.raises(ValueError, match="the model must return what looks like x"):
        js.sample(sampler, lambda x, t: (x, x[:1]), x, KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: s.sa_solver(VP, t, corrector_order=5), "corrector_order must be from 0 to 4, got 5"),
        (lambda t: s.er_sde(VP, t, noise_function=jnp.sqrt), "must not decrease"),
        (lambda t: s.consistency(VP, t, boundary=0.1), "times must end at or above boundary=0.1"),
        (lambda t: s.tcd(VP, t, gamma=1.2), "gamma must be at least 0 and at most 1"),
        (lambda t: s.seeds(VP, jnp.append(t, 0.0), lower_order_final=False), "use lower_order_final=True"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(js.schedules.uniform(VP, 4))
