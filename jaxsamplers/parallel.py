"""Sampling parallel in time: guess what the network will be asked in many rows, ask all of it at once, correct.

Given the network's answers, a sampler's rows are cheap arithmetic: for a table, an affine recurrence. Picard's
iteration guesses the questions of a window of rows, lets the network answer them as one batch, and follows the rows
with those answers to better questions. The first question of a window is exact, so every sweep makes at least one more
row exact, and as many sweeps as rows give ``js.sample``; usually far fewer do, and each takes the *time* of one call.

What stands still between sweeps may be chosen, row by row: with ``m = skip x + r`` the answer's part ``r`` is kept and
the part linear in ``x`` is followed exactly.

    skip = 0                                     the estimate stands still
    skip = 1 / alpha                             the predicted noise does
    skip = alpha s^2 / (alpha^2 s^2 + sigma^2)   what a network predicts behind EDM's preconditioning

The last, ``normal_part``, is exact after one sweep for normal data of standard deviation ``s``.

Source: Shih, Belkhale, Ermon, Sadigh & Anari 2023, Parallel sampling of diffusion models, ParaDiGMS (arXiv 2305.16317),
algorithm 1. It keeps ``x' - x``, which is ``skip = (1 - keep) / gain`` in DDIM's row, and starts from the same ``x`` in
all rows, as following ``r = 0`` with that skip does here. Rows that enter its window get the last ``x``; here they are
reached by following the last ``r``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxsamplers import checks
from jaxsamplers.core import Model, Sampler, SolverState, network_calls
from jaxsamplers.tableau import conform

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key, PyTree

    from jaxsamplers.processes import Process

Asked = tuple[Any, Any, dict[str, Any]]  # x, t and the other arguments of the model


class Picard(NamedTuple):
    """What a run in parallel ends with.

    Attributes:
        state: as ``js.run`` returns it.
        sweeps: network calls one after another, each for a window of rows at once.
        calls: rows in all of these calls; ``js.run`` asks once a row.
    """

    state: SolverState
    sweeps: Int[Array, ""]
    calls: Int[Array, ""]

    @property
    def x(self) -> PyTree:
        """The sample."""
        return self.state.x


def picard(
    sampler: Sampler,
    model: Model,
    x: PyTree,
    key: Key[Array, ...] | None = None,
    *,
    window: int,
    tolerance: float | Float[Array, " n"],
    skip: float | Float[Array, " n"] | None = None,
    sharding: jax.sharding.NamedSharding | None = None,
) -> Picard:
    """``js.run`` with ``window`` rows at a time; a pure function, to be jitted by the caller.

    A row is done when what the network is asked there, of every sample, changes from one sweep to the next by no more
    than ``tolerance`` (root mean square; of tokens, the root of the share that changes), and all rows before it are
    done; then the window moves on. Noise is that of ``js.run`` with the same key. There is no gradient in reverse mode,
    because nobody knows how many sweeps it will take; ``picard_fixed`` has one.

    Args:
        sampler: any whose rows call the model once: every table, and samplers of tokens.
        model: the denoiser ``(x, t, **extra) -> x0``; it is mapped over rows.
        x: the starting sample, its leading axis the batch, or the ``SolverState`` another run ended with.
        key: PRNG key, as for ``js.run``.
        window: rows at a time; a call needs the memory of ``window`` times the batch.
        tolerance: for all rows, or one each, such as ``0.01 * process.sigma(sampler.rows.time)``; the paper's are
            relative to the noise of DDPM's step, which is smaller than ``sigma``, the more so the more steps there are.
            With 0 the sample is ``js.sample``'s, to rounding.
        skip: the estimate's slope that is followed exactly; for all rows, or one each. See the module's docstring.
        sharding: of a window's rows over devices, ``NamedSharding(mesh, P("time"))``; more axes are the sample's.

    Raises:
        ValueError: a window below 1 or that the mesh does not divide, a tolerance below 0, a sampler that does not call
            its model once a row, ``skip`` for tokens.
    """
    state = x if isinstance(x, SolverState) else sampler.init(x, key)
    count, first = network_calls(sampler), state.step
    window = min(checks.integer("window", window, low=1), count)
    checks.within("tolerance", tolerance, 0.0)
    bounds = jnp.broadcast_to(jnp.asarray(tolerance), (count,))
    rows = sampler.rows, _slopes(skip, state.x, count)
    here = jnp.arange(window)

    def follow(state: SolverState, kept: PyTree, length: int) -> Asked:
        """What the next rows ask, the last ``kept`` answering those that have none; behind the end nothing moves."""
        index = state.step - first + jnp.arange(length)
        kept = _take(kept, jnp.minimum(jnp.arange(length), window - 1))
        given = _take(rows, jnp.minimum(index, count - 1)), kept, index < count
        return _follow(sampler, model, state, given)[1]

    def improve(carry: tuple[Picard, Asked]) -> tuple[Picard, Asked]:
        (state, sweeps, calls), guess = carry
        index = state.step - first + here
        near = _take(rows, jnp.minimum(index, count - 1))
        kept = _answers(model, guess, near[1], sharding)
        asked = follow(state, kept, min(2 * window, count))
        small = _change(_take(asked[0], here), guess[0]) <= bounds[jnp.minimum(index, count - 1)]
        done = jnp.cumprod((small & (index < count)).at[0].set(True)).sum()
        one = lambda i, state: _row(sampler, model, state, *_take((near, kept), i))[0]
        after = jax.lax.fori_loop(0, done, one, state)
        guess = _take(asked, jnp.minimum(done + here, min(2 * window, count) - 1))
        return Picard(after, sweeps + 1, calls + jnp.minimum(window, count - index[0])), guess

    zero = jnp.zeros_like(first)
    start = Picard(state, zero, zero), follow(state, None, window)
    return jax.lax.while_loop(lambda carry: carry[0].state.step - first < count, improve, start)[0]


def picard_fixed(
    sampler: Sampler,
    model: Model,
    x: PyTree,
    key: Key[Array, ...] | None = None,
    *,
    sweeps: int,
    skip: float | Float[Array, " n"] | None = None,
    sharding: jax.sharding.NamedSharding | None = None,
) -> Picard:
    """A given number of sweeps over all rows at once; differentiable, with each sweep checkpointed.

    Args:
        sampler: as in ``picard``, and so are ``model``, ``x``, ``key``, ``skip`` and ``sharding``.
        model: the denoiser.
        x: the starting sample or state.
        key: PRNG key.
        sweeps: how many; as many as rows give ``js.sample``.
        skip: the estimate's slope that is followed exactly.
        sharding: of the rows over devices.

    Raises:
        ValueError: fewer than one sweep, or what ``picard`` refuses.
    """
    checks.integer("sweeps", sweeps, low=1)
    state = x if isinstance(x, SolverState) else sampler.init(x, key)
    count = network_calls(sampler)
    rows = sampler.rows, _slopes(skip, state.x, count)

    def improve(guess: Asked, _: None) -> tuple[Asked, SolverState]:
        kept = _answers(model, guess, rows[1], sharding)
        after, asked = _follow(sampler, model, state, (rows, kept, jnp.full(count, True)))
        return asked, after

    _, guess = _follow(sampler, model, state, (rows, None, jnp.full(count, True)))
    _, after = jax.lax.scan(jax.checkpoint(improve, prevent_cse=False), guess, length=sweeps)
    made = jnp.asarray(sweeps, jnp.int32)
    return Picard(_take(after, -1), made, made * count)


def normal_part(process: Process, times: Float[Array, " n"], deviation: float) -> Float[Array, " n"]:
    """The slope of normal data's exact estimate, a good ``skip``: ``alpha s^2 / (alpha^2 s^2 + sigma^2)``.

    Args:
        process: the noise process.
        times: what the network is shown, ``sampler.rows.time``.
        deviation: the standard deviation ``s`` of the data.

    Source: Karras et al. 2022, EDM (arXiv 2206.00364), ``c_skip`` of table 1.
    """
    checks.within("deviation", deviation, 0.0, above=True)
    alpha, sigma = process.alpha(times), process.sigma(times)
    return alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)


def _slopes(skip: float | Float[Array, " n"] | None, x: PyTree, count: int) -> Float[Array, " n"] | None:
    if skip is None:
        return None
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(x)):
        raise ValueError("skip follows a part of a floating-point sample: leave it out for tokens")
    return jnp.broadcast_to(jnp.asarray(skip), (count,))


def _row(sampler: Sampler, model: Model, state: SolverState, row: Any, kept: PyTree) -> tuple[SolverState, Asked]:
    """One row with an answer that is there already, or with none, and what it asked."""
    numbers, skip = row
    asked: list[Asked] = []

    def answer(x: PyTree, t: Array, **extra: Any) -> PyTree:
        asked.append((x, t, extra))
        if kept is None:
            part = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), jax.eval_shape(model, x, t, **extra))
        else:
            part = kept
        return part if skip is None else jax.tree.map(lambda r, leaf: r + skip.astype(leaf.dtype) * leaf, part, x)

    after = sampler.step(state, numbers, answer)
    if len(asked) != 1:
        raise ValueError(
            f"picard needs a sampler that calls its model once a row, this one called it {len(asked)} times"
        )
    return after, asked[0]


def _follow(sampler: Sampler, model: Model, state: SolverState, given: Any) -> tuple[SolverState, Asked]:
    """All rows that are given, with their answers; what each asked is stacked."""

    def body(state: SolverState, given: Any) -> tuple[SolverState, Asked]:
        row, kept, moves = given
        after, asked = _row(sampler, model, state, row, kept)
        return jax.tree.map(lambda new, old: jnp.where(moves, new, old), after, state), asked

    return jax.lax.scan(body, state, given)


def _answers(model: Model, guess: Asked, skip: Array | None, sharding: jax.sharding.NamedSharding | None) -> PyTree:
    """The network's answers to a window of questions, less the part that is followed."""

    def part(asked: Asked, skip: Array | None) -> PyTree:
        x, t, extra = asked
        answer = model(x, t, **extra)
        if skip is None:
            return answer
        return jax.tree.map(lambda m, leaf: m - skip.astype(leaf.dtype) * leaf, conform(answer, x), x)

    if sharding is None:
        return jax.vmap(part)(guess, skip)
    return _gathered(jax.vmap(part)(_spread(guess, sharding), skip), sharding)


def _change(new: PyTree, old: PyTree) -> Float[Array, " rows"]:
    """Root mean square over everything but rows and samples, and of the samples the largest."""

    def squares(a: Array, b: Array) -> Array:
        different = (a - b) ** 2 if jnp.issubdtype(a.dtype, jnp.floating) else (a != b).astype(jnp.float32)
        samples = a.shape[1] if a.ndim > 1 else 1
        return different.reshape(a.shape[0], samples, -1)

    parts = [squares(a, b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)]
    total, size = sum(part.sum(axis=-1) for part in parts), sum(part.shape[-1] for part in parts)
    return jnp.sqrt(jnp.max(total / size, axis=-1))


def _take(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _spread(asked: Asked, sharding: jax.sharding.NamedSharding) -> Asked:
    """The questions over devices: rows along the first axis of the sharding, samples as it says."""
    rows, names = jax.tree.leaves(asked)[0].shape[0], sharding.spec[0]
    devices = math.prod(sharding.mesh.shape[name] for name in ([names] if isinstance(names, str) else names or []))
    if rows % devices:
        raise ValueError(f"window must be a multiple of the {devices} devices that share its rows, got {rows} rows")
    x, *rest = asked
    place = lambda spec: lambda leaf: _place(leaf, sharding, P(*spec[: leaf.ndim]))
    return jax.tree.map(place(sharding.spec), x), *jax.tree.map(place(sharding.spec[:1]), rest)


def _gathered(answers: PyTree, sharding: jax.sharding.NamedSharding) -> PyTree:
    """Every device follows all rows."""
    return jax.tree.map(lambda leaf: _place(leaf, sharding, P(None, *sharding.spec[1 : leaf.ndim])), answers)


def _place(leaf: Array, sharding: jax.sharding.NamedSharding, spec: P) -> Array:
    explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    move = jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint
    return move(leaf, jax.sharding.NamedSharding(sharding.mesh, spec))
