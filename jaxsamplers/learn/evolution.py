"""Evolution: a population whose best members have children, and a predictor that says which children to try.

One generation, compiled once and run again and again:

    1. the best ``parents`` are crossed and mutated into more proposals than can be tried
    2. proposals tried before are dropped; of the others, those that the predictor likes best are tried
    3. the best of old and new survive, so that the best is never lost

The predictor learns from what was tried so far. Candidates are any pytree of arrays; what crossing and mutating mean
is the caller's, see ``decisions``.

Source: Liu, Ning, Yang & Wang 2024, S^3 (arXiv 2312.07243), section 5 and their code; without a predictor, Li et al.
2023, AutoDiffusion (arXiv 2309.10438).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import as_key
from jaxsamplers.denoisers import as_pytree

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key, PyTree

    Mutate = Callable[[Key[Array, ""], PyTree], PyTree]
    Crossover = Callable[[Key[Array, ""], PyTree, PyTree], PyTree]
    Fitness = Callable[[PyTree], Float[Array, ""]]
    Features = Callable[[PyTree], Float[Array, " F"]]
    Predictor = Callable[
        [Float[Array, "known F"], Float[Array, " known"], Float[Array, "asked F"]], Float[Array, " asked"]
    ]


class Generation(NamedTuple):
    """All that a search has to remember: a pytree of arrays, to be saved and gone on from.

    Attributes:
        candidates: the population, best first, ``[size, ...]``.
        fitness: what is to be small, of each.
        number: how many generations there have been.
        evaluations: how many candidates have been tried.
        known: the numbers of those tried lately.
        worth: their fitness; NaN where there is none yet.
    """

    candidates: PyTree
    fitness: Float[Array, " size"]
    number: Int[Array, ""]
    evaluations: Int[Array, ""]
    known: Float[Array, "memory F"]
    worth: Float[Array, " memory"]


def vector(candidate: PyTree) -> Float[Array, " F"]:
    """The numbers of a candidate in a row."""
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.result_type(float)) for leaf in jax.tree.leaves(candidate)])


def evolve(
    key: Key[Array, ""],
    population: PyTree | Generation,
    mutate: Mutate,
    crossover: Crossover,
    fitness: Fitness,
    *,
    generations: int,
    features: Features = vector,
    children: int | None = None,
    parents: int | None = None,
    crossed: float = 0.5,
    predictor: Predictor | None = None,
    proposals: int = 4,
    memory: int = 512,
    together: int | None = None,
    report: Callable[..., None] | None = None,
) -> Generation:
    """The population after so many generations; the same for the same key, interrupted or not.

    Functions of one candidate are traced; given as pytrees (``jax.tree_util.Partial``) they bring
    their arrays along, and another search of the same shapes compiles nothing.

    Args:
        key: PRNG key.
        population: candidates ``[size, ...]`` to begin with, or the ``Generation`` of an earlier call to go on from.
        mutate: ``(key, candidate) -> candidate``.
        crossover: ``(key, one, other) -> candidate``.
        fitness: ``candidate -> number``, the smaller the better; NaN is the worst.
        generations: their number in the end, those of an earlier call included.
        features: what the predictor sees of a candidate, a vector; also what tells two candidates apart.
        children: how many are tried in a generation; as many as the population by default.
        parents: how many of the best may have children; a fifth of the population by default, but two at least.
        crossed: the fraction of children that have two parents.
        predictor: ``(known, worth, asked) -> score`` of candidates as vectors, ``kernel_ridge`` for instance; with
            ``None`` new proposals are tried as they come.
        proposals: how many there are for each child that is tried.
        memory: how many of those tried are remembered.
        together: how many candidates' fitness is computed at once; by default one after the other.
        report: called after each generation with ``(number, generations, best=..., evaluations=...)``.

    Raises:
        ValueError: a number out of range, or a population of unequal sizes.
    """
    checks.integer("generations", generations, low=0)
    old = population if isinstance(population, Generation) else None
    candidates = jax.tree.map(jnp.asarray, population if old is None else old.candidates)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(candidates)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"population must have one leading axis, that of its members, got {sorted(sizes)}")
    size = checks.integer("the population's size", sizes.pop()[0], low=2)
    children = size if children is None else checks.integer("children", children, low=1)
    parents = max(2, size // 5) if parents is None else checks.integer("parents", parents, low=1, high=size)
    checks.within("crossed", crossed, 0.0, 1.0)
    checks.integer("proposals", proposals, low=1)
    memory = checks.integer("memory", memory if old is None else len(old.worth), low=max(size, children))
    functions = [as_pytree(function) for function in (mutate, crossover, fitness, features)]
    guess = None if predictor is None else as_pytree(predictor)
    now = _first(candidates, *functions[2:], memory=memory, together=together) if old is None else old
    for number in range(int(now.number), generations):
        now = _next(
            jax.random.fold_in(as_key(key), number),
            now,
            (*functions, guess),
            crossed,
            children=children,
            parents=parents,
            proposals=proposals,
            together=together,
        )
        if report is not None:
            report(number + 1, generations, best=float(now.fitness[0]), evaluations=int(now.evaluations))
    return now


def kernel_ridge(
    known: Float[Array, "known F"],
    worth: Float[Array, " known"],
    asked: Float[Array, "asked F"],
    *,
    ridge: float = 0.1,
    curiosity: float = 3.0,
) -> Float[Array, " asked"]:
    """Ranks that candidates may hope for, by ridge regression with a Gaussian kernel on the ranks of those tried.

    Ranks, as in the pairwise losses of predictors of this kind, do not mind fitness that is huge or infinite. From the
    rank expected its uncertainty is subtracted, for otherwise what resembles the best is all that is ever tried.

    Args:
        known: those tried, as vectors.
        worth: their fitness, NaN for rows that hold nothing.
        asked: candidates to be judged.
        ridge: variance of what is taken for noise, relative to that of ranks.
        curiosity: how many standard deviations are subtracted.
    """
    there = ~jnp.isnan(worth)
    count = jnp.maximum(there.sum(), 1)
    of_known = lambda rows: jnp.where(there[:, None], rows, 0.0).sum(axis=0) / count
    mean = of_known(known)
    spread = jnp.sqrt(of_known((known - mean) ** 2))
    standard = lambda rows: (rows - mean) / jnp.where(spread > 0, spread, 1.0)

    def distance(a: Array, b: Array) -> Array:
        squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)
        return jnp.maximum(squares - 2 * a @ b.T, 0.0)

    old, new = standard(known), standard(asked)
    apart = distance(old, old)
    pairs = there[:, None] & there
    width = jnp.where(pairs, apart, 0.0).sum() / count**2 + jnp.finfo(apart.dtype).tiny
    near = jnp.where(there, jnp.exp(-distance(new, old) / width), 0.0)
    system = jnp.where(pairs, jnp.exp(-apart / width), 0.0) + ridge * jnp.eye(len(known))
    rank = jnp.argsort(jnp.argsort(jnp.where(there, worth, jnp.inf))) / count - 0.5
    solved = jnp.linalg.solve(system, jnp.concatenate([jnp.where(there, rank, 0.0)[:, None], near.T], axis=1))
    variance = jnp.maximum(1 - jnp.sum(near * solved[:, 1:].T, axis=1), 0.0) / 12  # a uniform variable's is 1 / 12
    return near @ solved[:, 0] - curiosity * jnp.sqrt(variance)


@functools.partial(jax.jit, static_argnames=("memory", "together"))
def _first(
    candidates: PyTree, fitness: Fitness, features: Features, *, memory: int, together: int | None
) -> Generation:
    """The population tried and put in order."""
    worth = _try(fitness, candidates, together)
    rows = jax.vmap(features)(candidates)
    size = len(worth)
    known = jnp.zeros((memory, rows.shape[1]), rows.dtype).at[:size].set(rows)
    remembered = jnp.full((memory,), jnp.nan, worth.dtype).at[:size].set(worth)
    best = jnp.argsort(worth)
    number = jnp.zeros((), jnp.int32)
    return Generation(_rows(candidates, best), worth[best], number, number + size, known, remembered)


@functools.partial(jax.jit, static_argnames=("children", "parents", "proposals", "together"))
def _next(
    key: Array,
    now: Generation,
    functions: tuple[Mutate, Crossover, Fitness, Features, Predictor | None],
    crossed: Array,
    *,
    children: int,
    parents: int,
    proposals: int,
    together: int | None,
) -> Generation:
    """One generation; see the module's docstring."""
    mutate, crossover, fitness, features, predictor = functions
    count = children * proposals
    pick, mate, cross, change = jax.random.split(key, 4)
    couple = jax.random.randint(pick, (2, count), 0, parents)
    one, other = _rows(now.candidates, couple[0]), _rows(now.candidates, couple[1])
    both = jax.vmap(crossover)(jax.random.split(cross, count), one, other)
    two = jax.random.bernoulli(mate, crossed, (count,))
    child = jax.tree.map(lambda a, b: jnp.where(two.reshape(-1, *[1] * (a.ndim - 1)), a, b), both, one)
    child = jax.vmap(mutate)(jax.random.split(change, count), child)

    rows = jax.vmap(features)(child)
    same = lambda a, b: jnp.all(a[:, None] == b, axis=-1)
    tried = jnp.any(same(rows, now.known) & ~jnp.isnan(now.worth), axis=1)
    tried = tried | jnp.any(jnp.tril(same(rows, rows), -1), axis=1)
    score = jnp.zeros(count) if predictor is None else predictor(now.known, now.worth, rows)
    chosen = jnp.lexsort((score, tried))[:children]
    child, rows, again = _rows(child, chosen), rows[chosen], tried[chosen]

    worth = _try(fitness, child, together)
    place = (now.evaluations + jnp.arange(children)) % len(now.worth)
    everybody = jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), now.candidates, child)
    values = jnp.concatenate(
        [now.fitness, jnp.where(again, jnp.inf, worth)]
    )  # who is there already does not come twice
    best = jnp.argsort(values)[: len(now.fitness)]
    return Generation(
        _rows(everybody, best),
        values[best],
        now.number + 1,
        now.evaluations + children,
        now.known.at[place].set(rows),
        now.worth.at[place].set(worth),
    )


def _try(fitness: Fitness, candidates: PyTree, together: int | None) -> Array:
    worth = jax.lax.map(fitness, candidates, batch_size=together)
    return jnp.where(jnp.isnan(worth), jnp.inf, worth)


def _rows(tree: PyTree, index: Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)
