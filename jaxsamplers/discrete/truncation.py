"""Which tokens may be drawn at all: rules that take a network's logits and ban the unlikely ones, or sharpen the rest.

A rule is a function ``logits [..., V] -> logits``, banned tokens at -inf. The likeliest token is never banned, and of
equally likely ones all stay or none. Rules compute in float32 or better, as bfloat16 cannot add 50,000 probabilities.
They serve whatever draws from logits: masked and other token diffusion through ``truncated``, and autoregressive models
as they are.

    temperature     l / T                                           0 for the likeliest alone
    top_k           the k likeliest
    top_p           the likeliest that together have p or more
    min_p           those with p times the likeliest's probability or more
    typical         those nearest the expected surprise, H, that together have p or more
    epsilon, eta    those with probability epsilon, or min(epsilon, sqrt(epsilon) e^-H), or more

Every rule is a distribution of its own: likelihood and entropy of what is drawn belong side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.discrete.categorical import wide

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    Logits = Float[Array, "... V"]
    Number = float | Float[Array, "..."]
    Rule = Callable[[Any], Any]

COLD = 1e-6  # of a temperature that a rule finds: logits over less might overflow


def truncated(model: Model, *rules: Rule) -> Model:
    """The network with rules applied to its logits, one after the other.

    Args:
        model: ``(tokens, t) -> logits``.
        *rules: functions of logits, such as ``jax.tree_util.Partial(top_p, p=0.9)``, whose number stays an argument of
            a compiled program, or ``functools.partial(top_k, k=40)``, whose number cannot.
    """
    return Partial(_truncated, as_pytree(model), tuple(as_pytree(rule) for rule in rules))


def temperature(logits: Logits, value: Number) -> Logits:
    """Logits over the temperature; 0 leaves the likeliest token alone.

    Raises:
        ValueError: a temperature below 0.
    """
    checks.within("value", value, 0.0)
    logits = wide(logits)
    value = jnp.asarray(value, logits.dtype)[..., None] if jnp.ndim(value) else jnp.asarray(value, logits.dtype)
    cold = value == 0
    warm = logits / jnp.where(cold, 1.0, value)
    return jnp.where(cold, _keep(logits, logits == logits.max(-1, keepdims=True)), warm)


def top_k(logits: Logits, k: int) -> Logits:
    """The ``k`` likeliest tokens, all there are if there are fewer.

    Raises:
        ValueError: ``k`` below 1.
    Source: Fan, Lewis & Dauphin 2018, Hierarchical neural story generation (arXiv 1805.04833), sec. 5.4.
    """
    checks.integer("k", k, low=1)
    least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return _keep(logits, logits >= least)


def top_p(logits: Logits, p: Number) -> Logits:
    """The smallest set of likeliest tokens that has probability ``p`` or more: the nucleus.

    (ReMDM's program leaves out the token that reaches ``p``.)

    Raises:
        ValueError: ``p`` outside [0, 1].
    Source: Holtzman et al. 2020, The curious case of neural text degeneration (arXiv 1904.09751), sec. 3.1.
    """
    checks.within("p", p, 0.0, 1.0)
    logits = wide(logits)
    return _keep(logits, _first(logits, -logits, p))


def min_p(logits: Logits, p: Number) -> Logits:
    """Tokens with ``p`` times the likeliest's probability or more.

    Raises:
        ValueError: ``p`` outside [0, 1].
    Source: Nguyen et al. 2024, Turning up the heat: min-p sampling (arXiv 2407.01082).
    """
    checks.within("p", p, 0.0, 1.0)
    logits = wide(logits)
    return _keep(logits, logits >= logits.max(-1, keepdims=True) + jnp.log(_spread(p, logits)))


def typical(logits: Logits, p: Number) -> Logits:
    """The smallest set with probability ``p`` or more of tokens whose surprise ``-log q`` is nearest its mean.

    The likeliest token stays, too, which the paper may leave out.

    Raises:
        ValueError: ``p`` outside [0, 1].
    Source: Meister, Pimentel, Wiher & Cotterell 2023, Locally typical sampling (arXiv 2202.00666), eq. 10.
    """
    checks.within("p", p, 0.0, 1.0)
    logits = wide(logits)
    log_q = jax.nn.log_softmax(logits)
    return _keep(logits, _first(logits, jnp.abs(log_q + _entropy(log_q)), p))


def epsilon(logits: Logits, least: Number) -> Logits:
    """Tokens with this probability or more.

    Raises:
        ValueError: a probability outside [0, 1].
    Source: Hewitt, Manning & Liang 2022, Truncation sampling as language model desmoothing (arXiv 2210.15191), sec. 3.
    """
    checks.within("least", least, 0.0, 1.0)
    logits = wide(logits)
    return _keep(logits, jax.nn.log_softmax(logits) >= jnp.log(_spread(least, logits)))


def eta(logits: Logits, least: Number) -> Logits:
    """Tokens with this probability or more, or, where the entropy is high, ``sqrt(least) e^-H``.

    Raises:
        ValueError: a probability outside [0, 1].
    Source: Hewitt, Manning & Liang 2022 (arXiv 2210.15191), sec. 4.
    """
    checks.within("least", least, 0.0, 1.0)
    logits = wide(logits)
    log_q, bound = jax.nn.log_softmax(logits), jnp.log(_spread(least, logits))
    return _keep(logits, log_q >= jnp.minimum(bound, bound / 2 - _entropy(log_q)))


def kl_temperature(logits: Logits, without: Logits, *, highest: Number = 1.0, half: Number = 1.0) -> Logits:
    """A temperature that falls where the condition matters: ``highest * 2^-(KL / half)``.

    Below a millionth it is 0, the likeliest token alone, as where the network without the condition rules a token out.

    Args:
        logits: of the network given its condition.
        without: of the network without it.
        highest: the temperature where both say the same.
        half: the divergence of the second from the first, in nats, at which it has fallen to a half.

    Raises:
        ValueError: numbers that are not above 0.
    Source: Chang et al. 2023, KL-divergence guided temperature sampling (arXiv 2306.01286).
    """
    checks.within("highest", highest, 0.0, above=True)
    checks.within("half", half, 0.0, above=True)
    logits = wide(logits)
    log_q, log_r = jax.nn.log_softmax(logits), jax.nn.log_softmax(wide(without))
    some = jnp.isfinite(log_q)
    apart = jnp.where(some, jnp.exp(log_q) * (jnp.where(some, log_q, 0.0) - jnp.where(some, log_r, 0.0)), 0.0)
    value = highest * 2.0 ** -(apart.sum(-1) / half)
    return temperature(logits, jnp.where(value > COLD, value, 0.0))


registry: dict[str, Callable[..., Any]] = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
    "typical": typical,
    "epsilon": epsilon,
    "eta": eta,
}


def _truncated(model: Model, rules: tuple[Rule, ...], *args: Any, **extra: Any) -> Logits:
    logits = model(*args, **extra)
    for rule in rules:
        logits = rule(logits)
    return logits


def _keep(logits: Logits, kept: Bool[Array, "... V"]) -> Logits:
    """Those, and the likeliest."""
    return jnp.where(kept | (logits == logits.max(-1, keepdims=True)), logits, -jnp.inf)


def _first(logits: Logits, rank: Float[Array, "... V"], p: Number) -> Bool[Array, "... V"]:
    """Tokens of lowest rank, as many as it takes to have probability ``p``."""
    q = jax.nn.softmax(logits)
    order = jnp.argsort(rank, axis=-1)
    before = jnp.cumsum(jnp.take_along_axis(q, order, -1), axis=-1) - jnp.take_along_axis(q, order, -1)
    needed = (before < _spread(p, logits)) & (jnp.take_along_axis(q, order, -1) > 0)
    last = jnp.max(jnp.where(needed, jnp.take_along_axis(rank, order, -1), -jnp.inf), axis=-1, keepdims=True)
    return rank <= last


def _entropy(log_q: Logits) -> Float[Array, "... 1"]:
    return -jnp.where(jnp.isfinite(log_q), jnp.exp(log_q) * log_q, 0.0).sum(-1, keepdims=True)


def _spread(number: Number, logits: Logits) -> Array:
    """One number for all tokens of a row."""
    number = jnp.asarray(number, logits.dtype)
    return number[..., None] if number.ndim else number
