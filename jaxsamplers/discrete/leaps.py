"""Rules that turn the expected number ``n`` of moves in a step into the probability of one.

A sampler that freezes its rates during a step expects ``n`` moves of a token, and must decide what more than one means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    Number = Float[Array, "..."]


def at_most_one(n: Number) -> Number:
    """Probability ``min(n, 1)`` over ``n``: Euler's, and what exact probabilities need against rounding."""
    return 1 / jnp.maximum(n, 1.0)


def clock(n: Number) -> Number:
    """Probability ``1 - e^-n`` over ``n``: the token moves when its clock rings, and then rests."""
    some = n > 1e-20
    return jnp.where(some, -jnp.expm1(-n) / jnp.where(some, n, 1.0), 1.0)


def reject(n: Number) -> Number:
    """Probability ``n e^-n`` over ``n``: of a Poisson number of moves, only a single one counts."""
    return jnp.exp(-n)


rules: dict[str, Callable[[Number], Number]] = {"euler": at_most_one, "clock": clock, "reject": reject}
