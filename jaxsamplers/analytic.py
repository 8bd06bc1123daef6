"""Denoisers in closed form: what a perfectly trained network would answer, for any Gaussian process.

For ``x0 ~ sum_k w_k N(mean_k, C_k)`` the noisy marginal is again a mixture, with components
``N(alpha mean_k, alpha^2 C_k + sigma^2 I)``, and the denoiser is the mean of the posterior,

    E[x0 | x] = sum_k p(k | x) (mean_k + alpha C_k (alpha^2 C_k + sigma^2 I)^{-1} (x - alpha mean_k)).

Covariances are kept as eigenvectors and eigenvalues, so every time costs the same two products.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.laws import Normal
from jaxsamplers.processes import Process, centre, expand, uncentre

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int, Key

    Carry = tuple[Array, Array, Array]

HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """The exact denoiser, score and density of a Gaussian mixture under a process.

    Attributes:
        process: the noise process.
        log_weights: ``[K]``, normalised.
        means: ``[K, D]``.
        variances: ``[K, D]``, eigenvalues of the covariances.
        axes: ``[K, D, D]``, eigenvectors as columns; ``None`` for diagonal covariances.
    """

    process: Process
    log_weights: Float[Array, " K"]
    means: Float[Array, "K D"]
    variances: Float[Array, "K D"]
    axes: Float[Array, "K D D"] | None

    def __call__(self, x: Float[Array, "*batch D"], t: Array, **extra: Array) -> Float[Array, "*batch D"]:
        """``E[x0 | x_t = x]``; ``t`` is a scalar or has the batch shape."""
        alpha, total, deviation = self._at(x, t)
        posterior = jax.nn.softmax(self._log_joint(total, deviation), axis=-1)
        shrunk = alpha[..., None, None] * self.variances / total * deviation
        means = centre(self.means, self.process.origin)
        return uncentre(jnp.einsum("...k,...kd->...d", posterior, means + self._rotate(shrunk)), self.process.origin)

    def score(self, x: Float[Array, "*batch D"], t: Array) -> Float[Array, "*batch D"]:
        """``grad log p_t(x)``."""
        _, total, deviation = self._at(x, t)
        posterior = jax.nn.softmax(self._log_joint(total, deviation), axis=-1)
        return -jnp.einsum("...k,...kd->...d", posterior, self._rotate(deviation / total))

    def log_prob(self, x: Float[Array, "*batch D"], t: Array) -> Float[Array, " *batch"]:
        """``log p_t(x)``, in nats."""
        _, total, deviation = self._at(x, t)
        constant = 0.5 * x.shape[-1] * jnp.log(2 * jnp.pi)
        return jax.nn.logsumexp(self._log_joint(total, deviation), axis=-1) - constant

    def draw(self, key: Key[Array, ""], count: int) -> Float[Array, "count D"]:
        """Clean samples ``[count, D]``."""
        pick, noise = jax.random.split(key)
        k = jax.random.categorical(pick, self.log_weights, shape=(count,))
        z = jnp.sqrt(self.variances[k]) * jax.random.normal(noise, (count, self.means.shape[1]), self.means.dtype)
        return self.means[k] + (z if self.axes is None else jnp.einsum("nij,nj->ni", self.axes[k], z))

    def _at(self, x: Array, t: Array) -> tuple[Array, Array, Array]:
        """``alpha``, the variances ``[..., K, D]`` of the noisy components, and the deviations in their axes."""
        alpha, sigma = (jnp.asarray(level, x.dtype) for level in (self.process.alpha(t), self.process.sigma(t)))
        means = alpha[..., None, None] * centre(self.means, self.process.origin)
        deviation = centre(x, self.process.origin)[..., None, :] - means
        if self.axes is not None:
            deviation = jnp.einsum("kij,...ki->...kj", self.axes, deviation, precision=HIGHEST)
        return alpha, alpha[..., None, None] ** 2 * self.variances + sigma[..., None, None] ** 2, deviation

    def _log_joint(self, total: Array, deviation: Array) -> Array:
        return self.log_weights - 0.5 * jnp.sum(deviation**2 / total + jnp.log(total), axis=-1)

    def _rotate(self, y: Array) -> Array:
        return y if self.axes is None else jnp.einsum("kij,...kj->...ki", self.axes, y, precision=HIGHEST)


def gaussian_mixture(
    process: Process,
    means: Float[ArrayLike, "K D"],
    covariances: Float[ArrayLike, "K D D"] | Float[ArrayLike, "K D"] | float,
    weights: Float[ArrayLike, " K"] | None = None,
) -> GaussianMixture:
    """The exact denoiser of a Gaussian mixture.

    Args:
        process: the noise process.
        means: ``[K, D]``.
        covariances: full ``[K, D, D]``, diagonal ``[K, D]`` or one variance for all.
        weights: ``[K]``, equal by default; normalised here.

    Raises:
        ValueError: shapes that do not fit, a covariance that is not positive semi-definite, weights not positive, a
            process whose noise is not normal.
    """
    _need_normal(process, "a Gaussian mixture")
    means = jnp.asarray(means, jnp.result_type(float))
    if means.ndim != 2:
        raise ValueError(f"means must have shape [components, dimensions], got {means.shape}")
    covariances = jnp.asarray(covariances, means.dtype)
    shape, axes = means.shape, None
    if covariances.shape == (*shape, shape[1]):
        covariances, axes = jnp.linalg.eigh(covariances)
    elif covariances.shape not in (shape, ()):
        raise ValueError(f"covariances must have shape {(*shape, shape[1])}, {shape} or (), got {covariances.shape}")
    weights = jnp.ones(shape[0], means.dtype) if weights is None else jnp.asarray(weights, means.dtype)
    if weights.shape != shape[:1]:
        raise ValueError(f"weights must have shape {shape[:1]}, got {weights.shape}")
    checks.within("weights", weights, 0.0, above=True)
    checks.within("covariances' eigenvalues", covariances, -1e-6)
    variances = jnp.broadcast_to(jnp.maximum(covariances, 0.0), shape)
    return GaussianMixture(process, jax.nn.log_softmax(jnp.log(weights)), means, variances, axes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Empirical:
    """The exact denoiser of data smoothed by a Gaussian kernel.

    Attributes:
        process: the noise process.
        data: ``[chunks, size, D]``, padded with rows of weight zero.
        log_weights: ``[chunks, size]``.
        bandwidth: the kernel's standard deviation.
    """

    process: Process
    data: Float[Array, "chunks size D"]
    log_weights: Float[Array, "chunks size"]
    bandwidth: Float[Array, ""]

    def __call__(self, x: Float[Array, "batch ..."], t: Array, **extra: Array) -> Float[Array, "batch ..."]:
        """``E[x0 | x_t = x]``, one pass over the chunks with a running softmax; ``t`` is a scalar or ``[batch]``."""
        origin = self.process.origin
        flat = centre(x, origin).reshape(x.shape[0], -1)
        alpha, sigma = (expand(jnp.asarray(f(t), x.dtype), flat) for f in (self.process.alpha, self.process.sigma))
        kernel = self.bandwidth.astype(x.dtype) ** 2
        total = alpha**2 * kernel + sigma**2

        def chunk(carry: Carry, part: tuple[Array, Array]) -> tuple[Carry, None]:
            top, mass, mean = carry
            points, log_weights = part
            points, log_weights = _centre_points(points, origin, x).astype(x.dtype), log_weights.astype(x.dtype)
            dot = jnp.matmul(flat, points.T, precision=HIGHEST)
            logits = log_weights + self._log_likelihood(alpha * dot, alpha**2 * jnp.sum(points**2, axis=1), flat, total)
            # a constant for derivatives, which do not depend on it: that of a maximum is NaN where XLA rounds twice
            new_top = jax.lax.stop_gradient(jnp.maximum(top, jnp.max(logits, axis=1)))
            old, new = jnp.exp(top - new_top), jnp.exp(logits - new_top[:, None])
            total_mean = old[:, None] * mean + jnp.matmul(new, points, precision=HIGHEST)
            return (new_top, old * mass + jnp.sum(new, axis=1), total_mean), None

        lowest = jnp.full_like(flat[:, 0], jnp.finfo(flat.dtype).min)
        start = (lowest, jnp.zeros_like(flat[:, 0]), jnp.zeros_like(flat))
        (_, mass, mean), _ = jax.lax.scan(chunk, start, (self.data, self.log_weights))
        nearest = mean / mass[:, None]  # E[the data point | x]
        clean = nearest + alpha * kernel / total * (flat - alpha * nearest)
        return uncentre(clean.reshape(x.shape), origin)

    def _log_likelihood(self, dot: Array, squares: Array, flat: Array, total: Array) -> Array:
        """Of every sample under every point, up to a term of the sample alone."""
        if isinstance(self.process.noise, Normal):
            return (dot - 0.5 * squares) / total
        away = jnp.maximum(jnp.sum(flat**2, axis=1, keepdims=True) - 2 * dot + squares, 0.0)
        return self.process.noise.log_density(away / total, flat.shape[1])

    def draw(self, key: Key[Array, ""], count: int) -> Float[Array, "count D"]:
        """Smoothed data points, flattened: ``[count, D]``."""
        pick, noise = jax.random.split(key)
        points = self.data.reshape(-1, self.data.shape[-1])
        index: Int[Array, " count"] = jax.random.categorical(pick, self.log_weights.reshape(-1), shape=(count,))
        return points[index] + self.bandwidth * jax.random.normal(noise, (count, points.shape[1]), points.dtype)


def empirical(
    process: Process, data: Float[ArrayLike, "N ..."], bandwidth: float = 0.0, *, chunk: int = 4096
) -> Empirical:
    """The exact denoiser of a data set, each point smoothed by ``N(0, bandwidth^2 I)``.

    With ``bandwidth = 0`` it reproduces the data; a positive one makes a density that can be sampled afresh.

    Args:
        process: the noise process.
        data: ``[N, ...]``; samples have the trailing shape.
        bandwidth: in units of the data.
        chunk: how many data points are compared at once: memory is ``O(batch x chunk)``.

    Raises:
        ValueError: empty data, a negative bandwidth or a chunk below 1, a bandwidth with noise that is not normal.
    """
    data = jnp.asarray(data, jnp.result_type(float))
    if data.ndim < 2 or data.shape[0] == 0:
        raise ValueError(f"data must have shape [points, ...], got {data.shape}")
    checks.within("bandwidth", bandwidth, 0.0)
    if not checks.is_zero(bandwidth):
        _need_normal(process, "smoothed data")
    size = min(checks.integer("chunk", chunk, low=1), data.shape[0])
    flat = data.reshape(data.shape[0], -1)
    missing = -flat.shape[0] % size
    flat = jnp.pad(flat, [(0, missing), (0, 0)]).reshape(-1, size, flat.shape[1])
    present = jnp.arange(flat.shape[0] * size).reshape(-1, size) < data.shape[0]
    log_weights = jnp.where(present, 0.0, -jnp.inf).astype(flat.dtype)
    return Empirical(process, flat, log_weights, jnp.asarray(bandwidth, flat.dtype))


def _centre_points(points: Array, origin: Array | None, x: Array) -> Array:
    """``points`` (flattened samples) minus the origin, which has or broadcasts to the shape of a sample or of ``x``."""
    if origin is None:
        return points
    shift = jnp.broadcast_to(jnp.asarray(origin, points.dtype), x.shape[1:]).reshape(-1)
    return points - shift


def _need_normal(process: Process, what: str) -> None:
    if not isinstance(process.noise, Normal):
        noise = type(process.noise).__name__
        raise ValueError(f"{what} has a closed form under normal noise only, but this process's noise is {noise}")
