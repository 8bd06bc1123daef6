"""diffusers' grids in NumPy and float64: tables of betas, timesteps shown to the network, noise levels.

diffusers 0.39 computes the same in float32, so that its levels differ in the seventh digit (its samples by 1e-6, at
most 2e-4, over the configurations of the tests), and a timestep that falls on an integer but for rounding may come out
one lower there (the first one of a cosine table with karras, exponential or beta sigmas does).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxsamplers import checks

Numbers = np.ndarray
Options = Mapping[str, Any]
TINY = 1e-20  # the signal that stands for none at all, where betas are rescaled to end in pure noise


def betas(options: Options) -> Numbers:
    """The table of betas, before any rescaling."""
    n = checks.integer("num_train_timesteps", options["num_train_timesteps"], low=1, high=10**6)
    if options["trained_betas"] is not None:
        try:
            table = np.asarray(options["trained_betas"], np.float64)
        except (TypeError, ValueError):
            table = np.zeros(n)
        if table.shape != (n,) or not ((table > 0) & (table < 1)).all():
            raise ValueError(f"trained_betas must be a list of num_train_timesteps={n} numbers in (0, 1)")
        return table
    first, last = options["beta_start"], options["beta_end"]
    if not 0 < first <= last < 1:
        raise ValueError(f"beta_start and beta_end must be increasing and in (0, 1), got {first} and {last}")
    kinds: dict[str, Callable[[], Numbers]] = {
        "linear": lambda: np.linspace(first, last, n),
        "scaled_linear": lambda: np.linspace(first**0.5, last**0.5, n) ** 2,
        "squaredcos_cap_v2": lambda: _from_alpha_bar(n, lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2),
        "exp": lambda: _from_alpha_bar(n, lambda t: math.exp(-12 * t)),
        "laplace": lambda: _from_alpha_bar(n, _laplace),
        "sigmoid": lambda: (last - first) / (1 + np.exp(-np.linspace(-6, 6, n))) + first,
    }
    return checks.look_up("beta_schedule", options["beta_schedule"], kinds)()


def log_alphas(options: Options, *, clamped: bool) -> Numbers:
    """``log alpha`` of every timestep, after rescaling to zero terminal signal if asked.

    ``clamped`` schedulers put ``alpha^2 = 2^-24`` last; the others 0, for which ``TINY^2`` stands.
    Source: Lin et al. 2023, Common diffusion noise schedules are flawed (arXiv 2305.08891), algorithm 1.
    """
    table = 0.5 * np.cumsum(np.log1p(-betas(options)))
    if not options.get("rescale_betas_zero_snr"):
        return table
    alpha = np.exp(table)
    rescaled = (alpha[:-1] - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return np.append(np.log(rescaled), -12 * math.log(2) if clamped else math.log(TINY))


def sigma_table(log_alpha: Numbers) -> Numbers:
    """``sigma / alpha`` of every timestep."""
    return np.sqrt(-np.expm1(2 * log_alpha)) / np.exp(log_alpha)


def integer_timesteps(options: Options, steps: int) -> Numbers:
    """DDIM's, DDPM's and PNDM's: ``steps`` of them, decreasing."""
    n, spacing = options["num_train_timesteps"], options["timestep_spacing"]
    if spacing == "linspace":
        times = np.linspace(0, n - 1, steps).round()[::-1]
    elif spacing == "leading":
        times = (np.arange(steps) * (n // steps))[::-1] + options["steps_offset"]
    else:
        times = np.round(np.arange(n, 0, -n / steps)) - 1
    return _inside(times.astype(np.int64), n)


def fractional_timesteps(options: Options, steps: int) -> Numbers:
    """Those of the schedulers taken from k-diffusion: not rounded when spaced by linspace."""
    if options["timestep_spacing"] == "linspace":
        return np.linspace(0, options["num_train_timesteps"] - 1, steps)[::-1]
    return integer_timesteps(options, steps).astype(np.float64)


def multistep_timesteps(options: Options, steps: int, log_alpha: Numbers) -> Numbers:
    """DPM-Solver's, UniPC's and DEIS's: ``steps + 1`` points without the last."""
    n, spacing = options["num_train_timesteps"], options.get("timestep_spacing", "linspace")
    lowest = options.get("lambda_min_clipped", -math.inf)
    half_log_snr = -np.log(sigma_table(log_alpha))
    last = n - int(np.searchsorted(half_log_snr[::-1], lowest))
    if spacing == "linspace":
        times = np.linspace(0, last - 1, steps + 1).round()[:0:-1]
    elif spacing == "leading":
        times = (np.arange(steps + 1) * (last // (steps + 1)))[:0:-1] + options["steps_offset"]
    else:
        times = np.arange(last, 0, -n / steps).round() - 1
    return _inside(times.astype(np.int64), n)


def spaced_sigmas(options: Options, sigmas: Numbers, steps: int) -> Numbers | None:
    """Karras, exponential, beta or Lu levels between the ends of ``sigmas`` (decreasing); ``None`` if not asked."""
    chosen = [key for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas") if options.get(key)]
    if len(chosen) > 1:
        raise ValueError(f"only one of {', '.join(chosen)} can be used")
    if options.get("use_lu_lambdas") and chosen != ["use_karras_sigmas"]:
        chosen = ["use_exponential_sigmas"]  # equal steps in half-log-SNR are just that
        options = {**options, "sigma_min": None, "sigma_max": None}
    if not chosen:
        return None
    low = sigmas[-1] if options.get("sigma_min") is None else options["sigma_min"]
    high = sigmas[0] if options.get("sigma_max") is None else options["sigma_max"]
    if not 0 < low < high:
        raise ValueError(f"sigma_min and sigma_max must be positive and increasing, got {low} and {high}")
    ramp = np.linspace(0, 1, steps)
    if chosen == ["use_karras_sigmas"]:
        return karras(low, high, ramp, 7.0)
    if chosen == ["use_exponential_sigmas"]:
        return exponential(low, high, steps)
    from scipy.special import betaincinv

    return low + betaincinv(0.6, 0.6, 1 - ramp) * (high - low)


def karras(low: float, high: float, ramp: Numbers, rho: float) -> Numbers:
    """From ``high`` to ``low``, evenly in ``sigma^(1 / rho)``."""
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def exponential(low: float, high: float, steps: int) -> Numbers:
    """From ``high`` to ``low``, evenly in ``log sigma``."""
    return np.exp(np.linspace(math.log(high), math.log(low), steps))


def timestep_of(sigmas: Numbers, table: Numbers) -> Numbers:
    """Where the levels lie in the table, between timesteps linearly in ``log sigma``.

    The table may fall at its very end, where ``log_alphas`` is clamped: the last place is taken.
    """
    logs, wanted = np.log(table), np.log(sigmas)[:, None]
    reached = wanted >= logs - 1e-9  # but for rounding errors
    last = len(logs) - 1 - np.argmax(reached[:, ::-1], axis=1)
    low = np.minimum(np.where(reached.any(axis=1), last, 0), len(logs) - 2)
    return low + np.clip((wanted[:, 0] - logs[low]) / (logs[low + 1] - logs[low]), 0, 1)


def truncated(times: Numbers) -> Numbers:
    """Towards zero, but for rounding errors."""
    return np.floor(times + 1e-9)


def shifted(sigmas: Numbers, shift: float) -> Numbers:
    """Flow levels moved towards the noise. Source: Esser et al. 2024 (arXiv 2403.03206), eq. 23."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def _inside(times: Numbers, n: int) -> Numbers:
    if not len(times) or times.min() < 0 or times.max() >= n:
        raise ValueError(f"steps, timestep_spacing and steps_offset ask for timesteps outside 0 ... {n - 1}: {times}")
    return times


def _from_alpha_bar(n: int, alpha_bar: Callable[[float], float]) -> Numbers:
    return np.array([min(1 - alpha_bar((i + 1) / n) / alpha_bar(i / n), 0.999) for i in range(n)])


def _laplace(t: float) -> float:
    half = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    return math.sqrt(math.exp(half) / (1 + math.exp(half)))
