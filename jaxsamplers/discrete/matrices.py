"""D3PM's general processes: a table of transition matrices, one for each of ``n`` steps of noise.

``Q_i[v, y]`` is the probability that step ``i`` makes ``y`` of ``v``; step ``i`` ends at time ``i / n``, and times in
between count as the nearest. The matrices act on one probability vector a position; only constants are as large as
``vocab^2``. Skipping steps multiplies by all matrices skipped, one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import as_key, fold_in
from jaxsamplers.discrete.categorical import categorical
from jaxsamplers.discrete.noises import Given
from jaxsamplers.discrete.processes import checked_logits
from jaxsamplers.discrete.randomness import BLOCK, NOISE_BLOCK, NOISE_TOKEN, TOKEN, bits
from jaxsamplers.laws import pytree, where_positive
from jaxsamplers.processes import expand

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Times = Float[Array, "..."]
    Tokens = Int[Array, "..."]


@pytree
class Matrices:
    """A process of tokens given by its matrices; made by ``transition_matrices``.

    Attributes:
        steps: ``Q_1 .. Q_n``.
        products: ``1, Q_1, Q_1 Q_2, ...``.
        noise: what all tokens end as, starting from any alike.
        t_min: where schedules end by default, the clean end.
        t_max: where they start.
    """

    steps: Float[Array, "n V V"]
    products: Float[Array, "n+1 V V"]
    noise: Given
    t_min: float = 0.0
    t_max: float = 1.0

    @property
    def vocab(self) -> int:
        """How many logits a network gives."""
        return self.steps.shape[-1]

    @property
    def states(self) -> int:
        """The same: a mask, if there is one, is one of the tokens."""
        return self.vocab

    def index(self, t: Times | float) -> Int[Array, "..."]:
        """How many steps of noise there are up to ``t``."""
        return jnp.round(jnp.asarray(t) * self.steps.shape[0]).astype(jnp.int32)

    def prior(self, key: Key[Array, ...], shape: tuple[int, ...]) -> Tokens:
        """Tokens of pure noise, ``int32``; ``key`` may hold one key per sample."""
        key = as_key(key)
        return self.noise.draw(bits(fold_in(key, NOISE_BLOCK), shape), bits(fold_in(key, NOISE_TOKEN), shape), None)

    def forward(self, key: Key[Array, ...], x0: Tokens, t: Times) -> Tokens:
        """A draw of ``x_t`` given ``x_0``; ``t`` is a scalar or has the batch shape ``[batch]``."""
        key = as_key(key)
        law = categorical(where_positive(jnp.log, self.products[expand(self.index(t), x0), x0], -jnp.inf))
        drawn = law.draw(bits(fold_in(key, BLOCK), x0.shape), bits(fold_in(key, TOKEN), x0.shape))
        return drawn.astype(x0.dtype)

    def likelihood(self, x: Tokens, t: Times, s: Times | float = 0.0) -> Float[Array, "... V"]:
        """``q(x_t = x | x_s = v)`` for every ``v``; with an ``s``, both times are scalars."""
        last, first = self.index(t), self.index(s)
        if checks.is_zero(s):
            return jnp.swapaxes(self.products, 1, 2)[expand(last, x), x]
        back = lambda i, law: law @ self.steps[last - 1 - i].T
        return jax.lax.fori_loop(0, last - first, back, jax.nn.one_hot(x, self.vocab, dtype=self.steps.dtype))

    def push(self, law: Float[Array, "... V"], t: Times) -> Float[Array, "... V"]:
        """The law of ``x_t`` when ``x_0`` has this one; ``t`` is a scalar."""
        return law @ self.products[self.index(t)]

    def clean(self, logits: Any, x: Tokens) -> Float[Array, "... V"]:
        """A network's logits after checks, in at least float32.

        Raises:
            ValueError: logits of another shape than ``[*x.shape, vocab]``.
        """
        return checked_logits(logits, x, self.vocab)


def transition_matrices(steps: Float[Array, "n V V"] | np.ndarray) -> Matrices:
    """A process from the matrices of its ``n`` steps, the first next to the data.

    Products are made in float64, once. A network that wants the step's number gets it from its time, ``n t - 1``.

    Args:
        steps: rows sum to 1, ``Q[v, y]`` being the probability of ``y`` after ``v``; made by ``gaussian_steps`` and the
            others below, or anything else.

    Raises:
        ValueError: another shape, negative entries, or rows that do not sum to 1.
    Source: Austin et al. 2021, D3PM (arXiv 2107.03006), eq. 2 and 3.
    """
    table = np.asarray(steps, np.float64)
    if table.ndim != 3 or table.shape[1] != table.shape[2] or not len(table):
        raise ValueError(f"steps must have shape [n, vocab, vocab], got {table.shape}")
    checks.within("steps", table, 0.0)
    checks.within("the sums of steps' rows", table.sum(-1), 1 - 1e-4, 1 + 1e-4)
    products = [np.eye(table.shape[1])]
    for matrix in table:
        products.append(products[-1] @ matrix)
    end = jnp.asarray(np.log(np.maximum(products[-1].mean(0), np.finfo(np.float32).tiny)))
    noise = Given(categorical(end))
    return Matrices(jnp.asarray(table, jnp.result_type(float)), jnp.asarray(np.stack(products), end.dtype), noise)


def uniform_steps(vocab: int, betas: np.ndarray) -> np.ndarray:
    """``(1 - beta) I + beta / vocab``. Source: D3PM, app. A.2.1."""
    rates = _rates(betas)
    checks.integer("vocab", vocab, low=2)
    return (1 - rates) * np.eye(vocab) + rates / vocab


def absorbing_steps(vocab: int, betas: np.ndarray, mask: int) -> np.ndarray:
    """``(1 - beta) I + beta`` in the column of ``mask``, one of the ``vocab`` states. Source: D3PM, app. A.2.2."""
    rates = _rates(betas)
    checks.integer("mask", mask, low=0, high=checks.integer("vocab", vocab, low=2) - 1)
    return (1 - rates) * np.eye(vocab) + rates * (np.arange(vocab) == mask)


def gaussian_steps(vocab: int, betas: np.ndarray) -> np.ndarray:
    """Off the diagonal ``exp(-4 (i - j)^2 / ((vocab - 1)^2 beta))`` over its sum over all differences, ordered tokens.

    Source: D3PM, app. A.2.3.
    """
    rates = _rates(betas)
    place = np.arange(checks.integer("vocab", vocab, low=2))
    fall = lambda n: np.exp(-4 * n**2 / ((vocab - 1) ** 2 * rates))
    every = np.arange(-(vocab - 1), vocab)[None, None, :]
    off = fall(place[:, None] - place) / fall(every).sum(-1, keepdims=True) * (1 - np.eye(vocab))
    return off + np.eye(vocab) * (1 - off.sum(-1, keepdims=True))


def neighbour_steps(embeddings: np.ndarray, amounts: np.ndarray, neighbours: int = 5) -> np.ndarray:
    """``expm(amount R)`` of the rates to the nearest neighbours, made symmetric: the noise ends uniform.

    Args:
        embeddings: a vector for each token, ``[vocab, dimensions]``; distances are Euclidean.
        amounts: of noise in each step, positive.
        neighbours: of each token, ``k``; the rate is ``1 / 2k``, or ``1 / k`` between neighbours of each other.

    Raises:
        ValueError: numbers out of range.
    Source: D3PM, app. A.2.4.
    """
    places = np.asarray(embeddings, np.float64)
    if places.ndim != 2:
        raise ValueError(f"embeddings must have shape [vocab, dimensions], got {places.shape}")
    vocab = len(places)
    checks.integer("neighbours", neighbours, low=1, high=vocab - 1)
    checks.within("amounts", amounts, 0.0, above=True)
    distances = ((places[:, None] - places) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    graph = np.zeros((vocab, vocab))
    np.put_along_axis(graph, np.argsort(distances, axis=1, kind="stable")[:, :neighbours], 1.0, axis=1)
    rates = (graph + graph.T) / (2 * neighbours)
    values, vectors = np.linalg.eigh(rates - np.diag(rates.sum(1)))
    exponential = lambda amount: np.maximum((vectors * np.exp(amount * values)) @ vectors.T, 0.0)
    steps = np.stack([exponential(amount) for amount in np.asarray(amounts, np.float64)])
    return steps / steps.sum(-1, keepdims=True)


def _rates(betas: np.ndarray) -> np.ndarray:
    checks.within("betas", betas, 0.0, 1.0, above=True)
    if np.ndim(betas) != 1:
        raise ValueError(f"betas must be a one-dimensional table, one number a step, got shape {np.shape(betas)}")
    return np.asarray(betas, np.float64)[:, None, None]
