"""Guidance against closed forms on Gaussian classes, hand-written loops and diffusers' numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import DETERMINISTIC, PROCESSES, like
from tests.reference import problem

guidance = js.guidance
VP = PROCESSES["vp_linear"]
LABELS, NULL = {"label": jnp.array([0, 1, 1, 0, 1, 0])}, {"label": 2}
CENTRES = jnp.array([[-1.0, 0.5], [1.0, -0.5], [0.0, 0.0]])  # two classes, and what stands for all data
VARIANCES = jnp.array([0.2, 0.4, 1.5])


@dataclasses.dataclass
class Classes:
    """The exact denoiser of one Gaussian a label; it notes the shape of every call that is traced."""

    process: js.processes.Process
    calls: list = dataclasses.field(default_factory=list)

    def __call__(self, x, t, label):
        self.calls.append(x.shape)
        centre, variance = CENTRES[label], VARIANCES[label][..., None]
        alpha, sigma = (jnp.reshape(level, (-1, 1)) for level in (self.process.alpha(t), self.process.sigma(t)))
        return centre + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * centre)

    def under(self, label):
        return lambda x, t: self(x, t, jnp.full(x.shape[0], label))


# built in one compiled piece: one operation at a time would compile each of them
half_log_snr = jax.jit(js.schedules.half_log_snr, static_argnums=1)


def table(solver, times, process=VP):
    return jax.jit(lambda times: solver(process, times))(times)


def noise(process=VP, count=6):
    return process.prior(jax.random.key(0), like((count, 2), jnp.result_type(float)))


def test_the_guided_flow_of_gaussian_classes_is_known(x64):
    """VE, centred: ``d log x / d sigma`` is a sum of two terms, so the end is a product of two powers of variances."""
    process = js.processes.edm()
    models, x = [_centred(process, v) for v in (1.0, 2.0)], noise(process)
    solve = jax.jit(lambda w: js.adaptive.solve(process, guidance.autoguidance(*models, w), x, rtol=1e-10, atol=1e-12))
    flow = lambda v: np.sqrt((v + process.t_min**2) / (v + process.t_max**2))
    for scale in (0.0, 1.0, 3.0):
        np.testing.assert_allclose(solve(scale), x * flow(1.0) ** scale * flow(2.0) ** (1 - scale), rtol=1e-7)


def _centred(process, variance):
    return js.analytic.gaussian_mixture(process, np.zeros((1, 2)), variance)


@pytest.mark.parametrize("t", [0.4, jnp.linspace(0.1, 0.9, 6)])
def test_one_call_of_twice_the_batch(t):
    network, x = Classes(VP), noise()
    guided = guidance.classifier_free(network, LABELS, NULL, 2.5)(x, t)
    assert network.calls == [(12, 2)]
    c, u = network(x, t, LABELS["label"]), network(x, t, jnp.full(6, 2))
    np.testing.assert_allclose(guided, u + 2.5 * (c - u), rtol=1e-5)
    two = guidance.autoguidance(guidance.conditional(network, LABELS), network.under(2), 2.5)
    np.testing.assert_allclose(guided, two(x, t), rtol=1e-6)
    np.testing.assert_array_equal(guidance.classifier_free(network, LABELS, NULL, 1.0)(x, t), c)


def test_pytrees_of_samples_and_conditions():
    def network(x, t, text):
        return {"a": x["a"] * text["tokens"][:, :1], "b": x["b"] + text["mask"][:, None, None]}

    text = {"tokens": jnp.arange(6.0).reshape(2, 3), "mask": jnp.ones(2)}
    null = {"tokens": jnp.zeros(3), "mask": 0.0}
    x = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 2, 2))}
    out = guidance.classifier_free(network, {"text": text}, {"text": null}, 2.0)(x, 0.5)
    np.testing.assert_allclose(out["a"], 2 * np.array([[0.0], [3.0]]) * np.ones((2, 3)))
    np.testing.assert_allclose(out["b"], 3 * np.ones((2, 2, 2)))


def test_the_scale_may_follow_the_rows_time_or_samples():
    network, x, times = Classes(VP), noise(), half_log_snr(VP, 4)
    sampler, scales = table(js.solvers.ddim, times), jnp.array([1.0, 4.0, 2.0, 0.5])
    free = lambda scale=None: guidance.classifier_free(network, LABELS, NULL, scale)
    by_row = jax.jit(js.sample)(js.with_extra(sampler, scale=scales), free(9.0), x)
    by_time = js.sample(sampler, free(lambda t: jnp.interp(t, times[:-1][::-1], scales[::-1])), x)
    np.testing.assert_allclose(by_row, by_time, rtol=2e-4, atol=1e-5)
    state, expected = x, network.under
    for row in range(4):
        state = js.sample(sampler[row : row + 1], free(scales[row]), state)
    np.testing.assert_allclose(by_row, state, rtol=1e-5, atol=1e-6)
    per_sample = free(jnp.arange(6.0))(x, 0.5)
    np.testing.assert_allclose(per_sample[3], free(3.0)(x, 0.5)[3], rtol=1e-6)
    np.testing.assert_allclose(per_sample[0], expected(2)(x, 0.5)[0], rtol=1e-6)


def test_new_scales_and_conditions_compile_nothing():
    network, x, sampler = Classes(VP), noise(), table(js.solvers.ddim, half_log_snr(VP, 3))
    draw = jax.jit(js.sample)

    def sample(scale, label, phi, high):
        guided = guidance.classifier_free(network, {"label": label}, NULL, scale)
        guided = guidance.projected(guidance.rescale(guidance.interval(guided, VP, high=high), VP, phi), eta=phi)
        return draw(sampler, js.transforms.dynamic_threshold(guided, floor=high), x)

    first = sample(2.0, LABELS["label"], 0.7, 4.0)
    traces = len(network.calls)
    second = sample(3.0, LABELS["label"][::-1], 0.4, 2.0)
    assert len(network.calls) == traces == 1
    assert not np.allclose(first, second)


def test_gradients_reach_the_scale(x64):
    network, x = Classes(VP), noise()
    sampler = table(js.solvers.dpm_solver_pp, half_log_snr(VP, 4))

    def loss(scale, phi):
        guided = guidance.rescale(guidance.classifier_free(network, LABELS, NULL, scale), VP, phi)
        return jnp.sum(js.sample(sampler, guidance.projected(guided, eta=phi, radius=0.5), x) ** 2)

    loss = jax.jit(loss)
    slope = jax.jit(jax.grad(loss, argnums=(0, 1)))(3.0, 0.6)
    np.testing.assert_allclose(slope[0], (loss(3.0 + 1e-5, 0.6) - loss(3.0 - 1e-5, 0.6)) / 2e-5, rtol=1e-5)
    np.testing.assert_allclose(slope[1], (loss(3.0, 0.6 + 1e-5) - loss(3.0, 0.6 - 1e-5)) / 2e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "eta"), [("vp_linear", 0.0), ("edm", 0.8), ("rectified_flow", 0.0)])
def test_cfg_pp_is_guidance_with_its_own_scale_for_each_step(name, eta, x64):
    """Against a loop of algorithm 2 as it is written, for a schedule that ends clean."""
    process, strength, key = PROCESSES[name], 0.6, jax.random.key(1)
    network, x = Classes(process), noise(process)
    times = jnp.append(half_log_snr(process, 9), 0.0)
    sampler = table(lambda process, t: js.solvers.ddim(process, t, eta=eta), times, process)
    sampler = guidance.cfg_pp(sampler, process, times, strength)
    ours = jax.jit(js.sample)(sampler, guidance.classifier_free(network, LABELS, NULL), x, key)
    answer = jax.jit(lambda x, t, label: network(x, t, label))
    draw = jax.jit(lambda step: js.core.normal_like(js.core.step_key(js.SolverState(x, (), key, step), 0), x))
    alpha, sigma = np.asarray(process.alpha(times)), np.asarray(process.sigma(times))
    state = x
    for i, t in enumerate(times[:-1]):
        c, u = np.asarray(answer(state, t, LABELS["label"])), np.asarray(answer(state, t, jnp.full(6, 2)))
        noise_u, noise_c = (state - alpha[i] * u) / sigma[i], (state - alpha[i] * c) / sigma[i]
        clean = (state - sigma[i] * (noise_u + strength * (noise_c - noise_u))) / alpha[i]
        fresh = eta * sigma[i + 1] * np.sqrt(1 - (alpha[i] * sigma[i + 1] / sigma[i] / alpha[i + 1]) ** 2)
        state = alpha[i + 1] * clean + np.sqrt(sigma[i + 1] ** 2 - fresh**2) * noise_u + fresh * np.asarray(draw(i))
    np.testing.assert_allclose(ours, state, rtol=1e-6)


def test_both_branches_of_a_sample_stay_on_its_device():
    """On a mesh, a guided network computes what the single device does, and nothing travels."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    label, x = jnp.arange(8) % 2, noise(count=8)
    network = lambda x, t, label: jnp.tanh(x) * label[:, None] + jnp.cos(x)
    step = jax.jit(lambda x, label: guidance.classifier_free(network, {"label": label}, NULL, 3.0)(x, 0.5))
    place = lambda array: jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    with jax.set_mesh(mesh):
        compiled = step.lower(place(x), place(label)).compile()
        out = compiled(place(x), place(label))
    assert {shard.data.shape for shard in out.addressable_shards} == {(1, 2)}
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-reduce", "all-to-all", "permute"))
    np.testing.assert_allclose(out, step(x, label), rtol=1e-6)


def test_an_interval_skips_the_other_branch_outside(x64):
    network, x = Classes(VP), noise()
    sampler = table(js.solvers.unipc, half_log_snr(VP, 10))
    guided = guidance.classifier_free(network, LABELS, NULL, 4.0)
    limits = {"low": 0.1, "high": 3.0}
    whole = js.sample(sampler, guidance.interval(guided, VP, **limits), x)
    levels = np.exp(-VP.half_log_snr(sampler.rows.time))
    by_row = js.with_extra(sampler, scale=np.where((levels > 0.1) & (levels <= 3.0), 4.0, 1.0))
    np.testing.assert_allclose(whole, js.sample(by_row, guided, x), rtol=1e-12)
    parts = guidance.interval_parts(sampler, guided, VP, **limits)
    inside = int(np.sum((levels > 0.1) & (levels <= 3.0)))
    assert [len(part) for part, _ in parts] == [int(np.sum(levels > 3.0)), inside, int(np.sum(levels <= 0.1))]
    network.calls.clear()
    np.testing.assert_allclose(js.stitch(parts, x), whole, rtol=1e-12)
    assert network.calls == [(6, 2), (12, 2), (6, 2)]
    np.testing.assert_allclose(
        js.stitch([(js.with_extra(part, scale=4.0), model) for part, model in parts], x), whole, rtol=1e-12
    )


PEER = problem.load("guidance")


def peers(guide):
    """``guide`` applied to a guided denoiser that answers diffusers' estimates."""
    positive, negative = (jnp.asarray(PEER[name][0]) for name in ("positive", "negative"))
    return guide(guidance.autoguidance(lambda x, t: positive, lambda x, t: negative, 7.5))


def test_rescale_and_projection_equal_diffusers(x64):
    x = jnp.asarray(PEER["positive"][1])
    rescaled = peers(lambda guided: guidance.rescale(guided, VP, 0.7))(x, 0.5)
    np.testing.assert_allclose(rescaled, PEER["rescaled"], rtol=1e-6)
    projected = peers(lambda guided: guidance.projected(guided, eta=0.3, radius=1.5))(x, 0.5)
    np.testing.assert_allclose(projected, PEER["projected"], rtol=1e-6)
    plain = peers(lambda guided: guidance.projected(guidance.rescale(guided, VP, 0.0), eta=1.0))(x, 0.5)
    np.testing.assert_allclose(plain, peers(lambda guided: guided)(x, 0.5), rtol=1e-9)


def test_rescaled_noise_equals_diffusers(x64):
    """As diffusers uses it: on the noise that a noise network puts out."""
    x, t = jnp.asarray(PEER["positive"][1]), 0.5
    positive, negative = (js.denoiser(lambda x, t, n=n: PEER[n][0], VP) for n in ("positive", "negative"))
    guided = guidance.rescale(guidance.autoguidance(positive, negative, 7.5), VP, 0.7, prediction="epsilon")
    np.testing.assert_allclose(js.predict(guided, VP, "epsilon")(x, t), PEER["rescaled"], rtol=1e-6)


def test_momentum_equals_diffusers(x64):
    """Three calls in a row; the tables' rows make the sample the estimate, so that each can be seen."""
    calls = {name: jnp.asarray(PEER[name]) for name in ("positive", "negative")}
    pick = lambda name: lambda x, t, call: calls[name][call.astype(int)]
    guided = guidance.autoguidance(pick("positive"), pick("negative"), 7.5)
    guided = guidance.momentum(guidance.projected(guided, eta=0.3, radius=1.5), -0.5)
    show = js.Tableau(
        js.tableau.Rows(jnp.full(3, 0.5), jnp.tile(jnp.array([[0.0, 1.0]]), (3, 1, 1)), jnp.zeros((3, 1))),
        ((0, 1, 0),),
    )
    sampler = js.remembering(js.with_extra(show, call=jnp.arange(3.0)))
    _, seen = js.run(sampler, guided, calls["positive"][0], record=lambda state: state.x)
    np.testing.assert_allclose(seen, PEER["momentum"], rtol=1e-6)
    half = js.run(sampler[:2], guided, calls["positive"][0])
    np.testing.assert_allclose(js.run(sampler[2:], guided, half).x, seen[-1], rtol=1e-12)


def test_degenerate_estimates_have_finite_gradients():
    """Constant and equal branches: no direction, no spread, no difference."""
    guided = lambda c: guidance.projected(
        guidance.rescale(guidance.autoguidance(lambda x, t: c, lambda x, t: 0 * c, 3.0), VP), radius=1.0
    )
    for value in (0.0, 1.0):
        answer = lambda c: jnp.sum(guided(c)(jnp.ones((2, 3)), 0.5))
        slope = jax.grad(answer)(jnp.full((2, 3), value))
        assert bool(jnp.isfinite(slope).all())


def test_every_deterministic_solver_stays_bounded_at_a_high_scale():
    """Two narrow classes, scale 7.5, float32, 10 calls (or the 4 steps a method needs); one length, one program."""
    means = [[-1.0, 0.5], [1.0, -0.5]]
    both, one = (js.analytic.gaussian_mixture(VP, m, 0.05) for m in (means, means[:1]))
    guided = guidance.autoguidance(one, both, 7.5)
    x = VP.prior(jax.random.key(0), (32, 2))
    steps = {c.name: max([4, *[n for n in range(5, 11) if c.calls(n) <= 10]]) for c in DETERMINISTIC}
    times = {n: half_log_snr(VP, n) for n in steps.values()}
    # all tables in one compiled piece
    make = jax.jit(lambda times: js.align(*[c(VP, times[steps[c.name]]) for c in DETERMINISTIC]))
    draw = jax.jit(lambda sampler: jnp.abs(js.sample(sampler, guided, x)).max())
    sizes = {name: float(draw(sampler)) for name, sampler in zip(steps, make(times), strict=True)}
    assert all(size < 20 for size in sizes.values()), sizes  # 1.8 for the exact solution


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guidance.classifier_free(Classes(VP), LABELS, {"text": 2}), "null must have the keywords"),
        (lambda: guidance.classifier_free(Classes(VP), LABELS, NULL)(noise(), 0.5), "guidance needs a scale"),
        (
            lambda: guidance.classifier_free(Classes(VP), LABELS, NULL, 2.0)(noise(count=4), 0.5),
            r"the batch size of x, 4, got shape \(6,\)",
        ),
        (
            lambda: guidance.cfg_pp(js.solvers.dpm_solver_pp(VP, jnp.array([1.0, 0.5])), VP, jnp.array([1.0, 0.5])),
            "CFG\\+\\+ needs a table of one register and one row a step, here 1",
        ),
        (lambda: guidance.autoguidance(None, None, float("nan")), "scale must be"),
        (lambda: peers(lambda guided: guidance.interval(guided, VP, low=2.0, high=1.0)), "low must be below high"),
        (lambda: peers(lambda guided: guidance.rescale(guided, VP, 1.5)), "phi must be at least 0 and at most 1"),
        (lambda: peers(lambda guided: guidance.projected(guided, radius=0.0)), "radius must be above 0"),
        (
            lambda: js.with_extra(js.solvers.ddim(VP, jnp.array([1.0, 0.5])), scale=jnp.ones(3)),
            "for each of the 1 rows",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
