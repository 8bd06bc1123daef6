"""What is learned: zero is the base sampler, gradients are right and cheap, and no number breaks a schedule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.learn.parameters import coordinates
from jaxsamplers.tableau import with_extra

VP, FLOW = js.processes.vp_linear(), js.processes.rectified_flow()
KEY = jax.random.key(0)
SHAPES = (16, 2048), (2048, 2048), (2048, 16)
SOLVERS = {
    "ddim": (VP, js.solvers.ddim, {}),
    "unipc-3": (VP, js.solvers.unipc, {"order": 3}),
    "sde_dpm_solver_pp": (VP, js.solvers.sde_dpm_solver_pp, {}),
    "ipndm": (VP, js.solvers.ipndm, {}),
    "singlestep": (VP, js.solvers.dpm_solver_pp_singlestep, {"order": 2}),
    "heun": (FLOW, js.solvers.heun, {}),
}
STEPS = 5
WEIGHT = jnp.array([[0.6, -0.3], [0.2, 0.5]])


def model(x, t, scale=1.0):
    return jnp.tanh(x @ WEIGHT) * (1 - t / 2) * scale


def random(parameters, size, seed=0):
    """The same parts, drawn."""
    rng = np.random.default_rng(seed)
    learned = jax.tree.map(lambda leaf: jnp.asarray(size * rng.normal(size=leaf.shape), leaf.dtype), parameters.learned)
    return js.learn.Parameters(learned, parameters.start, parameters.coordinate)


def everything(process, solver, fixed, **parts):
    calls = len(solver(process, js.schedules.uniform(process, STEPS), **fixed))
    parts = {"ends": True, "network_times": True, "coefficients": True, "extra": {"scale": 1.5}} | parts
    if calls == STEPS:
        parts["ratios"] = True
    return js.learn.builder(solver, process, **fixed), js.learn.parameters(process, STEPS, calls=calls, **parts)


@pytest.mark.parametrize("name", SOLVERS)
def test_zero_is_the_base_solver_bit_for_bit(name):
    """Every part on at once: the table's times, weights and noise are the solver's, and what is new weighs nothing."""
    process, solver, options = SOLVERS[name]
    build, parameters = everything(process, solver, options)
    x = process.prior(KEY, (4, 2))
    plain = jax.jit(lambda times: solver(process, times, **options))(parameters.start["schedule"])
    sample, make = jax.jit(lambda tableau: js.sample(tableau, model, x, KEY)), jax.jit(build)
    base, learned = with_extra(plain, scale=jnp.full(len(plain), 1.5)), make(parameters)
    count = plain.registers
    np.testing.assert_array_equal(parameters.times(process), parameters.start["schedule"])
    np.testing.assert_array_equal(learned.rows.time, base.rows.time)
    np.testing.assert_array_equal(learned.rows.noise[:, :count], base.rows.noise)
    np.testing.assert_array_equal(learned.rows.extra["scale"], base.rows.extra["scale"])
    weights = np.asarray(learned.rows.weights)[:, :count]
    np.testing.assert_array_equal(weights[:, :, [*range(count), -1]], base.rows.weights)
    assert not weights[:, :, count:-1].any()
    np.testing.assert_allclose(sample(learned), sample(base), atol=1e-6)  # sums of more terms may round differently
    assert not np.allclose(sample(make(random(parameters, 0.3))), sample(base), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "remat"), [("unipc-3", True), ("heun", True), ("heun", False), ("sde_dpm_solver_pp", False)]
)
def test_gradients_equal_finite_differences(name, remat, x64):
    """In each part by itself, from a point where none is zero; with the network's answers kept or made again."""
    process, solver, options = SOLVERS[name]
    process = (js.processes.rectified_flow if process is FLOW else js.processes.vp_linear)()
    parts = {"options": {"eta": 0.5}} if name == "sde_dpm_solver_pp" else {}
    build, parameters = everything(process, solver, options, **parts)
    parameters = random(parameters, 0.3)
    x = jax.random.normal(KEY, (3, 2), jnp.float64)

    @jax.jit
    def loss(learned):
        now = js.learn.Parameters(learned, parameters.start, parameters.coordinate)
        return jnp.sin(js.sample(build(now), model, build.begin(now, x), KEY, remat=remat)).sum()

    gradient = jax.jit(jax.grad(loss))(parameters.learned)
    for part, slope in gradient.items():
        direction = random(parameters, 1.0, seed=1).learned[part]
        along = sum(map(jnp.vdot, jax.tree.leaves(slope), jax.tree.leaves(direction)))
        to = lambda h, part=part, d=direction: loss(
            parameters.learned | {part: jax.tree.map(lambda a, b: a + h * b, parameters.learned[part], d)}
        )
        numeric = (to(1e-5) - to(-1e-5)) / 2e-5
        if part == "ends" and process.t_min == 0:  # there is no time beyond these, so that they stay
            assert along == numeric == 0
        else:
            assert abs(numeric) > 1e-6, part
            np.testing.assert_allclose(along, numeric, rtol=1e-5, err_msg=part)


def test_the_gradient_takes_little_more_memory_for_twice_the_calls():
    """Schedule, network times and the weights of the last three answers, through a network of some size."""
    keys = jax.random.split(KEY, 3)
    layers = [jax.random.normal(key, shape) for key, shape in zip(keys, SHAPES, strict=True)]
    build = js.learn.builder(js.solvers.dpm_solver_pp, VP)

    def network(x, t):
        return jnp.tanh(jnp.tanh(x @ layers[0]) @ layers[1]) @ layers[2] * t

    def bytes_for(calls):
        loss = lambda parameters, x: build.sample(parameters, network, x).sum()
        parameters = js.learn.parameters(VP, calls, network_times=True, coefficients=3)
        compiled = jax.jit(jax.grad(loss, allow_int=True)).lower(parameters, jnp.zeros((64, 16))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_for(20) < 1.2 * bytes_for(10)


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("coordinate", ["half_log_snr", "time", "angle"])
def test_schedules_stay_schedules(coordinate, size):
    """Whatever the numbers: decreasing, within the process, gaps above the floor, ends where they were."""
    schedule = js.schedules.uniform(VP, 6, t_start=0.9, t_end=0.01)
    options = {"schedule": schedule, "coordinate": coordinate, "network_times": True}
    fixed, free = (js.learn.parameters(VP, 6, ends=ends, **options) for ends in (False, True))
    to = coordinates[coordinate](VP)[0]

    @jax.jit
    def measure(parameters):
        times = parameters.times(VP)
        return times, to(times), to(parameters.network_times(VP, times, times[:-1])[1:])

    base = np.diff(to(schedule))
    span = base.sum()
    for seed in range(5):
        times, nodes, asked = map(np.asarray, measure(random(fixed, size, seed)))
        assert (np.diff(times) < 0).all()
        np.testing.assert_array_equal(times[[0, -1]], schedule[jnp.array([0, -1])])
        assert (np.diff(nodes) > 0.019 * base).all()
        beside = np.minimum(np.diff(nodes)[1:], np.diff(nodes)[:-1])
        assert (np.abs(asked - nodes[1:-1]) <= 0.5001 * beside + 1e-5).all()
        times, nodes, _ = map(np.asarray, measure(random(free, size, seed)))
        assert (np.diff(times) < 0).all()
        assert VP.t_max >= times[0]
        assert times[-1] >= 0
        assert (np.abs(nodes[[0, -1]] - to(schedule)[jnp.array([0, -1])]) <= 0.2501 * span).all()
        assert (times[[0, -1]] != schedule[jnp.array([0, -1])]).all()


@pytest.mark.parametrize("name", ["ddim", "unipc-3", "heun"])
def test_consistent_weights_keep_constant_answers(name):
    process, solver, options = SOLVERS[name]
    calls = len(solver(process, js.schedules.uniform(process, STEPS), **options))
    parameters = js.learn.parameters(process, STEPS, coefficients=3, calls=calls)
    constant = lambda x, t: 0 * x + jnp.array([0.3, -0.8])
    x = process.prior(KEY, (4, 2))
    ends = [
        js.learn.builder(solver, process, consistent=consistent, **options).sample(given, constant, x)
        for consistent, given in ((True, parameters), (True, random(parameters, 1.0)), (False, random(parameters, 1.0)))
    ]
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-4)
    assert np.abs(ends[0] - ends[2]).max() > 1e-2


def test_numbers_for_the_solver_and_the_network():
    """``eta`` step by step, and the scale that the network is given, both as multiples of where they start."""
    parameters = js.learn.parameters(VP, 3, options={"eta": 0.5}, extra={"scale": jnp.array([1.0, 2.0, 4.0])})
    learned = {"options": {"eta": jnp.log(jnp.array([1.0, 2.0, 0.5]))}, "extra": {"scale": jnp.log(jnp.full(3, 3.0))}}
    parameters = js.learn.Parameters(parameters.learned | learned, parameters.start, parameters.coordinate)
    tableau = js.learn.builder(js.solvers.ddim, VP)(parameters)
    plain = js.solvers.ddim(VP, parameters.start["schedule"], eta=jnp.array([0.5, 1.0, 0.25]))
    np.testing.assert_allclose(tableau.rows.noise, plain.rows.noise, rtol=1e-5)
    seen = []
    js.sample(tableau, lambda x, t, scale: jax.debug.callback(seen.append, scale) or 0 * x, jnp.zeros((1, 2)), KEY)
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(map(float, seen)), [3.0, 6.0, 12.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: js.learn.parameters(VP, 0), "steps must be at least 1"),
        (lambda: js.learn.parameters(VP, 3, schedule=jnp.array([1.0, 0.5, 0.1])), r"steps \+ 1 = 4 times, got 3"),
        (lambda: js.learn.parameters(VP, 3, coordinate="tim"), "unknown coordinate 'tim': did you mean time"),
        (lambda: js.learn.parameters(FLOW, 3, coordinate="half_log_snr"), "half-log-SNR is infinite at an end"),
        (lambda: js.learn.parameters(VP, 3, options={"eta": 0.0}), r"options\['eta'\] must be above 0"),
        (lambda: js.learn.parameters(VP, 3, coefficients=1), "coefficients must be at least 2"),
        (lambda: js.learn.builder(js.solvers.ddim, VP, eta=jnp.ones(3)), "eta is an array: give it to js.learn.param"),
        (
            lambda: js.learn.builder(js.solvers.heun, FLOW)(js.learn.parameters(FLOW, 3, network_times=True)),
            "make the parameters with calls=5",
        ),
        (
            lambda: js.learn.builder(js.solvers.heun, FLOW)(js.learn.parameters(FLOW, 3, ratios=True, calls=5)),
            "ratios are for solvers of one network call a step, not 5",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
