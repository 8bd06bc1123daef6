"""Noise processes ``x_t = alpha(t) x0 + sigma(t) eps``, ``eps ~ N(0, I)`` unless said otherwise.

A process is a *law* (how ``alpha`` and ``sigma`` depend on time, ``laws.py``), the range of times it is used on,
optionally an origin that it drifts to, ``x_t - origin = alpha (x0 - origin) + sigma eps``, and the law of its noise.
Time decreases while sampling; at ``t = 0``, the clean end, ``alpha = 1`` and ``sigma = 0``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import as_key
from jaxsamplers.laws import (
    Cosine,
    Law,
    LinearBeta,
    Louder,
    Noise,
    Normal,
    Residual,
    Straight,
    StudentT,
    Table,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
    pytree,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

    Times = Float[Array, "..."]


@pytree
class Process:
    """A noise process; made by the functions below.

    Attributes:
        law: signal and noise levels.
        t_min: where schedules end by default.
        t_max: where they start; times above it are refused.
        origin: the point the process drifts to (a pytree that broadcasts against ``x``), or ``None`` for 0.
        noise: how ``eps`` is distributed; standard normal unless the process says otherwise.
    """

    law: Law
    t_min: float
    t_max: float
    origin: PyTree = None
    noise: Noise = dataclasses.field(default_factory=Normal)

    def alpha(self, t: Times | float) -> Times:
        """Signal level at ``t``, elementwise."""
        return self.law.alpha(_float(t))

    def sigma(self, t: Times | float) -> Times:
        """Noise level at ``t``, elementwise."""
        return self.law.sigma(_float(t))

    def half_log_snr(self, t: Times | float) -> Times:
        """``log(alpha / sigma)`` at ``t``; +inf at the clean end, -inf where ``alpha`` is 0."""
        return self.law.half_log_snr(_float(t))

    def time(self, half_log_snr: Times | float) -> Times:
        """The time at which the half-log-SNR is this."""
        return self.law.time(_float(half_log_snr))

    def prior(self, key: Key[Array, ""], shape: Any, t: float | None = None) -> PyTree:
        """Noise to start from, ``origin + sigma(t) eps``.

        Args:
            key: PRNG key, or one per sample.
            shape: a shape, giving float32, or a pytree of arrays or ``ShapeDtypeStruct`` to look like.
            t: the time to start at, ``t_max`` by default.
        """
        if isinstance(shape, tuple) and all(isinstance(n, int | np.integer) for n in shape):
            shape = jax.ShapeDtypeStruct(shape, jnp.float32)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        sigma = self.sigma(self.t_max if t is None else t)
        noise = jax.tree.map(lambda z: (sigma * z).astype(z.dtype), self.noise.draw(as_key(key), zeros))
        return uncentre(noise, self.origin)

    def forward(self, key: Key[Array, ""], x0: PyTree, t: Times) -> PyTree:
        """A draw of ``x_t`` given ``x0``; ``t`` is a scalar or has the batch shape ``[batch]``."""
        noise = self.noise.draw(as_key(key), x0)
        centred = jax.tree.map(
            lambda x, z: expand(self.alpha(t), x) * x + expand(self.sigma(t), x) * z, centre(x0, self.origin), noise
        )
        return jax.tree.map(lambda y, x: y.astype(x.dtype), uncentre(centred, self.origin), x0)

    def velocity_coefficients(self, t: Times) -> tuple[Times, Times]:
        """``(d alpha / dt, d sigma / dt)``, elementwise."""
        t = _float(t)
        slope = lambda f: jax.jvp(f, (t,), (jnp.ones_like(t),))[1]
        return slope(self.law.alpha), slope(self.law.sigma)


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0, *, t_min: float = 1e-3, t_max: float = 1.0) -> Process:
    """Variance preserving, ``beta(t)`` linear in time.

    ``log alpha = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2``, time in ``[0, 1]``.
    Source: Song et al. 2021, Score-based generative modelling through SDEs (arXiv 2011.13456), eq. 33.
    """
    checks.within("beta_min", beta_min, 0.0, above=True)
    checks.within("beta_max", beta_max, 0.0, above=True)
    return _process(VariancePreserving(LinearBeta(beta_min, beta_max)), t_min, t_max)


def vp_cosine(offset: float = 0.008, *, t_min: float = 1e-3, t_max: float = 0.9946) -> Process:
    """Variance preserving, ``alpha(t) = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s))``.

    ``t_max`` stops short of ``t = 1``, where ``alpha`` is 0, as in Lu et al. 2022 (arXiv 2206.00927), app. D.
    Source: Nichol & Dhariwal 2021, Improved DDPM (arXiv 2102.09672), eq. 17.
    """
    checks.within("offset", offset, 0.0)
    return _process(VariancePreserving(Cosine(offset)), t_min, t_max)


def from_betas(betas: Float[Array, " n"], *, t_min: float | None = None) -> Process:
    """Variance preserving, from a table of ``n`` betas as DDPM checkpoints carry it.

    ``alpha(i)^2 = prod_{j <= i} (1 - beta_j)`` sits at time ``(i + 1) / n``; ``log alpha`` is linear in between,
    and 0 at ``t = 0``. A network that wants the index ``i`` gets it from ``denoiser(..., time=lambda t: n * t - 1)``.

    Args:
        betas: each in (0, 1).
        t_min: ``1 / n`` (index 0) by default.

    Raises:
        ValueError: betas that are not a one-dimensional table in (0, 1).
    Source: Ho et al. 2020 (arXiv 2006.11239); interpolation of Lu et al. 2022 (arXiv 2206.00927), app. D.1.
    """
    known = checks.concrete(betas)
    if jnp.ndim(betas) != 1 or jnp.size(betas) == 0:
        raise ValueError(f"betas must be a one-dimensional table, got shape {jnp.shape(betas)}")
    if known is not None and not ((known > 0) & (known < 1)).all():
        raise ValueError(f"betas must lie in (0, 1), got values from {known.min():g} to {known.max():g}")
    if known is None:
        log_alpha = 0.5 * jnp.cumsum(jnp.log1p(-betas))
    else:  # float64 on the host: a cumulative sum of 1000 float32 terms loses a digit
        log_alpha = jnp.asarray(0.5 * np.cumsum(np.log1p(-known.astype(np.float64))))
    steps = log_alpha.shape[0]
    law = VariancePreserving(Table(jnp.concatenate([jnp.zeros_like(log_alpha[:1]), log_alpha])))
    return _process(law, 1.0 / steps if t_min is None else t_min, 1.0)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """Variance exploding with time equal to the noise level: ``alpha = 1``, ``sigma(t) = t``.

    Source: Karras et al. 2022, Elucidating the design space (arXiv 2206.00364), table 1.
    """
    return _process(VarianceExploding(), sigma_min, sigma_max)


def rectified_flow(*, t_min: float = 0.0, t_max: float = 1.0) -> Process:
    """The straight path ``x_t = (1 - t) x0 + t eps``: noise at ``t = 1``, data at ``t = 0``.

    Its range includes both ends, where the half-log-SNR is infinite: schedules spaced in it need
    ``t_start`` below 1 and ``t_end`` above 0.
    Source: Liu et al. 2023 (arXiv 2209.03003); Lipman et al. 2023 (arXiv 2210.02747), with time reversed.
    """
    checks.within("t_max", t_max, 0.0, 1.0)
    return _process(Straight(), t_min, t_max)


def trigonometric(power: float = 1.0, *, t_min: float = 0.0, t_max: float = 1.0) -> Process:
    """A one-sided interpolant, ``alpha = cos(pi t / 2)^power``, ``sigma = sin(pi t / 2)^power``, up to pure noise.

    With ``power=2`` it is the decoding half of the encoding-decoding interpolant (see ``interpolants``). As with
    ``rectified_flow``, the one-sided linear one, the half-log-SNR is infinite at both ends.
    Source: Albergo, Boffi & Vanden-Eijnden 2023 (arXiv 2303.08797), sec. 4, with time reversed.
    """
    checks.within("power", power, 1.0)
    checks.within("t_max", t_max, 0.0, 1.0)
    return _process(Trigonometric(power), t_min, t_max)


def shifted(process: Process, origin: PyTree) -> Process:
    """The same process drifting to ``origin`` instead of 0: ``x_t = alpha x0 + (1 - alpha) origin + sigma eps``.

    Every solver runs on it unchanged; ``mean_reverting`` and ``residual_shifting`` are such processes.
    """
    return dataclasses.replace(process, origin=uncentre(origin, process.origin))


def mean_reverting(
    origin: PyTree = None,
    thetas: Float[Array, " n"] | None = None,
    *,
    stationary: float = 10 / 255,
    decay: float = 0.005,
    t_min: float | None = None,
) -> Process:
    """IR-SDE: data drift to a degraded image, ``dx = theta (origin - x) dt + stationary sqrt(2 theta) dw``.

    ``alpha = exp(-int theta)`` and ``sigma = stationary sqrt(1 - alpha^2)`` about the origin: variance preserving but
    for the size of the noise. Step ``i`` of the table sits at time ``i / n``, ``log alpha`` is linear in between, and a
    network that wants the index gets it from ``denoiser(..., time=lambda t: n * t)``. DPM-Solver++ on it is the
    MR sampler; DDPM on it is the authors' posterior sampling.

    Args:
        origin: the degraded image, any pytree that broadcasts against ``x``; ``None`` for 0.
        thetas: speeds of steps ``1 .. n``, of which only the proportions count: ``ones(100)`` is the constant schedule.
            By default IR-SDE's cosine of 100 steps.
        stationary: standard deviation of the noise in the end, in units of the data.
        decay: ``alpha`` at the last step.
        t_min: ``1 / n`` by default.

    Raises:
        ValueError: speeds that are not a one-dimensional table of positive numbers, ``decay`` outside (0, 1).
    Source: Luo et al. 2023, Image restoration with mean-reverting SDEs (arXiv 2301.11699), eq. 3 - 6 and their code;
        Li et al. 2025, MaRS (arXiv 2502.07856), whose code counts the speed of step 0 too, so that its data end
        keeps some noise.
    """
    speeds: Any = _cosine_thetas(100) if thetas is None else thetas
    known = checks.concrete(speeds)
    if jnp.ndim(speeds) != 1 or jnp.size(speeds) == 0:
        raise ValueError(f"thetas must be a one-dimensional table, got shape {jnp.shape(speeds)}")
    checks.within("thetas", speeds, 0.0, above=True)
    checks.within("stationary", stationary, 0.0, above=True)
    checks.within("decay", decay, 0.0, above=True)
    checks.within("1 - decay", 1 - decay, 0.0, above=True)
    total = jnp.cumsum(speeds) if known is None else jnp.asarray(np.cumsum(known.astype(np.float64)))
    knots = jnp.concatenate([jnp.zeros_like(total[:1]), total / total[-1]]) * jnp.log(decay)
    law = Louder(VariancePreserving(Table(knots)), stationary)
    process = _process(law, 1.0 / total.shape[0] if t_min is None else t_min, 1.0)
    return dataclasses.replace(process, origin=origin)


def residual_shifting(
    origin: PyTree = None,
    *,
    kappa: float = 2.0,
    steps: int = 15,
    power: float = 0.3,
    noise_min: float = 0.04,
    shift_max: float = 0.99,
    t_min: float | None = None,
) -> Process:
    """ResShift: data shift to a degraded image, ``x_t = x0 + eta (origin - x0) + kappa sqrt(eta) eps``.

    ``alpha = 1 - eta``, ``sigma = kappa sqrt(eta)`` about the origin. Step ``i`` of ``steps`` sits at time
    ``(i + 1) / steps`` with ``sqrt(eta_i) = shift_min (shift_max / shift_min)^{(i / (steps - 1))^power}``; it is linear
    in between, and 0 at the clean end. A network that wants the index gets it from
    ``denoiser(..., time=lambda t: steps * t - 1)``. The authors' own sampler is ``solvers.resshift``.

    Args:
        origin: the degraded image, any pytree that broadcasts against ``x``; ``None`` for 0.
        kappa: noise level when all is shifted, in units of the data.
        steps: of the trained network.
        power: below 1, most steps are spent near the noise.
        noise_min: noise level of the first step: ``shift_min = min(noise_min / kappa, noise_min)``.
        shift_max: ``sqrt(eta)`` of the last step. The paper sets ``eta`` itself, to 0.999; this is what the code does.
        t_min: ``1 / steps`` by default.

    Raises:
        ValueError: fewer than two steps, numbers out of range.
    Source: Yue et al. 2023, ResShift (arXiv 2307.12348), eq. 1 - 2 and sec. 2.3, and their code.
    """
    checks.integer("steps", steps, low=2)
    for name, value in {"kappa": kappa, "power": power, "noise_min": noise_min}.items():
        checks.within(name, value, 0.0, above=True)
    checks.within("shift_max", shift_max, 0.0, 1.0, above=True)
    shift_min = jnp.minimum(noise_min / kappa, noise_min)
    checks.within("shift_max / shift_min", shift_max / shift_min, 1.0, above=True)
    rise = jnp.linspace(0.0, 1.0, steps) ** power
    roots = shift_min * (shift_max / shift_min) ** rise
    law = Residual(jnp.concatenate([jnp.zeros_like(roots[:1]), roots]), kappa)
    return dataclasses.replace(_process(law, 1.0 / steps if t_min is None else t_min, 1.0), origin=origin)


def pfgm_plus_plus(freedom: float = 128.0, *, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """PFGM++: EDM's process with heavy-tailed noise, of an electric field in D = ``freedom`` more dimensions.

    The kernel ``p_r(x | x0) ~ (|x - x0|^2 + r^2)^{-(N + D) / 2}`` at ``r = sigma sqrt(D)`` is the multivariate t law
    with D degrees of freedom, scaled by ``sigma``: for every ``N``, and normal as D grows. Only what ``prior`` and
    ``forward`` draw changes. The field lines solve ``dx/dsigma = (x - E[x0 | x]) / sigma``, EDM's equation, so every
    deterministic solver runs unchanged; stochastic ones add normal noise, as the authors' churn does. The leading axis
    of a sample is the batch: one radius is drawn for all the rest.

    Args:
        freedom: D; the authors' networks have 128 and 2048.
        sigma_min: where schedules end by default.
        sigma_max: where they start.

    Raises:
        ValueError: numbers out of range.
    Source: Xu et al. 2023, PFGM++ (arXiv 2302.04265), eq. 4 and theorem 4.1. Their code draws the radius from the
        inverse beta law, which is the same; it clips the underlying draw to [0.001, 0.999] in training, we do not.
    """
    checks.within("freedom", freedom, 0.0, above=True)
    return dataclasses.replace(edm(sigma_min, sigma_max), noise=StudentT(freedom))


def centre(x: PyTree, origin: PyTree) -> PyTree:
    """``x - origin``; an origin of ``None`` is 0, and one that is a single array serves every leaf of ``x``."""
    return x if origin is None else jax.tree.map(jnp.subtract, x, _like(origin, x))


def uncentre(x: PyTree, origin: PyTree) -> PyTree:
    """``x + origin``, the inverse of ``centre``."""
    return x if origin is None else jax.tree.map(jnp.add, x, _like(origin, x))


def expand(coefficient: Times, x: Array) -> Array:
    """``coefficient`` (scalar or ``[batch]``) with trailing axes added, to broadcast against ``x``."""
    coefficient = jnp.asarray(coefficient)
    if coefficient.ndim > x.ndim:
        raise ValueError(f"times of shape {coefficient.shape} do not match a sample of shape {x.shape}")
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))


def _process(law: Law, t_min: float, t_max: float) -> Process:
    checks.within("t_min", t_min, 0.0)
    if checks.concrete(t_min) is not None and checks.concrete(t_max) is not None and not t_max > t_min:
        raise ValueError(f"the range of times must have t_max above t_min, got t_min={t_min} and t_max={t_max}")
    return Process(law, t_min, t_max)


def _float(value: Times | float) -> Times:
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


def _cosine_thetas(steps: int, offset: float = 0.008) -> np.ndarray:
    """``1 - f(i + 1) / f(0)``, ``f(i) = cos(pi/2 (i / (steps + 2) + s) / (1 + s))^2``, for ``i = 1 .. steps``."""
    f = lambda i: np.cos(np.pi / 2 * (i / (steps + 2) + offset) / (1 + offset)) ** 2
    return 1 - f(np.arange(2, steps + 2)) / f(0)


def same_structure(a: PyTree, b: PyTree) -> bool:
    """Whether two pytrees have the same structure, whatever their leaves."""
    return bool(jax.tree.structure(a) == jax.tree.structure(b))  # type: ignore[operator]


def _like(origin: PyTree, x: PyTree) -> PyTree:
    """``origin`` with the dtypes of ``x``; an origin that is one array serves every leaf."""
    if not same_structure(origin, x):
        origin = jax.tree.map(lambda _: origin, x)
    return jax.tree.map(lambda o, leaf: jnp.asarray(o, jnp.result_type(leaf)), origin, x)


registry: dict[str, Callable[..., Process]] = {
    "vp_linear": vp_linear,
    "vp_cosine": vp_cosine,
    "edm": edm,
    "rectified_flow": rectified_flow,
    "trigonometric": trigonometric,
    "mean_reverting": mean_reverting,
    "residual_shifting": residual_shifting,
    "pfgm_plus_plus": pfgm_plus_plus,
}
