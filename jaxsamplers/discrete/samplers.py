"""Samplers of one network call a step, as tables; ``routing.py`` says what the coefficients multiply.

With ``a = alpha(t)``, ``b = alpha(s)``, ``r = a / b`` and ``h = t - s``:

                    clean                    noise                 moves
    ancestral       b (1 - r) / (1 - a)      (1 - b) (1 - r)       as they are: the exact law of x_s given p
    euler           h (-alpha') / (1 - a)    h beta (1 - a)        at most one
    tau_leaping     the same                                       by a clock, or a Poisson number
    remasking       ancestral's, corrected for what is noised anew

On a masked process, where only ``clean`` counts, ``ancestral`` is MDLM's step, MD4's, SEDD's analytic step and
FS-DFM's; on others it is SEDD's analytic step, DiGress's and, fed with a ``leave_one_out`` denoiser, D3PM's, UDLM's and
Duo's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.discrete.leaps import rules
from jaxsamplers.discrete.table import TokenTable, grid, per_step, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.discrete.processes import Replacement

    Times = Float[Array, " n+1"]


def ancestral(process: Replacement, times: Times, *, final: str = "sample") -> TokenTable:
    """The exact law of ``x_s`` given the network's posterior; one call a step.

    The only error is that positions move independently within a step.

    Args:
        process: masked, uniform or marginal.
        times: ``n + 1`` decreasing times; a step to 0 leaves no noise.
        final: "sample", or "greedy": the last step takes the likeliest token everywhere.

    Raises:
        ValueError: an unknown ``final``, or a schedule that is not allowed.
    Source: Sahoo et al. 2024, MDLM (arXiv 2406.07524); Lou et al. 2024, SEDD (arXiv 2310.16834), the discrete Tweedie
        theorem; Vignac et al. 2023, DiGress (arXiv 2209.14734). For leave-one-out networks Austin et al. 2021, D3PM
        (arXiv 2107.03006), eq. 3 and 4, Schiff et al. 2024, UDLM (arXiv 2412.10193), and Sahoo et al. 2025, Duo (arXiv
        2506.10892), whose greedy tail this ``final`` is.
    """
    checks.one_of("final", final, ("sample", "greedy"))
    times = grid(process, times, "ancestral")
    clean, noise = exact_coefficients(process, times)
    sampler = table(process, times, clean, noise, exact=True)
    return sampler if final == "sample" else _greedy(sampler)


def analytic(process: Replacement, times: Times) -> TokenTable:
    """SEDD's analytic step (Tweedie tau-leaping), which is ``ancestral`` for a normalised posterior; one call a step.

    Args and errors as ``ancestral``, without ``final``.
    Source: Lou et al. 2024, SEDD (arXiv 2310.16834), the discrete Tweedie theorem.
    """
    return ancestral(process, times)


def euler(process: Replacement, times: Times, *, denoise: bool = True) -> TokenTable:
    """Constant rates during a step, and at most one move of each token; one call a step, first order.

    Where more than one move is expected, the token moves for certain (official code lets the negative probability to
    stay lose against all others, which is the same).

    Args:
        process: masked, uniform or marginal; its rates must be finite at the first time.
        times: ``n + 1`` decreasing times.
        denoise: take the last step as ``ancestral`` does, so that no noise is left when it goes to 0.

    Raises:
        ValueError: infinite rates, or a schedule that is not allowed.
    Source: Lou et al. 2024, SEDD (arXiv 2310.16834), sec. 4.
    """
    return _frozen_rates(process, times, "euler", denoise, "euler")


def tau_leaping(process: Replacement, times: Times, *, leap: str = "clock", denoise: bool = True) -> TokenTable:
    """Constant rates during a step, and Poisson moves; one call a step, first order.

    Args:
        process: masked, uniform or marginal; its rates must be finite at the first time.
        times: ``n + 1`` decreasing times.
        leap: "clock", a token moves with probability ``1 - e^-n`` when ``n`` moves are expected, as in discrete flow
            matching; or "reject", a token of which a Poisson number says more than one move stays, ``n e^-n``.
        denoise: take the last step as ``ancestral`` does; otherwise a step to 0 leaves some noise.

    Raises:
        ValueError: an unknown ``leap``, infinite rates, or a schedule that is not allowed.
    Source: Campbell et al. 2022 (arXiv 2205.14987), sec. 4.3; Gat et al. 2024 (arXiv 2407.15595), their code; the rule
        "reject": Ren et al. 2025, Fast solvers (arXiv 2502.00234).
    """
    checks.one_of("leap", leap, [rule for rule in rules if rule != "euler"])
    return _frozen_rates(process, times, leap, denoise, "tau_leaping")


def remasking(process: Replacement, times: Times, *, share: float | Float[Array, " n"] = 0.1) -> TokenTable:
    """Ancestral steps that noise some of the clean tokens anew, so that mistakes can be corrected; one call a step.

    A step is ``ancestral`` with probability ``1 - share``, and otherwise draws ``x_0`` from the posterior and noises it
    to ``s``: both have the right marginals. On a masked process this is ReMDM's "rescale": visible tokens are masked
    with probability ``sigma = share (1 - b)`` and masks become tokens with ``(b - (1 - sigma) a) / (1 - a)``.

    Args:
        process: masked, uniform or marginal.
        times: ``n + 1`` decreasing times.
        share: from 0 to 1; a number, or one a step.

    Raises:
        ValueError: ``share`` outside [0, 1] or not one a step, or a schedule that is not allowed.
    Source: Wang et al. 2025, ReMDM (arXiv 2503.00307); its "rescale" eta is ``share a`` here, where
        ``1 - b < a``. The two halves for any noise: the Psi-samplers in the code of Sahoo et al. 2025, Duo (arXiv
        2506.10892).
    """
    checks.within("share", share, 0.0, 1.0)
    times = grid(process, times, "remasking")
    clean, noise = exact_coefficients(process, times)
    later, left = process.survival(times[1:]), process.noisiness(times[1:])
    share = per_step("share", share, len(times) - 1)
    return table(process, times, clean + share * (later - clean), (1 - share) * noise, share * left, exact=True)


def exact_coefficients(process: Replacement, times: Times) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """``clean`` and ``noise`` of the exact law."""
    t, s = times[:-1], times[1:]
    lost = process.noisiness(t, s)
    return process.survival(s) * lost / process.noisiness(t), process.noisiness(s) * lost


def rate_coefficients(process: Replacement, t: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """``clean`` and ``noise`` of the reverse rates at ``t``; there is no noise to move to on a masked process.

    Raises:
        ValueError: infinite rates.
    """
    clean = process.decay(t) / process.noisiness(t)
    noise = jnp.zeros_like(t) if process.noise.absorbing else process.rate(t) * process.noisiness(t)
    known = checks.concrete(noise)
    if known is not None and not (jnp.isfinite(known).all()):
        raise ValueError(
            "rates must be finite: nothing survives at the first time, so the noise's rate is infinite there; "
            "start later (t_start= of a schedule) or use a survival law with some rest, such as log_linear(1e-3)"
        )
    return clean, noise


def _frozen_rates(process: Replacement, times: Times, rule: str, denoise: bool, name: str) -> TokenTable:
    times = grid(process, times, name)
    steps = times[:-1] - times[1:]
    clean, noise = rate_coefficients(process, times[:-1])
    sampler = table(process, times, steps * clean, steps * noise, rule=rule)
    return with_last(sampler, ancestral(process, times)) if denoise else sampler


def with_last(sampler: TokenTable, other: TokenTable) -> TokenTable:
    """The last row of another table in place of a table's own."""
    swap = lambda mine, theirs: mine.at[-1].set(theirs[-1])
    return dataclasses.replace(sampler, rows=jax.tree.map(swap, sampler.rows, other.rows))


def _greedy(sampler: TokenTable) -> TokenTable:
    rows = dataclasses.replace(sampler.rows, greedy=sampler.rows.greedy.at[-1].set(True))
    return dataclasses.replace(sampler, rows=rows, ends_greedily=True)
