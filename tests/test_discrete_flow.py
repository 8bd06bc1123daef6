"""Flow matching, correctors and one position at a time: laws by enumeration, and identities with other samplers."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from experiments import token_laws as exact
from jaxsamplers.discrete.randomness import bits, log_unit
from tests.reference import problem as reference

D = js.discrete
LENGTH = 3
KEY = jax.random.key(0)
PROCESSES = {
    "masked": lambda law: D.masked(3, law),
    "uniform": lambda law: D.uniform(3, law),
    "marginal": lambda law: D.marginal(jnp.array([0.5, 0.3, 0.2]), law),
}
kinds = pytest.mark.parametrize("kind", PROCESSES)


def problem(kind, length=LENGTH, law=None):
    """``(process, posterior by enumeration, data's law, t -> law of x_t)`` on short sequences of a Markov chain."""
    process = PROCESSES[kind](D.survival.log_linear(1e-3) if law is None else law)
    source, clean = exact.chain(), np.array(list(itertools.product(range(3), repeat=length)))
    matrix = np.asarray(source.transition)[:, 0]
    data = (np.asarray(source.start)[:, 0] @ matrix)[clean[:, 0]]
    for i in range(1, length):
        data = data * matrix[clean[:, i - 1], clean[:, i]]

    def model(x, t):
        given = exact.transition(process, t)
        weight = data[:, None] * jnp.stack([given[clean[:, i]][:, x[:, i]] for i in range(length)]).prod(0)
        return jnp.log(jnp.einsum("cn,civ->niv", weight, np.eye(3)[clean]))

    truth = np.zeros(process.states**length)
    truth[clean @ process.states ** np.arange(length - 1, -1, -1)] = data
    return process, model, truth, jax.jit(lambda t: exact.noised(process, truth, t, length))


def laws(sampler, model, x):
    """``[rows, n, length, states]``: what each row does to every token of ``x``."""
    return jax.lax.map(lambda row: sampler.law(row, x, model(x, row.time)), sampler.rows)


@functools.partial(jax.jit, static_argnums=1)
def path(sampler, model, start):
    """The law of one token before the first row and after each, ``[rows + 1, states]``."""
    x = jnp.arange(sampler.process.states)[:, None]

    def step(law, row):
        law = law @ sampler.law(row, x, model(x, row.time))[:, 0]
        return law, law

    return jnp.concatenate([start[None], jax.lax.scan(step, start, sampler.rows)[1]])


# the steps


def test_on_masks_the_steps_are_those_of_other_samplers(x64):
    process, model, *_ = problem("masked", law=D.survival.convex(2.0))
    x = exact.sequences(4, LENGTH)

    @jax.jit
    def pairs(times):
        a = process.survival(times)
        sigma = 0.7 * (a[1:] - a[:-1]) / jnp.where(a[:-1] > 0, a[:-1], jnp.inf)
        ancestral = D.ancestral(process, times)
        same = [
            (D.flow_cumulative(process, times), ancestral),
            (D.flow_exact(process, times), ancestral),
            (D.flow_euler(process, times), D.tau_leaping(process, times)),
            (D.flow_exact(process, times, corrector=0.7), D.remdm_cap(process, times, sigma=sigma)),
            (D.flow_exact(process, times, corrector=1e6)[1:], D.remdm_rescale(process, times, share=1.0)[1:]),
        ]
        return [(laws(mine, model, x), laws(theirs, model, x)) for mine, theirs in same]

    for mine, theirs in pairs(js.schedules.uniform(process, 5)):
        np.testing.assert_allclose(mine, theirs, atol=1e-10)


def test_cumulative_step_is_its_formula(x64):
    process, model, *_ = problem("marginal", law=D.survival.convex(2.0))
    x = exact.sequences(process.states, LENGTH)

    @jax.jit
    def both(times):
        here = jax.nn.one_hot(x, process.states)
        p = jax.nn.softmax(model(x, times[0]))
        stay = (p * here).sum(-1, keepdims=True)
        leave = 1 - ((1 - (1 - times[1]) ** 2) / (1 - (1 - times[0]) ** 2)) ** (1 - stay)
        some = (p * (1 - here)).sum(-1, keepdims=True)
        return laws(D.flow_cumulative(process, times), model, x)[0], (
            leave * p * (1 - here) / jnp.where(some > 0, some, 1) + (1 - leave) * here
        )

    np.testing.assert_allclose(*both(jnp.array([0.9, 0.5, 0.0])), atol=1e-10)


@pytest.mark.parametrize("kind", ["masked", "uniform"])
def test_jump_probabilities_are_those_of_metas_solver(kind, x64):
    """Every step but the last of their grid; theirs are tokens' laws given each clean token, averaged."""
    numbers = reference.load("token_flow")
    times = jnp.asarray(1 - numbers["grid"])

    @jax.jit
    def mine(power, corrector):
        process = PROCESSES[kind](D.survival.Convex(power))
        x = jnp.arange(process.states)[:, None]
        sampler = D.flow_euler(process, times, corrector=corrector)
        return laws(sampler, lambda x, t: jnp.log(numbers["posterior"])[x], x)[:-1, :, 0]

    for power, corrector in itertools.product((1, 2), (0.0, 0.4, 3.0)):
        theirs = numbers[f"{kind}_{power}_{corrector}"]
        np.testing.assert_allclose(mine(float(power), corrector), theirs, atol=1e-10)


# the laws


def test_every_rate_moves_the_law_as_time_does(x64):
    """The derivative in the length of a first step, with several positions; a corrector's step moves nothing.

    The velocity of flow matching is another rate than the reversed process's all the same.
    """
    process, model, _, at = problem("uniform")
    t = 0.6
    x = exact.sequences(process.states, LENGTH)
    samplers = {
        "reversed": D.tau_leaping,
        "ancestral": D.ancestral,
        "flow": D.flow_euler,
        "cumulative": D.flow_cumulative,
        "corrected": lambda *a: D.flow_euler(*a, corrector=0.7),
        "exact": lambda *a: D.flow_exact(*a, corrector=0.7),
    }

    def first_steps(h):
        logits = model(x, t)
        at_h = jnp.array([t, t - h, 0.0])
        correct = {
            f"{name} corrector": D.predictor_corrector(process, jnp.array([0.9, t, 0.3]), corrector=name, stride=h)[1:]
            for name in ("reverse", "flow")
        }
        made = correct | {name: make(process, at_h) for name, make in samplers.items()}
        return {name: s.law(jax.tree.map(lambda leaf: leaf[0], s.rows), x, logits) for name, s in made.items()}

    def everything(h):
        laws = first_steps(h)
        return laws, {name: at(t) @ exact.joint(law) for name, law in laws.items()}, at(t - h)

    moves, flows, slope = jax.jit(jax.jacfwd(everything))(jnp.asarray(0.0))
    assert jnp.abs(slope).max() > 1e-2
    for name, flow in flows.items():
        np.testing.assert_allclose(flow, 0.0 if "corrector" in name else slope, atol=1e-10)
    np.testing.assert_allclose(moves["reversed"], moves["ancestral"], atol=1e-10)
    np.testing.assert_allclose(moves["cumulative"], moves["flow"], atol=1e-10)
    assert jnp.abs(moves["reversed"] - moves["flow"]).max() > 0.1


@kinds
def test_marginals_of_one_token(kind, x64):
    """``flow_exact``'s are right after every row; the others' come near as steps are halved, corrected or not."""
    process, model, _, at = problem(kind, 1)
    times = js.schedules.uniform(process, 6)
    sampler = D.flow_exact(process, times, corrector=D.bump(times))
    assert (sampler.rows.step.refresh[1:-1] > 0.1).all()
    for law, t in zip(path(sampler, model, at(1.0)), times, strict=True):
        np.testing.assert_allclose(law, at(t), atol=1e-10)
    if kind != "uniform":
        return

    @jax.jit
    def gaps(times):
        """Up to rates that grow as ``1 / t``: at the clean end the error is of order ``log(n) / n``."""
        right = jax.vmap(at)(times)
        made = jax.vmap(lambda height: D.flow_euler(process, times, corrector=D.bump(times, height=height)))
        return jax.vmap(lambda s: jnp.abs(path(s, model, right[0]) - right).sum(-1).max())(made(jnp.array([0.0, 1.0])))

    coarse, fine = (gaps(0.2 + 0.7 * js.schedules.uniform(process, n)) for n in (32, 64))
    for more, less in zip(coarse, fine, strict=True):
        assert 1.8 < more / less < 2.15
        assert 1e-4 < less < 0.03


@pytest.mark.parametrize("kind", ["masked", "marginal"])
def test_correctors_leave_the_law_of_one_token(kind, x64):
    process, model, _, at = problem(kind, 1)
    times = jnp.array([0.8, 0.7, 0.6, 0.35, 0.0])
    ends = [0.8, 0.7, 0.7, 0.6, 0.6, 0.6, 0.35, 0.0]
    for name in ("reverse", "flow"):
        sampler = D.predictor_corrector(process, times, corrector=name, corrections=np.array([1, 2, 0]), stride=1.5)
        np.testing.assert_allclose(sampler.rows.time, ends[:-1])
        for law, t in zip(path(sampler, model, at(0.8)), ends, strict=True):
            np.testing.assert_allclose(law, at(t), atol=1e-10)
        assert (sampler.rows.step.refresh > 0.05).tolist() == [False, True, False, True, True, False, False]


def test_correctors_repair_what_parallel_steps_spoil(x64):
    """Four steps of three positions, with and without two corrections after each but the last."""
    process, model, truth, at = problem("masked", law=D.survival.log_linear())
    plain, corrected = (D.predictor_corrector(process, js.schedules.uniform(process, 4), corrections=k) for k in (0, 2))
    jax.tree.map(np.testing.assert_array_equal, plain, D.ancestral(process, js.schedules.uniform(process, 4)))
    run = jax.jit(lambda s: exact.output_law(s, model, at(1.0), LENGTH))
    assert exact.divergence(truth, run(corrected)) < 0.6 * exact.divergence(truth, run(plain))


# one position at a time


@pytest.mark.parametrize("kind", ["masked", "marginal"])
def test_glauber_leaves_the_law_at_any_position(kind, x64):
    process, model, truth, at = problem(kind)
    sampler = D.glauber(process, 1, time=0.4)

    @jax.jit
    def moved(law, place):
        rows = dataclasses.replace(sampler.rows, place=place[None])
        return exact.one_site_law(dataclasses.replace(sampler, rows=rows), model, law, LENGTH)

    law = truth if kind == "masked" else np.asarray(at(0.4))
    even = np.asarray((exact.sequences(process.states, LENGTH) < 3).all(-1) / 3.0**LENGTH)
    for place in jnp.arange(LENGTH):
        np.testing.assert_allclose(moved(law, place), law, atol=1e-10)
        assert np.abs(moved(even, place) - law).sum() < 0.9 * np.abs(even - law).sum()


@pytest.mark.parametrize(
    ("kind", "classified"), [("masked", False), ("uniform", False), ("uniform", True), ("marginal", True)]
)
def test_glauber_generative_is_exact(kind, classified, x64):
    """Two sweeps in an order, each step's conditional by enumeration, as posterior or as odds of signal."""
    process, _, truth, at = problem(kind)
    times, order = jnp.array([1.0, 0.45, 0.0]), np.array([1, 2, 0])
    sampler = D.glauber_generative(process, times, LENGTH, order=order)
    np.testing.assert_array_equal(sampler.rows.place, [1, 2, 0, 1, 2, 0])
    x, clean = exact.sequences(process.states, LENGTH), exact.sequences(3, LENGTH)
    data = truth[clean @ process.states ** np.arange(LENGTH - 1, -1, -1)]
    pi = process.noise.probability(jnp.arange(3))

    def conditional(i, levels):
        """``p(x0_i | x_t but i)`` for all sequences, with a time for each position."""
        seen = [exact.transition(process, levels[k])[clean[:, k]][:, x[:, k]] for k in range(LENGTH) if k != i]
        law = jnp.einsum("cn,cv->nv", data[:, None] * jnp.stack(seen).prod(0), jnp.eye(3)[clean[:, i]])
        total = law.sum(-1, keepdims=True)
        return jnp.where(total > 0, law / jnp.where(total > 0, total, 1.0), 1 / 3)  # what is impossible is never seen

    @jax.jit
    def output(start):
        levels, known = [times[0]] * LENGTH, []
        for k, place in enumerate(np.tile(order, 2)):
            law, t, s = conditional(place, levels), times[k // LENGTH], times[k // LENGTH + 1]
            levels[place] = s
            if classified:
                there = process.survival(s) * law + process.noisiness(s) * pi
                law = there * (1 - process.noisiness(t, s)) / (process.noisiness(t, s) * pi)
            known.append(jnp.log(law))

        def answer(x, t):
            """What is known in the row of this time."""
            here = jnp.stack(known)[jnp.argmin(jnp.abs(sampler.rows.time - t))]
            return jnp.broadcast_to(here[:, None], (*x.shape, 3))

        model = D.denoiser(answer, process, "leave_one_out")
        return exact.one_site_law(
            sampler, D.signal_classifier(answer, process, times) if classified else model, start, LENGTH
        )

    np.testing.assert_allclose(output(at(1.0)), truth, atol=1e-10)


def network(x, t):
    """Not a posterior, but it looks at neighbours and at the time."""
    ahead = jnp.roll(x, -1, axis=-1)[..., None]
    return jnp.where(ahead == jnp.arange(3), 1.5, 0.0) + t * jnp.arange(3)


draw = jax.jit(lambda sampler, x, key: js.run(sampler, network, x, key))


def test_glauber_draws_what_its_law_says():
    """50,000 steps from one sequence, any of its two free positions: chi-square, wrong one time in 10,000 or less."""
    process = D.uniform(3)
    active = jnp.array([True, False, True, False])
    x = jnp.tile(jnp.array([2, 0, 1, 1]), (50_000, 1))
    sampler = D.only(D.glauber(process, 1, time=0.2), active)
    row = jax.tree.map(lambda leaf: leaf[0], sampler.rows)
    out = draw(sampler, x, KEY).x
    np.testing.assert_array_equal(jnp.where(active, 0, out), jnp.where(active, 0, x))
    expected = np.zeros((3, 3))
    for i in (0, 2):
        place = jnp.array([i])
        law = jax.jit(sampler.law)(row, x[:1], place, network(sampler.shown(x[:1], place), row.time))[0, :3]
        expected += 0.5 * (np.outer(law, np.arange(3) == 1) if i == 0 else np.outer(np.arange(3) == 2, law))
    counts = np.bincount(out[:, 0] * 3 + out[:, 2], minlength=9)
    assert abs(exact.chi_square(counts, expected.reshape(-1))) < 4


def test_glauber_in_parts_by_keys_and_with_padding():
    """Also: a start of masks is filled, in as many steps as a sequence has positions that may move."""
    sampler = D.glauber(D.masked(3), 10, time=0.2, scan="cyclic")
    assert js.network_calls(sampler) == 10
    keys = js.sample_keys(KEY, np.tile(np.arange(4), 2))
    active = (np.arange(5) > 0) & (np.arange(5) < np.array([5, 4, 3, 0, 5, 4, 3, 0])[:, None])
    x = jnp.where(active, 3, 2)
    padded = D.only(sampler, active)
    whole = draw(padded, x, keys)
    np.testing.assert_array_equal(np.where(active, 2, whole.x), 2)
    assert (whole.x < 3).all()
    np.testing.assert_array_equal(whole.x[:4], whole.x[4:])
    parts = draw(padded[5:], draw(padded[:5], x, keys), None)
    np.testing.assert_array_equal(parts.x, whole.x)


def test_k_gillespie_is_random_order():
    """The smallest of equal exponential clocks are the first of a random order: one draw says both."""
    process = D.masked(3, D.survival.cosine())
    clocks = lambda key, x, estimate: log_unit(bits(key, x.shape))  # minus times
    random, timed = (D.k_gillespie(process, [3, 1, 2, 1], order=order) for order in ("random", clocks))

    assert random.most == 4

    @jax.jit
    def chosen(row):
        x = process.prior(KEY, (16, 7))
        both = [dataclasses.replace(s, most=7).choose(KEY, row, x, None, jnp.full(16, 7)) for s in (random, timed)]
        return [jnp.where(chosen, places, 7) for places, chosen in both]

    for k, left in enumerate((4, 3, 1, 0)):  # from all masks, as if the steps so far were one
        mine, theirs = chosen(jax.tree.map(lambda leaf, k=k: leaf[k], random.rows))
        np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal((mine == 7).sum(-1), left)
        assert left == 0 or len(np.unique(np.sort(mine), axis=0)) > 5
    np.testing.assert_allclose(process.noisiness(random.rows.time), [1, 4 / 7, 3 / 7, 1 / 7], rtol=1e-5)


TIMES = jnp.array([1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: D.flow_euler(D.masked(3), TIMES, corrector=-1.0), ValueError, "corrector must be at least 0"),
        (lambda: D.flow_euler(D.masked(3), TIMES, corrector=TIMES), ValueError, "2 of them, one a step"),
        (lambda: D.flow_exact(D.masked(3), TIMES, corrector=TIMES), ValueError, "2 of them, one a step"),
        (lambda: D.predictor_corrector(D.masked(3), TIMES, stride=TIMES[:2]), ValueError, "stride must be a number or"),
        (lambda: D.remasking(D.masked(3), TIMES, share=TIMES), ValueError, "share must be a number or 2 of them"),
        (lambda: D.flow_euler(PROCESSES["marginal"](None), TIMES, corrector=1.0), ValueError, "flow_exact does"),
        (lambda: D.flow_exact(js.processes.edm(), TIMES), TypeError, "masked, uniform or marginal"),
        (lambda: D.bump(TIMES * 2), ValueError, "times must be at least 0 and at most 1"),
        (lambda: D.predictor_corrector(D.masked(3), TIMES, corrections=[1, 1]), ValueError, "1 of them"),
        (lambda: D.predictor_corrector(D.masked(3), TIMES, corrections=-1), ValueError, "corrections must be"),
        (lambda: D.predictor_corrector(D.masked(3), TIMES, corrector="both"), ValueError, "known: reverse, flow"),
        (
            lambda: D.predictor_corrector(D.masked(3), TIMES, predictor=lambda p, t: D.ancestral(p, t)[1:]),
            ValueError,
            "a table of one row a step",
        ),
        (lambda: D.glauber(D.uniform(3), 3, time=0.0), ValueError, "time must be above 0"),
        (lambda: D.glauber(js.processes.edm(), 3, time=0.1), TypeError, "masked, uniform or marginal"),
        (lambda: D.glauber(D.masked(3), 3, time=0.1, scan="left"), ValueError, "known: random, cyclic"),
        (lambda: D.glauber_generative(D.masked(3), TIMES, 3, order=jnp.array([0, 1, 1])), ValueError, "from 0 to 2"),
        (lambda: D.signal_classifier(network, D.masked(3), TIMES), ValueError, "nothing is to classify"),
        (lambda: D.k_gillespie(D.masked(3), [2, 0]), ValueError, "counts must be at least 1"),
        (lambda: D.k_gillespie(D.uniform(3), [2, 1]), TypeError, "needs a masked process"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
