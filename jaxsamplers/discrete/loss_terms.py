"""What each token contributes to a training loss at given noise, ``[batch, length]`` in nats; see ``losses.py``.

``x0`` are the clean tokens, ``x`` the noisy ones at the time ``t``, a scalar or ``[batch]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers.core import as_key, fold_in
from jaxsamplers.discrete.denoisers import Denoiser, from_bayes
from jaxsamplers.discrete.matrices import Matrices
from jaxsamplers.discrete.processes import Replacement, posterior
from jaxsamplers.discrete.randomness import CLOCK
from jaxsamplers.laws import where_positive
from jaxsamplers.processes import expand

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Bool, Float, Int, Key

    from jaxsamplers.core import Model

    Tokens = Int[Array, "batch ..."]
    Times = Float[Array, " batch"]
    Terms = Float[Array, "batch ..."]
    Active = Bool[Array, "..."] | None
    Loss = tuple[Float[Array, ""], Float[Array, " batch"]]


def mdlm_terms(process: Replacement, model: Model, x0: Tokens, x: Tokens, t: Times) -> Terms:
    """What each token of ``x`` contributes to ``mdlm`` at time ``t``, a scalar or ``[batch]``; ``x`` is ``x_t``."""
    logits = process.clean(model(x, t), x)
    return _speed(process, t, x) * surprise(process, logits, x0, x)


def score_entropy_terms(process: Replacement, model: Model, x0: Tokens, x: Tokens, t: Times) -> Terms:
    """The same for ``score_entropy``: a sum of ``r (e^d - 1 - d)``, ``d = log(s / r)``, none of which is negative."""
    score, vocab = _log_score(process, model, x, t), jnp.arange(process.vocab)
    kept, hit = expand(process.survival(t), x), expand(process.noisiness(t), x)
    pi, start = process.noise.probability(vocab), x0[..., None] == vocab
    law = jnp.where(start, kept[..., None], 0.0) + hit[..., None] * pi
    own = jnp.where(x == x0, kept, 0.0) + hit * process.noise.probability(x)
    ratio = law / jnp.where(own > 0, own, 1.0)[..., None]
    known = law > 0
    d = jnp.where(known, score - jnp.log(jnp.where(known, ratio, 1.0)), 0.0)
    each = jnp.where(known, ratio * (jnp.expm1(d) - d), jnp.exp(jnp.where(known, 0.0, score)))
    others = jnp.where(vocab == x[..., None], 0.0, each).sum(-1)
    speed = expand(process.rate(t), x) * process.noise.probability(x)
    return jnp.where(speed > 0, speed * others, 0.0)


def flow_terms(process: Replacement, model: Model, x0: Tokens, x: Tokens, t: Times) -> Terms:
    """The same for ``flow``."""
    if process.noise.absorbing:
        return mdlm_terms(process, model, x0, x, t)
    law = jax.nn.log_softmax(process.clean(model(x, t), x), axis=-1)
    stays, right = _at(law, x), _at(law, x0)
    return _speed(process, t, x) * (-jnp.expm1(stays) - jnp.where(x == x0, 0.0, 1.0 + right))


def cross_entropy_terms(process: Replacement | Matrices, model: Model, x0: Tokens, x: Tokens, t: Times) -> Terms:
    """The same for ``cross_entropy``."""
    return surprise(process, process.clean(model(x, t), x), x0, x)


def d3pm_terms(
    process: Replacement | Matrices, logits: Float[Array, "batch ... V"], x0: Tokens, x: Tokens, t: Times, s: Times
) -> Terms:
    """``KL(q(x_s | x_t, x_0) || q(x_s | x_t))`` of each token, from Bayes logits; ``t`` and ``s`` are ``[batch]``."""
    if isinstance(process, Replacement) and process.noise.absorbing:  # a visible token is known, whatever they say
        logits = jnp.where((process.noise.probability(x) > 0)[..., None], logits, 0.0)
    step = jax.vmap(lambda law, x, t, s: posterior(process, law, x, t, s))  # tables take one time at once
    exact = step(jax.nn.one_hot(x0, process.vocab, dtype=logits.dtype), x, t, s)
    model = jnp.maximum(step(jax.nn.softmax(logits, axis=-1), x, t, s), jnp.finfo(logits.dtype).tiny)
    return jnp.where(exact > 0, exact * (where_positive(jnp.log, exact, 0.0) - jnp.log(model)), 0.0).sum(-1)


def surprise(process: Replacement | Matrices, logits: Float[Array, "batch ... V"], x0: Tokens, x: Tokens) -> Terms:
    """``-log p(x_0)``, of a masked process at masks only."""
    nats = -_at(jax.nn.log_softmax(logits, axis=-1), x0)
    if not process.noise.absorbing:
        return nats
    return jnp.where(process.noise.probability(x) > 0, nats, 0.0)


def _speed(process: Replacement, t: Times, x: Tokens) -> Terms:
    """``-alpha' / (1 - alpha)``, at which noisy tokens become clean."""
    return expand(process.decay(t) / process.noisiness(t), x)


def _log_score(process: Replacement, model: Model, x: Tokens, t: Times) -> Float[Array, "batch ... V"]:
    """A score network's own answer, or that of the model's posterior."""
    if isinstance(model, Denoiser) and model.prediction == "log_score":
        return model.output(x, t)
    return from_bayes(process, "log_score", process.clean(model(x, t), x), x, t)


def _at(values: Float[Array, "... V"], token: Tokens) -> Terms:
    return jnp.take_along_axis(values, token[..., None], axis=-1)[..., 0]


def total(
    terms: Callable[..., Terms],
    process: Replacement | Matrices,
    model: Model,
    x0: Tokens,
    key: Key[Array, ""],
    active: Active,
) -> Loss:
    """A loss in continuous time."""
    key = as_key(key)
    t = process.t_min + (process.t_max - process.t_min) * spread(key, len(x0), jnp.result_type(float))
    return summed(terms(process, model, x0, noisy(process, x0, key, t, active), t), x0, active)


def spread(key: Key[Array, ""], count: int, dtype: jnp.dtype) -> Times:
    """One number in (0, 1) for each sequence, evenly spread (low-discrepancy sampling of times)."""
    end = jnp.finfo(dtype).eps
    even = (jnp.arange(count) + jax.random.uniform(fold_in(key, CLOCK), (), dtype)) / count
    return jnp.clip(even, end, 1 - end)


def noisy(process: Replacement | Matrices, x0: Tokens, key: Key[Array, ""], t: Times, active: Active) -> Tokens:
    """``x_t``, whose inactive tokens are clean."""
    x = process.forward(key, x0, t)
    return x if active is None else jnp.where(active, x, x0)


def summed(terms: Terms, x0: Tokens, active: Active) -> Loss:
    """Nats per active token, and of each sequence."""
    counts = jnp.ones(x0.shape, bool) if active is None else jnp.broadcast_to(active, x0.shape)
    sequences = jnp.where(counts, terms, 0.0).reshape(len(x0), -1).sum(-1)
    return sequences.sum() / jnp.maximum(counts.sum(), 1), sequences
