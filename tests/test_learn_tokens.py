"""LSD and jump-your-steps: against expectations over everything there is, and against finite differences."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsamplers as js
from experiments import token_laws as exact
from jaxsamplers.discrete.chain import chain_posterior
from jaxsamplers.discrete.denoisers import from_bayes
from jaxsamplers.discrete.randomness import ORDER, bits
from jaxsamplers.discrete.tempered import scale
from jaxsamplers.learn.jump_your_steps import golden_section
from jaxsamplers.learn.lsd import _places, _relaxed

D = js.discrete
LENGTH, ROWS = 3, 3
KEY = jax.random.key(0)
X, CLEAN = exact.sequences(4, LENGTH), exact.sequences(3, LENGTH)  # with and without masks
PROCESS, NOISE = D.masked(3), D.uniform(3)
ENDLESS = D.uniform(3, D.survival.cosine())  # nothing survives the first time, at which the noise's rate is infinite

LAW = np.array([0.5, 0.2, 0.3]) @ np.array(exact.chain().transition[:, 0])  # of the first token
LAW = np.einsum("a,ab,bc->abc", LAW, *[np.array(exact.chain().transition[:, 0])] * 2).ravel()  # of all three


def summed_posterior(process, x, t):
    """The perfect network, by summing over all clean sequences."""
    t = jnp.full_like(t, 0.5) if process.noise.absorbing else t  # masks know no time, and at 1 nothing is visible
    seen = jnp.log(process.likelihood(x, t))[..., :3]
    weight = jnp.exp(sum(seen[:, i, CLEAN[:, i]] for i in range(LENGTH))) * jnp.asarray(LAW, seen.dtype)
    each = jax.nn.one_hot(CLEAN, 3, dtype=weight.dtype)
    return jnp.log(jnp.einsum("bn,niv->biv", weight / weight.sum(-1, keepdims=True), each))


MODEL, NOISE_MODEL = (jax.tree_util.Partial(summed_posterior, process) for process in (PROCESS, NOISE))


def data_law(states):
    """Of all sequences, with masks or without."""
    law = np.zeros(states**LENGTH)
    law[np.asarray(CLEAN) @ states ** np.arange(LENGTH - 1, -1, -1)] = LAW
    return jnp.asarray(law)


UNIFORM = js.schedules.uniform(PROCESS, ROWS)
STUDENT = D.ancestral(PROCESS, UNIFORM)
FINE = D.ancestral(PROCESS, js.schedules.uniform(PROCESS, 2 * ROWS))
COUNT = 1024


@functools.cache
def teacher():
    return js.learn.lsd_teacher(FINE, MODEL, PROCESS.prior(KEY, (COUNT, LENGTH)), jax.random.key(1))


def mask_law():
    return jnp.zeros(len(X)).at[-1].set(1.0)


def row_law(sampler, k):
    """What a row makes of every state, ``[N, N]``, jitted with the others."""
    row = jax.tree.map(lambda leaf: leaf[k], sampler.rows)
    return exact.joint(sampler.law(row, X, MODEL(X, row.time)))


def test_the_traces_have_the_sampler_s_law():
    """Clocks and draws of their own, shared by paths of any number of rows, are the sampler's own moves."""
    process, model = NOISE, NOISE_MODEL
    sampler = D.tau_leaping(process, jnp.array([0.9, 0.5, 0.3, 0.1]), denoise=False)
    x = exact.sequences(process.states, LENGTH)
    first = exact.noised(process, data_law(process.states), 0.9, LENGTH)
    begin = x[jax.random.choice(jax.random.key(5), len(x), (8192,), p=first)]
    path = js.learn.lsd_teacher(sampler, model, begin, KEY).traces.path
    law = jax.jit(lambda s: exact.output_law(s[:-1], model, first, LENGTH))(sampler)
    codes = (np.asarray(path[:, -1]) * process.states ** np.arange(LENGTH - 1, -1, -1)).sum(-1)
    assert exact.chi_square(np.bincount(codes, minlength=len(x)), law) < 4
    np.testing.assert_array_equal(path[:, 0], begin)

    @jax.jit
    def chance():
        """Of a move in the first row."""
        stays = sampler.law(jax.tree.map(lambda leaf: leaf[0], sampler.rows), x, model(x, sampler.rows.time[0]))
        return 1 - first @ jnp.take_along_axis(stays, x[..., None], -1)[..., 0].mean(-1)

    assert float((path[:, 1] != path[:, 0]).mean()) == pytest.approx(float(chance()), abs=0.012)  # four deviations


def test_a_student_that_is_its_teacher_learns_nothing():
    """With common random numbers: with independent ones it would collapse."""
    times, (path, key) = js.learn.lsd_teacher(STUDENT, MODEL, PROCESS.prior(KEY, (COUNT, LENGTH)), KEY)
    own = js.learn.Teacher(jnp.repeat(times, 2), js.learn.Traces(jnp.repeat(path, 2, axis=1), key))
    for on in ("score", "log_score"):
        np.testing.assert_allclose(js.learn.lsd(STUDENT, MODEL, own, on=on), 1.0, atol=2e-5)
    assert js.learn.lsd(STUDENT, MODEL, own, noise="independent")[-2] < 0.7
    learn = functools.partial(js.learn.lsd_steps, D.ancestral, PROCESS, UNIFORM, MODEL)
    np.testing.assert_allclose(learn(own), UNIFORM, atol=1e-5)
    times = learn(teacher())
    assert (jnp.diff(times) < 0).all()
    np.testing.assert_allclose(times[jnp.array([0, -1])], UNIFORM[jnp.array([0, -1])])
    assert float(times[2]) > float(UNIFORM[2]) + 5e-4  # it lags behind: the student is told that it errs


def test_independent_coefficients_are_those_of_exact_expectations():
    """``E <s*, s> / E <s, s>`` by summing over all pairs of states, student's moves and all."""

    @jax.jit
    def summed():
        ahead, behind, found = mask_law(), mask_law(), []
        for k in range(ROWS - 1):
            t = UNIFORM[k]
            rates = from_bayes(PROCESS, "rate", MODEL(X, t), X, t).reshape(len(X), -1)
            phi = (ahead @ rates) @ (behind @ rates) / (behind @ (rates**2).sum(-1))
            found.append(phi)
            behind = behind @ row_law(dataclasses.replace(STUDENT, rows=scale(STUDENT.rows, phi)), k)
            for j in (2 * k, 2 * k + 1):
                ahead = ahead @ row_law(FINE, j)
        return jnp.stack(found)

    sampled = js.learn.lsd(STUDENT, MODEL, teacher(), noise="independent")
    assert float(sampled[-1]) == 1
    np.testing.assert_allclose(sampled[:-1], summed(), rtol=0.05)
    assert float(sampled[1]) < 0.75 < 0.85 < float(js.learn.lsd(STUDENT, MODEL, teacher())[1])  # 2/3 of it masks


@pytest.mark.parametrize("on", ["score", pytest.param("log_score", marks=pytest.mark.slow)])
def test_gradients_find_the_closed_form(on):
    some = js.learn.Teacher(teacher().times, jax.tree.map(lambda leaf: leaf[:256], teacher().traces))
    objective = js.learn.lsd_objective(STUDENT, MODEL, some.times, on=on, noise="independent")
    found = js.learn.fit(
        objective,
        jnp.zeros(ROWS),
        optimizer=optax.adam(optax.exponential_decay(0.2, 20, 0.5)),
        batches=js.learn.batches(some.traces, 256),
        steps=120,
        every=120,
        report=lambda *_, **__: None,
    )
    closed = js.learn.lsd(STUDENT, MODEL, some, on=on, noise="independent")
    np.testing.assert_allclose(jnp.exp(found.parameters), closed, rtol=0.02)
    assert float(jnp.abs(closed - 1).max()) > 0.02


def test_the_relaxed_start_has_so_many_tokens():
    """Others than there were, and no masks."""

    @jax.jit
    def relaxed():
        places = _places(js.sample_keys(KEY, jnp.arange(512)), 8)
        return _relaxed(PROCESS, jnp.full((512, 8), 3), places, 0.2), _relaxed(
            NOISE, jnp.zeros((512, 8), int), places, 0.2
        )

    x, y = relaxed()
    np.testing.assert_array_equal((x < 3).sum(-1), 2)
    assert exact.chi_square(np.bincount(np.asarray(x[x < 3])), np.full(3, 1 / 3)) < 4
    np.testing.assert_array_equal((y != 0).sum(-1), 2)


def test_positions_that_may_not_move_do_not_count():
    """Padding of masks behind every sequence: what is learned is what is learned without, of scores and posteriors."""
    length, padding, count = 4, 3, 64
    before = lambda x, t: jnp.pad(x, [(0, 0), (1, 0)], constant_values=3)[:, :-1, None]
    network = lambda x, t: jnp.where(before(x, t) == jnp.arange(3), 2.0, 0.0) + jnp.arange(3.0) / 2
    found = []
    for more in (0, padding):
        active = jnp.arange(length + more) < length
        fine, few = (D.only(sampler, active) for sampler in (FINE, STUDENT))
        taught = js.learn.lsd_teacher(fine, network, PROCESS.prior(KEY, (count, length + more)), KEY)
        found.append([js.learn.lsd(few, network, taught, on=on) for on in ("score", "log_score")])
    for short, padded in zip(*found, strict=True):
        np.testing.assert_allclose(short, padded, rtol=1e-4)


def test_tempered_laws_are_powers():
    exponents = jnp.array([0.5, 1.0, 3.0])
    sampler = D.tempered(STUDENT, exponents)

    @jax.jit
    def laws():
        row = jax.tree.map(lambda leaf: leaf[2], sampler.rows)
        logits = MODEL(X, row.inner.time)
        return sampler.law(row, X, logits), jax.nn.softmax(logits) ** 3.0

    law, power = laws()
    hidden = X == 3
    np.testing.assert_allclose(law[hidden][:, :3], (power / power.sum(-1, keepdims=True))[hidden], atol=1e-6)
    assert len(sampler[1:]) == 2
    np.testing.assert_array_equal(sampler[1:].exponent, exponents[1:])


def test_any_sampler_can_be_tempered():
    """Towards the likeliest token; with a prompt."""
    sampler = D.tempered(D.ordered(PROCESS, UNIFORM, order="left_to_right"), jnp.full(ROWS, 200.0))
    sampler = D.only(sampler, jnp.arange(LENGTH) > 0)
    start = PROCESS.prior(KEY, (32, LENGTH)).at[:, 0].set(1)
    x = jax.jit(lambda s, x: js.run(s, MODEL, x, KEY).x)(sampler, start)
    np.testing.assert_array_equal(x, [[1, 2, 0]] * 32)  # the likeliest token after each


def test_a_plan_s_posteriors_can_be_tempered_too():
    """With the planner of the first position only, and a sharp posterior, that is the likeliest token."""
    uniform = D.uniform(3)
    first = lambda x, t: jnp.where(jnp.arange(LENGTH) == 0, 50.0, -jnp.inf) + jnp.zeros(x.shape)
    posterior = lambda x, t: jnp.broadcast_to(jnp.log(jnp.array([0.3, 0.2, 0.5])), (*x.shape, 3))
    sampler = D.tempered(D.ddpd(uniform, 1), jnp.full(1, 200.0))
    start = jax.random.randint(KEY, (32, LENGTH), 0, 3)
    x = jax.jit(lambda s, x: js.run(s, D.planned(first, posterior), x, KEY).x)(sampler, start)
    np.testing.assert_array_equal(x, start.at[:, 0].set(2))


def test_laws_have_gradients_in_coefficients_and_times(x64):
    """Of the divergence of the data from what comes out, against finite differences."""
    truth = data_law(4)

    def loss(v):
        sampler = D.ancestral(PROCESS, jnp.concatenate([jnp.ones(1), v["times"], jnp.zeros(1)]))
        sampler = D.tempered(D.scaled(sampler, jnp.append(v["factors"], 1.0)), v["exponents"])
        x = exact.sequences(4, LENGTH)
        law = jnp.zeros(len(x)).at[-1].set(1.0)
        for k in range(ROWS):
            row = jax.tree.map(lambda leaf, k=k: leaf[k], sampler.rows)
            law = law @ exact.joint(sampler.law(row, x, MODEL(x, row.inner.time)))
        some = truth > 0
        return -jnp.sum(jnp.where(some, truth * jnp.log(jnp.where(some, law, 1.0)), 0.0))

    point = {"times": jnp.array([0.6, 0.3]), "factors": jnp.array([0.9, 0.8]), "exponents": jnp.array([1.1, 0.9, 1.2])}
    flat, back = jax.flatten_util.ravel_pytree(point)

    @jax.jit
    def slopes():
        value = lambda f: loss(back(f))
        ends = flat + 1e-6 * jnp.stack([jnp.eye(len(flat)), -jnp.eye(len(flat))])
        above, below = jax.lax.map(jax.vmap(value), ends)
        return jax.grad(value)(flat), (above - below) / 2e-6

    gradient, differences = slopes()
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-8)
    assert (jnp.abs(gradient) > 1e-4).all()


def pairs(process):
    x = exact.sequences(process.states, LENGTH)
    return x, jnp.repeat(x, len(x), axis=0), jnp.tile(x, (len(x), 1))


CASES = {
    "masked ancestral": (PROCESS, MODEL, "ancestral", D.ancestral),
    "masked leaps": (PROCESS, MODEL, "leaps", functools.partial(D.tau_leaping, denoise=False)),
    "uniform ancestral": (NOISE, NOISE_MODEL, "ancestral", D.ancestral),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gain_of_a_break_bounds_what_it_changes(name, x64):
    """The divergence of the law with the break from that without, both exact, and not by much."""
    process, model, sampler, make = CASES[name]

    @jax.jit
    def both():
        x, before, after = pairs(process)
        t1, t2, t3 = jnp.array([0.8, 0.5, 0.2])
        start = exact.noised(process, data_law(process.states), t1, LENGTH)
        fine, coarse = make(process, jnp.stack([t1, t2, t3])), make(process, jnp.stack([t1, t3]))
        with_break = exact.output_law(fine, model, start, LENGTH)
        without = exact.output_law(coarse, model, start, LENGTH)
        row = jax.tree.map(lambda leaf: leaf[0], fine.rows)
        weight = start[:, None] * exact.joint(fine.law(row, x, model(x, t1)))
        gain = js.learn.break_gain(process, model, before, after, t1, t2, t3, sampler=sampler)
        apart = jnp.sum(jnp.where(with_break > 0, with_break * jnp.log(with_break / without), 0.0))
        return apart, jnp.sum(jnp.where(weight.ravel() > 0, weight.ravel() * gain, 0.0))

    divergence, bound = map(float, both())
    assert 0 < divergence <= bound < 4 * divergence


def test_leaps_differ_by_their_clocks(x64):
    """Of a network that never changes its mind: two exponential clocks, which ring or do not."""
    network = lambda x, t: jnp.zeros((*x.shape, 3))
    t1, t2, t3 = jnp.array([0.8, 0.5, 0.2])
    gain = jax.jit(lambda x: js.learn.break_gain(PROCESS, network, x, x, t1, t2, t3, sampler="leaps"))
    p, q = 1 - np.exp(-0.3 / 0.5), 1 - np.exp(-0.3 / 0.8)  # the rate is 1 / t
    apart = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(gain(jnp.array([[3, 3, 3], [3, 1, 2], [0, 1, 2]])), [3 * apart, apart, 0], atol=1e-12)


def test_a_gain_is_a_rectangle(x64):
    """On masks and the data's paths: what an insertion cuts off a Riemann sum, whose excess bounds the sampler's."""
    process, model = PROCESS, MODEL

    @jax.jit
    def numbers():
        x, before, after = pairs(process)
        truth = data_law(4)

        def entropy(t):
            """Of a mask's token, mean over positions and noise."""
            p = jax.nn.softmax(model(x, t))
            each = jnp.where(x == 3, -(p * jnp.log(jnp.where(p > 0, p, 1.0))).sum(-1), 0.0).sum(-1)
            return exact.noised(process, truth, t, LENGTH) @ each / (LENGTH * t)

        t1, t2, t3 = jnp.array([0.8, 0.5, 0.2])
        later = process.likelihood(jnp.arange(4), t1, t2).T  # q(x_t1 | x_t2)
        weight = (exact.noised(process, truth, t2, LENGTH)[:, None] * exact.joint(later[x])).T.ravel()
        gain = js.learn.break_gain(process, model, before, after, t1, t2, t3)
        mean = jnp.sum(jnp.where(weight > 0, weight * gain, 0.0))
        nodes = jnp.array([1.0, 0.6, 0.3, 0.0])
        sums = LENGTH * (nodes[:-1] - nodes[1:]) @ jnp.stack([entropy(t) for t in nodes[:-1]])
        some = truth > 0
        bound = sums + jnp.sum(jnp.where(some, truth * jnp.log(jnp.where(some, truth, 1.0)), 0.0))
        law = exact.output_law(D.ancestral(process, nodes), model, mask_law(), LENGTH)
        return mean, LENGTH * (t2 - t3) * (entropy(t1) - entropy(t2)), bound, truth, law

    mean, rectangle, bound, truth, law = numbers()
    assert float(mean) == pytest.approx(float(rectangle), rel=1e-10)
    assert 0 < exact.divergence(truth, law) <= float(bound)


def test_jumps_halve_the_divergence_on_uniform_noise():
    """By the exact law of the output; on this chain's masked version equal steps are best, see docs/discrete.md."""
    truth = data_law(3)
    start = exact.noised(NOISE, truth, 1.0, LENGTH)
    x = exact.sequences(3, LENGTH)
    x0 = x[jax.random.choice(jax.random.key(3), len(x), (512,), p=truth)]
    times = js.learn.jump_your_steps(NOISE, NOISE_MODEL, x0, 4, KEY)
    law = jax.jit(lambda t: exact.output_law(D.ancestral(NOISE, t), NOISE_MODEL, start, LENGTH))
    uniform, jumped = (exact.divergence(truth, law(t)) for t in (js.schedules.uniform(NOISE, 4), times))
    assert jumped < 0.7 * uniform
    assert (jnp.diff(times) < 0).all()


def test_counts_add_up_and_a_break_is_the_best():
    """Of all places of the first break, tried one by one."""
    length, size = 6, 256
    network = chain_posterior(exact.chain(), PROCESS)
    start = jax.random.randint(KEY, (size, 1), 0, 3)
    x0 = jnp.concatenate([(start + jnp.arange(length) // 3) % 3], axis=-1)  # an easy half and a surprise
    four = js.learn.jump_your_counts(PROCESS, network, x0, 4, KEY)
    assert sum(four) == length
    assert min(four) >= 1
    assert len(D.k_gillespie(PROCESS, four)) == 4

    @jax.jit
    def gains():
        rank = jnp.argsort(jnp.argsort(bits(jax.random.fold_in(KEY, ORDER), x0.shape), axis=-1), axis=-1)

        def posterior(k):
            return jax.nn.softmax(network(jnp.where(rank < k, x0, 3), jnp.asarray(0.5)))

        def gain(k):
            p, q = posterior(k), posterior(0)
            each = jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0) / q), 0.0).sum(-1)
            return jnp.where(rank >= k, each, 0.0).sum(-1).mean()

        return jax.lax.map(gain, jnp.arange(2, length - 1))  # of equal weight: all that is left, over how many they are

    assert four[0] + four[1] == 2 + int(np.argmax(gains()))


@pytest.mark.slow
def test_jumps_along_the_sampler_s_own_paths():
    x0 = jnp.tile(CLEAN, (8, 1))
    for options in ({"paths": "sampler"}, {"sampler": "leaps"}, {"sampler": "leaps", "paths": "sampler"}):
        times = js.learn.jump_your_steps(NOISE, NOISE_MODEL, x0, 4, KEY, iterations=4, **options)
        assert (jnp.diff(times) < 0).all()
        assert (jnp.abs(times - jnp.linspace(1, 0, 5)) < 0.45).all()
    counts = js.learn.jump_your_counts(PROCESS, MODEL, x0, 2, KEY, paths="sampler", iterations=4)
    assert sum(counts) == LENGTH


def test_golden_section_finds_the_maximum(x64):
    found = jax.jit(lambda at: golden_section(lambda x: -((x - at) ** 2), jnp.asarray(0.0), jnp.asarray(1.0), 30))
    for at in (0.0, 0.123, 0.5, 0.9, 1.0):
        assert float(found(at)) == pytest.approx(at, abs=1e-6)


@pytest.mark.parametrize("kind", ["masked", "uniform", "marginal", "tempered"])
def test_samplers_of_tokens_are_saved(kind, tmp_path):
    process = {
        "uniform": lambda: D.uniform(3, D.survival.cosine(2.0)),
        "marginal": lambda: D.marginal(jnp.array([0.5, 0.3, 0.2])),
    }.get(kind, lambda: D.masked(3))()
    times = jnp.array([0.9, 0.5, 0.2, 0.0])
    sampler = D.ancestral(process, times, final="greedy") if kind == "marginal" else D.tau_leaping(process, times)
    if kind == "tempered":
        sampler = D.tempered(sampler, jnp.array([0.7, 1.0, 1.3]))
    js.recipes.save(tmp_path / "s.json", sampler, provenance={"by": "lsd"})
    recipe = js.recipes.load(tmp_path / "s.json")
    assert recipe.provenance == {"by": "lsd"}
    assert jax.tree.structure(recipe.sampler) == jax.tree.structure(sampler)
    for a, b in zip(jax.tree.leaves(recipe.sampler), jax.tree.leaves(sampler), strict=True):
        np.testing.assert_array_equal(a, b)
    text = (tmp_path / "s.json").read_text()
    for old, new in (('"rule":"', '"rule":"no'), ('"kind":"discrete.', '"kind":"'), ('"vocab":3', '"vocab":-1')):
        assert old in text
        (tmp_path / "bad.json").write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=r"rule|kind|vocab|process"):
            js.recipes.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: js.learn.lsd(STUDENT, MODEL, teacher(), on="scores"), "on"),
        (lambda: js.learn.lsd(STUDENT, MODEL, teacher(), noise="shared"), "noise"),
        (lambda: js.learn.lsd(STUDENT, MODEL, teacher(), share=1.5), "share"),
        (lambda: js.learn.lsd_teacher(STUDENT, MODEL, jnp.zeros(3, int), KEY), "batch, length"),
        (lambda: js.learn.jump_your_steps(PROCESS, MODEL, jnp.zeros((2, 3), int), 6, KEY), "power of 2"),
        (lambda: js.learn.jump_your_counts(PROCESS, MODEL, jnp.zeros((2, 3), int), 4, KEY), "steps"),
        (lambda: js.learn.lsd(D.ancestral(ENDLESS, UNIFORM), MODEL, teacher()), "rates must be finite"),
        (
            lambda: js.learn.lsd_steps(D.ancestral, ENDLESS, UNIFORM, MODEL, teacher()),
            "rates must be finite",
        ),
        (lambda: js.learn.jump_your_steps(ENDLESS, MODEL, CLEAN, 4, KEY, sampler="leaps"), "rates must be finite"),
        (lambda: js.learn.break_gain(PROCESS, MODEL, X, X, *UNIFORM[:3], sampler="leap"), "did you mean leaps"),
        (lambda: D.tempered(STUDENT, jnp.zeros(ROWS)), "exponents"),
        (lambda: D.scaled(STUDENT, jnp.ones(2)), "factors"),
        (lambda: js.recipes.save("x.json", D.only(STUDENT, jnp.ones(3, bool))), "active"),
        (lambda: js.recipes.save("x.json", STUDENT, process=PROCESS), "process"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
