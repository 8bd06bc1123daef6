"""A sampler is a pytree: rows of numbers, one per network call, and two pure functions that read them.

``run`` scans ``sampler.step`` over ``sampler.rows``. Because the rows are arrays, a sampler can be
differentiated, learned, sliced, saved and swapped without compiling anything again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key, PyTree

Model = Callable[..., Any]
Remat = bool | Callable[..., Any]  # whether, or a policy of ``jax.checkpoint_policies``
S = TypeVar("S", bound="Sampler")
Record = TypeVar("Record")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SolverState:
    """What a sampler carries from one network call to the next.

    Attributes:
        x: the sample, any pytree of arrays.
        memory: what this sampler remembers (registers, log-weights, ...); ``()`` when nothing.
        key: a typed PRNG key; one key per sample (shape ``[batch]``) for noise that does not depend
            on how samples are batched (see ``sample_keys``); ``None`` for a deterministic sampler.
        step: the number of rows already taken.
    """

    x: PyTree
    memory: PyTree
    key: Key[Array, ...] | None
    step: Int[Array, ""]


class Sampler(Protocol):
    """The protocol of every sampler: a frozen dataclass with ``rows``, ``init`` and ``step``."""

    @property
    def rows(self) -> PyTree:
        """A pytree whose leaves have leading axis ``n``, one row per network call."""

    def init(self, x: PyTree, key: Key[Array, ...] | None) -> SolverState:
        """The state before the first row."""

    def step(self, state: SolverState, row: PyTree, model: Model) -> SolverState:
        """One row: one call of ``model``."""


def new_state(x: PyTree, memory: PyTree, key: Key[Array, ...] | None) -> SolverState:
    """A state at step 0; raw ``uint32`` keys are wrapped once, here."""
    return SolverState(x, memory, None if key is None else as_key(key), jnp.zeros((), jnp.int32))


@overload
def run(
    sampler: Sampler,
    model: Model,
    x: PyTree,
    key: Key[Array, ...] | None = None,
    *,
    record: None = None,
    remat: Remat = True,
    unroll: int = 1,
) -> SolverState: ...


@overload
def run(
    sampler: Sampler,
    model: Model,
    x: PyTree,
    key: Key[Array, ...] | None = None,
    *,
    record: Callable[[SolverState], Record],
    remat: Remat = True,
    unroll: int = 1,
) -> tuple[SolverState, Record]: ...


def run(
    sampler: Sampler,
    model: Model,
    x: PyTree,
    key: Key[Array, ...] | None = None,
    *,
    record: Callable[[SolverState], Record] | None = None,
    remat: Remat = True,
    unroll: int = 1,
) -> SolverState | tuple[SolverState, Record]:
    """Take every row of ``sampler``, starting from ``x``; a pure function, to be jitted by the caller.

    Args:
        sampler: rows and a step.
        model: the denoiser ``(x, t, **extra) -> x0``.
        x: the starting sample (a pytree of arrays), or the ``SolverState`` another run ended with:
            ``run(sampler[k:], model, run(sampler[:k], model, x, key))`` equals the whole run.
        key: PRNG key; needed by stochastic samplers, ignored when ``x`` is a state. A key array of
            shape ``[batch]`` gives every sample its own noise stream.
        record: a function of the state whose results are stacked along a new leading axis of length
            ``n`` and returned as a second value; nothing is kept otherwise.
        remat: checkpoint the scan body, so that a gradient stores one state a row and recomputes the
            network instead of keeping its activations. Costs nothing unless differentiated. A policy, such as
            ``jax.checkpoint_policies.dots_saveable``, says what to keep; docs/memory.md has measured costs.
        unroll: rows in one pass of the compiled loop, ``lax.scan``'s. The model is compiled that many times. With 2 XLA
            need not copy the registers from row to row, which shows when the model costs little more than the update.

    Returns:
        The final state, or ``(state, records)`` when ``record`` is given.

    Raises:
        ValueError: a stochastic sampler without a key, or a model whose output does not look like ``x``.
    """
    state = x if isinstance(x, SolverState) else sampler.init(x, key)

    def body(state: SolverState, row: PyTree) -> tuple[SolverState, Any]:
        state = sampler.step(state, row, model)
        return state, None if record is None else record(state)

    policy = None if isinstance(remat, bool) else remat
    scanned = jax.checkpoint(body, prevent_cse=False, policy=policy) if remat else body
    state, records = jax.lax.scan(scanned, state, sampler.rows, unroll=unroll)
    return state if record is None else (state, records)


def sample(
    sampler: Sampler,
    model: Model,
    x: PyTree,
    key: Key[Array, ...] | None = None,
    *,
    remat: Remat = True,
    unroll: int = 1,
) -> PyTree:
    """The sample that ``run`` ends with; same arguments."""
    return run(sampler, model, x, key, remat=remat, unroll=unroll).x


def network_calls(sampler: Sampler) -> int:
    """NFE: the number of rows, for every sampler."""
    return jax.tree.leaves(sampler.rows)[0].shape[0]


def take_rows(sampler: S, rows: slice) -> S:
    """``sampler[a:b]``: the same sampler with only those rows.

    Raises:
        TypeError: anything but a slice.
    """
    if not isinstance(rows, slice):
        raise TypeError(f"a sampler is sliced, as in sampler[2:5], not indexed: got {rows!r}")
    return dataclasses.replace(sampler, rows=jax.tree.map(lambda leaf: leaf[rows], sampler.rows))  # type: ignore[type-var]


def as_key(key: Key[Array, ...]) -> Key[Array, ...]:
    """A typed key from a typed or a raw one.

    Raises:
        TypeError: something that is no PRNG key, an integer seed for instance.
    """
    if not hasattr(key, "dtype"):
        raise TypeError(f"key must be a PRNG key such as jax.random.key({key!r}), got {type(key).__name__}")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if key.dtype != jnp.uint32:
        raise TypeError(f"key must be a PRNG key such as jax.random.key(0), got an array of {key.dtype}")
    return jax.random.wrap_key_data(key)


def sample_keys(key: Key[Array, ""], indices: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """One key per sample, from its global index: noise that no batching, chunking or sharding changes."""
    return jax.vmap(lambda index: jax.random.fold_in(as_key(key), index))(jnp.asarray(indices))


def normal_like(key: Key[Array, ...], x: PyTree) -> PyTree:
    """Standard normal noise shaped, typed and sharded like ``x``; ``key`` may hold one key per sample."""
    leaves, treedef = jax.tree.flatten(x)
    folded = [fold_in(key, index) for index in range(len(leaves))]
    return jax.tree.unflatten(treedef, [_normal(k, leaf) for k, leaf in zip(folded, leaves, strict=True)])


def step_key(state: SolverState, role: int) -> Key[Array, ...]:
    """The key of this row for one role, so that adding a feature never changes another's noise."""
    assert state.key is not None, "samplers that draw noise refuse to start without a key"
    return fold_in(fold_in(state.key, state.step), role)


def fold_in(key: Key[Array, ...], data: int | Int[Array, ""]) -> Key[Array, ...]:
    """``jax.random.fold_in`` for one key, or for one per sample."""
    fold = jax.random.fold_in
    return fold(key, data) if key.ndim == 0 else jax.vmap(fold, in_axes=(0, None))(key, data)


def _normal(key: Key[Array, ...], leaf: Float[Array, "..."]) -> Float[Array, "..."]:
    if key.ndim == 0:
        return jax.random.normal(key, leaf.shape, leaf.dtype, out_sharding=_explicit_sharding(leaf))
    if key.shape != leaf.shape[:1]:
        raise ValueError(f"one key per sample: {key.shape[0]} keys for a sample of shape {leaf.shape}")
    return jax.vmap(lambda k: jax.random.normal(k, leaf.shape[1:], leaf.dtype))(key)


def _explicit_sharding(leaf: Array) -> Any:
    """The sharding of ``leaf`` if its mesh has explicit axes; implicit ones are XLA's business."""
    sharding = jax.typeof(leaf).sharding
    mesh = sharding.mesh
    explicit = jax.sharding.AxisType.Explicit
    return sharding if not mesh.empty and all(kind == explicit for kind in mesh.axis_types) else None
