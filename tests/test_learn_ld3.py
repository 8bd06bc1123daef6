"""LD3: the schedule it must find, noises that are moved, and its optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsamplers as js

PROCESS = js.processes.vp_linear()
MODEL = js.analytic.gaussian_mixture(PROCESS, [[1.0, 0.5], [-1.0, 0.0]], 0.05)
BUILD = js.learn.builder(js.solvers.dpm_solver_pp, PROCESS)
STEPS = 4
ADAM = optax.adam(3e-2)
QUIET = {"report": lambda *_, **__: None}


@pytest.fixture(scope="module")
def pairs() -> js.learn.Pairs:
    x = PROCESS.prior(jax.random.key(0), (32, 2))
    return js.learn.teach(js.solvers.dpm_solver_pp(PROCESS, js.schedules.half_log_snr(PROCESS, 40)), MODEL, x)


def ld3(pairs, **options):
    return js.learn.ld3(BUILD, MODEL, pairs, steps=STEPS, **options)


@pytest.mark.parametrize("process", [js.processes.vp_linear, js.processes.rectified_flow], ids=lambda f: f.__name__)
@pytest.mark.parametrize("coordinate", ["time", "angle"])
def test_ddim_of_one_gaussian_has_equal_angles(process, coordinate, x64):
    """A step is short by the cosine of its angle arctan(sigma / (c alpha)), so that equal angles lose least."""
    process, spread, steps = process(), 0.7, 5
    model = js.analytic.gaussian_mixture(process, jnp.zeros((1, 1)), spread**2)
    angle = lambda t: jnp.arctan2(process.sigma(t), spread * process.alpha(t))
    ends = jnp.array([process.t_max, max(process.t_min, 1e-3)])
    x = process.prior(jax.random.key(0), (4, 1)) + 1.0
    length = lambda t: jnp.hypot(process.sigma(t), spread * process.alpha(t))
    goals = js.learn.pairs(x, x * length(ends[1]) / length(ends[0]))
    start = jnp.linspace(*ends, steps + 1)
    build = js.learn.builder(js.solvers.ddim, process)
    found = js.learn.fit(
        js.learn.ld3(build, model, goals, steps=steps, radius=0.0),
        js.learn.parameters(process, steps, schedule=start, coordinate=coordinate),
        optimizer=optax.adam(optax.exponential_decay(0.1, 1, 0.99)),
        batches=js.learn.batches(goals, 4),
        steps=2000,
        every=2000,
        **QUIET,
    )
    exact = np.linspace(*np.asarray(angle(ends)), steps + 1)
    assert np.abs(angle(start) - exact).max() > 0.05
    np.testing.assert_allclose(angle(found.last.times(process)), exact, atol=1e-6)


def test_without_a_radius_it_is_the_hard_teacher(pairs):
    parameters = js.learn.parameters(PROCESS, STEPS, network_times=True)
    objective, hard = ld3(pairs, radius=0.0), js.learn.endpoint(BUILD, MODEL)
    loss, gradient, carried = jax.jit(objective.value_and_grad)(parameters, pairs, None, objective.carried())
    wanted, slope = jax.jit(jax.value_and_grad(hard))(parameters, pairs, None)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    for name in gradient.learned:
        np.testing.assert_allclose(gradient.learned[name], slope.learned[name], rtol=1e-4, atol=1e-7)
    assert not np.asarray(carried).any()


def test_noises_move_as_they_should(pairs, x64):
    """Against the same step by hand; those not in the batch stay."""
    objective = ld3(pairs, radius=0.05, rate=0.3)
    parameters = js.learn.parameters(PROCESS, STEPS)
    tableau = BUILD(parameters)
    some = jnp.array([3, 4, 11, 20, 21, 30])
    batch = jax.tree.map(lambda leaf: leaf[some], pairs)
    carried = 0.03 * jax.random.normal(jax.random.key(1), pairs.x.shape)
    carried = carried.at[4].set(0.0)
    loss, _, after = jax.jit(objective.value_and_grad)(parameters, batch, None, carried)

    @jax.jit
    def error(x):
        return ((js.sample(tableau, MODEL, x) - batch.goal) ** 2).mean(-1)

    old = np.asarray(carried[some])
    slope = np.asarray(jax.grad(lambda offset: error(batch.x + offset).sum())(carried[some]))
    new = old - 0.3 * slope
    norm = np.linalg.norm(new, axis=1, keepdims=True)
    assert (norm > 0.05).any()
    assert (norm < 0.05).any()
    new = np.where(norm > 0.05, new * 0.05 / norm, new)
    closer = np.asarray(error(batch.x + new) < error(batch.x + old))
    assert closer.any()
    np.testing.assert_allclose(after[some], np.where(closer[:, None], new, old), atol=1e-12)
    np.testing.assert_allclose(loss, error(batch.x + old).mean(), rtol=1e-12)
    others = np.setdiff1d(np.arange(len(pairs.x)), some)
    np.testing.assert_array_equal(after[others], carried[others])


def test_no_noise_moves_to_where_its_sample_is_worse(pairs):
    """A step that is far too long is refused for some samples, and none gets worse."""
    objective, parameters = ld3(pairs, radius=1.0, rate=50.0), js.learn.parameters(PROCESS, STEPS)
    _, _, moved = jax.jit(objective.value_and_grad)(parameters, pairs, None, objective.carried())
    each = jax.jit(objective.each)
    before, after = (each(parameters, offset, pairs, None) for offset in (objective.carried(), moved))
    still = np.asarray((moved == 0).all(-1))
    assert 0 < still.sum() < len(still)
    assert (after[~still] < before[~still]).all()


def test_a_soft_teacher_through_fit(pairs):
    """The offsets stay in the ball from batch to batch, and the loss becomes smaller than the hard teacher's."""
    run = lambda radius: js.learn.fit(
        ld3(pairs, radius=radius),
        js.learn.parameters(PROCESS, STEPS),
        optimizer=ADAM,
        batches=js.learn.batches(pairs, 8),
        steps=80,
        every=20,
        **QUIET,
    )
    hard, soft = run(0.0), run(0.1)
    assert soft.value < 0.9 * hard.value


def test_the_optimiser_is_the_authors():
    """Three steps of RMSprop with momentum and of gradient descent by hand, from the step where both are learned."""
    optimizer = js.learn.ld3_optimizer(STEPS, both_from=1)
    learned = {"gaps": jnp.zeros(3), "network_times": jnp.zeros(3), "ends": jnp.zeros(2)}
    slopes = [jnp.array([0.3, -0.1, 0.2]), jnp.array([3.0, 0.0, -4.0]), jnp.array([0.1, 0.1, 0.1])]
    state = optimizer.init(learned)
    mean, speed, gaps, times = (np.zeros(3) for _ in range(4))
    for count, slope in enumerate(slopes):
        change, state = optimizer.update({**dict.fromkeys(learned, slope), "ends": jnp.ones(2)}, state, learned)
        learned = optax.apply_updates(learned, change)
        g = np.asarray(slope) / max(1.0, float(jnp.linalg.norm(slope)))
        mean = 0.99 * mean + 0.01 * g**2
        speed = 0.9 * speed + g / (np.sqrt(mean) + 1e-8)
        gaps -= 0.005 * speed
        times -= (0.1 / STEPS if count >= 1 else 0.0) * g
        np.testing.assert_allclose(learned["gaps"], gaps, rtol=1e-5)
        np.testing.assert_allclose(learned["network_times"], times, rtol=1e-5)
    assert not learned["ends"].any()
    assert js.learn.ld3_optimizer(STEPS, both_from=1) is optimizer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pairs: ld3(pairs, radius=-1.0), "radius must be at least 0"),
        (lambda pairs: ld3(pairs, rate=-1.0), "rate must be at least 0"),
        (lambda pairs: js.learn.ld3(BUILD, MODEL, pairs, steps=0), "steps must be at least 1"),
        (lambda pairs: js.learn.ld3_optimizer(5, -1), "both_from must be at least 0"),
    ],
)
def test_bad_input(call, message, pairs):
    with pytest.raises(ValueError, match=message):
        call(pairs)
