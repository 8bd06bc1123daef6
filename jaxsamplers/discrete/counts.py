"""How many masks become tokens at once: as many as the network is sure of.

A rule is a function ``sure -> number``: ``sure[..., j]`` is the probability of the likeliest token at the position that
comes ``j``-th in the order, 0 where no mask is left, and the number is of positions from the first on. Those of one row
are drawn independently of each other, so that it matters how sure the network is of all of them together. The sampler
takes at least one and never more than there are masks.

In the order "confidence" these are Fast-dLLM's rules. In others, as from left to right, a position that the network is
not sure of stops those behind it, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    Sure = Float[Array, "... most"]

Count = Callable[..., Any]


def threshold(least: float | Float[Array, ""]) -> Partial:
    """All positions in a row of which the likeliest token has more than this probability.

    Args:
        least: from 0, all at once, to 1, one at a time.

    Raises:
        ValueError: a probability outside [0, 1].
    Source: Wu et al. 2025, Fast-dLLM (arXiv 2505.22618), sec. 3.3.
    """
    checks.within("least", least, 0.0, 1.0)
    return Partial(_threshold, jnp.asarray(least))


def factor(bound: float | Float[Array, ""]) -> Partial:
    """The largest ``n`` with ``(n + 1) (1 - c_n) < bound``, where ``c_n`` is the probability of the ``n``-th in order.

    With ``bound <= 1`` drawing the likeliest tokens of those positions each by itself is drawing the likeliest of all
    of them together.

    Args:
        bound: from 0, one at a time.

    Raises:
        ValueError: a number below 0.
    Source: Wu et al. 2025, Fast-dLLM (arXiv 2505.22618), sec. 3.3 and theorem 1. Their program takes one more where
        only the last mask of all fails.
    """
    checks.within("bound", bound, 0.0)
    return Partial(_factor, jnp.asarray(bound))


registry: dict[str, Callable[..., Partial]] = {"threshold": threshold, "factor": factor}


def _threshold(least: Float[Array, ""], sure: Sure) -> Int[Array, "..."]:
    return _first(sure > least)


def _factor(bound: Float[Array, ""], sure: Sure) -> Int[Array, "..."]:
    n = jnp.arange(1, sure.shape[-1] + 1)
    return _first((n + 1) * (1 - sure) < bound)


def _first(good: Bool[Array, "... most"]) -> Int[Array, "..."]:
    """How many of the first ones, up to one that is not."""
    return jnp.cumprod(good, axis=-1).sum(-1)
