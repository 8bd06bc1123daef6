import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import PROCESSES


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", js.schedules.registry)
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_schedules_decrease_strictly_from_end_to_end(process, name, steps):
    process = PROCESSES[process]
    times = np.asarray(js.schedules.registry[name](process, steps))
    assert times.shape == (steps + 1,)
    assert (np.diff(times) < 0).all()
    assert times[0] == np.float32(process.t_max)
    assert times[-1] == np.float32(process.t_min)


@pytest.mark.parametrize("name", js.schedules.registry)
def test_ends_can_be_given(name):
    times = js.schedules.registry[name](js.processes.vp_linear(), 5, t_start=0.7, t_end=0.02)
    assert times[0] == np.float32(0.7)
    assert times[-1] == np.float32(0.02)


@pytest.mark.parametrize("name", ["uniform", "quadratic", "cosine"])
@pytest.mark.parametrize("process", [js.processes.vp_linear(), js.processes.rectified_flow(), js.processes.edm()])
def test_clean_end_is_accepted(name, process):
    times = js.schedules.registry[name](process, 7, t_end=0.0)
    assert times[-1] == 0
    assert (np.diff(times) < 0).all()


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
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
