import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.tableau import concatenate, interleave, table
from tests.cases import CASES, PROCESSES, like, mixture, name_of

PROCESS = js.processes.vp_linear()
TIMES = js.schedules.half_log_snr(PROCESS, 6)
MIXTURE = mixture(PROCESS)
NOISE = PROCESS.prior(jax.random.key(1), (5, 2))
KEY = jax.random.key(2)


STRAIGHT = ("edm", "rectified_flow")  # where alpha and sigma are linear in time


@pytest.mark.parametrize(
    ("process", "case"),
    [pytest.param(p, c, id=f"{p}-{c.name}") for c in CASES for p in PROCESSES if c.affine or p in STRAIGHT],
)
def test_consistency_at_every_row(case, process, x64):
    """If the denoiser always answers c, the sample stays on ``alpha c + sigma eps``; noise only changes eps.

    Runge-Kutta methods in time follow the curve ``alpha(t), sigma(t)`` exactly only where both are linear.
    """
    process = PROCESSES[process]
    times = js.schedules.half_log_snr(process, 9)
    sampler = case(process, times)
    quiet = dataclasses.replace(sampler, rows=dataclasses.replace(sampler.rows, noise=0 * sampler.rows.noise))
    c, eps = jnp.array([0.7, -1.3]), jnp.array([1.1, 0.4])
    x = process.alpha(times[0]) * c + process.sigma(times[0]) * eps
    _, visited = js.run(quiet, lambda x, t: c, x, KEY, record=lambda state: state.x)
    t = jnp.append(sampler.rows.time[1:], times[-1])[:, None]
    implied = (visited - process.alpha(t) * c) / process.sigma(t)
    if case.stochastic:  # eps shrinks, by the same factor everywhere
        np.testing.assert_allclose(implied[:, 0] * eps[1], implied[:, 1] * eps[0], atol=1e-9)
        size = np.abs(implied[:, 0])
        assert (np.diff(size) < 1e-12).all()  # stages inside a step draw nothing
        assert size[-1] < 0.9 * size[0]
    else:
        np.testing.assert_allclose(implied, jnp.broadcast_to(eps, implied.shape), rtol=case.rounding)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_calls_are_rows_and_are_really_made(case):
    """Counted by a network that adds one to a counter kept in its own extra leaf of the sample."""
    sampler = case(PROCESS, TIMES)
    seen = []

    def network(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return x

    js.sample(sampler, network, NOISE, KEY)
    jax.effects_barrier()
    assert len(seen) == len(sampler) == js.network_calls(sampler) == case.calls(6)
    np.testing.assert_allclose(sorted(seen), sorted(np.asarray(sampler.rows.time).tolist()), rtol=1e-6)


@jax.jit
def drawn(sampler):
    return js.sample(sampler, MIXTURE, NOISE, KEY)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_padding_changes_no_number(case):
    sampler, registers = case(PROCESS, TIMES), 9  # more than any has, so that all share a program
    padded = js.pad(sampler, registers)
    assert sampler.registers < padded.registers == registers
    np.testing.assert_allclose(drawn(padded), drawn(sampler), rtol=1e-4, atol=2e-5)


def test_one_compilation_for_every_solver_and_schedule_of_a_shape():
    """Counted by a side effect of tracing."""
    traces = []

    @jax.jit
    def draw(sampler, noise, key):
        traces.append(1)
        return js.sample(sampler, MIXTURE, noise, key)

    for schedule in js.schedules.registry.values():
        times = schedule(PROCESS, 6)
        draw(js.solvers.dpm_solver_pp(PROCESS, times), NOISE, KEY)
    assert len(traces) == 1
    single = [case(PROCESS, TIMES) for case in CASES if case.calls(6) == 6]
    single = [sampler for sampler in single if sampler.rows.constant is None]  # those add a sum to the program
    for sampler in single:
        draw(js.pad(sampler, max(other.registers for other in single)), NOISE, KEY)
    assert len(single) > 4
    assert len(traces) == 2
    for sampler in js.align(js.solvers.ddim(PROCESS, TIMES), js.solvers.dpm_solver_pp(PROCESS, TIMES)):
        draw(sampler, NOISE, KEY)
    assert len(traces) == 3


def test_align_keeps_only_what_some_table_uses():
    """What both copy is still copied, what neither uses is still absent, and the rest has weights."""
    ddim, heun = js.align(js.solvers.ddim(PROCESS, TIMES), js.solvers.heun(PROCESS, TIMES))
    assert js.solvers.heun(PROCESS, TIMES).pattern == ((2, 2, 2, 0), (1, 0, 0, 0))
    assert ddim.pattern == heun.pattern == ((2, 2, 2, 0), (2, 0, 0, 0))
    assert not ddim.stochastic
    np.testing.assert_allclose(
        js.sample(heun, MIXTURE, NOISE), js.sample(js.solvers.heun(PROCESS, TIMES), MIXTURE, NOISE), rtol=1e-5
    )


def test_unrolling_changes_no_number():
    sampler = js.solvers.dpm_solver_pp(PROCESS, TIMES)
    np.testing.assert_allclose(
        js.sample(sampler, MIXTURE, NOISE, unroll=3), js.sample(sampler, MIXTURE, NOISE), rtol=1e-5
    )


def test_trailing_axes_broadcast_against_the_sample():
    """Two channels with different weights equal two samplers."""
    t = jnp.array([1.0, 0.5])
    keep = jnp.array([[0.5, 0.7], [0.3, 0.9]])
    both = table(PROCESS, t, [[keep, 1 - keep]])
    x = jnp.arange(8.0).reshape(4, 2)
    out = js.sample(both, lambda x, t: x**2, x)
    for channel in range(2):
        one = table(PROCESS, t, [[keep[:, channel], 1 - keep[:, channel]]])
        np.testing.assert_allclose(
            out[:, channel], js.sample(one, lambda x, t: x**2, x[:, channel]), rtol=1e-6, err_msg=str(channel)
        )
    np.testing.assert_allclose(js.sample(js.pad(both, 3), lambda x, t: x**2, x, KEY), out, rtol=1e-6)


def test_extra_inputs_ride_in_the_rows():
    t = jnp.array([1.0, 0.5, 0.25])
    sampler = table(PROCESS, t, [[0, 1]], extra={"scale": jnp.array([1.0, 2.0, 3.0])})
    assert js.sample(sampler, lambda x, t, scale: x + scale, jnp.zeros(())) == 6.0
    assert js.sample(sampler[:2], lambda x, t, scale: x + scale, jnp.zeros(())) == 3.0


def test_interleave_and_concatenate_order_their_rows():
    one, two = (table(PROCESS, jnp.array([i, i + 0.5]), [[1.0 * i, 0]]) for i in (1.0, 2.0))
    assert interleave(one, two).rows.time.tolist() == [1.0, 2.0, 1.5, 2.5]
    assert concatenate(one, two).rows.weights[:, 0, 0].tolist() == [1.0, 1.0, 2.0, 2.0]


def test_tables_equal_by_value_share_a_compilation():
    a, b = (js.solvers.dpm_solver_pp(PROCESS, TIMES) for _ in range(2))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert hash(jax.tree.structure(a)) == hash(jax.tree.structure(b))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: table(PROCESS, TIMES, [[1, 0, 0]]), "1 registers need rows of 2 weights"),
        (lambda: js.pad(js.solvers.heun(PROCESS, TIMES), 1), "registers must be at least 2, got 1"),
        (
            lambda: js.pad(js.solvers.ddpm(PROCESS, TIMES), 2, stochastic=False),
            "cannot be padded with stochastic=False",
        ),
    ],
)
def test_bad_tables_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_pytree_sample_equals_its_leaves_sampled_apart(x64):
    process = js.processes.vp_linear()
    sampler = js.solvers.dpm_solver_pp(process, js.schedules.half_log_snr(process, 6))
    model = lambda x, t: jax.tree.map(jnp.tanh, x)
    shapes = {"image": like((3, 4, 4, 1)), "pose": (like((3, 2)), like((3,)))}
    x = process.prior(jax.random.key(3), shapes)
    together = js.sample(sampler, model, x)
    apart = jax.tree.map(lambda leaf: js.sample(sampler, model, leaf), x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), together, apart)
    stochastic = js.solvers.ddpm(process, js.schedules.half_log_snr(process, 6))
    noisy = js.sample(stochastic, model, x, KEY)
    assert jax.tree.map(jnp.shape, noisy) == jax.tree.map(jnp.shape, x)
    assert abs(np.corrcoef(noisy["pose"][1], noisy["image"][:, 0, 0, 0])[0, 1]) < 0.9999  # each leaf its own noise
