"""One table and one step function for every Gaussian solver.

A non-adaptive solver is a general linear method on a few registers, all shaped like the sample:

    m          = model(registers[0], time)                        the denoiser's clean-data estimate
    registers' = weights @ [*registers, m] + noise * z            z ~ N(0, I)       (+ constant, if there is one)

Register 0 is what the network sees next and, after the last row, the sample; the others hold whatever the
method needs (earlier estimates, an anchor, a slope). One row is one network call. Which entries can be
non-zero is the static ``pattern``; their values are arrays, so they can be learned, and any two solvers of one
shape share one compiled program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import Model, SolverState, new_state, normal_like, step_key, take_rows
from jaxsamplers.processes import Process, centre, same_structure, uncentre

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

Pattern = tuple[tuple[int, ...], ...]
Entry = Any  # the integer 0 or 1 (structural: never computed, never multiplied), a number, or an array [n, ...]
ABSENT, COPIED, WEIGHTED = 0, 1, 2  # what a pattern says of an entry


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The numbers of a table, one row per network call.

    Attributes:
        time: the time the network is shown.
        weights: row ``i`` of each matrix makes register ``i`` from the registers and, last, the estimate. Trailing
            axes broadcast against the sample (coefficients per channel or per pixel).
        noise: how much of the row's noise each register receives.
        extra: more keyword arguments for the model, one value a row (a guidance scale, say).
        constant: what is added to each register; ``None``, as for nearly every solver, for nothing.
    """

    time: Float[Array, " n"]
    weights: Float[Array, "n R R+1 ..."]
    noise: Float[Array, "n R ..."]
    extra: dict[str, Array] = dataclasses.field(default_factory=dict)
    constant: Float[Array, "n R ..."] | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows", "origin"], meta_fields=["pattern"])
@dataclasses.dataclass(frozen=True)
class Tableau:
    """A solver as a table; see the module's docstring.

    Attributes:
        rows: the numbers.
        pattern: ``[R][R + 2]`` flags: how each register, the estimate (column R) and noise (column R + 1) enter each
            register: not at all, as they are (their weight, 1, is not read), or with their weight.
        origin: the process's origin, subtracted from everything the table mixes; ``None`` for 0.
    """

    rows: Rows
    pattern: Pattern
    origin: PyTree = None

    def __len__(self) -> int:
        return self.rows.time.shape[0]

    def __getitem__(self, rows: slice) -> Tableau:
        return take_rows(self, rows)

    @property
    def registers(self) -> int:
        """R, the sample's own register included."""
        return len(self.pattern)

    @property
    def stochastic(self) -> bool:
        """Whether any register can receive noise."""
        return any(receives[-1] for receives in self.pattern)

    def init(self, x: PyTree, key: Key[Array, ...] | None) -> SolverState:
        """Registers start at zero; the sample is promoted to at least float32."""
        if self.stochastic and key is None:
            raise ValueError("this sampler draws noise: give it a PRNG key, such as jax.random.key(0)")
        x = jax.tree.map(_state_dtype, x)
        memory = tuple(jax.tree.map(jnp.zeros_like, x) for _ in range(self.registers - 1))
        return new_state(x, memory, key)

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """One network call and one elementwise sum per register, unrolled over the pattern."""
        estimate = conform(model(state.x, row.time, **row.extra), state.x)
        sources = (centre(state.x, self.origin), *state.memory, centre(estimate, self.origin))
        if self.stochastic:
            sources = (*sources, normal_like(step_key(state, role=0), state.x))
        columns = self.registers + 1

        def weight(i: int, j: int) -> Array:
            return row.weights[i, j] if j < columns else row.noise[i]

        def register(i: int) -> PyTree:
            used = [j for j, enters in enumerate(self.pattern[i]) if enters]
            factors = [None if self.pattern[i][j] == COPIED else weight(i, j) for j in used]

            def mix(like: Array, *values: Array) -> Array:
                terms = [v if f is None else f.astype(like.dtype) * v for f, v in zip(factors, values, strict=True)]
                mixed = functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(like)
                return mixed if row.constant is None else mixed + row.constant[i].astype(like.dtype)

            return jax.tree.map(mix, state.x, *[sources[j] for j in used])

        x, *memory = [register(i) for i in range(self.registers)]
        return SolverState(uncentre(x, self.origin), tuple(memory), state.key, state.step + 1)


def table(
    process: Process | None,
    time: Float[Array, " n"],
    weights: Sequence[Sequence[Entry]],
    noise: Sequence[Entry] | None = None,
    extra: Mapping[str, Array] | None = None,
    constant: Sequence[Entry] | None = None,
) -> Tableau:
    """A tableau from a matrix of entries as it stands in the paper.

    Args:
        process: its origin is where the table's coordinates are centred; ``None`` for 0.
        time: what the network is shown, row by row.
        weights: ``R`` lists of ``R + 1`` entries, each an array over rows or a number. The integers
            ``0`` and ``1`` are structural: nothing is computed, or a register or the estimate is taken as it is.
        noise: ``R`` entries; omitted for a deterministic solver.
        extra: per-row keyword arguments of the model.
        constant: ``R`` entries, added to the registers whatever the network says; omitted for none.
    """
    time = jnp.asarray(time)
    noise = [0] * len(weights) if noise is None else noise
    full = [[*row, z] for row, z in zip(weights, noise, strict=True)]
    if any(len(row) != len(weights) + 2 for row in full):
        raise ValueError(f"{len(weights)} registers need rows of {len(weights) + 1} weights")
    pattern = tuple(tuple(_kind(entry) for entry in row) for row in full)
    added: list[list[Entry]] = [] if constant is None else [[*constant]]
    shared = _share_trailing([*full, *added], time)
    values = jnp.stack([jnp.stack(row, axis=1) for row in shared[: len(full)]], axis=1)
    rest = jnp.stack(shared[-1], axis=1) if added else None
    rows = Rows(time, values[:, :, :-1], values[:, :, -1], dict(extra or {}), rest)
    return Tableau(rows, pattern, None if process is None else process.origin)


def entries(tableau: Tableau) -> tuple[list[list[Entry]], list[Entry]]:
    """The weights and the noise that make ``tableau`` when given to ``table``: what a transform of solvers works on."""
    count = tableau.registers
    structural = {ABSENT: 0, COPIED: 1}
    weights: list[list[Entry]] = [
        [structural.get(kind, tableau.rows.weights[:, i, j]) for j, kind in enumerate(row[:-1])]
        for i, row in enumerate(tableau.pattern)
    ]
    noise: list[Entry] = [
        structural.get(row[count + 1], tableau.rows.noise[:, i]) for i, row in enumerate(tableau.pattern)
    ]
    return weights, noise


def with_extra(tableau: Tableau, **values: Any) -> Tableau:
    """The same solver with more keyword arguments for the model in its rows.

    Args:
        tableau: any table.
        **values: for each keyword an array of one value a row (more axes may follow), or a number for all rows.

    Raises:
        ValueError: an array that does not have one value a row.
    """
    rows = len(tableau)
    for name, value in values.items():
        if jnp.ndim(value) > 0 and jnp.shape(value)[0] != rows:
            raise ValueError(f"{name} must have one value for each of the {rows} rows, got shape {jnp.shape(value)}")
    spread = {k: jnp.broadcast_to(jnp.asarray(v), (rows, *jnp.shape(v)[1:])) for k, v in values.items()}
    return dataclasses.replace(tableau, rows=dataclasses.replace(tableau.rows, extra=tableau.rows.extra | spread))


def interleave(*tables: Tableau) -> Tableau:
    """The first rows of every table, then the second rows, ...: the stages of a Runge-Kutta method."""
    tables = align(*tables)

    def zipped(*leaves: Array) -> Array:
        return jnp.stack(leaves, axis=1).reshape(-1, *leaves[0].shape[1:])

    return dataclasses.replace(tables[0], rows=jax.tree.map(zipped, *[t.rows for t in tables]))


def concatenate(*tables: Tableau) -> Tableau:
    """The rows of one table after those of another."""
    tables = align(*tables)
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[t.rows for t in tables])
    return dataclasses.replace(tables[0], rows=joined)


def align(*tables: Tableau) -> tuple[Tableau, ...]:
    """The same tables with one common pattern, so that a program compiled for one runs them all."""
    count = max(t.registers for t in tables)
    tables = tuple(_grow(t, count) for t in tables)
    if any(t.rows.constant is not None for t in tables):
        tables = tuple(_with_constant(t) for t in tables)
    kinds = np.array([t.pattern for t in tables])
    union = np.where((kinds == kinds[0]).all(axis=0), kinds[0], WEIGHTED)
    pattern = tuple(tuple(int(kind) for kind in row) for row in union)
    return tuple(dataclasses.replace(t, pattern=pattern) for t in tables)


def pad(tableau: Tableau, registers: int, *, stochastic: bool = True) -> Tableau:
    """The same solver in the dense shape of ``registers`` registers, whatever its own pattern.

    Every solver padded to the same number of registers shares one compiled program, at the price of computing
    all the zeros; ``align`` pays only for what some of its tables use.

    Raises:
        ValueError: fewer registers than the table has, or ``stochastic=False`` for a table that draws noise.
    """
    checks.integer("registers", registers, low=tableau.registers)
    if tableau.stochastic and not stochastic:
        raise ValueError("a table that draws noise cannot be padded with stochastic=False")
    dense = tuple([WEIGHTED] * (registers + 1) + [WEIGHTED if stochastic else ABSENT])
    return dataclasses.replace(_grow(tableau, registers), pattern=(dense,) * registers)


def conform(output: PyTree, x: PyTree) -> PyTree:
    """A model's output in the dtype of ``x``.

    Raises:
        ValueError: it has another structure or other shapes than ``x``.
    """
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    if not same_structure(output, x) or shapes(output) != shapes(x):
        raise ValueError(f"the model must return what looks like x: {shapes(x)}, but returned {shapes(output)}")
    return jax.tree.map(lambda m, leaf: jnp.asarray(m, leaf.dtype), output, x)


def _state_dtype(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(f"x must be floating point, got {leaf.dtype}")
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _kind(entry: Entry) -> int:
    return entry if isinstance(entry, int) and entry in (ABSENT, COPIED) else WEIGHTED


def _share_trailing(rows: list[list[Entry]], time: Array) -> list[list[Entry]]:
    """Give every entry the trailing axes of the entry that has the most."""
    trailing = np.broadcast_shapes(*[jnp.shape(entry)[1:] for row in rows for entry in row])
    shape = (time.shape[0], *trailing)

    def spread(entry: Entry) -> Array:
        entry = jnp.asarray(entry, time.dtype)
        entry = entry.reshape(entry.shape + (1,) * len(trailing)) if entry.ndim == 1 else entry
        return jnp.broadcast_to(entry, shape)

    return [[spread(entry) for entry in row] for row in rows]


def _grow(tableau: Tableau, registers: int) -> Tableau:
    """Add registers that stay zero."""
    old, more = tableau.registers, registers - tableau.registers
    if not more:
        return tableau
    weights, noise = tableau.rows.weights, tableau.rows.noise
    rest = [(0, 0)] * (weights.ndim - 3)
    from_registers = jnp.pad(weights[:, :, :old], [(0, 0), (0, more), (0, more), *rest])
    from_estimate = jnp.pad(weights[:, :, old:], [(0, 0), (0, more), (0, 0), *rest])
    rows = dataclasses.replace(
        tableau.rows,
        weights=jnp.concatenate([from_registers, from_estimate], axis=2),
        noise=jnp.pad(noise, [(0, 0), (0, more), *rest]),
    )
    if rows.constant is not None:
        rows = dataclasses.replace(rows, constant=jnp.pad(rows.constant, [(0, 0), (0, more), *rest]))
    absent = (ABSENT,) * more
    pattern = tuple((*row[:old], *absent, *row[old:]) for row in tableau.pattern)
    pattern += ((ABSENT,) * (registers + 2),) * more
    return dataclasses.replace(tableau, rows=rows, pattern=pattern)


def _with_constant(tableau: Tableau) -> Tableau:
    """The same table with a constant, 0 if it had none."""
    rows = tableau.rows
    if rows.constant is not None:
        return tableau
    return dataclasses.replace(tableau, rows=dataclasses.replace(rows, constant=jnp.zeros_like(rows.noise)))
