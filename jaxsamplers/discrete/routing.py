"""The one step of every sampler: each token stays, becomes clean, or becomes noise.

With ``z = x_t``, Bayes posterior ``p`` of the clean token, ``a = alpha(t)``, ``b = alpha(s)`` and ``r = a / b``, the
exact law of ``x_s`` is a mixture of three (sum ``q(x_s | x_t, v)`` over ``v ~ p``):

    with probability  b (1 - r) / (1 - a)        a token drawn from p
    with probability  (1 - b) (1 - r) w          a token drawn from pi,      w = pi(z) sum_v p(v) / q(z | v)
    else              z                                                       = (1 - p_z) / (1 - a)
                                                                                + p_z pi(z) / (a + (1 - a) pi(z))

and the reverse *rates* have the same form, ``-alpha' / (1 - a)`` and ``beta (1 - a) w``. So a sampler is two numbers a
step, ``clean`` and ``noise``, in front of ``p`` and ``w pi``, a third, ``refresh``, for new noise whatever the network
says, and a rule that turns sums into probabilities (``leaps.py``). "Whether" and "to which token" are separate draws,
so that no probability is multiplied by that of the other: float32 loses nothing, however short the steps.

A token drawn equal to ``z`` is no move. Moves are counted here as real ones: probabilities are those of another token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers.core import fold_in
from jaxsamplers.discrete.categorical import Categorical
from jaxsamplers.discrete.randomness import BLOCK, MOVE, NOISE_BLOCK, NOISE_TOKEN, ROUTE, TOKEN, bits, happens
from jaxsamplers.laws import pytree

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key, UInt32

    from jaxsamplers.discrete.noises import Noise
    from jaxsamplers.discrete.processes import Replacement

    Tokens = Int[Array, "..."]


@pytree
class Coefficients:
    """What a step multiplies the two destinations with.

    Attributes:
        clean: in front of the network's posterior.
        noise: in front of ``w`` times the process's noise.
        refresh: in front of the process's noise.
        survival: ``alpha(t)`` of the process.
        noisiness: ``1 - alpha(t)``.
    """

    clean: Float[Array, "..."]
    noise: Float[Array, "..."]
    refresh: Float[Array, "..."]
    survival: Float[Array, "..."]
    noisiness: Float[Array, "..."]


@pytree
class Route:
    """Where each token may go.

    Attributes:
        clean: probability (before a leap: expected number) of moves to another clean token.
        noise: the same of moves to noise.
        tokens: the law of the clean token moved to.
    """

    clean: Float[Array, "..."]
    noise: Float[Array, "..."]
    tokens: Categorical

    def rescaled(self, rule: Callable[[Array], Array]) -> Route:
        """``clean + noise`` becomes ``rule(clean + noise) (clean + noise)``, in the same proportion."""
        factor = rule(self.clean + self.noise)
        return Route(self.clean * factor, self.noise * factor, self.tokens)

    def only(self, active: Bool[Array, "..."] | None) -> Route:
        """No moves where ``active`` is false."""
        if active is None:
            return self
        return Route(jnp.where(active, self.clean, 0.0), jnp.where(active, self.noise, 0.0), self.tokens)


def route(process: Replacement, step: Coefficients, x: Tokens, estimate: Categorical) -> Route:
    """Where each token may go, from the network's posterior and a step's coefficients."""
    if process.noise.absorbing:  # a mask has no posterior of its own, a visible token is its own posterior
        hidden = process.noise.probability(x) > 0
        return Route(jnp.where(hidden, step.clean, 0.0), jnp.where(hidden, 0.0, step.refresh), estimate)
    others, own = estimate.without(x), process.noise.probability(x)
    scale = 1 / estimate.total
    changed, kept = others.total * scale, estimate.weight(x) * scale
    stays = step.survival + step.noisiness * own  # 0 for what noise never makes, where nothing survives
    share = changed / step.noisiness + kept * own / jnp.where(stays > 0, stays, 1.0)
    return Route(step.clean * changed, (step.noise * share + step.refresh) * (1 - own), others)


def take(pi: Noise, key: Key[Array, ...], x: Tokens, there: Route) -> Tokens:
    """Draws the move of every token."""
    word = lambda role: bits(fold_in(key, role), x.shape)
    return arrive(pi, word, x, there, happens(word(MOVE), there.clean + there.noise))


def arrive(
    pi: Noise, word: Callable[[int], UInt32[Array, "..."]], x: Tokens, there: Route, moves: Bool[Array, "..."]
) -> Tokens:
    """Draws where the tokens that move go; ``word`` gives random words for each role."""
    total = there.clean + there.noise
    to_noise = happens(word(ROUTE), there.noise / jnp.where(total > 0, total, 1.0))
    clean = there.tokens.draw(word(BLOCK), word(TOKEN))
    noise = pi.draw(word(NOISE_BLOCK), word(NOISE_TOKEN), x)
    return jnp.where(moves, jnp.where(to_noise, noise, clean), x).astype(x.dtype)


def probabilities(process: Replacement, x: Tokens, there: Route) -> Float[Array, "... S"]:
    """The law that ``take`` draws from, in whole vectors."""
    state = jnp.arange(process.states)
    here = x[..., None] == state
    pi = jnp.where(here, 0.0, process.noise.probability(state))
    pi = pi / jnp.where(pi.sum(-1) > 0, pi.sum(-1), 1.0)[..., None]
    clean = there.tokens.probabilities()
    clean = jnp.pad(clean, [(0, 0)] * (clean.ndim - 1) + [(0, process.states - clean.shape[-1])])
    moved = there.clean[..., None] * clean + there.noise[..., None] * pi
    return moved + jnp.where(here, (1 - there.clean - there.noise)[..., None], 0.0)
