"""Data with an exact denoiser: a Markov chain of any order, and its posterior given noisy tokens.

Noise acts on each token by itself, so the chain and its noisy tokens are a hidden Markov model, and ``p(x0_i | x_t)``
is the product of a forward and a backward recursion. A state is a context, the last ``k`` tokens ``(a, r)`` with ``a``
the oldest; the next token ``v`` leads to the context ``(r, v)``. Sums are taken of numbers relative to the largest of
each sum, so that nothing underflows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.laws import pytree, where_positive

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    Logits = Float[Array, "... V"]
    Tokens = Int[Array, "..."]
    Context = Float[Array, "V rest"]


@pytree
class MarkovChain:
    """A stationary source of tokens.

    Attributes:
        start: probabilities of the context before the first token, ``[V, V^(k-1)]``.
        transition: probabilities of the next token, ``[V, V^(k-1), V]``.
    """

    start: Context
    transition: Float[Array, "V rest V"]

    def log_probability(self, x: Tokens) -> Float[Array, "..."]:
        """Natural logarithm of the probability of each sequence, ``[..., length] -> [...]``."""
        seen = jnp.log((x[..., None] == jnp.arange(self.transition.shape[-1])).astype(self.start.dtype))
        last, _ = _forward(self, seen.reshape(-1, *seen.shape[-2:]))
        return jax.scipy.special.logsumexp(last, axis=(-2, -1)).reshape(x.shape[:-1])


def markov_chain(transition: Float[Array, "... V"], start: Float[Array, "..."]) -> MarkovChain:
    """A chain from its tables.

    Args:
        transition: probabilities of the next token after each context, ``[V] * k + [V]``.
        start: probabilities of the ``k`` tokens before the first, ``[V] * k``.

    Raises:
        ValueError: shapes that do not fit, numbers below 0, rows that do not sum to 1.
    """
    transition, start = jnp.asarray(transition), jnp.asarray(start)
    vocab = transition.shape[-1]
    if transition.shape != (vocab,) * transition.ndim or start.shape != transition.shape[:-1] or start.ndim < 1:
        raise ValueError(
            f"transition must have shape [V] * k + [V] and start [V] * k, got {transition.shape} and {start.shape}"
        )
    for name, law, sums in (("transition", transition, transition.sum(-1)), ("start", start, start.sum())):
        checks.within(name, law, 0.0)
        checks.within(f"the sums of {name}", sums, 1 - 1e-4, 1 + 1e-4)
    return MarkovChain(start.reshape(vocab, -1), transition.reshape(vocab, -1, vocab))


def chain_posterior(chain: MarkovChain, process: Replacement) -> Partial:
    """The perfect network: ``(tokens, t) -> logits`` of the Bayes posterior, for tokens ``[batch, length]``.

    One call costs ``batch length V^(k + 1)`` multiplications, twice.
    """
    return Partial(_posterior, chain, process)


def _posterior(chain: MarkovChain, process: Replacement, x: Tokens, t: Array, **extra: Any) -> Logits:
    flat = x.reshape(-1, x.shape[-1])
    seen = _emission(process, flat, t)
    before = _forward(chain, seen)[1]
    return (
        jax.scipy.special.logsumexp(before + _backward(chain, seen), axis=-2)
        .swapaxes(0, 1)
        .reshape(*x.shape, process.vocab)
    )


def _emission(process: Replacement, x: Tokens, t: Array) -> Logits:
    """``log q(x_t^i | v)`` up to a constant of each position."""
    if process.noise.absorbing:
        hidden = (process.noise.probability(x) > 0)[..., None]
        return jnp.where(hidden | (x[..., None] == jnp.arange(process.vocab)), 0.0, -jnp.inf)
    return where_positive(jnp.log, process.likelihood(x, t), -jnp.inf)


def _forward(chain: MarkovChain, seen: Float[Array, "n L V"]) -> tuple[Array, Array]:
    """``log p(context, x_t up to here)`` after the last token and after each, ``[L, n, rest, V]``."""
    first = where_positive(jnp.log, chain.start, -jnp.inf)

    def body(context: Array, token: Array) -> tuple[Array, Array]:
        joint = _log_sum(context, chain.transition, "nar,arv->nrv", axis=1) + token[:, None, :]
        return joint.reshape(context.shape), joint

    batch = jnp.broadcast_to(first, (seen.shape[0], *first.shape)).astype(seen.dtype)
    return jax.lax.scan(body, batch, seen.swapaxes(0, 1))


def _backward(chain: MarkovChain, seen: Float[Array, "n L V"]) -> Array:
    """``log p(x_t after here | context)`` for the context that ends with each token, ``[L, n, rest, V]``."""
    vocab, rest = chain.start.shape

    def body(after: Array, token: Array) -> tuple[Array, Array]:
        joint = after.reshape(-1, rest, vocab) + token[:, None, :]
        return _log_sum(joint, chain.transition, "nrv,arv->nar", axis=2), after.reshape(-1, rest, vocab)

    nothing = jnp.zeros((seen.shape[0], vocab, rest), seen.dtype)
    return jax.lax.scan(body, nothing, seen.swapaxes(0, 1), reverse=True)[1]


def _log_sum(log_weights: Array, matrix: Array, sum_: str, axis: int) -> Array:
    """The logarithm of a sum of ``exp(log_weights) matrix``, the largest of the summed axis taken out."""
    peak = jnp.max(log_weights, axis=axis, keepdims=True)
    peak = jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
    total = jnp.einsum(sum_, jnp.exp(log_weights - peak), matrix.astype(log_weights.dtype))
    return where_positive(jnp.log, total, -jnp.inf) + peak.swapaxes(1, 2)
