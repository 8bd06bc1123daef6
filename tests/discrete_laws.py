"""Exact laws of samplers on spaces small enough to enumerate: no sampling anywhere.

A sampler's step moves every position independently given the tokens before it, so its law is a matrix over all
sequences, made of the very probabilities it draws from (``sampler.law``). Products of those matrices are what the
sampler's output is distributed like.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from jaxsamplers.discrete.chain import chain_posterior, markov_chain

VOCAB, LENGTH = 3, 5


def chain():
    """Three symbols, strongly dependent, none impossible."""
    transition = jnp.array([[0.75, 0.2, 0.05], [0.1, 0.15, 0.75], [0.5, 0.05, 0.45]])
    return markov_chain(transition, jnp.array([0.5, 0.2, 0.3]))


def sequences(states, length=LENGTH):
    """All of them, ``[states^length, length]``, the last position fastest."""
    return jnp.array(list(itertools.product(range(states), repeat=length)))


def joint(laws):
    """``[n, length, states]`` independent positions as laws over whole sequences, ``[n, states^length]``."""
    total = laws[:, 0]
    for i in range(1, laws.shape[1]):
        total = (total[:, :, None] * laws[:, i, None, :]).reshape(len(laws), -1)
    return total


def data_law(source, states, length=LENGTH):
    """Probabilities of all sequences; 0 where there is a mask."""
    x = sequences(states, length)
    clean = (x < VOCAB).all(-1)
    return jnp.where(clean, jnp.exp(source.log_probability(jnp.where(clean[:, None], x, 0))), 0.0)


def transition(process, t):
    """``q(x_t | x_0)``, one row for each ``x_0``."""
    return process.likelihood(jnp.arange(process.states), jnp.asarray(t)).T


def noised(process, law, t, length=LENGTH):
    """The exact law of ``x_t``."""
    return law @ joint(transition(process, t)[sequences(process.states, length)])


def output_law(sampler, model, start, length=LENGTH):
    """The law of what the sampler returns when it starts from this one."""
    x = sequences(sampler.process.states, length)

    def step(law, row):
        return law @ joint(sampler.law(row, x, model(x, row.time))), None

    return jax.lax.scan(step, start, sampler.rows)[0]


def divergence(truth, law):
    """KL of the data from a law, in nats; entries without data do not count."""
    some = truth > 0
    return float(jnp.sum(jnp.where(some, truth * (jnp.log(jnp.where(some, truth, 1.0)) - jnp.log(law + ~some)), 0.0)))


def total_variation(a, b):
    """Half the sum of absolute differences."""
    return float(0.5 * jnp.abs(a - b).sum())


def chi_square(counts, law):
    """Pearson's statistic in standard deviations of its law, cells of less than five expected counts pooled."""
    expected = np.asarray(law, np.float64) * counts.sum()
    assert not counts[expected == 0].any(), "something impossible was drawn"
    rare = expected < 5
    seen, expected = (np.append(v[~rare], v[rare].sum()) for v in (np.asarray(counts, np.float64), expected))
    seen, expected = seen[expected > 0], expected[expected > 0]
    freedom = len(seen) - 1
    return float((((seen - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def problem(kind):
    """``(process, model, data's law, the law at t = 1)``."""
    source = chain()
    process = {
        "masked": lambda: js.discrete.masked(VOCAB),
        "uniform": lambda: js.discrete.uniform(VOCAB),
        "marginal": lambda: js.discrete.marginal(jnp.array([0.5, 0.3, 0.2])),
    }[kind]()
    truth = data_law(source, process.states)
    return process, chain_posterior(source, process), truth, noised(process, truth, process.t_max)
