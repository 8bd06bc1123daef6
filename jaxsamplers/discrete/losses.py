"""Training losses for networks on noisy tokens, as pure functions.

A model turns ``x_t`` back into ``x_0`` by rates ``R(y)`` at which a token ``x`` becomes ``y`` when time runs backwards.
If ``r(y)`` are the right ones given ``x_0``, the divergence of the two laws of whole paths bounds the likelihood,

    -log p(x_0) <= KL(q(x_1 | x_0) || prior) + int_0^1 E sum_{y != x} [R(y) - r(y) - r(y) log(R(y) / r(y))] dt

and two ways lead back through the same marginals, ``beta = -alpha' / alpha`` being the rate of the noise:

    the noise reversed       r(y) = beta pi(x) q(y | x_0) / q(x | x_0)       ``score_entropy``, which is UDLM's loss
    to the clean token       r(y) = -alpha' / (1 - alpha) [y = x_0]          ``flow``

On masked processes both are ``mdlm``, a weighted cross-entropy. Reversed noise is a Markov process, so its loss is the
data's entropy when the network is exact; the way straight to the clean token is none (unless tokens are masked), and
its loss stays above. ``d3pm`` is the same for given steps, and ``cross_entropy`` bounds nothing. For every one the
minimiser is the exact posterior.

As everywhere in this package a model returns logits of the Bayes posterior of each clean token. A network that predicts
something else is wrapped in ``js.discrete.denoiser(network, process, prediction)``, through which gradients pass:
UDLM's and D3PM's are "leave_one_out", SEDD's "log_score". Each loss draws a time and noise for every sequence, asks
the model once, and returns

    (loss, sequences)        nats per token, to be differentiated with ``has_aux=True``; nats of each sequence

``active`` says which positions count: the others, prompts and padding, are neither noised nor predicted. What each
token contributes at given noise is in ``loss_terms.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import as_key
from jaxsamplers.discrete.loss_terms import (
    cross_entropy_terms,
    d3pm_terms,
    flow_terms,
    mdlm_terms,
    noisy,
    score_entropy_terms,
    spread,
    summed,
    surprise,
    total,
)
from jaxsamplers.discrete.matrices import Matrices
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.laws import where_positive
from jaxsamplers.schedules.grid import validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Bool, Float, Int, Key

    from jaxsamplers.core import Model

    Tokens = Int[Array, "batch ..."]
    Active = Bool[Array, "..."] | None
    Times = Float[Array, " batch"]
    Terms = Float[Array, "batch ..."]
    Loss = tuple[Float[Array, ""], Float[Array, " batch"]]


def mdlm(process: Replacement, model: Model, x0: Tokens, key: Key[Array, ""], *, active: Active = None) -> Loss:
    """The bound of a masked process: ``E -alpha' / (1 - alpha) sum_masked -log p(x_0 | x_t)``.

    Whatever the schedule, its mean over times and masks is the mean negative log-likelihood over all orders in which
    the model may write the tokens one by one.

    Args:
        process: masked.
        model: ``(tokens, t) -> logits``; what it says of visible tokens does not count.
        x0: clean tokens, ``[batch, length]``.
        key: one PRNG key.
        active: boolean, broadcasts to ``x0``; all positions by default.

    Raises:
        ValueError: another process, or logits of another shape.
    Source: Sahoo et al. 2024, MDLM (arXiv 2406.07524), eq. 10 and 11; Shi et al. 2024, MD4 (arXiv 2406.04329).
    """
    _replacing("mdlm", process, absorbing=True)
    return total(mdlm_terms, process, model, x0, key, active)


def score_entropy(
    process: Replacement, model: Model, x0: Tokens, key: Key[Array, ""], *, active: Active = None
) -> Loss:
    """The bound of reversed noise, for any process that replaces tokens.

        E beta pi(x) sum_{y != x} [s(y) - r(y) log s(y) + K(r(y))]    K(r) = r (log r - 1), r(y) = q(y | x0) / q(x | x0)

    It is denoising score entropy with the weights that make it a bound. A "log_score" network gives ``log s`` itself
    and need not be normalised; the scores of others follow from their posteriors.

    Args:
        process: masked, uniform or marginal; the rates must be finite.
        model: as for ``mdlm``.
        x0: clean tokens, ``[batch, length]``.
        key: one PRNG key.
        active: boolean, broadcasts to ``x0``; all positions by default.

    Raises:
        ValueError: a process with a table of matrices, or logits of another shape.
    Source: Lou et al. 2024, SEDD (arXiv 2310.16834), eq. 5 with the weights of eq. 7 and their code.
    """
    _replacing("score_entropy", process)
    return total(score_entropy_terms, process, model, x0, key, active)


def udlm(process: Replacement, model: Model, x0: Tokens, key: Key[Array, ""], *, active: Active = None) -> Loss:
    """UDLM's and Duo's bound, which is ``score_entropy`` for a posterior: with ``xbar = alpha x_0 + (1 - alpha) pi``

        E beta / N [N / xbar_model(x) - N / xbar(x) + sum_y xbar(y) / xbar(x) log(xbar_model(x) xbar(y) / ...)]

    and ``xbar_model`` from the network's *leave-one-out* posterior. Let a network predict that: one of the Bayes
    posterior has to learn that tokens are ever surer as ``t`` goes to 0, and until it has, the bound is infinite.

    Raises:
        ValueError: a masked process, or one with a table of matrices.
    Source: Schiff et al. 2024, UDLM (arXiv 2412.10193), the continuous-time bound; Sahoo et al. 2025, Duo (arXiv
        2506.10892), eq. 5.
    """
    _replacing("udlm", process, absorbing=False)
    return total(score_entropy_terms, process, model, x0, key, active)


def flow(process: Replacement, model: Model, x0: Tokens, key: Key[Array, ""], *, active: Active = None) -> Loss:
    """Discrete flow matching's bound, a generalised divergence between rates to the clean token.

        E -alpha' / (1 - alpha) [1 - p(x) - [x != x_0] (1 + log p(x_0))]

    Args:
        process: masked, uniform or marginal.
        model: as for ``mdlm``.
        x0: clean tokens, ``[batch, length]``.
        key: one PRNG key.
        active: boolean, broadcasts to ``x0``; all positions by default.

    Raises:
        ValueError: a process with a table of matrices, or logits of another shape.
    Source: Shaul et al. 2024 (arXiv 2412.03487), the bound for mixture paths; the package flow_matching,
        ``MixturePathGeneralizedKL``.
    """
    _replacing("flow", process)
    return total(flow_terms, process, model, x0, key, active)


def cross_entropy(
    process: Replacement | Matrices, model: Model, x0: Tokens, key: Key[Array, ""], *, active: Active = None
) -> Loss:
    """``E -log p(x_0 | x_t)``, all times alike: the loss of discrete flow matching, MaskGIT and DiGress; no bound.

    Args:
        process: any.
        model: as for ``mdlm``; on masked processes visible tokens do not count.
        x0: clean tokens, ``[batch, length]``.
        key: one PRNG key.
        active: boolean, broadcasts to ``x0``; all positions by default.

    Raises:
        ValueError: logits of another shape.
    Source: Gat et al. 2024 (arXiv 2407.15595), the loss of the x_1-posterior, without weights.
    """
    return total(cross_entropy_terms, process, model, x0, key, active)


def d3pm(
    process: Replacement | Matrices,
    model: Model,
    x0: Tokens,
    key: Key[Array, ""],
    *,
    times: Float[Array, " n+1"],
    hybrid: float = 0.0,
    prediction: str | None = None,
    active: Active = None,
) -> Loss:
    """D3PM's bound for the steps of a schedule, one of them drawn for each sequence, and its hybrid.

        n E [KL(q(x_s | x_t, x_0) || q(x_s | x_t) of the model) + hybrid (-log p(x_0 | x_t))]

    The authors put the cross-entropy on the very logits that they use as a leave-one-out posterior, so the two halves
    of their loss have different minimisers; here it is that of the Bayes posterior, and they have the same.

    Args:
        process: any.
        model: as for ``mdlm``.
        x0: clean tokens, ``[batch, length]``.
        key: one PRNG key.
        times: ``n + 1`` decreasing times; for ``transition_matrices`` those of ``schedules.uniform(process, n)``.
        hybrid: weight of the cross-entropy, their lambda.
        prediction: with ``transition_matrices`` only, what the logits are, as in ``js.discrete.d3pm``: "leave_one_out",
            the default there, or "bayes".
        active: boolean, broadcasts to ``x0``; all positions by default.

    Raises:
        ValueError: an unknown prediction, or one for a process that needs none; a schedule that is not allowed.
    Source: Austin et al. 2021, D3PM (arXiv 2107.03006), eq. 1, 4 and 5, and their code, which scales so.
    """
    checks.within("hybrid", hybrid, 0.0)
    if prediction is not None:
        checks.one_of("prediction", prediction, ("leave_one_out", "bayes"))
        if not isinstance(process, Matrices):
            raise ValueError("prediction is for transition_matrices; wrap the network in js.discrete.denoiser instead")
    times = validate(process, times)
    key, count = as_key(key), len(times) - 1
    step = jnp.minimum((count * spread(key, len(x0), times.dtype)).astype(jnp.int32), count - 1)
    t, s = times[step], times[step + 1]
    x = noisy(process, x0, key, t, active)
    logits = process.clean(model(x, t), x)
    if isinstance(process, Matrices) and prediction != "bayes":
        logits = logits + where_positive(jnp.log, jax.vmap(process.likelihood)(x, t), -jnp.inf)
    terms = d3pm_terms(process, logits, x0, x, t, s)
    if hybrid:
        terms = terms + hybrid * surprise(process, logits, x0, x)
    return summed(count * terms, x0, active)


def prior_divergence(process: Replacement | Matrices, x0: Tokens, active: Active = None) -> Float[Array, " batch"]:
    """``KL(q(x_1 | x_0) || prior)`` of each sequence, in nats: what all bounds lack, and no network can change.

    It is infinite for masked processes under which some tokens survive.
    """
    some = jax.nn.one_hot(x0, process.states, dtype=jnp.result_type(float))
    law = process.push(some, jnp.asarray(process.t_max))
    prior = process.noise.probability(jnp.arange(process.states))
    gap = where_positive(jnp.log, law, 0.0) - jnp.log(prior)
    return summed(jnp.where(law > 0, law * gap, 0.0).sum(-1), x0, active)[1]


registry: dict[str, Callable[..., Loss]] = {
    "mdlm": mdlm,
    "score_entropy": score_entropy,
    "udlm": udlm,
    "flow": flow,
    "cross_entropy": cross_entropy,
    "d3pm": d3pm,
}


def _replacing(name: str, process: Replacement, absorbing: bool | None = None) -> None:
    """Check the kind of process.

    Raises:
        ValueError: another one.
    """
    wanted = {None: "a masked, uniform or marginal", True: "a masked", False: "a uniform or marginal"}[absorbing]
    if not isinstance(process, Replacement) or (absorbing is not None and process.noise.absorbing is not absorbing):
        raise ValueError(f"{name} needs {wanted} process, got {process!r:.60}; score_entropy takes all that replace")
