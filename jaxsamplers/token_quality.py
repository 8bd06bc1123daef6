"""How good sampled tokens are when their true law is a Markov chain: numbers that must be read together.

A sampler that repeats the likeliest words has a high likelihood and a low entropy, one that draws noise the opposite;
only a distance to the law sees both. All are of pairs of neighbours, pooled over positions and sequences:

    log_likelihood      mean of log p(token | those before it) under the chain, nats a token
    entropy             of a token given the one before it, among the samples, nats
    kl                  divergence of the law of pairs from the samples' pairs, KL(samples || chain)
    total_variation     half the sum of the differences of their frequencies

Finitely many samples of the chain itself have no perfect numbers either: ``floor`` gives theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsamplers import checks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxsamplers.discrete.chain import MarkovChain

    Array = np.ndarray[Any, Any]

KEYS = ("log_likelihood", "entropy", "kl", "total_variation")


def draw(chain: MarkovChain, seed: int, count: int, length: int) -> Array:
    """Exact samples, ``[count, length]``, on the host: the next token by the inverse of its cumulative law."""
    checks.integer("count", count, low=1)
    checks.integer("length", length, low=1)
    random, (start, table) = np.random.default_rng(seed), _tables(chain)
    sums = np.cumsum(table, axis=-1)
    context = random.choice(len(start), size=count, p=start)
    tokens = np.empty((count, length), np.int32)
    for i in range(length):
        tokens[:, i] = (random.random(count)[:, None] * sums[context, -1:] >= sums[context]).sum(-1)
        context = _next(context, tokens[:, i], table)
    return tokens


def pair_law(chain: MarkovChain, length: int) -> Array:
    """The exact law of two neighbours, ``[V, V]``, over all places of a sequence alike."""
    checks.integer("length", length, low=2)
    vocab = chain.transition.shape[-1]
    joints = [joint.reshape(-1, vocab, vocab).sum(0) for joint in _joints(chain, length)]
    return np.mean(joints[1:], axis=0)


def expected(chain: MarkovChain, length: int) -> dict[str, float]:
    """The chain's own numbers, exactly; both distances are 0."""
    first, table = min(_order(chain), length), _tables(chain)[1]
    later = sum(np.sum(joint * _log(table)) for joint in list(_joints(chain, length))[first:])
    opening = _opening(chain, first)
    total = np.sum(opening * _log(opening)) + later
    return {"log_likelihood": float(total / length), "entropy": _entropy(pair_law(chain, length))}


def log_likelihood(chain: MarkovChain, x: Array) -> Array:
    """``log p`` of each sequence; minus infinity where it cannot be, as with a mask that is left."""
    x, (_, table) = np.asarray(x), _tables(chain)
    known = (x >= 0) & (x < table.shape[1])
    x = np.where(known, x, 0)
    first = min(_order(chain), x.shape[1])
    context = np.zeros(len(x), int)
    for token in x[:, :first].T:
        context = context * table.shape[1] + token
    total = _log(_opening(chain, first), -np.inf)[context]
    for token in x[:, first:].T:
        total = total + _log(table, -np.inf)[context, token]
        context = _next(context, token, table)
    return np.where(known.all(axis=1), total, -np.inf)


def quality(chain: MarkovChain, x: Array) -> dict[str, float]:
    """The numbers of the module's docstring, of tokens ``[count, length]``."""
    x = np.asarray(x)
    law, share = pair_law(chain, x.shape[1]), pairs(x, chain.transition.shape[-1])
    ratio = _log(share) - _log(law, -np.inf)
    return {
        "log_likelihood": float(log_likelihood(chain, x).mean() / x.shape[1]),
        "entropy": _entropy(share),
        "kl": float(np.sum(np.where(share > 0, share * np.where(share > 0, ratio, 0.0), 0.0))),
        "total_variation": float(np.abs(share - law).sum() / 2),
    }


def floor(chain: MarkovChain, seed: int, count: int, length: int, *, repeats: int = 8) -> dict[str, float]:
    """What ``quality`` says of as many exact samples, on average."""
    found = [quality(chain, draw(chain, seed + i, count, length)) for i in range(repeats)]
    return {key: float(np.mean([one[key] for one in found])) for key in KEYS}


def pairs(x: Array, vocab: int) -> Array:
    """Frequencies of neighbours, ``[V, V]``; a mask that is left makes none."""
    counts = np.zeros((vocab + 1, vocab + 1))
    np.add.at(counts, (np.minimum(x[:, :-1], vocab).ravel(), np.minimum(x[:, 1:], vocab).ravel()), 1.0)
    return counts[:vocab, :vocab] / max(counts[:vocab, :vocab].sum(), 1.0)


def _joints(chain: MarkovChain, length: int) -> Iterator[Array]:
    """For each place the law of the context before it and the token there, ``[V^k, V]``."""
    context, table = _tables(chain)
    for _ in range(length):
        joint = context[:, None] * table
        yield joint
        context = joint.reshape(table.shape[1], -1).sum(0)


def _opening(chain: MarkovChain, first: int) -> Array:
    """The law of the first few tokens, no more than the order of the chain."""
    joint = list(_joints(chain, first))[-1]
    return joint.reshape(-1, joint.shape[1] ** first).sum(0)


def _tables(chain: MarkovChain) -> tuple[Array, Array]:
    table = np.asarray(chain.transition, np.float64)
    table, start = table.reshape(-1, table.shape[-1]), np.asarray(chain.start, np.float64).ravel()
    return start / start.sum(), table / table.sum(-1, keepdims=True)


def _order(chain: MarkovChain) -> int:
    vocab, rest, _ = chain.transition.shape
    return 1 + round(np.log(rest) / np.log(vocab)) if vocab > 1 else 1


def _next(context: Array, token: Array, table: Array) -> Array:
    """The context without its oldest token, and the new one behind it."""
    contexts, vocab = table.shape
    return context % (contexts // vocab) * vocab + token


def _entropy(share: Array) -> float:
    """Of the second of two given the first."""
    return float(np.sum(share * (_log(share.sum(-1, keepdims=True)) - _log(share))))


def _log(p: Array, nothing: float = 0.0) -> Array:
    return np.where(p > 0, np.log(np.where(p > 0, p, 1.0)), nothing)
