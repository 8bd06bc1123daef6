"""Denoiser transforms, models with a memory and stages, against peers' numbers, hand-written loops and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import PROCESSES, like, mixture
from tests.reference import problem

transforms = js.transforms
VP, EDM, FLOW = (PROCESSES[name] for name in ("vp_linear", "edm", "rectified_flow"))
PEER = problem.load("guidance")
# built in one compiled piece: one operation at a time would compile each of them
half_log_snr = jax.jit(js.schedules.half_log_snr, static_argnums=1)
draw = jax.jit(js.sample)


def table(solver, times, process):
    return jax.jit(lambda times: solver(process, times))(times)


@pytest.mark.parametrize("ceiling", [1.0, 1.5, 10.0])
def test_dynamic_thresholding_equals_diffusers(ceiling, x64):
    model = transforms.dynamic_threshold(lambda x, t: x, 0.9, ceiling=ceiling)
    np.testing.assert_allclose(model(jnp.asarray(PEER["positive"][0]), 0.5), PEER[f"threshold-{ceiling}"], rtol=1e-6)


def test_thresholds_by_hand():
    """One sample saturates, the other does not; DPM-Solver's ``max_val`` above 1 divides both."""
    x = jnp.array([[-4.0, 1.0, 2.0], [-0.5, 0.1, 0.3]])
    answer = lambda x, t: x
    np.testing.assert_allclose(transforms.static_threshold(answer, 1.5)(x, 0.5)[0], [-1.5, 1, 1.5])
    dynamic = transforms.dynamic_threshold(answer, 0.5)  # medians of |x|: 2 and 0.3
    np.testing.assert_allclose(dynamic(x, 0.5), [[-1, 0.5, 1], [-0.5, 0.1, 0.3]], rtol=1e-6)
    floor = transforms.dynamic_threshold(answer, 0.5, floor=4.0)
    np.testing.assert_allclose(floor(x, 0.5), x / 4, rtol=1e-6)


@pytest.mark.parametrize("process", [VP, FLOW, js.processes.shifted(VP, 0.7)])
def test_epsilon_scaling_divides_the_noise(process, x64):
    x, t = jnp.array([[0.3, -0.8], [1.2, 0.1]]), jnp.array([0.3, 0.7])
    network = lambda x, t: jnp.sin(3 * x) + 0.1
    noisy = js.denoiser(network, process)
    rescaled = js.denoiser(lambda x, t: network(x, t) / (1 + t[:, None] / 10), process)
    by_time = transforms.epsilon_scaling(noisy, process, lambda t: 1 + t / 10)
    np.testing.assert_allclose(by_time(x, t), rescaled(x, t), rtol=1e-9)
    by_row = transforms.epsilon_scaling(noisy, process)(x, t, epsilon_factor=1 + t / 10)
    np.testing.assert_allclose(by_row, rescaled(x, t), rtol=1e-9)


def test_epsilon_scaling_leaves_pure_noise_alone():
    process = js.processes.rectified_flow()
    model = lambda scale: transforms.epsilon_scaling(lambda x, t: 0.5 * x, process, scale)
    value, slope = jax.value_and_grad(lambda s: jnp.sum(model(s)(jnp.ones((1, 2)), jnp.float32(1.0))))(1.1)
    assert (value, slope) == (1.0, 0.0)


def test_time_shift_finds_the_time_a_sample_looks_like(x64):
    """Samples noised at one time and announced as another, with data of variance 0.4."""
    rng = np.random.default_rng(0)
    true, told = jnp.array([0.30, 0.36, 0.41, 0.45]), jnp.asarray(0.4)
    clean = np.sqrt(0.4) * rng.normal(size=(4, 200_000)) + rng.normal(size=(4, 1))
    spread = lambda t: np.sqrt(0.4 * VP.alpha(t) ** 2 + VP.sigma(t) ** 2)
    exact = (clean - clean.mean(axis=1, keepdims=True)) / clean.std(axis=1, keepdims=True) * spread(true)[:, None]
    seen = []
    record = lambda x, t: (seen.append(t), x)[1]
    shifted = lambda **options: transforms.time_shift(record, VP, 0.2, variance=0.4, candidates=41, **options)
    shifted()(jnp.asarray(exact), told)
    np.testing.assert_allclose(seen[-1], true, atol=0.0026)  # half the distance of two candidates
    shifted(cutoff=0.4)(jnp.asarray(exact), told)
    np.testing.assert_array_equal(seen[-1], jnp.full(4, 0.4))


def test_time_shift_repairs_a_start_that_is_too_loud(x64):
    """Noised at 0.25 and announced as 0.2: with the shifted times the estimates are nearly those at 0.25."""
    model = js.analytic.gaussian_mixture(VP, np.zeros((1, 4096)), 0.3)
    loud = VP.forward(jax.random.key(1), model.draw(jax.random.key(0), 16), jnp.asarray(0.25))
    error = jax.jit(lambda m: jnp.mean((m(loud, jnp.asarray(0.2)) - model(loud, jnp.asarray(0.25))) ** 2))
    assert error(transforms.time_shift(model, VP, 0.2, variance=0.3)) < 0.1 * error(model)


def test_shifted_times_stay_with_their_samples_on_a_mesh():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    x = VP.prior(jax.random.key(0), (8, 16), 0.3)
    shift = jax.jit(lambda x: transforms.time_shift(mixture, VP, 0.2).times(x, jnp.asarray(0.4)))
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
        out = shift(placed)
    assert {shard.data.shape for shard in out.addressable_shards} == {(1,)}
    np.testing.assert_allclose(out, shift(x), rtol=1e-6)


def flow_turbo(velocity, refine, x, times, corrected):
    """FlowTurbo as it is written: a Heun step and pseudo-corrector steps, then Heun steps of the refiner."""
    v = velocity(x, times[0])
    for i, (t, to) in enumerate(itertools.pairwise(times)):
        first = v if i < corrected else v + refine(x, t, v)
        ahead = x + (to - t) * first
        v = velocity(ahead, to) if i < corrected else first + refine(ahead, to, first)
        x = x + (to - t) * (first + v) / 2
    return x


def test_flow_turbo_is_two_models_on_one_sampler(x64):
    model, x = mixture(FLOW), FLOW.prior(jax.random.key(0), like((5, 2)))
    times = jnp.linspace(0.999, 0.05, 7)
    velocity = jax.jit(js.predict(model, FLOW, "velocity"))
    refine = jax.jit(lambda x, t, v: 0.3 * jnp.tanh(velocity(x, t) - v))
    first = lambda p, t: js.solvers.pseudo_corrector(p, t, lower_order_final=False)
    second = lambda p, t: js.solvers.heun(p, t, lower_order_final=False)
    early, late = js.align(table(first, times[:4], FLOW), table(second, times[3:], FLOW))
    assert (len(early), len(late)) == (4, 6)
    parts = lambda refiner: [
        (js.remembering(early), transforms.remember_velocity(model, FLOW)),
        (js.remembering(late), transforms.velocity_refiner(refiner, FLOW)),
    ]
    ours = js.stitch(parts(refine), x)
    np.testing.assert_allclose(ours, flow_turbo(velocity, refine, x, times, 3), rtol=1e-6)
    perfect = js.stitch(parts(lambda x, t, v: velocity(x, t) - v), x)
    np.testing.assert_allclose(perfect, draw(late, model, draw(early, model, x)), rtol=1e-9)


def test_structure_comes_from_the_reference():
    """With ``low`` the mean of neighbours: their means are the reference's, their differences the estimate's."""
    low = lambda x: jnp.repeat((x[:, ::2] + x[:, 1::2]) / 2, 2, axis=1)
    x, reference = jnp.arange(8.0).reshape(2, 4) ** 2, jnp.ones((2, 4))
    model = transforms.structural_guidance(lambda x, t: x, low, reference, until=0.3)
    guided = model(x, jnp.array([0.5, 0.3]))
    np.testing.assert_allclose(low(guided)[0], 1.0)
    np.testing.assert_allclose(guided[0, 1::2] - guided[0, ::2], x[0, 1::2] - x[0, ::2])
    np.testing.assert_array_equal(guided[1], x[1])


@pytest.mark.parametrize("solver", ["unipc", "sde_dpm_solver_pp"])
def test_stitched_parts_of_one_model_are_the_plain_run(solver):
    model, x, key = mixture(VP), VP.prior(jax.random.key(0), (5, 2)), jax.random.key(1)
    sampler = table(js.solvers.registry[solver], half_log_snr(VP, 6), VP)
    parts = [(sampler[:0], model), (sampler[:3], model), (sampler[3:], model)]
    np.testing.assert_allclose(js.stitch(parts, x, key), draw(sampler, model, x, key), rtol=1e-5, atol=1e-6)


def test_stitching_switches_the_network():
    """T-Stitch with a solver whose state is the sample alone: the second part starts at the first's end."""
    small, large, x = mixture(VP, spread=0.8), mixture(VP), VP.prior(jax.random.key(0), (5, 2))
    sampler = table(js.solvers.ddim, half_log_snr(VP, 6), VP)
    stitched = js.stitch([(sampler[:2], small), (sampler[2:], large)], x)
    expected = draw(sampler[2:], large, draw(sampler[:2], small, x))
    np.testing.assert_allclose(stitched, expected, rtol=1e-6)
    assert not np.allclose(stitched, draw(sampler, large, x), rtol=1e-3)


def test_parts_that_remember_other_things_are_refused():
    model, x, times = mixture(VP), VP.prior(jax.random.key(0), (5, 2)), half_log_snr(VP, 4)
    one, two = (table(s, times, VP) for s in (js.solvers.ddim, js.solvers.dpm_solver_pp))
    with pytest.raises(ValueError, match="part 1 remembers other registers"):
        js.stitch([(one[:2], model), (two[2:], model)], x)
    with pytest.raises(ValueError, match="at least one part"):
        js.stitch([], x)
    with pytest.raises(ValueError, match=r"must return \(estimate, memory\)"):
        js.sample(js.remembering(one), lambda x, t, memory: x, x)


def test_matched_times():
    """Averages of 2 x 2 values have half the noise; for straight paths it is Stable Diffusion 3's shift."""
    t = jnp.array([0.2, 0.5, 0.9])
    for process in PROCESSES.values():
        fine = js.matched_time(process, t, 4)
        ratio = lambda t: process.sigma(t) / process.alpha(t)  # noqa: B023
        np.testing.assert_allclose(ratio(fine), 2 * ratio(t), rtol=1e-4)
        np.testing.assert_allclose(js.matched_time(process, fine, 0.25), t, rtol=1e-4)
    np.testing.assert_allclose(js.matched_time(FLOW, t, 9), 3 * t / (1 + 2 * t), rtol=1e-5)


def test_a_cascade_keeps_the_law_of_coarse_data(x64):
    """Data constant over pairs: high, low and high again, each to the clean end, give back their law (4000 draws)."""
    coarse = np.array([[1.0, 0.6], [0.6, 0.8]])
    fine = np.kron(coarse, np.ones((2, 2)))
    small, large = (
        js.analytic.gaussian_mixture(FLOW, np.full((1, len(c)), 0.5), jnp.asarray(c)[None]) for c in (coarse, fine)
    )
    up, down = lambda x: jnp.repeat(x, 2, axis=1), lambda x: (x[:, ::2] + x[:, 1::2]) / 2
    times = js.schedules.uniform(FLOW, 24)
    clean = lambda start: table(js.solvers.dpm_solver_pp, jnp.append(times[start:], 0.0), FLOW)
    stages = [(clean(0), large), (clean(6), small), (clean(16), large)]
    x = FLOW.prior(jax.random.key(0), like((4000, 4)))
    out = jax.jit(lambda x: js.cascade(FLOW, stages, [down, up], x, jax.random.key(1)))(x)
    np.testing.assert_allclose(out[:, ::2], out[:, 1::2], atol=1e-6)
    np.testing.assert_allclose(out.mean(axis=0), 0.5, atol=0.06)
    np.testing.assert_allclose(np.cov(down(out), rowvar=False), coarse, atol=0.07)
    with pytest.raises(ValueError, match="3 stages need 2 functions between them, got 1"):
        js.cascade(FLOW, stages, [down], x, jax.random.key(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: transforms.static_threshold(m, 0.0), "limit must be above 0"),
        (lambda m: transforms.dynamic_threshold(m, 1.1), "quantile must be at least 0 and at most 1"),
        (lambda m: transforms.dynamic_threshold(m, floor=2.0, ceiling=1.0), "ceiling must be at least 2"),
        (lambda m: transforms.epsilon_scaling(m, VP, 0.0), "factor must be above 0"),
        (lambda m: transforms.time_shift(m, VP, -1.0), "window must be at least 0"),
        (lambda m: transforms.time_shift(m, VP, 0.1, candidates=1), "candidates must be at least 2"),
        (lambda m: js.matched_time(VP, 0.5, 0.0), "ratio must be above 0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(mixture(VP))
