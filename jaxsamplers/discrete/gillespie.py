"""k-Gillespie: a step ends when so many masks have become tokens.

Every mask waits for an exponential time of the same rate, since the posterior of its token sums to one; so the first
``k`` to go are any ``k`` alike, and the sampler is ``ordered`` in random order with given numbers a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.discrete.ordered import OrderedSampler, ordered
from jaxsamplers.discrete.orders import Order

if TYPE_CHECKING:
    from jaxsamplers.discrete.processes import Replacement


def k_gillespie(process: Replacement, counts: Sequence[int], *, order: str | Order = "random") -> OrderedSampler:
    """Masks become tokens, a number of them a step that is chosen for each step; one call a step.

    The network is shown the times at which so many masks are expected. Sequences with fewer masks than the sum of the
    counts (prompts, padding) have them shared out in the same proportions.

    Args:
        process: a masked one.
        counts: how many tokens each step draws, at least one; the sum is the length of the sequences, or how many
            masks they have: of more some may be left.
        order: as in ``ordered``.

    Raises:
        ValueError: no counts, or others than positive integers; an unknown order.
        TypeError: a process without masks.
    Source: Zhao et al. 2024, Informed correctors (arXiv 2407.21243), where their program draws one token more a step;
        Park et al. 2024, Jump your steps (arXiv 2410.07761).
    """
    counts = [checks.integer("counts", count, low=1) for count in counts]
    if not counts:
        raise ValueError("counts must have at least one number")
    left = 1 - jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.array(counts)) / sum(counts)])
    start = process.noisiness(process.t_max)
    times = process.time(jnp.log1p(-left * start)).at[0].set(process.t_max)
    return ordered(process, times, order=order, length=sum(counts))
