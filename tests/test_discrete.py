"""Samplers of tokens against exact laws, by enumeration; see ``experiments.token_laws``."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from experiments import token_laws as exact
from jaxsamplers import token_quality
from jaxsamplers.discrete.routing import probabilities, route

KINDS = ("masked", "uniform", "marginal")
KEY = jax.random.key(0)


@functools.cache
def problem(kind):
    """In float64: only for tests that have the ``x64`` fixture."""
    return exact.problem(kind)


@jax.jit
def law_of(sampler, x, logits):
    return sampler.law(jax.tree.map(lambda leaf: leaf[0], sampler.rows), x, logits)


@jax.jit
def output_law(sampler, model, start):
    return exact.output_law(sampler, model, start)


@pytest.mark.parametrize("kind", KINDS)
def test_the_chain_knows_its_posterior(kind, x64):
    """Forward-backward against the sum over all 243 sequences."""
    process, model, truth, _ = problem(kind)
    t, xs = jnp.asarray(0.37), exact.sequences(process.states)

    @jax.jit
    def both(truth):
        weights = truth[:, None] * exact.joint(exact.transition(process, t)[xs])
        holds = (xs[:, :, None] == jnp.arange(exact.VOCAB)).astype(float)
        bayes = jnp.einsum("nx,niv->xiv", weights / weights.sum(0), holds)
        return jax.nn.softmax(model(xs, t)), bayes

    np.testing.assert_allclose(*both(truth), atol=1e-12)


def test_what_is_left_as_a_mask_has_no_likelihood():
    """At any place, whatever stands in the others; and a chain's probabilities are none below 0."""
    x = np.where(np.eye(4, dtype=bool), exact.VOCAB, [0, 1, 2, 0])[:, :3]
    found = token_quality.log_likelihood(exact.chain(), x)
    np.testing.assert_array_equal(np.isneginf(found), [True, True, True, False])
    with pytest.raises(ValueError, match="transition must be at least 0"):
        js.discrete.chain.markov_chain(jnp.array([[1.5, -0.5], [0.5, 0.5]]), jnp.array([0.5, 0.5]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_one_token_is_exact(kind, x64):
    """Between any two times, from the definition; and from the marginal of ``t`` it makes that of ``s``."""
    process, *_ = problem(kind)
    t, s, x = jnp.asarray(0.8), jnp.asarray(0.3), jnp.arange(process.states)
    data = jnp.array([0.6, 0.3, 0.1])
    full = jnp.pad(data, (0, process.states - 3))
    bayes = data * process.likelihood(x, t)[:, :3]
    bayes = jnp.where(bayes.sum(-1, keepdims=True) > 0, bayes / bayes.sum(-1, keepdims=True), 0)
    sampler = js.discrete.ancestral(process, jnp.stack([t, s]))
    law = law_of(sampler, x, jnp.log(bayes))
    np.testing.assert_allclose(law, js.discrete.posterior(process, bayes, x, t, s), atol=1e-12)
    np.testing.assert_allclose(process.push(full, t) @ law, process.push(full, s), atol=1e-12)


def test_identities_between_samplers_on_masks(x64):
    """Under the log-linear law Euler's step is the exact one, and discrete flow matching's clock with FS-DFM's step."""
    process, model, _, start = problem("masked")
    times = js.schedules.uniform(process, steps=6)
    law = output_law(js.discrete.ancestral(process, times), model, start)
    np.testing.assert_allclose(output_law(js.discrete.euler(process, times), model, start), law, atol=1e-12)
    leaping = js.discrete.tau_leaping(process, times)
    rates = -jnp.log(times[1:-1] / times[:-2])  # the integral of the rate 1 / t, instead of h / t
    cumulative = leaping.rows.step.clean.at[:-1].set(rates)
    step = type(leaping.rows.step)(cumulative, *jax.tree.leaves(leaping.rows.step)[1:])
    rows = type(leaping.rows)(leaping.rows.time, step, leaping.rows.exact, leaping.rows.greedy)
    leaping = type(leaping)(rows, process, None, "clock")
    np.testing.assert_allclose(output_law(leaping, model, start), law, atol=1e-12)


@pytest.mark.parametrize("kind", ["uniform", "marginal"])
def test_plugging_in_is_right_for_leave_one_out_only(kind, x64):
    """D3PM's, UDLM's and Duo's step ``q(x_s | x_t, x0 := output)``, written out, is ours for such a denoiser.

    With a Bayes posterior in that place the law stays wrong however many steps are taken: the negative control.
    """
    process, model, truth, start = problem(kind)
    t, s, x = jnp.asarray(0.8), jnp.asarray(0.3), exact.sequences(3)[::7]
    loo = jax.nn.softmax(js.discrete.from_bayes(process, "leave_one_out", model(x, t), x, t))
    plugged = process.likelihood(x, t, s) * process.push(loo, s)
    plugged /= (process.likelihood(x, t) * loo).sum(-1, keepdims=True)
    sampler = js.discrete.ancestral(process, jnp.stack([t, s]))
    declared = js.discrete.denoiser(lambda x, t: jnp.log(loo), process, "leave_one_out")
    np.testing.assert_allclose(law_of(sampler, x, declared(x, t)), plugged, atol=1e-12)

    wrong = js.discrete.denoiser(model, process, "leave_one_out")
    few, many = (js.discrete.ancestral(process, js.schedules.uniform(process, n)) for n in (8, 32))
    stuck = [exact.divergence(truth, output_law(sampler, wrong, start)) for sampler in (few, many)]
    assert 0.4 < stuck[0] < stuck[1] < 0.5
    assert exact.divergence(truth, output_law(many, model, start)) < 3e-3


@pytest.mark.parametrize("prediction", js.discrete.predictions)
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_convert_there_and_back(kind, prediction, x64):
    process, model, *_ = problem(kind)
    t, x = jnp.array([0.4, 0.9]), exact.sequences(process.states)[jnp.array([57, 200])]
    network = lambda x, t: js.discrete.from_bayes(process, prediction, model(x, t), x, t)

    @jax.jit
    def difference(x, t):
        back = js.discrete.denoiser(network, process, prediction)(x, t)
        return jax.nn.softmax(back) - jax.nn.softmax(model(x, t))

    counts = (x >= exact.VOCAB if kind == "masked" else x >= 0)[..., None]  # the others are known
    assert jnp.abs(jnp.where(counts, difference(x, t), 0.0)).max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_ratios_of_marginals(kind, x64):
    """And rates are the forward rates times those: detailed balance of the reversed process."""
    process, model, truth, _ = problem(kind)
    t, xs = jnp.asarray(0.6), exact.sequences(process.states)
    law = exact.noised(process, truth, t)
    i, z = (3, int(xs[5, 3])) if kind != "masked" else (4, 3)
    x = xs[5] if kind != "masked" else xs[5].at[4].set(3)
    number = int(x @ process.states ** jnp.arange(4, -1, -1))
    other = number + (jnp.arange(3) - z) * process.states ** (4 - i)
    ratio = law[other] / law[number]
    score = js.discrete.from_bayes(process, "log_score", model(x[None], t), x[None], t)[0, i]
    np.testing.assert_allclose(jnp.exp(score), ratio, rtol=1e-10)
    rate = js.discrete.from_bayes(process, "rate", model(x[None], t), x[None], t)[0, i]
    forward = process.rate(t) * process.noise.probability(jnp.asarray(z))
    np.testing.assert_allclose(rate, jnp.where(jnp.arange(3) == z, 0.0, forward * ratio), rtol=1e-10)


@pytest.mark.parametrize("name", ["ancestral", "euler", "tau_leaping"])
@pytest.mark.parametrize("kind", KINDS)
def test_first_order(kind, name, x64):
    """The distance from the data halves when the steps do."""
    process, model, truth, start = problem(kind)
    distances = []
    for n in (8, 16) if kind == "masked" else (16, 32):
        sampler = js.discrete.registry[name](process, js.schedules.uniform(process, n))
        law = output_law(sampler, model, start)
        assert abs(float(law.sum()) - 1) < 1e-12
        distances.append(exact.total_variation(truth, law))
    assert 1.85 < distances[0] / distances[1] < 2.15
    assert distances[1] < 0.07


def test_jump_rules_differ_at_second_order(x64):
    """A frozen rate expects ``n`` moves of a token; the three rules' probabilities are their formulas'."""
    process, model, *_ = problem("uniform")
    times = jnp.array([0.7, 0.5])
    x = exact.sequences(3)[::11]
    logits = model(x, times[0])
    rate = js.discrete.from_bayes(process, "rate", logits, x, times[0])
    n = 0.2 * rate.sum(-1)
    for sampler, leave in [
        (js.discrete.euler(process, times, denoise=False), jnp.minimum(n, 1)),
        (js.discrete.tau_leaping(process, times, denoise=False), 1 - jnp.exp(-n)),
        (js.discrete.tau_leaping(process, times, leap="reject", denoise=False), n * jnp.exp(-n)),
    ]:
        law = law_of(sampler, x, logits)
        expected = leave[..., None] * rate / rate.sum(-1, keepdims=True) + (1 - leave)[..., None] * (rate == 0)
        np.testing.assert_allclose(law, expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_remasking_keeps_the_marginals(kind, x64):
    """For one token a step from the law of ``t`` makes that of ``s``, whatever the share; masks as ReMDM's."""
    process, *_ = problem(kind)
    t, s, x = jnp.asarray(0.8), jnp.asarray(0.3), jnp.arange(process.states)
    data = jnp.array([0.6, 0.3, 0.1])
    full = jnp.pad(data, (0, process.states - 3))
    logits = jnp.log(jnp.where(process.likelihood(x, t)[:, :3] > 0, data * process.likelihood(x, t)[:, :3], 1e-300))
    sampler = js.discrete.remasking(process, jnp.stack([t, s]), share=0.3)
    law = law_of(sampler, x, logits)
    np.testing.assert_allclose(process.push(full, t) @ law, process.push(full, s), atol=1e-12)
    if kind == "masked":
        a, b = 1 - t, 1 - s
        sigma = 0.3 * (1 - b)
        np.testing.assert_allclose(law[:3, 3], sigma, atol=1e-12)
        np.testing.assert_allclose(law[3, :3].sum(), (b - (1 - sigma) * a) / (1 - a), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_has_the_law_that_is_computed(kind):
    """200,000 sequences in float32 after four steps. A right sampler fails one time in 10,000 (z > 4 of chi-square)."""
    process = {"masked": js.discrete.masked(3), "uniform": js.discrete.uniform(3)}.get(
        kind, js.discrete.marginal(jnp.array([0.5, 0.3, 0.2]))
    )
    with jax.enable_x64(True):
        model = js.discrete.chain.chain_posterior(exact.chain(), process)
        exactly = js.discrete.remasking(process, js.schedules.uniform(process, 4))
        prior = process.noise.probability(jnp.arange(process.states))
        start = exact.joint(jnp.broadcast_to(prior.astype(float), (1, exact.LENGTH, process.states)))[0]
        law = np.asarray(output_law(exactly, model, start))
    sampler = js.discrete.remasking(process, js.schedules.uniform(process, 4))
    noise = process.prior(jax.random.key(1), (200_000, exact.LENGTH))
    drawn = jax.jit(js.sample)(sampler, js.discrete.chain.chain_posterior(exact.chain(), process), noise, KEY)
    number = drawn @ process.states ** jnp.arange(exact.LENGTH - 1, -1, -1)
    assert abs(exact.chi_square(np.bincount(number, minlength=len(law)), law)) < 4


def test_probabilities_add_up_in_float32():
    """Routes of awkward posteriors: certain, nearly certain, impossible tokens, at both ends of time."""
    process = js.discrete.uniform(3)
    logits = jnp.array([[0.0, -jnp.inf, -jnp.inf], [30.0, 0.0, 0.0], [-jnp.inf, 0.0, -90.0]])
    for x in range(3):
        sampler = js.discrete.ancestral(process, jnp.array([1.0, 1e-3, 1e-6, 0.0]))
        for k in range(3):
            row = jax.tree.map(lambda leaf, k=k: leaf[k], sampler.rows)
            z = jnp.full(3, x)
            law = probabilities(process, z, route(process, row.step, z, js.discrete.categorical(logits)))
            assert (law >= 0).all()
            np.testing.assert_allclose(law.sum(-1), 1, atol=3e-6)
