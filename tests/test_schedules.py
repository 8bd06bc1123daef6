import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxsamplers as js
from tests.cases import PROCESSES

BELOW = {"leading", "ddim_uniform"}  # as published, they do not visit the end of their table
LONGEST = 1000


def longest(name):
    """``ddim_uniform`` counts its entries from 1, and 1000 of them leave the table."""
    return LONGEST - (name == "ddim_uniform")


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", js.schedules.registry)
def test_schedules_decrease_strictly_from_end_to_end(process, name):
    process = PROCESSES[process]
    for steps in (1, 2, longest(name)):
        times = np.asarray(js.schedules.registry[name](process, steps))
        assert times.dtype == np.float32
        assert times.shape == (steps + 1,)
        assert (np.diff(times) < 0).all()
        assert times[0] <= process.t_max if name in BELOW else times[0] == np.float32(process.t_max)
        assert times[-1] == np.float32(process.t_min)


@pytest.mark.parametrize("name", js.schedules.registry)
def test_ends_can_be_given_and_are_differentiable(name, x64):
    f = lambda ends: js.schedules.registry[name](js.processes.rectified_flow(), 5, t_start=ends[0], t_end=ends[1])
    make = jax.jit(lambda ends: (f(ends), jax.jacfwd(f)(ends)))
    ends, h = jnp.array([0.9, 0.02]), 1e-6
    times, slopes = make(ends)
    assert times[0] < 0.9 if name in BELOW else times[0] == 0.9
    assert times[-1] == 0.02
    finite = [(make(ends + h * e)[0] - make(ends - h * e)[0]) / (2 * h) for e in jnp.eye(2)]
    np.testing.assert_allclose(slopes, jnp.stack(finite, axis=1), rtol=1e-7, atol=1e-8)


SPACED_IN_A_LOGARITHM = {"half_log_snr", "exponential", "polyexponential", "karras", "vp", "align_your_steps", "gits"}


@pytest.mark.parametrize("name", js.schedules.registry)
def test_the_whole_of_a_flow_is_a_range_for_all_but_those_spaced_in_a_logarithm(name):
    """Both ends have an infinite half-log-SNR; published levels lie between any two ends."""
    make = lambda: js.schedules.registry[name](js.processes.rectified_flow(), 7)
    if name in SPACED_IN_A_LOGARITHM - {"align_your_steps", "gits"}:
        with pytest.raises(ValueError, match="give t_start= and t_end= inside its range"):
            make()
    else:
        times = np.asarray(make())
        assert np.isfinite(times).all()
        assert times[-1] == 0
        assert times[0] < 1 if name in BELOW else times[0] == 1


@pytest.mark.parametrize("name", js.schedules.registry)
def test_gradients_are_finite_at_both_ends_of_a_flow(name):
    if name not in SPACED_IN_A_LOGARITHM:
        flow = js.processes.rectified_flow()
        total = lambda ends: js.schedules.registry[name](flow, 6, t_start=ends[0], t_end=ends[1]).sum()
        assert np.isfinite(jax.grad(total)(jnp.array([1.0, 0.0]))).all()


def test_spacings_are_what_they_say(x64):
    process = js.processes.edm()
    n, u = 12, np.linspace(0, 1, 13)
    make = js.schedules
    np.testing.assert_allclose(make.uniform(process, n), 80 + u * (0.002 - 80), rtol=1e-10)
    np.testing.assert_allclose(np.sqrt(make.quadratic(process, n)), 80**0.5 + u * (0.002**0.5 - 80**0.5), rtol=1e-10)
    karras = (80 ** (1 / 7) + u * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # EDM eq. 5, as published
    np.testing.assert_allclose(make.karras(process, n), karras, rtol=1e-10)
    exponential = np.exp(np.linspace(np.log(80), np.log(0.002), n + 1))  # k-diffusion's get_sigmas_exponential
    np.testing.assert_allclose(make.exponential(process, n), exponential, rtol=1e-10)
    np.testing.assert_allclose(make.half_log_snr(process, n), exponential, rtol=1e-10)
    angles = np.arctan(80) + u * (np.arctan(0.002) - np.arctan(80))
    np.testing.assert_allclose(make.cosine(process, n), np.tan(angles), rtol=1e-8)

    log = np.log([80, 0.002])
    made = np.log(make.polyexponential(process, n, rho=3.0))
    np.testing.assert_allclose(made, log[1] + (1 - u) ** 3 * (log[0] - log[1]), rtol=1e-10)


def test_levels_of_another_process_at_its_uniform_times(x64):
    """``vp`` and ``sigmoid``, by the formulas of those processes as published."""
    process = js.processes.edm(sigma_min=0.1, sigma_max=9.0)
    times = np.asarray(js.schedules.vp(process, 6, beta_min=0.3, beta_max=7.0))
    clock = np.log1p(times**2)  # = (7 - 0.3) s^2 / 2 + 0.3 s
    np.testing.assert_allclose(np.diff((np.sqrt(0.09 + 2 * 6.7 * clock) - 0.3) / 6.7, n=2), 0, atol=1e-12)
    times = np.asarray(js.schedules.sigmoid(process, 6, start=-2.0, end=4.0, tau=0.8))
    logistic = lambda y: 1 / (1 + np.exp(-y))
    share = 1 / (1 + times**2)  # = (L(5) - L(y)) / (L(5) - L(-2.5))
    y = logistic(5.0) - share * (logistic(5.0) - logistic(-2.5))
    np.testing.assert_allclose(np.diff(np.log(y / (1 - y)), n=2), 0, atol=1e-12)


def test_quantiles_are_those_of_scipy(x64):
    flow, u = js.processes.rectified_flow(), np.arange(1, 40) / 40
    for a, b in ((0.6, 0.6), (2.0, 0.3), (9.0, 5.0)):
        made = js.schedules.beta(flow, 40, alpha=a, beta=b)[1:-1]
        np.testing.assert_allclose(made, scipy.stats.beta.ppf(1 - u, a, b), rtol=1e-12)
    made = flow.half_log_snr(js.schedules.laplace(flow, 40, mean=0.4, scale=0.7))[1:-1]
    np.testing.assert_allclose(made, scipy.stats.laplace.ppf(u, 0.4, 0.7), rtol=1e-9, atol=1e-12)


def test_half_a_beta_is_found_to_float32():
    """The middle of a symmetric law, where both series meet, and the steps next to both ends."""
    times = np.asarray(js.schedules.beta(js.processes.rectified_flow(), 1000))
    np.testing.assert_allclose(times[[1, 500]], scipy.stats.beta.ppf([0.999, 0.5], 0.6, 0.6), rtol=1e-6)
    np.testing.assert_allclose(times[999], scipy.stats.beta.ppf(0.001, 0.6, 0.6), rtol=5e-6)


def test_a_beta_law_can_be_learned(x64):
    """The gradient of the inverse distribution function in both parameters; the median of a symmetric law is fixed."""
    f = jax.jit(lambda ab: js.schedules.beta(js.processes.rectified_flow(), 8, alpha=ab[0], beta=ab[1]))
    ab, h = jnp.array([0.6, 0.6]), 1e-5
    finite = [(f(ab + h * e) - f(ab - h * e)) / (2 * h) for e in jnp.eye(2)]
    slopes = jax.jit(jax.jacrev(f))(ab)
    np.testing.assert_allclose(slopes, jnp.stack(finite, axis=1), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(slopes[4].sum(), 0, atol=1e-12)


def test_equal_angles_are_best_for_gaussian_data(x64):
    """DDIM on the exact denoiser: the spread of its samples is largest, and nearest to the data's, at equal angles."""
    process, std, steps = js.processes.edm(), 0.3, 6

    @jax.jit
    def spread(times):
        sampler = js.solvers.ddim(process, times)
        model = lambda x, t: x * std**2 / (std**2 + t**2)
        x = jnp.sqrt(std**2 + times[:1] ** 2)
        return js.sample(sampler, model, x, None)[0] / jnp.sqrt(std**2 + times[-1] ** 2)

    best = js.schedules.arctan_uniform(process, steps, std=std)
    angle = (np.arctan(80 / std) - np.arctan(0.002 / std)) / steps
    np.testing.assert_allclose(spread(best), np.cos(angle) ** steps, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(spread)(best)[1:-1] * best[1:-1], 0, atol=1e-12)
    assert spread(js.schedules.cosine(process, steps)) < spread(best)


def test_shifts_are_moebius_maps_of_a_flow(x64):
    flow, w = js.processes.rectified_flow(), 1 - np.arange(9) / 8
    shifted = 3 * w / (1 + 2 * w)  # SD3, eq. 23
    np.testing.assert_allclose(js.schedules.flow_shift(flow, 8), shifted, rtol=1e-12)
    np.testing.assert_allclose(js.schedules.shift(flow, w, 3.0), shifted, rtol=1e-12)
    twice = js.schedules.shift(flow, js.schedules.shift(flow, w, 2.0), 1.5)
    np.testing.assert_allclose(twice, shifted, rtol=1e-12)
    assert js.schedules.resolution_factor(256) == pytest.approx(np.exp(0.5))
    assert js.schedules.resolution_factor(4096) == pytest.approx(np.exp(1.15))
    noisier = js.schedules.shift(VP, js.schedules.uniform(VP, 5, t_start=0.5), 1.7)
    ratio = lambda t: VP.sigma(t) / VP.alpha(t)
    np.testing.assert_allclose(ratio(noisier), 1.7 * ratio(js.schedules.uniform(VP, 5, t_start=0.5)), rtol=1e-10)


def test_linear_quadratic_begins_as_a_long_schedule(x64):
    """Movie Gen: 25 of 50 steps are the first of 1000 equal ones, and then the steps grow without a jump."""
    flow = js.processes.rectified_flow()
    times = np.asarray(js.schedules.linear_quadratic(flow, 50))
    np.testing.assert_allclose(times[:26], 1 - np.arange(26) / 1000, rtol=1e-12)
    np.testing.assert_allclose(np.diff(times[25:], n=3), 0, atol=1e-14)
    assert times[-1] == 0
    grown = np.diff(times, n=2)[24]  # half of a quadratic's second difference where it takes over
    np.testing.assert_allclose(grown, np.diff(times, n=2)[30] / 2, rtol=1e-10)


def test_interpolation_keeps_the_curve(x64):
    make = js.schedules
    long = make.karras(VP, 40)
    np.testing.assert_allclose(make.interpolate(VP, long, 10), long[::4], rtol=1e-12)
    log = lambda t: np.asarray(VP.half_log_snr(t))
    doubled = make.interpolate(VP, long, 80)
    np.testing.assert_allclose(log(doubled)[1::2], (log(long)[1:] + log(long)[:-1]) / 2, rtol=1e-9)
    clean = make.interpolate(VP, np.append(long, 0.0), 11)
    np.testing.assert_allclose(clean, np.append(long[::4], 0.0), rtol=1e-12)
    flow = np.asarray(make.uniform(js.processes.rectified_flow(), 10))
    np.testing.assert_allclose(make.interpolate(js.processes.rectified_flow(), flow, 6), flow[[0, 1, 3, 5, 7, 9, 10]])
    np.testing.assert_allclose(jax.jit(lambda t: make.interpolate(VP, t, 10))(long), long[::4], rtol=1e-12)


def test_published_levels_are_met_and_read_between(x64):
    process = js.processes.edm(0.001, 1000.0)
    sd15 = [6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152]
    np.testing.assert_allclose(js.schedules.align_your_steps(process, 10)[1:-1], sd15, rtol=1e-12)
    halves = np.asarray(js.schedules.align_your_steps(process, 20))
    np.testing.assert_allclose(halves[2:-2:2], sd15, rtol=1e-12)
    np.testing.assert_allclose(halves[3:-3:2], np.sqrt(np.multiply(sd15[1:], sd15[:-1])), rtol=1e-12)
    cifar10 = js.schedules.gits(js.processes.edm(), 6, model="cifar10")
    np.testing.assert_allclose(cifar10, [80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002], rtol=1e-12)


def test_karras_works_in_sigma_over_alpha(x64):
    process = js.processes.vp_linear()
    times = js.schedules.karras(process, 9, rho=5.0)
    levels = (process.sigma(times) / process.alpha(times)) ** 0.2
    np.testing.assert_allclose(np.diff(levels), np.diff(levels)[0], rtol=1e-8)


def test_schedules_are_differentiable_in_their_ends_and_in_rho(x64):
    process = js.processes.vp_linear()
    f = lambda rho: js.schedules.karras(process, 6, rho=rho)[3]
    finite = (f(7.0 + 1e-5) - f(7.0 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(f)(7.0), finite, rtol=1e-6)


VP = js.processes.vp_linear()


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.5, 0.5, 0.1], "strictly decreasing and not NaN"),
        ([0.1, 0.5], "strictly decreasing"),
        ([1.0, np.nan, 0.1], "strictly decreasing and not NaN"),
        ([0.5], r"vector of steps \+ 1 >= 2 times, got shape \(1,\)"),
        ([[1.0, 0.5]], r"got shape \(1, 2\)"),
        ([1.5, 0.5], r"process's range \[0, 1\], got 1.5 to 0.5"),
        ([0.5, -0.1], r"process's range \[0, 1\], got 0.5 to -0.1"),
        (jnp.array([1.0, 0.5], jnp.bfloat16), "must be float32 or float64, got bfloat16"),
    ],
)
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_bad_times_are_refused_by_every_solver(times, message, solver):
    with pytest.raises(ValueError, match=message):
        js.solvers.registry[solver](VP, times if hasattr(times, "dtype") else np.asarray(times))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: js.schedules.uniform(VP, 0), "steps must be at least 1, got 0"),
        (lambda: js.schedules.uniform(VP, 2.5), "steps must be an integer, got 2.5"),
        (lambda: js.schedules.karras(VP, 5, rho=0.0), "rho must be above 0, got 0.0"),
        (lambda: js.schedules.half_log_snr(js.processes.rectified_flow(), 5), "give t_start= and t_end= inside"),
        (lambda: js.schedules.karras(js.processes.rectified_flow(), 5), "sigma / alpha, which must be finite at both"),
        (lambda: js.schedules.uniform(VP, 5, t_start=0.1, t_end=0.5), "strictly decreasing"),
        (lambda: js.schedules.polyexponential(VP, 5, rho=-1.0), "rho must be above 0, got -1.0"),
        (lambda: js.schedules.vp(VP, 5, beta_min=0.0), "beta_min must be above 0"),
        (lambda: js.schedules.vp(js.processes.rectified_flow(), 5), "the time of vp_linear, which must be finite"),
        (lambda: js.schedules.arctan_uniform(VP, 5, std=0.0), "std must be above 0"),
        (lambda: js.schedules.sigmoid(VP, 5, start=2.0, end=-2.0), "end - start must be above 0, got -4.0"),
        (lambda: js.schedules.sigmoid(VP, 5, tau=0.0), "tau must be above 0"),
        (lambda: js.schedules.beta(VP, 5, alpha=11.0), "alpha must be above 0 and at most 10, got 11.0"),
        (lambda: js.schedules.beta(VP, 5, beta=0.0), "beta must be above 0 and at most 10, got 0.0"),
        (lambda: js.schedules.laplace(VP, 5, scale=0.0), "scale must be above 0"),
        (lambda: js.schedules.flow_shift(VP, 5, factor=-3.0), "factor must be above 0"),
        (lambda: js.schedules.shift(js.processes.edm(), [80.0, 1.0], 3.0), "the process's range .0, 80., got 240"),
        (lambda: js.schedules.linear_quadratic(VP, 5, threshold=1.5), "threshold must be above 0 and at most 1"),
        (lambda: js.schedules.linear_quadratic(VP, 5, linear_steps=5), "linear_steps must be from 1 to 4, got 5"),
        (lambda: js.schedules.linear_quadratic(VP, 50, threshold=0.9, linear_steps=5), "strictly decreasing"),
        (lambda: js.schedules.simple(VP, 1001), "steps must be from 1 to 1000, got 1001"),
        (lambda: js.schedules.trailing(VP, 3, table_steps=2), "steps must be from 1 to 2, got 3"),
        (lambda: js.schedules.ddim_uniform(VP, 1000), "begin at entry 1000 of a table of 1000"),
        (lambda: js.schedules.leading(VP, 5, offset=-1), "offset must be at least 0, got -1"),
        (lambda: js.schedules.linspace(VP, 1001), "strictly decreasing"),
        (lambda: js.schedules.align_your_steps(VP, 5, model="sd14"), "unknown model 'sd14': did you mean sd15"),
        (lambda: js.schedules.align_your_steps(VP, 10, t_start=0.2), "falls from 6.475 to 0.152 between its ends, but"),
        (lambda: js.schedules.align_your_steps(VP, 1000, model="svd"), "sigma / alpha of this process only from 152"),
        (
            lambda: js.schedules.gits(js.processes.edm(sigma_min=1.0), 6, model="cifar10"),
            "gits for cifar10 falls from 10",
        ),
        (lambda: js.schedules.resolution_factor(0), "tokens must be at least 1"),
        (lambda: js.schedules.resolution_factor(9, small=(5, 0.1), large=(5, 0.2)), "different numbers of tokens"),
        (lambda: js.schedules.interpolate(VP, [1.0, 0.5, 0.0], 1), "2 steps cannot become 1: the half-log-SNR is inf"),
        (lambda: js.schedules.interpolate(VP, [1.0, 0.0], 3), "1 steps cannot become 3"),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
