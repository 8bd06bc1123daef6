"""Training losses on data small enough to enumerate: their expectations, their minimisers, and the papers' formulas."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from experiments import token_laws
from jaxsamplers.discrete import loss_terms, losses
from jaxsamplers.discrete.chain import chain_posterior

V, L = token_laws.VOCAB, 3
ALL = np.array(list(itertools.product(range(V), repeat=L)))


def nodes(count: int = 96, power: int = 4):
    """Gauss-Legendre in ``t^(1 / power)``: integrands grow like a logarithm at the clean end."""
    u, w = np.polynomial.legendre.leggauss(count)
    u, w = (u + 1) / 2, w / 2
    return jnp.asarray(u**power), jnp.asarray(w * power * u ** (power - 1))


def problem(kind: str):
    """``(process, exact Bayes network, probabilities of all sequences)`` for three positions of a chain."""
    process = {
        "masked": lambda: js.discrete.masked(V, js.discrete.survival.cosine(2.0)),
        "uniform": lambda: js.discrete.uniform(V),
        "marginal": lambda: js.discrete.marginal(jnp.array([0.5, 0.3, 0.2])),
    }[kind]()
    source = token_laws.chain()
    return process, chain_posterior(source, process), jnp.exp(source.log_probability(jnp.asarray(ALL)))


def pairs(process, law, t):
    """All ``(x0, x)`` at time ``t`` as two batches, and the probability of each."""
    noisy = token_laws.sequences(process.states, L)
    clean = jnp.repeat(jnp.asarray(ALL), len(noisy), 0)
    chances = law[:, None] * token_laws.joint(token_laws.transition(process, t)[jnp.asarray(ALL)])
    return clean, jnp.tile(noisy, (len(ALL), 1)), chances.ravel()


def expected(terms, process, model, law, t):
    """The mean of ``terms`` over data and noise at one time, in nats a sequence."""
    x0, x, chances = pairs(process, law, t)
    values = terms(process, model, x0, x, jnp.full(len(x0), t)).sum(-1)
    return jnp.sum(jnp.where(chances > 0, chances * values, 0.0))


@functools.partial(jax.jit, static_argnums=0)
def bound(terms, process, model, law):
    """The mean of a loss over times, data and noise, and of what is lost at the noisy end."""
    t, weights = nodes()
    each = jax.lax.map(lambda t: expected(terms, process, model, law, t), t)
    return weights @ each + law @ losses.prior_divergence(process, jnp.asarray(ALL))


def table(process, key=0, scale=1.0):
    """Any network at all: logits of every position for every noisy sequence, whatever the time."""
    numbers = jnp.asarray(np.random.default_rng(key).normal(size=(process.states**L, L, V)) * scale)
    powers = process.states ** jnp.arange(L - 1, -1, -1)
    return jax.tree_util.Partial(lambda numbers, x, t: numbers[(x * powers).sum(-1)], numbers)


@pytest.mark.parametrize(
    ("kind", "name", "above"),
    [
        ("masked", "mdlm", 0.0),
        ("marginal", "score_entropy", 0.0),
        ("uniform", "flow", 0.01),  # the way straight to the clean token is no Markov process
    ],
)
def test_the_bound_of_an_exact_network_is_the_entropy_of_the_data(x64, kind, name, above):
    @jax.jit
    def over():
        process, model, law = problem(kind)
        value = bound(getattr(loss_terms, f"{name}_terms"), process, model, law)
        start = token_laws.noised(process, token_laws.data_law(token_laws.chain(), process.states, L), 1.0, L)
        prior = token_laws.joint(process.noise.probability(jnp.arange(process.states))[None, None].repeat(L, 1))[0]
        end = jnp.where(start > 0, start * jnp.log(jnp.where(start > 0, start / prior, 1.0)), 0.0)
        return value - end.sum() + law @ jnp.log(law)  # the noisy end is not quite the prior

    gap = float(over())
    if above:
        assert above < gap < 1.0
    else:
        assert abs(gap) < 1e-7


def test_the_masked_bound_of_any_network_is_its_mean_over_all_orders(x64):
    process, _, law = problem("masked")
    model = table(process)
    logits, mean = np.asarray(model.args[0]), 0.0
    logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for order in itertools.permutations(range(L)):
        x = np.full_like(ALL, V)
        for place in order:
            row = (x * 4 ** np.arange(L - 1, -1, -1)).sum(-1)
            mean -= np.asarray(law) @ logits[row, place, ALL[:, place]] / 6
            x[:, place] = ALL[:, place]
    assert abs(bound(loss_terms.mdlm_terms, process, model, law) - mean) < 1e-10


def step_and_hybrid(process, model, x0, x, t):
    """D3PM's terms of one step, and the cross-entropy beside."""
    logits = process.clean(model(x, t), x)
    terms = loss_terms.d3pm_terms(process, logits, x0, x, t, 0.6 * t)
    return terms + 0.1 * loss_terms.surprise(process, logits, x0, x)


TERMS = {name: getattr(loss_terms, f"{name}_terms") for name in ("mdlm", "score_entropy", "flow", "cross_entropy")}
TERMS["d3pm"] = step_and_hybrid


EVERY = ("score_entropy", "flow", "cross_entropy", "d3pm")


@pytest.mark.parametrize(
    ("kind", "prediction", "names"),
    [
        ("masked", "bayes", ("mdlm", "score_entropy", "d3pm")),  # the others are mdlm but for weights
        ("masked", "log_score", ("score_entropy",)),
        ("uniform", "bayes", EVERY),
        ("uniform", "leave_one_out", ("score_entropy", "d3pm")),
        ("uniform", "log_score", ("score_entropy",)),  # nothing else takes scores that are those of no posterior
    ],
)
def test_the_exact_network_is_the_minimiser(x64, kind, prediction, names):
    """The gradient in every output of the network vanishes at the exact one, and not beside it."""
    d, off = js.discrete, np.random.default_rng(1).normal(size=(1, L, V)) * 0.1

    @jax.jit
    def slopes():
        process, exact, law = problem(kind)
        x, t = token_laws.sequences(process.states, L), jnp.asarray(0.4)
        powers = process.states ** jnp.arange(L - 1, -1, -1)
        hidden = (process.noise.probability(x) > 0)[..., None]  # what is said of a visible token means nothing
        right = jnp.where(hidden, d.from_bayes(process, prediction, exact(x, t), x, t), 0.0)

        def loss(name, output):
            model = d.denoiser(lambda x, t: output[(x * powers).sum(-1)], process, prediction)
            return expected(TERMS[name], process, model, law, t)

        outputs = jnp.stack([right, right + off, jnp.where(hidden, exact(x, t), 0.0)])
        return {name: jax.lax.map(jax.value_and_grad(functools.partial(loss, name)), outputs) for name in names}

    for name, (value, slope) in slopes().items():
        assert jnp.abs(slope[0]).max() < 1e-12, name
        assert jnp.abs(slope[1]).max() > 1e-5, name
        assert value[1] > value[0], name
        if prediction == "leave_one_out":  # a Bayes posterior is not what it should be
            assert jnp.abs(slope[2]).max() > 1e-3, name


def test_the_papers_formulas(x64):
    """UDLM's, SEDD's and flow matching's terms as they are printed, at random tokens and outputs."""
    rng, n, d = np.random.default_rng(0), 7, js.discrete
    x0, x = rng.integers(0, V, (2, n, L))
    t, output = rng.uniform(0.1, 0.9, n), rng.normal(size=(n, L, V))

    @jax.jit
    def ours(x0, x, t, output):
        process, masked = d.uniform(V), d.masked(V, d.survival.cosine())
        network = lambda prediction: d.denoiser(lambda x, t: output, process, prediction)
        hidden = jnp.where(x == 0, x0, V)
        return (
            loss_terms.score_entropy_terms(process, network("leave_one_out"), x0, x, t),
            loss_terms.score_entropy_terms(process, network("log_score"), x0, x, t),
            loss_terms.flow_terms(process, network("bayes"), x0, x, t),
            loss_terms.score_entropy_terms(masked, network("bayes"), x0, hidden, t),
            loss_terms.mdlm_terms(masked, network("bayes"), x0, hidden, t),
        )

    udlm, sedd, flow, entropy_of_masks, mdlm = map(np.asarray, ours(x0, x, t, output))
    rate, alpha = 0.999 / (1 - 0.999 * t[:, None]), 1 - 0.999 * t[:, None, None]
    at = lambda values, token: np.take_along_axis(values, token[..., None], -1)
    other, same = np.arange(V) != x[..., None], x == x0

    law = np.exp(output) / np.exp(output).sum(-1, keepdims=True)
    bar, bar_model = (V * alpha * clean + 1 - alpha for clean in (np.eye(V)[x0], law))
    r = bar / at(bar, x)
    first = V / at(bar_model, x) - V / at(bar, x)
    second = (r * np.log(r * at(bar_model, x) / bar_model)).sum(-1)
    np.testing.assert_allclose(udlm, rate / V * (first[..., 0] + second), rtol=1e-10)

    printed = ((np.exp(output) - r * output + r * (np.log(r) - 1)) * other).sum(-1)
    np.testing.assert_allclose(sedd, rate / V * printed, rtol=1e-10)

    printed = at(law, x)[..., 0] - same + (1 - same) * np.log(at(law, x0))[..., 0]
    np.testing.assert_allclose(flow, -printed / t[:, None], rtol=1e-10)

    weight = np.pi / 2 * np.sin(np.pi / 2 * t) / (1 - np.cos(np.pi / 2 * t))
    printed = np.where(x == 0, 0.0, -weight[:, None] * np.log(at(law, x0))[..., 0])
    np.testing.assert_allclose(mdlm, printed, rtol=1e-10)
    np.testing.assert_allclose(entropy_of_masks, printed, rtol=1e-10)


def one_token(kind: str):
    """A process, and the law of the single clean token in all its states."""
    d, betas = js.discrete, np.array([0.1, 0.2, 0.5, 0.9])
    process = {
        "masked": lambda: d.masked(V),
        "uniform": lambda: d.uniform(V),
        "gaussian": lambda: d.transition_matrices(d.gaussian_steps(V, betas)),
        "absorbing": lambda: d.transition_matrices(d.absorbing_steps(V + 1, betas, V)),
    }[kind]()
    return process, jnp.array([0.6, 0.3, 0.1] + [0.0] * (process.states - V))


def alone(process, law):
    """The leave-one-out posterior of a single token is the data's law, whatever the token."""
    logits = jnp.where(law > 0, jnp.log(law), -700.0)[: process.vocab]
    return lambda x, t: jnp.broadcast_to(logits, (*x.shape, process.vocab))


def exactly(process, law):
    """Its Bayes posterior."""
    seen = lambda x, t: jax.vmap(process.likelihood)(x, t)[..., : process.vocab]
    return lambda x, t: alone(process, law)(x, t) + jnp.log(jnp.maximum(seen(x, t), 1e-300))


@functools.partial(jax.jit, static_argnums=1)
def d3pm_bound(process, steps, law, model_law):
    """The mean of D3PM's terms over the steps' sum, the data and its noise, when the network knows another law."""
    times, noisy = js.schedules.uniform(process, steps), jnp.arange(process.states)[:, None]
    x0, x = jnp.repeat(jnp.arange(V)[:, None], process.states, 0), jnp.tile(noisy, (V, 1))

    def step(pair):
        t, s = (jnp.full(len(x), end) for end in pair)
        chances = process.push(jnp.eye(process.states)[:V], pair[0])
        terms = loss_terms.d3pm_terms(process, exactly(process, model_law)(x, t), x0, x, t, s)
        return law[:V] @ (chances * terms.reshape(V, -1)).sum(-1)

    return jax.lax.map(step, (times[:-1], times[1:])).sum()


@pytest.mark.parametrize("kind", ["masked", "gaussian", "absorbing"])
def test_d3pm_of_one_token_and_an_exact_network_is_the_entropy(x64, kind):
    """With one position no step has an error, so the bound of any number of steps is the data's entropy."""
    process, law = one_token(kind)
    end, prior = process.push(law, jnp.asarray(1.0)), process.noise.probability(jnp.arange(process.states))
    gap = law[:V] @ losses.prior_divergence(process, jnp.arange(V)[:, None])
    gap -= jnp.sum(jnp.where(end > 0, end * jnp.log(jnp.where(end > 0, end / prior, 1.0)), 0.0))
    assert abs(d3pm_bound(process, 4, law, law) + gap + law[:V] @ jnp.log(law[:V])) < 1e-10


def test_what_a_loss_draws_has_the_expectation(x64):
    """Within five standard errors of the enumeration."""
    process, _, law = problem("uniform")
    model, count = js.discrete.denoiser(table(process), process, "leave_one_out"), 20_000
    x0 = jnp.asarray(ALL[np.random.default_rng(0).choice(len(ALL), count, p=np.asarray(law / law.sum()))])
    loss, values = jax.jit(losses.score_entropy)(process, model, x0, jax.random.key(0))
    assert jnp.allclose(loss, values.mean() / L)
    truth = bound(loss_terms.score_entropy_terms, process, model, law)
    truth -= law @ losses.prior_divergence(process, jnp.asarray(ALL))
    assert abs(values.mean() - truth) < 5 * values.std() / np.sqrt(count)


def test_d3pm_draws_steps_and_takes_leave_one_out_networks(x64):
    process, law = one_token("gaussian")
    times, wrong, key = js.schedules.uniform(process, 4), law + jnp.array([0.2, 0.0, 0.1]), jax.random.key(1)
    x0 = jnp.asarray(np.random.default_rng(0).choice(V, (60_000, 1), p=np.asarray(law)))
    run = lambda model, **options: losses.d3pm(process, model, x0, key, times=times, **options)
    (loss, values), (_, same), (_, other), (more, _) = jax.jit(
        lambda: (
            run(alone(process, wrong)),
            run(exactly(process, wrong), prediction="bayes"),
            run(alone(process, wrong), prediction="bayes"),
            run(alone(process, wrong), hybrid=0.5),
        )
    )()
    np.testing.assert_allclose(values, same, rtol=1e-10)
    assert jnp.abs(values - other).max() > 0.1
    assert 4 * 0.5 * 0.1 < more - loss < 4 * 0.5 * 1.1  # nats of one token, noisy or not
    assert abs(loss - d3pm_bound(process, 4, law, wrong)) < 5 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("name", ["mdlm", "d3pm"])
def test_prompts_and_padding_are_neither_noised_nor_counted(name):
    process = js.discrete.masked(V)
    x0 = jnp.asarray(np.random.default_rng(0).integers(0, V, (64, 4)))
    active = jnp.arange(4) < jnp.asarray([2, 3, 4, 0])[jnp.arange(64) % 4][:, None]
    options = {"times": js.schedules.uniform(process, 4)} if name == "d3pm" else {}

    def model(numbers, x, t):
        return jnp.where((active | (x == x0)).all(-1)[:, None, None], numbers, jnp.nan)  # an inactive token is noised

    def loss(numbers):
        denoise = jax.tree_util.Partial(model, numbers)
        return losses.registry[name](process, denoise, x0, jax.random.key(0), active=active, **options)

    numbers = jax.random.normal(jax.random.key(1), (64, 4, V))
    (mean, values), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(numbers)
    assert jnp.allclose(mean, values.sum() / active.sum())
    assert (values[3::4] == 0).all()
    assert (values[:3] > 0).any()
    assert (slope[~active] == 0).all()
    assert jnp.isfinite(slope).all()
    assert jnp.abs(slope[active]).max() > 0


def test_losses_are_finite_at_the_ends_of_time_in_float32():
    d, x0 = js.discrete, jnp.zeros((2, 3), jnp.int32)

    @jax.jit
    def values():
        found = []
        for process in (d.masked(V), d.uniform(V), d.uniform(V, d.survival.cosine())):
            model = d.denoiser(lambda x, t: jnp.zeros((*x.shape, V)), process, "leave_one_out")
            for t in jnp.array([2.0**-23, 1 - 2.0**-23]):
                x = process.forward(jax.random.key(0), x0, t)
                found += [loss_terms.score_entropy_terms(process, model, x0, x, t)]
                found += [loss_terms.flow_terms(process, model, x0, x, t)]
        return jnp.stack(found)

    assert jnp.isfinite(values()).all()


def test_a_loss_says_what_it_needs():
    x0, model = jnp.zeros((2, 3), jnp.int32), lambda x, t: jnp.zeros((*x.shape, V))
    masked, uniform = js.discrete.masked(V), js.discrete.uniform(V)
    key, times = jax.random.key(0), js.schedules.uniform(masked, 4)
    with pytest.raises(ValueError, match="mdlm needs a masked process, got"):
        losses.mdlm(uniform, model, x0, key)
    with pytest.raises(ValueError, match="udlm needs a uniform or marginal process, got"):
        losses.udlm(masked, model, x0, key)
    with pytest.raises(ValueError, match="prediction is for transition_matrices"):
        losses.d3pm(masked, model, x0, key, times=times, prediction="bayes")
    with pytest.raises(ValueError, match="hybrid must be at least 0"):
        losses.d3pm(masked, model, x0, key, times=times, hybrid=-1.0)
    with pytest.raises(ValueError, match="must return logits over 3 clean tokens"):
        jax.eval_shape(lambda: losses.mdlm(masked, lambda x, t: jnp.zeros((*x.shape, V + 1)), x0, key))
