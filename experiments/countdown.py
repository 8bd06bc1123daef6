"""Countdown: sequences of 32 symbols, each one less than that before it, any after 0 and at the start.

The task of Jump Your Steps (Park et al. 2024, arXiv 2410.07761) and of LSD (arXiv 2509.19962), whose sequences have 256
tokens. It is a Markov chain, so that its posterior is known exactly. Tokens drawn in parallel can contradict each
other, and then no clean sequence is possible and there is no posterior: as a network serves the posterior of a chain
that breaks the rule with probability ``SMOOTHING``. It is exact to that where there is no contradiction.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxsamplers.discrete.chain import MarkovChain, markov_chain

SYMBOLS, SMOOTHING = 32, 1e-5


def countdown(symbols: int = SYMBOLS, smoothing: float = 0.0) -> MarkovChain:
    """The chain: each number one less than that before it; any after 0, and first."""
    rule = np.eye(symbols, k=-1)
    rule[0] = 1 / symbols
    return markov_chain(jnp.asarray((1 - smoothing) * rule + smoothing / symbols), jnp.eye(symbols)[0])


def violations(x: np.ndarray) -> dict[str, float]:
    """Two error rates, both a pair of neighbours.

    ``violations`` is the share of pairs of which the first is not 0 and the second not one less; ``check_err`` is the
    same as the authors' program counts it: a tested number is forgotten, so that of a run of numbers only every second
    pair is looked at.
    """
    wrong = (x[:, :-1] != 0) & (x[:, 1:] != x[:, :-1] - 1)
    before, found = np.zeros(len(x), x.dtype), 0
    for now in x.T:
        tested = before != 0
        found += int((tested & (now != before - 1)).sum())
        before = np.where(tested, 0, now)
    return {"violations": float(wrong.mean()), "check_err": found / wrong.size}
