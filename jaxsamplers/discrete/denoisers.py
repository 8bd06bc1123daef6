"""From what a network predicts to logits of the Bayes posterior, the canonical form inside the library.

A network on noisy tokens ``x_t`` may predict, for each position ``i``,

    bayes           log p(x0_i = v | x_t), all of x_t given: what cross-entropy on x0 learns
    leave_one_out   log p(x0_i = v | x_t but position i)
    log_score       log of p_t(x_t with v at i) / p_t(x_t), a ratio of marginals: what score entropy learns
    rate            the rate at which token i becomes v when time runs backwards

Bayes' rule joins the first two, ``bayes(v) ~ leave_one_out(v) q(x_t^i | v)``; they differ at ``v = x_t^i`` only. Ratios
of marginals are ratios of ``alpha leave_one_out + (1 - alpha) pi``, and a rate is ``beta pi(x_t^i)`` times a ratio. At
a mask the first two are equal, and a visible token of a masked process is known, whatever the network says of it.

D3PM, UDLM and Duo put a network's output in place of ``x0`` in ``q(x_s | x_t, x0)``, which is right for the
leave-one-out posterior only: with uniform noise and an exact *Bayes* posterior their samplers converge to a wrong law.
So say which one a network is; samplers then do what is right for it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.discrete.processes import Replacement, checked_logits
from jaxsamplers.laws import where_positive
from jaxsamplers.processes import expand

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    Logits = Float[Array, "... V"]
    Tokens = Int[Array, "..."]

predictions = ("bayes", "leave_one_out", "log_score", "rate")


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["apply", "process", "time"], meta_fields=["prediction"]
)
@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network turned into ``(x, t, **extra) -> logits`` of the Bayes posterior; a pytree.

    Attributes:
        apply: the network.
        process: what it was trained on.
        prediction: what it predicts, one of ``predictions``.
        time: its own clock, or ``None``.
    """

    apply: Callable[..., Any]
    process: Replacement
    prediction: str
    time: Callable[..., Any] | None = None

    def __call__(self, x: Tokens, t: Array, **extra: Any) -> Logits:
        """Logits of each clean token at each position; ``t`` is a scalar or ``[batch]``."""
        return to_bayes(self.process, self.prediction, self.output(x, t, **extra), x, t)

    def output(self, x: Tokens, t: Array, **extra: Any) -> Logits:
        """What the network itself predicts."""
        output = self.apply(x, t if self.time is None else self.time(t), **extra)
        return checked_logits(output, x, self.process.vocab)


def denoiser(
    apply: Callable[..., Any],
    process: Replacement,
    prediction: str = "bayes",
    *,
    time: Callable[..., Any] | None = None,
) -> Denoiser:
    """A denoiser from a network; a plain function that returns Bayes logits needs none.

    Args:
        apply: ``(tokens, t, **extra) -> [*tokens.shape, vocab]``; any float type, unnormalised where it is a posterior.
        process: the process the network was trained on; masked, uniform or marginal.
        prediction: what it predicts: "bayes", "leave_one_out", "log_score" or "rate" (rates themselves, not
            logarithms).
        time: the network's own clock as a function of the process's time; the time itself by default.

    Raises:
        ValueError: an unknown prediction; when called, an output of another shape.
        TypeError: a process of another kind, which has no such conversions.
    """
    checks.one_of("prediction", prediction, predictions)
    if not isinstance(process, Replacement):
        raise TypeError(f"predictions are converted on masked, uniform and marginal processes, got {process!r:.60}")
    return Denoiser(as_pytree(apply), process, prediction, None if time is None else as_pytree(time))


def to_bayes(process: Replacement, prediction: str, output: Logits, x: Tokens, t: Array) -> Logits:
    """Logits of the Bayes posterior from a prediction; of a mask's scores only the proportions count.

    Where so little survives that scores are 1 but for rounding, they say nothing of clean tokens, nor does this.

    Raises:
        ValueError: an unknown prediction.
    """
    checks.one_of("prediction", prediction, predictions)
    if prediction == "bayes":
        return output
    if process.noise.absorbing:
        return output if prediction != "rate" else where_positive(jnp.log, output, -jnp.inf)
    if prediction != "leave_one_out":
        own = jnp.arange(process.vocab) == x[..., None]
        _, noisiness, pi = _levels(process, output, t)
        if prediction == "rate":
            speed = expand(process.rate(t), x) * process.noise.probability(x)
            output = where_positive(jnp.log, output, -jnp.inf) - jnp.log(speed)[..., None]
        law = jax.nn.softmax(jnp.where(own, 0.0, output), axis=-1)
        clean = law - noisiness * pi  # alpha times the leave-one-out posterior
        clean = jnp.where(clean > 8 * jnp.finfo(law.dtype).eps * law, clean, 0.0)
        output = where_positive(jnp.log, jnp.where(clean.any(-1, keepdims=True), clean, law), -jnp.inf)
    return output + _own_gain(process, x, t)


def from_bayes(process: Replacement, prediction: str, logits: Logits, x: Tokens, t: Array) -> Logits:
    """The inverse: a prediction from Bayes logits; log-scores and rates at a token itself are 0.

    At visible tokens of a masked process, whose posterior says nothing about the others', it has no meaning.

    Raises:
        ValueError: an unknown prediction.
    """
    checks.one_of("prediction", prediction, predictions)
    absorbing = process.noise.absorbing
    if prediction == "bayes" or (absorbing and prediction == "leave_one_out"):
        return logits
    survival, noisiness, pi = _levels(process, logits, t)
    if absorbing:
        if prediction == "rate":
            hidden = process.noise.probability(x) > 0
            speed = jnp.where(hidden, expand(process.decay(t) / process.noisiness(t), x), 0.0)
            return speed[..., None] * jax.nn.softmax(logits)
        return jax.nn.log_softmax(logits) + jnp.log(survival) - jnp.log(noisiness)
    logits = logits - _own_gain(process, x, t)
    if prediction == "leave_one_out":
        return logits
    law = jnp.log(survival * jax.nn.softmax(logits) + noisiness * pi)
    score = law - jnp.take_along_axis(law, x[..., None], axis=-1)
    if prediction == "log_score":
        return score
    speed = expand(process.rate(t), x) * process.noise.probability(x)
    return jnp.where(jnp.arange(process.vocab) == x[..., None], 0.0, speed[..., None] * jnp.exp(score))


def _own_gain(process: Replacement, x: Tokens, t: Array) -> Logits:
    """``log q(x_t^i | v)`` but for a constant: ``log(1 + alpha / ((1 - alpha) pi))`` at ``v = x_t^i``, 0 elsewhere."""
    noise = expand(process.noisiness(t), x) * process.noise.probability(x)
    gain = jnp.log1p(expand(process.survival(t), x) / noise)
    return jnp.where(jnp.arange(process.vocab) == x[..., None], gain[..., None], 0.0)


def _levels(process: Replacement, logits: Logits, t: Array) -> tuple[Array, Array, Array]:
    pi = process.noise.probability(jnp.arange(process.vocab))
    return expand(process.survival(t), logits), expand(process.noisiness(t), logits), pi
