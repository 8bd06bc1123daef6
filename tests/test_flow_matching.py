"""Flow matching: Meta's package gives the same numbers, with time reversed; conversion between processes."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import like, mixture
from tests.reference import problem
from tests.replay import replay

SOLVERS = {
    "euler": js.solvers.euler,
    "midpoint": js.solvers.midpoint,
    "heun2": lambda process, times: js.solvers.heun(process, times, lower_order_final=False),
}
GUIDE = (Path(__file__).parent.parent / "docs" / "flow_matching.md").read_text()
ORIGIN = np.array([0.4, -0.7])
MADE = {
    "vp_linear": js.processes.vp_linear,
    "edm": js.processes.edm,
    "rectified_flow": lambda: js.processes.rectified_flow(t_min=1e-3, t_max=0.99),
    "trigonometric": lambda: js.processes.trigonometric(2.0, t_min=1e-3, t_max=0.99),
    "mean_reverting": lambda: js.processes.mean_reverting(ORIGIN, stationary=0.5),
    "residual_shifting": lambda: js.processes.residual_shifting(ORIGIN + 1),
}


@pytest.fixture(scope="module")
def theirs():
    return problem.load("flow_matching")


def exact(process):
    return js.analytic.gaussian_mixture(process, problem.MEANS, problem.COVARIANCES, problem.WEIGHTS)


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("calls", [5, 8, 10, 20])
def test_fixed_step_solvers(method, calls, theirs, x64):
    name = f"{method}_{calls}"
    if name not in theirs:
        assert calls % 2 == 1
        return
    steps = calls if method == "euler" else calls // 2
    build = jax.jit(lambda times: SOLVERS[method](js.processes.rectified_flow(), times))
    sampler = build(np.linspace(1.0, 1e-3, steps + 1))
    assert len(sampler) == calls
    ours = replay(sampler, lambda x, t: problem.denoise(x, 1 - t, t), problem.STARTS)
    np.testing.assert_allclose(ours, theirs[name], rtol=1e-6)


@pytest.mark.parametrize("calls", [5, 8, 10, 20])
def test_another_schedule_after_training(calls, theirs, x64):
    """``ScheduleTransformedModel`` turns the velocity of a straight path into that of the trigonometric one."""
    straight, bent = js.processes.rectified_flow(), js.processes.trigonometric()
    model = jax.jit(js.convert(exact(straight), straight, bent))
    build = jax.jit(lambda times: js.solvers.euler(bent, times))
    ours = replay(build(np.linspace(1.0, 1e-3, calls + 1)), model, problem.STARTS)
    np.testing.assert_allclose(ours, theirs[f"cosine_{calls}"], rtol=1e-6)


def test_likelihood(theirs, x64):
    """Their exact divergence along the whole path against ours, and against the mixture's density."""
    straight = js.processes.rectified_flow()
    measure = jax.jit(lambda x: js.adaptive.log_likelihood(straight, exact(straight), x, t=1e-8, rtol=1e-9, atol=1e-9))
    ours = measure(jnp.asarray(problem.STARTS))
    np.testing.assert_allclose(ours, theirs["log_likelihood"], rtol=1e-6)
    np.testing.assert_allclose(ours, exact(straight).log_prob(jnp.asarray(problem.STARTS), 0.0), rtol=1e-6)


def test_their_variance_preserving_scheduler_is_vp_linear(theirs, x64):
    process, t = js.processes.vp_linear(0.1, 20.0), 1 - np.linspace(0.0, 0.99, 12)
    np.testing.assert_allclose([process.alpha(t), process.sigma(t)], theirs["vp"], rtol=1e-9)


def test_the_guide(theirs, x64):
    """Its adapter, as printed, on a network in their conventions; every name in its table is there."""
    straight = js.processes.rectified_flow()
    velocity = lambda x, t: -js.predict(exact(straight), straight, "velocity")(x, 1 - t)
    names = {"js": js, "velocity": velocity}
    exec(re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL)[1], names)
    sampler = js.solvers.midpoint(names["process"], jnp.linspace(1.0, 1e-3, 5))
    ours = jax.jit(js.sample)(sampler, names["model"], jnp.asarray(problem.STARTS))
    np.testing.assert_allclose(ours, theirs["midpoint_8"], rtol=1e-6)
    for name in re.findall(r"`js\.([a-z_.]+)", GUIDE):
        assert functools.reduce(getattr, name.split("."), js) is not None


@pytest.mark.parametrize("name", ["straight", "trigonometric"])
def test_predictions(name, theirs, x64):
    """All six conversions among data, noise and velocity; theirs has the opposite sign, by the direction of time."""
    process = js.processes.rectified_flow() if name == "straight" else js.processes.trigonometric()
    t, x, value = jnp.linspace(0.95, 0.05, 16), jnp.asarray(problem.STARTS), jnp.asarray(problem.NOISE[0])
    sign = {"velocity": -1.0}
    for one in ("x0", "epsilon", "velocity"):
        given = sign.get(one, 1.0) * value
        model = js.denoiser(lambda x, t, given=given: given, process, one)
        for other in {"x0", "epsilon", "velocity"} - {one}:
            ours = sign.get(other, 1.0) * js.predict(model, process, other)(x, t)
            np.testing.assert_allclose(ours, theirs[f"{name}_{one}_{other}"], rtol=1e-9)


@pytest.mark.parametrize(("trained", "to"), list(zip(MADE, [*list(MADE)[2:], *list(MADE)[:2]], strict=True)))
def test_a_converted_denoiser_is_the_other_processs(trained, to, x64):
    """Against the closed form under both, with other origins too, wherever the trained range reaches."""
    process, to = MADE[trained](), MADE[to]()

    @jax.jit
    def compare():
        times = js.schedules.half_log_snr(to, 9)
        lowest, highest = process.half_log_snr(process.t_max), process.half_log_snr(process.t_min)
        inside = (to.half_log_snr(times) > lowest) & (to.half_log_snr(times) < highest)
        x = jax.vmap(lambda t: to.prior(jax.random.key(0), like((5, 2)), t=t))(times).reshape(-1, 2)
        t = jnp.repeat(times, 5)
        return inside, js.convert(mixture(process), process, to)(x, t), mixture(to)(x, t)

    inside, ours, exact = (np.asarray(array) for array in compare())
    assert inside.sum() >= 3
    inside = np.repeat(inside, 5)
    np.testing.assert_allclose(ours[inside], exact[inside], rtol=1e-8)


def test_conversion_at_the_ends_takes_parameters_and_refuses_other_noise():
    straight, bent = js.processes.rectified_flow(), js.processes.trigonometric()
    model = js.convert(exact(straight), straight, bent)
    assert jax.tree.leaves(model)
    x = jnp.array([[0.3, -0.2]])
    ends = jax.jit(lambda model, t: model(x, t))
    np.testing.assert_allclose(ends(model, 1.0), problem.WEIGHTS[None] @ problem.MEANS, rtol=1e-5)
    np.testing.assert_allclose(ends(model, 1e-6), x, atol=1e-4)
    with pytest.raises(ValueError, match="one law under both processes, got Normal and StudentT"):
        js.convert(model, straight, js.processes.pfgm_plus_plus())
