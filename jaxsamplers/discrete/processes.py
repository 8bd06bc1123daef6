"""Noise on tokens: each is hit at random times, and then replaced by noise, independently of all others.

    q(x_t | x_0) = alpha(t) [x_t = x_0] + (1 - alpha(t)) pi(x_t)        t in [0, 1], alpha(0) = 1

``alpha`` is the survival law (``survival.py``) and ``pi`` where tokens go (``noises.py``): the mask, a state of its own
from which none returns; any token alike; or tokens of given probabilities. From ``s`` to ``t`` the same holds with
``alpha(t) / alpha(s)``, so every matrix acts on a vector in as many operations as it has entries. ``matrices.py`` has
the processes of which that is not true.

The rate of the noise is ``beta = -alpha' / alpha``: a token ``x`` becomes ``y`` at the rate ``beta pi(y)``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import as_key, fold_in
from jaxsamplers.discrete.categorical import categorical, wide
from jaxsamplers.discrete.noises import Even, Given, Mask, Noise
from jaxsamplers.discrete.randomness import MOVE, NOISE_BLOCK, NOISE_TOKEN, bits, happens
from jaxsamplers.discrete.survival import LogLinear, Survival
from jaxsamplers.processes import expand

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Times = Float[Array, "..."]
    Tokens = Int[Array, "..."]


class Process(Protocol):
    """What every process of tokens can do: act with its matrices on vectors."""

    @property
    def t_min(self) -> float:
        """Where schedules end by default, the clean end."""

    @property
    def t_max(self) -> float:
        """Where they start."""

    @property
    def vocab(self) -> int:
        """How many logits a network gives."""

    @property
    def states(self) -> int:
        """How many values a noisy token can have: those, and the mask."""

    def prior(self, key: Key[Array, ...], shape: tuple[int, ...]) -> Tokens:
        """Noise to start from."""

    def forward(self, key: Key[Array, ...], x0: Tokens, t: Times) -> Tokens:
        """A draw of ``x_t`` given ``x_0``."""

    def likelihood(self, x: Tokens, t: Times, s: Times | float = 0.0) -> Float[Array, "... S"]:
        """``q(x_t = x | x_s = v)`` for every ``v``."""

    def push(self, law: Float[Array, "... S"], t: Times) -> Float[Array, "... S"]:
        """The law of ``x_t`` when ``x_0`` has this one."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["law", "noise", "t_min", "t_max"],
    meta_fields=["vocab", "states"],
)
@dataclasses.dataclass(frozen=True)
class Replacement:
    """A process that replaces tokens; made by the functions below.

    Attributes:
        law: how long tokens survive.
        noise: what replaces them.
        vocab: how many logits a network gives, numbered from 0.
        states: how many values a noisy token can have.
        t_min: where schedules end by default, the clean end.
        t_max: where they start.
    """

    law: Survival
    noise: Noise
    vocab: int
    states: int
    t_min: float = 0.0
    t_max: float = 1.0

    def survival(self, t: Times | float) -> Times:
        """The probability ``alpha(t)`` that a token is untouched."""
        return self.law.survival(_float(t))

    def log_survival(self, t: Times | float) -> Times:
        """``log alpha(t)``."""
        return self.law.log_survival(_float(t))

    def noisiness(self, t: Times | float, s: Times | float = 0.0) -> Times:
        """``1 - alpha(t) / alpha(s)``: the probability of being hit between ``s`` and ``t``."""
        later, earlier = self.log_survival(t), self.log_survival(s)
        gone = jnp.isneginf(later)
        return jnp.where(gone, 1.0, -jnp.expm1(jnp.where(gone, 0.0, later) - jnp.where(gone, 0.0, earlier)))

    def decay(self, t: Times | float) -> Times:
        """``-alpha'(t)``, finite wherever ``alpha`` is smooth."""
        t = _float(t)
        return -jax.jvp(self.law.survival, (t,), (jnp.ones_like(t),))[1]

    def rate(self, t: Times | float) -> Times:
        """``beta(t) = -alpha' / alpha``, infinite where nothing survives."""
        survival = self.survival(t)
        some = survival > 0
        return jnp.where(some, self.decay(t) / jnp.where(some, survival, 1.0), jnp.inf)

    def time(self, log_survival: Times | float) -> Times:
        """When ``log alpha`` is this."""
        return self.law.time(_float(log_survival))

    def prior(self, key: Key[Array, ...], shape: tuple[int, ...]) -> Tokens:
        """Tokens of pure noise, ``int32``; ``key`` may hold one key per sample."""
        key = as_key(key)
        return self.noise.draw(bits(fold_in(key, NOISE_BLOCK), shape), bits(fold_in(key, NOISE_TOKEN), shape), None)

    def forward(self, key: Key[Array, ...], x0: Tokens, t: Times) -> Tokens:
        """A draw of ``x_t`` given ``x_0``; ``t`` is a scalar or has the batch shape ``[batch]``."""
        key = as_key(key)
        hit = happens(bits(fold_in(key, MOVE), x0.shape), expand(self.noisiness(t), x0))
        return jnp.where(hit, self.prior(key, x0.shape), x0)

    def likelihood(self, x: Tokens, t: Times, s: Times | float = 0.0) -> Float[Array, "... S"]:
        """``q(x_t = x | x_s = v)`` for every state ``v`` (small vocabularies: it is as large as the logits)."""
        same = x[..., None] == jnp.arange(self.states)
        kept = jnp.exp(self.log_survival(t) - self.log_survival(s))
        elsewhere = expand(self.noisiness(t, s), x) * self.noise.probability(x)
        return elsewhere[..., None] + jnp.where(same, expand(kept, same), 0.0)

    def push(self, law: Float[Array, "... S"], t: Times) -> Float[Array, "... S"]:
        """The law of ``x_t`` when ``x_0`` has this one."""
        pi = self.noise.probability(jnp.arange(self.states))
        return expand(self.survival(t), law) * law + expand(self.noisiness(t), law) * law.sum(-1, keepdims=True) * pi

    def clean(self, logits: Float[Array, "... V"], x: Tokens) -> Float[Array, "... V"]:
        """A network's logits after checks, in at least float32, with the mask ruled out if it is among them.

        Raises:
            ValueError: logits of another shape than ``[*x.shape, vocab]``.
        """
        return checked_logits(logits, x, self.vocab, self.noise.mask if isinstance(self.noise, Mask) else None)


def masked(vocab: int, law: Survival | None = None, *, mask: int | None = None) -> Replacement:
    """Tokens become masks.

    Args:
        vocab: how many logits a network gives.
        law: how long tokens survive, ``survival.log_linear()`` by default.
        mask: the mask's number: ``vocab`` by default, or one below it where a network's own vocabulary has a mask.

    Raises:
        ValueError: numbers out of range.
    Source: Austin et al. 2021, D3PM (arXiv 2107.03006), app. A.2.2; Sahoo et al. 2024, MDLM (arXiv 2406.07524).
    """
    checks.integer("vocab", vocab, low=1)
    mask = vocab if mask is None else checks.integer("mask", mask, low=0, high=vocab)
    return Replacement(LogLinear(0.0) if law is None else law, Mask(mask), vocab, max(vocab, mask + 1))


def uniform(vocab: int, law: Survival | None = None) -> Replacement:
    """Tokens become any token alike.

    Args:
        vocab: how many tokens there are.
        law: how long tokens survive, ``survival.log_linear(1e-3)`` by default.

    Raises:
        ValueError: fewer than two tokens.
    Source: Austin et al. 2021, D3PM (arXiv 2107.03006), app. A.2.1; Schiff et al. 2024, UDLM (arXiv 2412.10193).
    """
    checks.integer("vocab", vocab, low=2)
    return Replacement(LogLinear(1e-3) if law is None else law, Even(vocab), vocab, vocab)


def marginal(probabilities: Float[Array, " vocab"], law: Survival | None = None) -> Replacement:
    """Tokens become tokens of given probabilities, such as their frequencies.

    Args:
        probabilities: one per token, non-negative; their sum does not matter.
        law: how long tokens survive, ``survival.log_linear(1e-3)`` by default.

    Raises:
        ValueError: anything but a vector of two or more non-negative numbers, not all 0.
    Source: Vignac et al. 2023, DiGress (arXiv 2209.14734), sec. 4.1.
    """
    if jnp.ndim(probabilities) != 1 or jnp.size(probabilities) < 2:
        raise ValueError(f"probabilities must be a vector of at least 2, got shape {jnp.shape(probabilities)}")
    checks.within("probabilities", probabilities, 0.0)
    checks.within("the sum of probabilities", jnp.sum(probabilities), 0.0, above=True)
    vocab = jnp.size(probabilities)
    noise = Given(categorical(jnp.log(_float(probabilities))))
    return Replacement(LogLinear(1e-3) if law is None else law, noise, vocab, vocab)


def posterior(
    process: Process, x0: Float[Array, "... V"], x: Tokens, t: Times | float, s: Times | float
) -> Float[Array, "... S"]:
    """The law of ``x_s`` given ``x_t`` when ``x_0`` has the law ``x0``, each position by itself.

        q(x_s | x_t) = sum_v x0(v) q(x_t | x_s) q(x_s | v) / q(x_t | v)

    ``x0`` is the Bayes posterior, what is known of the clean token *given all of* ``x_t``, its own noisy value
    included. This is the definition, in whole vectors; samplers draw from it without writing them.

    Args:
        process: any.
        x0: probabilities of clean tokens, as many as logits.
        x: the noisy tokens.
        t: their time, a scalar or ``[batch]``.
        s: the earlier time.
    """
    t, s = _float(t), _float(s)
    clean = jnp.pad(x0, [(0, 0)] * (x0.ndim - 1) + [(0, process.states - x0.shape[-1])])
    given = process.likelihood(x, t)
    weights = jnp.where(clean > 0, clean / jnp.where(given > 0, given, 1.0), 0.0)
    law = process.likelihood(x, t, s) * process.push(weights, s)
    return law / law.sum(-1, keepdims=True)


def checked_logits(logits: Any, x: Tokens, vocab: int, mask: int | None = None) -> Float[Array, "... V"]:
    """What a network returned, if it looks as it must, in at least float32; the mask's logit becomes -inf.

    Raises:
        ValueError: another shape than ``[*x.shape, vocab]``.
    """
    if jnp.shape(logits) != (*x.shape, vocab):
        raise ValueError(
            f"a network on tokens of shape {x.shape} must return logits over {vocab} clean tokens, of shape "
            f"{(*x.shape, vocab)}, but returned {jnp.shape(logits)}"
        )
    logits = wide(logits)
    return logits if mask is None or mask >= vocab else jnp.where(jnp.arange(vocab) == mask, -jnp.inf, logits)


def _float(value: Times | float) -> Times:
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


registry: dict[str, Callable[..., Replacement]] = {"masked": masked, "uniform": uniform, "marginal": marginal}
