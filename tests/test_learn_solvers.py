"""Learned solvers: DC-Solver, bespoke solvers, and the families that learn weights of the network's answers."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsamplers as js
from jaxsamplers.learn.bespoke import Change
from jaxsamplers.learn.compensation import _greedy
from jaxsamplers.learn.fit import _chunk
from jaxsamplers.learn.parameters import coordinates
from tests.reference import make_dc_solver, problem
from tests.replay import replay

VP = js.processes.vp_linear()
FLOW = js.processes.rectified_flow()
CALLS = 4
ADAM = optax.adam(3e-2)
QUIET = {"report": lambda *_, **__: None}


def mixture(process):
    return js.analytic.gaussian_mixture(process, problem.MEANS, problem.COVARIANCES, weights=problem.WEIGHTS)


def denoise(process):
    return lambda x, t, **_: problem.denoise(x, float(process.alpha(t)), float(process.sigma(t)))


@functools.partial(jax.jit, static_argnames=("solver", "options"))
def made(solver, process, times, options=()):
    return solver(process, times, **dict(options))


@functools.partial(jax.jit, static_argnames=("coordinate",))
def followed(process, times, path, at, coordinate):
    return js.learn.along(process, times, path, at, coordinate)


@jax.jit
def value(objective, parameters, batch):
    return objective(parameters, batch, None)


def nothing_is_added(ours, plain):
    """The same weights, bit for bit, and none of what is remembered besides."""
    weights, count = np.asarray(ours.rows.weights), plain.registers
    np.testing.assert_array_equal(ours.rows.time, plain.rows.time)
    np.testing.assert_array_equal(weights[:, :count, :count], plain.rows.weights[:, :, :count])
    np.testing.assert_array_equal(weights[:, :count, -1], plain.rows.weights[:, :, -1])
    assert not weights[:, :count, count:-1].any()


def with_parts(parameters, **learned):
    return dataclasses.replace(parameters, learned=parameters.learned | learned)


# ---------------------------------------------------------------------------------------------------------- DC-Solver


@pytest.mark.parametrize("solver", [js.solvers.unipc, js.solvers.dpm_solver_pp], ids=lambda f: f.__name__)
def test_ratios_of_one_change_nothing(solver):
    plain = made(solver, VP, js.schedules.half_log_snr(VP, 6), (("order", 3),))
    register = 1 if solver is js.solvers.unipc else None
    change = jax.jit(lambda ratios: js.learn.compensated(plain, plain.rows.time, ratios, corrected=register))
    nothing_is_added(change(jnp.ones(6)), plain)
    assert np.abs(change(jnp.full(6, 1.3)).rows.weights[:, 0, plain.registers : -1]).max() > 0.1


@pytest.mark.parametrize(("steps", "variant"), [(5, "bh1"), (10, "bh2")])
def test_compensation_is_its_authors(steps, variant, x64):
    build = js.learn.builder(js.solvers.unipc, VP, order=3, variant=variant)
    ratios = jnp.asarray(make_dc_solver.ratios(steps)) - 1
    sampler = jax.jit(build)(with_parts(js.learn.parameters(VP, steps, ratios=True), ratios=ratios))
    theirs = problem.load("dc_solver")[f"{variant}_{steps}"]
    np.testing.assert_allclose(replay(sampler, denoise(VP), problem.STARTS), theirs, rtol=1e-9, atol=1e-9)


def test_a_predictor_is_given_the_polynomial_at_another_time(x64):
    """DPM-Solver++(2M), with its own weights of two answers that are replaced by hand."""
    steps, k = 6, 1
    times = js.schedules.half_log_snr(VP, steps)
    plain = made(js.solvers.dpm_solver_pp, VP, times)
    ratios = np.array([1.0, *np.random.default_rng(0).uniform(0.5, 1.5, steps - 1)])
    sampler = jax.jit(lambda t, r: js.learn.compensated(plain, t, r, k=k))(times[:-1], ratios)
    weights, t = np.asarray(plain.rows.weights)[:, 0], np.asarray(times)
    x, answers = problem.STARTS, []
    for i in range(steps):
        newest = denoise(VP)(x, t[i])
        if i >= k:
            at = ratios[i] * t[i] + (1 - ratios[i]) * t[i - 1]
            newest = newest + (answers[-1] - newest) * (at - t[i]) / (t[i - 1] - t[i])
        answers.append(newest)
        x = weights[i, 0] * x + weights[i, 1] * (answers[-2] if i else 0) + weights[i, 2] * newest
    np.testing.assert_allclose(replay(sampler, denoise(VP), problem.STARTS), x, rtol=1e-12)


@jax.jit
def misses(build, parameters, model, x, path, ratios):
    """Of each step, for each of some ratios: how far its corrected sample, the last one's own, is from its place."""

    def one(ratios):
        sampler = build(with_parts(parameters, ratios=ratios))
        _, (ends, corrected) = js.run(sampler, model, x, record=lambda state: (state.x, state.memory[0]))
        return jnp.concatenate([corrected[1:], ends[-1:]]) - path.swapaxes(0, 1)

    return jax.lax.map(one, ratios)


def search(model, path):
    steps = path.shape[1]
    build = js.learn.builder(js.solvers.unipc, VP, order=3)
    start = js.learn.parameters(VP, steps, times=False, ratios=True)
    found = js.learn.dc_solver(build, start, model, problem.STARTS, path).learned["ratios"]

    def miss(i, ratios):
        """Of step ``i``, for some ratios in place of the one that was found."""
        tried = jnp.broadcast_to(found, (5, steps)).at[:, i].set(jnp.asarray(ratios))
        return np.asarray(misses(build, start, model, problem.STARTS, path, tried)[:, i]).reshape(5, -1)

    return np.asarray(found), miss


def test_ratios_are_no_worse_than_the_authors_search_finds(x64):
    """Each, after the same ones before it; that one is best does not say that the next can be."""
    stored, steps = problem.load("dc_solver"), 8
    path = stored[f"path_{steps}"].swapaxes(0, 1)
    found, miss = search(mixture(VP), path)
    theirs = stored[f"found_{steps}"] - 1
    assert not found[:2].any()
    assert not theirs[:2].any()
    for i in range(2, steps):
        losses = (miss(i, [found[i], theirs[i], 0.0, found[i] + 0.01, found[i] - 0.01]) ** 2).sum(axis=1)
        assert losses[0] == losses.min()
    ends = [np.sum((end - path[:, -1]) ** 2) for end in (stored[f"after_{steps}"], stored[f"bh2_{steps}"])]
    assert losses[0] < 1.05 * ends[0]


def test_ratios_of_one_gaussian_have_a_closed_form(x64):
    """A linear network makes each miss a quadratic in its ratio: the best near 1 is a root of a cubic."""
    spread, steps = np.array([0.3, 0.9]), 8
    model = js.analytic.gaussian_mixture(VP, jnp.zeros((3, 2)), jnp.broadcast_to(jnp.diag(spread**2), (3, 2, 2)))
    times = js.schedules.half_log_snr(VP, steps)
    length = np.hypot(VP.sigma(times)[:, None], spread * VP.alpha(times)[:, None])
    path = problem.STARTS[:, None] * (length[1:] / length[0])
    found, miss = search(model, path)
    at = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    for i in range(2, steps):
        there = miss(i, at)
        quadratic = np.polyfit(at, there, 2)
        np.testing.assert_allclose(np.vander(at, 3) @ quadratic, there, atol=1e-9)
        loss = functools.reduce(np.polyadd, [np.polymul(column, column) for column in quadratic.T])
        roots = np.roots(np.polyder(loss))
        least = roots[(np.abs(roots.imag) < 1e-9) & (np.polyval(np.polyder(loss, 2), roots.real) > 0)].real
        np.testing.assert_allclose(found[i], min(least, key=abs), atol=1e-6)


def test_cascade_finds_polynomials_of_its_kind(x64):
    stored = problem.load("dc_solver")
    coefficients = stored["coefficients"].reshape(-1, 3, 3)[:, ::-1, ::-1]
    truth = js.learn.Cascade(jnp.asarray(coefficients))
    for calls in make_dc_solver.STEPS:
        np.testing.assert_allclose(truth(calls, make_dc_solver.SCALE), stored[f"cascade_{calls}"], rtol=1e-12)
    settings = [(calls, scale) for calls in (5, 8, 12, 20) for scale in (2.0, 5.0, 9.0)]
    found = js.learn.cascade({setting: truth(*setting) for setting in settings})
    for setting in ((7, 3.5), (15, 7.5)):
        np.testing.assert_allclose(found(*setting), truth(*setting), rtol=1e-7)


def test_cascade_is_the_least_squares_fit():
    """No small change of the coefficients makes it better, and none is larger than it must be."""
    rng = np.random.default_rng(0)
    data = {(calls, scale): 1 + 0.1 * rng.normal(size=calls) for calls in (5, 9) for scale in (2.0, 6.0)}
    found = js.learn.cascade(data, degree=2)
    rows, values = [], []
    for (calls, scale), ratios in data.items():
        for i in range(2, calls):
            powers = [[((i + 1) / calls) ** a * (scale / 12) ** b * (calls / 50) ** c for c in range(3)]
                      for a in range(3) for b in range(3)]  # fmt: skip
            rows.append(np.ravel(powers))
            values.append(ratios[i])
        assert (found(calls, scale)[:2] == 1).all()
    rows, solution = np.array(rows), np.ravel(np.asarray(found.coefficients, np.float64))
    np.testing.assert_allclose(rows.T @ (rows @ solution - values), 0, atol=1e-5)
    np.testing.assert_allclose(solution, np.linalg.pinv(rows) @ values, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------- bespoke solvers, paths


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_no_change_is_the_runge_kutta_method(method):
    plain = made(getattr(js.solvers, method), FLOW, js.schedules.uniform(FLOW, 3))
    build, parameters = js.learn.bespoke(FLOW, 3, method=method)
    count = {"euler": 4 * 3 - 1, "midpoint": 8 * 3 - 1}[method]
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters.learned)) == count + 1  # one gap follows from the rest
    for ours, theirs in zip(jax.tree.leaves(jax.jit(build)(parameters).rows), jax.tree.leaves(plain.rows), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)  # XLA may join a product and a sum


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2)])
def test_changes_keep_the_order(method, order, x64):
    """Any smooth ones do: the error of twice as many steps is half, or a quarter."""
    rng = np.random.default_rng(order)
    a, b = rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.5, 3)
    steepness = 2 * np.pi * np.arange(1, 4)
    time = lambda r: 1 - 0.95 * (r + a * np.sin(2 * np.pi * r) / (2 * np.pi))
    speed = lambda r: -0.95 * (1 + a * np.cos(2 * np.pi * r))
    log_scale = lambda r: np.sin(np.multiply.outer(r, steepness)) @ b
    growth = lambda r: np.cos(np.multiply.outer(r, steepness)) @ (b * steepness)
    flow, x = lambda x, r: problem.velocity(x, time(r)) * speed(r), problem.STARTS
    h = 1 / 200
    for r in np.arange(200) * h:
        k1 = flow(x, r)
        k2 = flow(x + h / 2 * k1, r + h / 2)
        k3 = flow(x + h / 2 * k2, r + h / 2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + flow(x + h * k3, r + h))
    errors = []
    for steps in (80, 160):
        r = np.linspace(0, 1, steps * order + 1)
        part = np.tile([0.5, 1.0] if order == 2 else [1.0], steps) / steps
        change = (time(r), part * speed(r[:-1]), log_scale(r), part * growth(r[:-1]))
        change = Change(*map(jnp.asarray, change))
        sampler = js.learn.scale_time(FLOW, change, method=method)
        errors.append(np.abs(replay(sampler, denoise(FLOW), problem.STARTS) - x).max())
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.15


NODES = np.linspace(1, 0, 61)


@pytest.fixture(scope="module")
def flows():
    """Of many noises, and of others."""
    follow = lambda key: js.learn.paths(FLOW, mixture(FLOW), FLOW.prior(key, (64, 2)), NODES, coordinate="time")
    return follow(jax.random.key(0)), follow(jax.random.key(1))


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_the_loss_is_a_loop_over_steps(method, flows):
    """With the paper's formulas for a step and for what the later ones make of its error."""
    steps, lipschitz, stages = 3, 0.7, {"euler": 1, "midpoint": 2}[method]
    build, parameters = js.learn.bespoke(FLOW, steps, method=method)
    rng = np.random.default_rng(0)
    learned = {name: jnp.asarray(rng.normal(size=leaf.shape) / 3) for name, leaf in parameters.learned.items()}
    parameters = dataclasses.replace(parameters, learned=learned)
    objective = js.learn.bespoke_loss(build, mixture(FLOW), NODES, coordinate="time", lipschitz=lipschitz)
    loss = value(objective, parameters, flows[0])

    t, d, log_s, g = (np.asarray(part, np.float64) for part in build.change(parameters))
    s, v = np.exp(log_s), problem.velocity
    places = np.asarray(followed(FLOW, NODES, flows[0], t[::stages], "time"), np.float64)
    total, later = 0.0, 1.0
    for i in reversed(range(0, len(d), stages)):
        x, node = places[i // stages], i + stages
        slope = abs(g[node - 1]) + abs(d[node - 1]) * lipschitz
        first = (1 + g[i]) * x + d[i] * v(x, t[i])
        if method == "euler":
            end, growth = s[i] / s[i + 1] * first, 1 + slope
        else:
            z = s[i] / s[i + 1] * first
            end = s[i] / s[i + 2] * x + s[i + 1] / s[i + 2] * (g[i + 1] * z + d[i + 1] * v(z, t[i + 1]))
            growth = 1 + slope * (1 + abs(g[i]) + abs(d[i]) * lipschitz)
        total += later * np.sqrt(np.mean((end - places[i // stages + 1]) ** 2, axis=1)).mean()
        later *= s[i] / s[node] * growth
    np.testing.assert_allclose(loss, total, rtol=1e-4)


def test_bespoke_beats_the_midpoint_method(flows):
    build, parameters = js.learn.bespoke(FLOW, 3)
    objective = js.learn.bespoke_loss(build, mixture(FLOW), NODES, coordinate="time")
    found = js.learn.fit(
        objective, parameters, optimizer=ADAM, batches=js.learn.batches(flows[0], 64), steps=300, every=100, **QUIET
    )
    assert found.value < 0.5 * value(objective, parameters, flows[0])
    error = lambda parameters: np.linalg.norm(
        replay(build(parameters), denoise(FLOW), flows[1].x[:, 0]) - flows[1].x[:, -1], axis=1
    ).mean()
    assert error(found.parameters) < 0.5 * error(parameters)

    compiled = _chunk._cache_size()
    build, parameters = js.learn.bespoke(FLOW, 3, schedule=js.schedules.quadratic(FLOW, 3))
    objective = js.learn.bespoke_loss(build, mixture(FLOW), NODES**1.1, coordinate="time")
    js.learn.fit(
        objective, parameters, optimizer=ADAM, batches=js.learn.batches(flows[1], 64), steps=100, every=100, **QUIET
    )
    assert _chunk._cache_size() == compiled  # another schedule, other paths


@pytest.mark.parametrize(("process", "coordinate"), [(VP, "half_log_snr"), (FLOW, "time")], ids=["vp", "flow"])
def test_between_nodes_a_path_is_exact_to_fourth_order(process, coordinate, x64):
    """Of one Gaussian, whose paths are known; its derivative is the velocity, to third."""
    spread, start = 0.5, jnp.asarray(problem.STARTS)[:, None]
    ends = jnp.array([process.t_max, max(process.t_min, 1e-3)])
    to, back = coordinates[coordinate](process)
    length = lambda t: jnp.hypot(process.sigma(t), spread * process.alpha(t)) / process.sigma(ends[0])

    def exact(t):
        places, speeds = (jax.jvp(f, (t,), (jnp.ones_like(t),)) for f in (length, to))
        return js.learn.Path(*(start * way[:, None] for way in (places[0], places[1] / speeds[1])))

    @jax.jit
    def errors(u):
        nodes, at = back(u), jnp.linspace(ends[0], ends[1], 57)[1:-1]
        place = lambda at: js.learn.along(process, nodes, exact(nodes), at, coordinate)
        rate = jnp.ones_like(at) / jax.jvp(to, (at,), (jnp.ones_like(at),))[1]
        found, truth = jax.jvp(place, (at,), (rate,)), exact(at)
        return jnp.stack([jnp.abs(a.swapaxes(0, 1) - b).max() for a, b in zip(found, truth, strict=True)])

    few, many = (errors(jnp.linspace(*to(ends), steps + 1)) for steps in (16, 32))
    np.testing.assert_allclose(np.log2(few / many), [4, 3], atol=0.4)


def test_paths_are_a_teachers_with_the_velocity_for_slope(flows):
    """The last slope, at the clean end, is that of the straight step there."""
    x, slope = (np.asarray(leaf, np.float64) for leaf in flows[0])
    for i in (0, 20, 59):
        np.testing.assert_allclose(slope[:, i], -problem.velocity(x[:, i], NODES[i]), atol=2e-4)
    np.testing.assert_allclose(slope[:, -1], (x[:, -1] - x[:, -2]) / NODES[-2], atol=2e-4)
    exact, h = x[:, 0], 1 / 480
    for t in 1 - np.arange(479) * h:
        k1 = problem.velocity(exact, t)
        k2 = problem.velocity(exact - h / 2 * k1, t - h / 2)
        exact = exact - h * k2
    assert np.linalg.norm(x[:, -1] - exact, axis=1).mean() < 0.01


# ------------------------------------------------------------------------- families that learn weights of the answers


VP_NODES = js.schedules.half_log_snr(VP, 40)


def family(name, process=VP, nodes=VP_NODES, coordinate="half_log_snr"):
    model = mixture(process)
    return {
        "bns": lambda: js.learn.bns(process, model, CALLS),
        "generalized_solver": lambda: js.learn.generalized_solver(process, model, CALLS, order=3),
        "s4s": lambda: js.learn.s4s(process, model, CALLS, memory=2, alternating=True),
        "neural_solver": lambda: js.learn.neural_solver(
            process, model, CALLS, nodes, coordinate=coordinate, last=js.learn.absolute
        ),
    }[name]()


BASES = {
    "bns": (js.solvers.euler, ()),
    "generalized_solver": (js.solvers.dpm_solver_pp, (("order", 3),)),
    "s4s": (js.solvers.dpm_solver_pp, (("order", 2),)),
    "neural_solver": (js.solvers.ddim, ()),
}
value_and_grad = jax.jit(jax.value_and_grad(lambda parameters, objective, batch: objective(parameters, batch, None)))


@pytest.mark.parametrize("name", BASES)
def test_zero_is_the_solver_it_starts_from(name):
    build, parameters, _ = family(name)
    solver, options = BASES[name]
    nothing_is_added(jax.jit(build)(parameters), made(solver, VP, parameters.times(VP), options))
    assert {"gaps", "coefficients"} <= set(parameters.learned)


@pytest.mark.parametrize("name", [pytest.param("bns", marks=pytest.mark.slow), "neural_solver"])
def test_gradients_are_finite_differences(name, x64):
    nodes = js.schedules.half_log_snr(VP, 12)
    _, parameters, objective = family(name, nodes=nodes)
    x = jnp.asarray(problem.STARTS)
    path = js.learn.Path(*(x[:, None] * jnp.linspace(1, c, 13)[:, None] for c in (0.5, -0.7)))
    batch = path if name == "neural_solver" else js.learn.pairs(x, 0.7 * x)
    rng = np.random.default_rng(0)
    draw = lambda: jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), parameters.learned)
    at, along = jax.tree.map(lambda leaf: leaf / 3, draw()), draw()
    loss = lambda h: value_and_grad(
        with_parts(parameters, **jax.tree.map(lambda a, d: a + h * d, at, along)), objective, batch
    )
    slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, loss(0.0)[1].learned, along)))
    h = 1e-5
    np.testing.assert_allclose((loss(h)[0] - loss(-h)[0]) / (2 * h), slope, rtol=1e-6)


def test_solver_search_keeps_its_rows_at_one(x64):
    """On the straight path, written as the paper does: ``x_{i+1} = x_i + dt_i sum_j c_ij v_j``."""
    build, parameters, _ = family("neural_solver", FLOW, NODES, "time")
    rng = np.random.default_rng(0)
    learned = {name: jnp.asarray(rng.normal(size=leaf.shape)) for name, leaf in parameters.learned.items()}
    found = with_parts(parameters, **learned)
    sampler = jax.jit(build)(found)
    unit, seen = np.eye(CALLS + 1), []  # everything as a combination of the noise and the answers

    def answer(x, t):
        seen.append(x)
        return unit[len(seen)]

    seen.append(replay(sampler, answer, unit[0]))
    times, rows = np.asarray(found.times(FLOW), np.float64), []
    speeds = [(x - m) / t for x, m, t in zip(seen, unit[1:], times[:-1], strict=False)]
    for i in range(CALLS):
        step = (seen[i + 1] - seen[i]) / (times[i + 1] - times[i])
        row, *_ = np.linalg.lstsq(np.array(speeds[: i + 1]).T, step)
        np.testing.assert_allclose(np.array(speeds[: i + 1]).T @ row, step, atol=1e-12)
        rows.append(row)
    assert abs(rows[-1][-1] - 1) > 0.01
    np.testing.assert_allclose([row.sum() for row in rows], 1, atol=1e-12)


def test_the_best_weights_solve_the_normal_equations(x64):
    """The sample is linear in the last row's weights, where nothing else is learned."""
    x, goal = problem.STARTS, 0.7 * problem.STARTS
    build, parameters, objective = js.learn.s4s(VP, mixture(VP), 3, memory=2)
    answers, model = [], denoise(VP)

    def remember(x, t):
        answers.append(model(x, t))
        return answers[-1]

    plain = jax.jit(build)(parameters)
    end = replay(plain, remember, x)
    design = float(plain.rows.weights[-1, 0, -1]) * np.stack([answers[2].ravel(), answers[1].ravel()], axis=1)
    best = np.linalg.solve(design.T @ design, design.T @ (goal - end).ravel())
    assert np.abs(best).min() > 0.01

    def gradient(row):
        tried = with_parts(parameters, coefficients=jnp.zeros((3, 2)).at[-1].set(row))
        return value_and_grad(tried, objective, js.learn.pairs(x, goal))[1].learned["coefficients"][-1]

    weighed = np.linalg.inv(design.T @ design) * goal.size / 2
    found = -gradient(jnp.zeros(2)) @ weighed  # gradient descent in which no direction is slow: one step
    np.testing.assert_allclose(found, best, rtol=1e-9)
    np.testing.assert_allclose(gradient(best), 0, atol=1e-12)


def valley(parameters, batch, key):
    """Narrow, so that one part alone does not get far."""
    a, b = parameters.learned["gaps"], parameters.learned["network_times"]
    return ((a - 1) ** 2 + 10 * (b - a) ** 2).sum() + 0 * batch.sum()


def alternated(phases=(("gaps",), ("network_times",)), **options):
    start = js.learn.parameters(VP, CALLS, network_times=True)
    validate = jax.tree_util.Partial(lambda parameters: valley(parameters, jnp.zeros(()), None))
    options = {"batches": js.learn.batches(jnp.zeros(4), 4), "steps": 20, "every": 10, "validate": validate} | options
    return js.learn.alternate(valley, start, optimizer=optax.sgd(0.04), phases=phases, **QUIET | options)


def test_alternating_lowers_the_best_and_moves_what_it_names():
    """By descent along one axis after the other."""
    found = alternated(rounds=2)
    a = b = 0.0
    for _ in range(2):
        for _ in range(20):
            a -= 0.04 * (2 * (a - 1) - 20 * (b - a))
        for _ in range(20):
            b -= 0.04 * 20 * (b - a)
    learned = found.parameters.learned
    np.testing.assert_allclose([learned["gaps"][0], learned["network_times"][0]], [a, b], rtol=1e-5)
    assert [row["step"] for row in found.history] == list(range(10, 90, 10))
    bests = [row["best"] for row in found.history]
    assert (np.diff(bests) <= 0).all()
    assert found.value == bests[-1] < 0.8 * bests[0]
    one = alternated(rounds=2, phases=[["gaps"]]).last.learned
    assert one["gaps"].any()
    assert not one["network_times"].any()


@pytest.mark.slow
def test_alternating_goes_on_where_it_stopped(tmp_path):
    whole = alternated(rounds=2)
    alternated(rounds=1, out=tmp_path)
    steps = []
    found = alternated(rounds=2, out=tmp_path, report=lambda done, *_, **__: steps.append(done))
    assert steps == [10, 20] * 2
    jax.tree.map(np.testing.assert_array_equal, found.parameters, whole.parameters)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "calls"), [("unipc-3", 5), ("euler", 4), ("euler", 5), ("heun", 5)], ids=lambda value: str(value)
)
def test_the_study_has_them(solver, calls, tmp_path):
    """Each makes exactly the network calls it may, and compiles once."""
    from experiments import learned_vs_hand, methods

    settings = learned_vs_hand.Settings(train=64, check=32, test=32, steps=20, batch=32)
    kind, make, options = learned_vs_hand.SOLVERS[solver]
    ready = learned_vs_hand.prepare(settings, "mixture", kind, tmp_path)
    steps = 3 if solver == "heun" else calls
    ran = 0
    for name in ("BNS", "S4S-Alt", "NeuralSolver", "Bespoke", "DC-Solver"):
        for schedule in (js.schedules.uniform, js.schedules.quadratic):
            task = methods.Task(
                ready.process, ready.model, make, options, schedule(ready.process, steps), calls,
                ready.train, ready.check, ready.data, 20, 32, 0.03, jax.random.key(0),
            )  # fmt: skip
            compiled = _chunk._cache_size(), _greedy._cache_size()
            try:
                sampler = methods.registry[name](task)
            except methods.NotForThis:
                break
            assert js.network_calls(sampler) == calls
            assert np.isfinite(js.sample(sampler, ready.model, ready.test.x)).all()
            ran += 1
        else:
            assert (_chunk._cache_size(), _greedy._cache_size()) == compiled
    assert ran == {"unipc-3": 8, "euler": 8, "heun": 2}[solver]


DC = js.learn.builder(js.solvers.unipc, VP, order=2)
PLAIN, RATIOS = js.learn.parameters(VP, CALLS), js.learn.parameters(VP, CALLS, ratios=True)
TABLE = js.solvers.ddim(VP, js.schedules.half_log_snr(VP, CALLS))
X = np.zeros((2, 2))
WRONG = {
    "ratios of another length": (
        lambda: js.learn.compensated(TABLE, jnp.arange(4.0, 0, -1), jnp.ones(3)), "4 network calls"
    ),
    "times that rise": (lambda: js.learn.compensated(TABLE, jnp.arange(4.0), jnp.ones(4)), "decreasing times"),
    "no such register": (
        lambda: js.learn.compensated(TABLE, jnp.arange(4.0, 0, -1), jnp.ones(4), corrected=1), "corrected must be"
    ),
    "two calls a step": (
        lambda: js.learn.builder(js.solvers.midpoint, VP)(js.learn.parameters(VP, 4, ratios=True, calls=8)),
        "one network call a step",
    ),
    "no ratios": (lambda: js.learn.dc_solver(DC, PLAIN, mixture(VP), X, X[:, None]), "ratios=True"),
    "a path of another length": (
        lambda: js.learn.dc_solver(DC, RATIOS, mixture(VP), X, jnp.zeros((2, 3, 2))), r"4 steps, got \[3\]"
    ),
    "a sampler with noise": (
        lambda: js.learn.dc_solver(
            js.learn.builder(js.solvers.sde_dpm_solver_pp, VP), RATIOS, mixture(VP), X, jnp.zeros((2, 4, 2))
        ),
        "draw no noise",
    ),
    "a cascade of nothing": (lambda: js.learn.cascade({}), "at least one setting"),
    "a setting with other ratios": (lambda: js.learn.cascade({(5, 2.0): jnp.ones(4)}), "5 ratios for 5 calls"),
    "a method": (lambda: js.learn.bespoke(FLOW, 3, method="heun"), "'heun'.*midpoint"),
    "a schedule of another length": (lambda: js.learn.bespoke(FLOW, 3, schedule=jnp.linspace(1, 0, 6)), "got 6"),
    "odd stages": (lambda: js.learn.scale_time(FLOW, Change(*map(jnp.ones, (4, 3, 4, 3)))), r"\[4, 3, 4, 3\]"),
    "lipschitz": (
        lambda: js.learn.bespoke_loss(js.learn.bespoke(FLOW, 3)[0], mixture(FLOW), NODES, lipschitz=-1.0), "lipschitz"
    ),
    "a loss's coordinate": (
        lambda: js.learn.bespoke_loss(js.learn.bespoke(FLOW, 3)[0], mixture(FLOW), NODES, coordinate="flow"), "'flow'"
    ),
    "a coordinate": (lambda: js.learn.paths(VP, mixture(VP), X, VP_NODES, coordinate="sigma"), "'sigma'.*angle"),
    "a coordinate without an end": (lambda: js.learn.paths(FLOW, mixture(FLOW), X, NODES), "infinite at an end"),
    "a teacher of two calls": (
        lambda: js.learn.paths(VP, mixture(VP), X, VP_NODES, solver=js.solvers.heun), "one network call a step"
    ),
    "memory": (lambda: js.learn.s4s(VP, mixture(VP), 4, memory=1), "memory"),
    "a phase": (
        lambda: js.learn.alternate(None, PLAIN, optimizer=ADAM, steps=1, rounds=1), "'coefficients'.*gaps"
    ),
    "rounds": (lambda: js.learn.alternate(None, PLAIN, optimizer=ADAM, steps=1, rounds=0), "rounds"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call()
