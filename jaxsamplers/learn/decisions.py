"""Searching over what a sampler does step by step: at which times, with which network, order, prediction, corrector.

A candidate says which of many fine times its steps begin at, and holds a decision of each kind for every such time, so
that decisions travel with the times they were good at:

    crossing   times that both parents visit stay, the others are drawn from either's; decisions come with them
    mutating   a time moves a Cauchy-distributed way along the fine ones: mostly near, sometimes far;
               a decision is drawn anew

All candidates are samplers of one shape, so one compiled program tries them all.

Source: Li et al. 2023, AutoDiffusion (arXiv 2309.10438), section 3, whose candidates are subsets of the training times
and what is left out of the network at each; Liu, Ning, Yang & Wang 2024, S^3 (arXiv 2312.07243), section 5, whose
candidates are times, orders, predictions and correctors. There times move by a normal factor and numbers of steps may
change; here the number of steps is given.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.core import Model, as_key, sample
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.evolution import Generation, evolve, kernel_ridge, vector
from jaxsamplers.learn.objectives import squared
from jaxsamplers.learn.pairs import Pairs
from jaxsamplers.learn.unified import unified
from jaxsamplers.processes import Process
from jaxsamplers.schedules import validate
from jaxsamplers.solvers.ddim import ddim
from jaxsamplers.tableau import Tableau, conform, with_extra

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key, PyTree

    from jaxsamplers.learn.evolution import Predictor
    from jaxsamplers.learn.objectives import Distance

    Times = Float[Array, " n+1"]
    Ranges = dict[str, tuple[Any, Any]]

TOO_DEAR = 1e30  # the fitness of a candidate beyond its budget, times how far beyond


class Candidate(NamedTuple):
    """One way to sample.

    Attributes:
        visited: which of the fine times a step begins or ends at; the first and the last always.
        decisions: what is decided for the step from each; the lowest value where no step begins.
    """

    visited: Bool[Array, " M+1"]
    decisions: dict[str, Int[Array, " M+1"]]


class Found(NamedTuple):
    """What a search came to.

    Attributes:
        sampler: the best.
        times: its schedule.
        decisions: what it does at each step.
        fitness: how good it is.
        evolution: the whole population, to go on from.
    """

    sampler: Tableau
    times: Float[Array, " steps+1"]
    decisions: dict[str, Int[Array, " steps"]]
    fitness: float
    evolution: Generation


def autodiffusion(
    key: Key[Array, ""],
    process: Process,
    models: Sequence[Model],
    pairs: Pairs,
    fine_times: Times,
    steps: int,
    *,
    solver: Callable[..., Tableau] = ddim,
    costs: Sequence[float] | None = None,
    budget: float | None = None,
    **options: Any,
) -> Found:
    """A schedule, and which of several networks to ask at each of its steps.

    The sampler found shows its network a number more: run it with ``choose(models)``.

    Args:
        key: PRNG key.
        process: the noise process.
        models: denoisers of one process, a full network and smaller ones for instance; with one, only times are sought.
        pairs: noises and where they should end.
        fine_times: decreasing times, of which some are chosen; the authors take all 1000 of training.
        steps: of the sampler.
        solver: ``(process, times) -> Tableau``.
        costs: of one call of each model.
        budget: the most that a sample may cost.
        **options: of ``search``.

    Raises:
        ValueError: an argument that is not allowed, or a budget without costs.
    """
    if (costs is None) != (budget is None):
        raise ValueError("costs and budget must be given together")
    if costs is not None and len(costs) != len(models):
        raise ValueError(f"costs must be one for each of the {len(models)} models, got {len(costs)}")
    if costs is not None and budget is not None and not steps * min(costs) <= budget:
        raise ValueError(
            f"budget must allow {steps} calls of the cheapest model, {steps * min(costs):g}, got {budget:g}"
        )
    price = None if costs is None else (jnp.asarray(costs, float), jnp.asarray(budget, float))
    choices = {"model": (0, len(models) - 1)}
    return search(key, process, choose(models), pairs, fine_times, steps, solver, choices, price=price, **options)


def usf(
    key: Key[Array, ""],
    process: Process,
    model: Model,
    pairs: Pairs,
    fine_times: Times,
    steps: int,
    *,
    highest: int = 3,
    variant: str = "bh2",
    **options: Any,
) -> Found:
    """S^3 in the unified sampling framework: times, and an order, a prediction and a corrector for each step.

    The search begins with UniPC. Of the authors' decisions, those are missing that estimate high derivatives from fewer
    values or scale them, that start a step elsewhere, or that save the first call.

    Args:
        key: PRNG key.
        process: the noise process; its signal must not vanish at the first time.
        model: the denoiser.
        pairs: noises and where they should end.
        fine_times: decreasing times, of which some are chosen.
        steps: of the sampler.
        highest: order, see ``unified``.
        variant: as there.
        **options: of ``search``; the predictor is ``kernel_ridge`` by default.

    Raises:
        ValueError: an argument that is not allowed.
    """
    solver = _unified(checks.integer("highest", highest, low=1, high=4), variant)
    choices = {"order": (1, highest), "prediction": (0, 1), "corrected": (0, 1)}
    options = {"predictor": kernel_ridge} | options
    orders = [min(highest, steps - step) for step in range(checks.integer("steps", steps, low=1))]
    first = {"order": orders, "corrected": 1} | options.pop("first", {})
    return search(key, process, model, pairs, fine_times, steps, solver, choices, first=first, **options)


def search(
    key: Key[Array, ""],
    process: Process,
    model: Model,
    pairs: Pairs,
    fine_times: Times,
    steps: int,
    solver: Callable[..., Tableau],
    choices: Mapping[str, tuple[int, int]],
    *,
    start: Times | None = None,
    first: Mapping[str, int | Sequence[int]] | None = None,
    distance: Distance = squared,
    price: tuple[Array, Array] | None = None,
    population: int = 40,
    generations: int = 20,
    rate: float = 0.2,
    spread: float | None = None,
    predictor: Predictor | None = None,
    resume: Generation | None = None,
    **options: Any,
) -> Found:
    """Evolution over times and decisions of any kind.

    Args:
        key: PRNG key; the whole search follows from it.
        process: the noise process.
        model: the denoiser.
        pairs: noises and where they should end; ``learn.teach`` makes them.
        fine_times: decreasing times, of which some are chosen; the first and the last always are.
        steps: of the sampler.
        solver: ``(process, times, **decisions) -> Tableau``, traceable in the decisions, one a step. A decision named
            "model" is not the solver's but the network's, see ``choose``.
        choices: the lowest and the highest value of each decision.
        start: times near which the search begins; every so-and-so-many-th fine time by default.
        first: decisions with which it begins, one for all steps or one for each; the lowest values by default. The
            population is this candidate, mutants of it, and as many random ones.
        distance: ``(samples, goals) -> numbers``, whose mean is the fitness; any function of two batches will do.
        price: what a call of each model costs, and the most that a sample may cost.
        population: its size.
        generations: how many there are in the end.
        rate: how often a time moves or a decision is drawn anew.
        spread: half of the times that move stay within so many fine times; a quarter of a step by default.
        predictor: see ``evolve``; ``kernel_ridge``, or ``None`` to try new proposals as they come.
        resume: a population to go on from, of the same search.
        **options: more of ``evolve``'s: children, parents, crossed, proposals, memory, together, report.

    Raises:
        ValueError: an argument that is not allowed.
    """
    fine_times = validate(process, fine_times)
    nodes = len(fine_times)
    checks.integer("steps", steps, low=1, high=nodes - 1)
    checks.integer("population", population, low=2)
    checks.within("rate", rate, 0.0, 1.0, above=True)
    for name, (low, high) in choices.items():
        checks.integer(f"the highest {name}", high, low=low)
    ranges: Ranges = dict(choices)
    wide = max(1.0, nodes / (4 * steps)) if spread is None else spread
    checks.within("spread", wide, 0.0, above=True)
    change = Partial(mutate, ranges, rate, wide)
    if resume is None:
        seed = beginning(fine_times, steps, start, ranges, first or {})
        begin: PyTree = _population(jax.random.fold_in(as_key(key), 0), seed, change, ranges, size=population)
    else:
        begin = resume
    task = Task(process, as_pytree(model), pairs, fine_times, as_pytree(distance), price, solver, steps)
    found = evolve(
        jax.random.fold_in(as_key(key), 1),
        begin,
        change,
        Partial(cross),
        task,
        generations=generations,
        features=Seen(steps),
        predictor=predictor,
        **options,
    )
    sampler, times, decisions = _best(task, found.candidates)
    return Found(sampler, times, decisions, float(found.fitness[0]), found)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["process", "model", "pairs", "times", "distance", "price"],
    meta_fields=["solver", "steps"],
)
@dataclasses.dataclass(frozen=True)
class Task:
    """What candidates are tried at: a pytree, so that another task of the same shape compiles nothing."""

    process: Process
    model: Model
    pairs: Pairs
    times: Times
    distance: Distance
    price: tuple[Array, Array] | None
    solver: Callable[..., Tableau]
    steps: int

    def read(self, candidate: Candidate) -> tuple[Times, dict[str, Array]]:
        """The schedule and what is decided for each step."""
        nodes = jnp.nonzero(candidate.visited, size=self.steps + 1)[0]
        return self.times[nodes], {name: values[nodes[:-1]] for name, values in candidate.decisions.items()}

    def build(self, candidate: Candidate) -> Tableau:
        """The sampler."""
        times, decisions = self.read(candidate)
        which = decisions.pop("model", None)
        sampler = self.solver(self.process, times, **decisions)
        return sampler if which is None else with_extra(sampler, choice=which)

    def __call__(self, candidate: Candidate) -> Float[Array, ""]:
        """How far its samples are from their goals."""
        end = sample(self.build(candidate), self.model, self.pairs.x)
        error = jnp.mean(self.distance(end, self.pairs.goal))
        if self.price is None:
            return error
        costs, budget = self.price
        spent = costs[self.read(candidate)[1]["model"]].sum()
        return jnp.where(spent > budget, TOO_DEAR * spent / budget, error)


@functools.partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["steps"])
@dataclasses.dataclass(frozen=True)
class Seen:
    """What a predictor sees of a candidate: where its steps begin among the fine times, and what is decided there."""

    steps: int

    def __call__(self, candidate: Candidate) -> Float[Array, " F"]:
        """A vector, another one for every other candidate."""
        nodes = jnp.nonzero(candidate.visited, size=self.steps)[0]
        return vector((nodes, [values[nodes] for values in candidate.decisions.values()]))


def choose(models: Sequence[Model]) -> Choice:
    """One network that asks another in every row: ``(x, t, choice) -> models[choice](x, t)``.

    Only the chosen one is computed, unless rows are run together under ``vmap``.

    Raises:
        ValueError: no model.
    """
    if not models:
        raise ValueError("models must be one or more, got none")
    return Choice(tuple(as_pytree(model) for model in models))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choice:
    """See ``choose``."""

    models: tuple[Model, ...]

    def __call__(self, x: PyTree, t: Array, choice: Int[Array, ""], **extra: Any) -> PyTree:
        """The estimate of the chosen model; the others' inputs, if any, go to all."""
        ask = lambda model: lambda x, t: conform(model(x, t, **extra), x)
        return jax.lax.switch(choice, [ask(model) for model in self.models], x, t)


def beginning(
    fine_times: Times, steps: int, start: Times | None, ranges: Ranges, first: Mapping[str, int | Sequence[int]]
) -> Candidate:
    """The candidate whose times are nearest to ``start``.

    Raises:
        ValueError: another number of times, or decisions that are unknown or out of range.
    """
    nodes = len(fine_times)
    near = jnp.round(jnp.linspace(0, nodes - 1, steps + 1)).astype(int)
    if start is not None:
        if jnp.shape(start) != (steps + 1,):
            raise ValueError(f"start must be {steps + 1} times, got shape {jnp.shape(start)}")
        near = jnp.abs(fine_times - jnp.asarray(start)[:, None]).argmin(axis=1)
    for name, given in first.items():
        checks.one_of("decision", name, ranges)
        each = given if isinstance(given, Sequence) else [given] * steps
        if len(each) != steps:
            raise ValueError(f"first {name} must be one number or one for each of the {steps} steps, got {len(each)}")
        for value in each:
            checks.integer(f"first {name}", value, *ranges[name])
    visited = _filled(jax.random.key(0), jnp.zeros(nodes).at[near].set(1.0), steps + 1)
    begins = jnp.nonzero(visited, size=steps + 1)[0][:-1]
    values = {
        name: jnp.full(nodes, low).at[begins].set(jnp.asarray(first.get(name, low)))
        for name, (low, _) in ranges.items()
    }
    return Candidate(visited, values)


def mutate(ranges: Ranges, rate: Array, spread: Array, key: Key[Array, ""], old: Candidate) -> Candidate:
    """Times that move, and decisions drawn anew."""
    nodes = len(old.visited)
    move, jump, fill, draw, renew, dose = jax.random.split(key, 6)
    rate = rate * jax.random.uniform(dose)  # few changes or many
    here = jnp.arange(nodes)
    inner = old.visited & (here > 0) & (here < nodes - 1)
    moves = inner & jax.random.bernoulli(move, rate, (nodes,))
    way = jnp.round(spread * jax.random.cauchy(jump, (nodes,)))
    there = jnp.clip(here + jnp.where(moves, way, 0.0), jnp.where(inner, 1, 0), nodes - 1 - inner).astype(int)
    target = jnp.where(old.visited, there, nodes)  # beyond the end: dropped
    hit = jnp.zeros(nodes).at[target].set(1.0, mode="drop")
    visited = _filled(fill, 2 * hit + old.visited, old.visited.sum())  # where two met, an old time stays
    values = {}
    for index, (name, (low, high)) in enumerate(ranges.items()):
        fresh = jax.random.randint(jax.random.fold_in(draw, index), (nodes,), low, high + 1)
        again = jax.random.bernoulli(jax.random.fold_in(renew, index), rate, (nodes,))
        moved = jnp.full(nodes, low).at[target].max(old.decisions[name], mode="drop")
        kept = jnp.where(hit > 0, moved, jnp.where(old.visited, old.decisions[name], fresh))
        values[name] = jnp.where(again, fresh, kept)
    return Candidate(visited, _silent(ranges, visited, values))


def cross(key: Key[Array, ""], one: Candidate, other: Candidate) -> Candidate:
    """The times of both parents, and of either as many as there must be, each with a parent's decisions."""
    fill, coin = jax.random.split(key)
    visited = _filled(fill, 1.0 * one.visited + other.visited, one.visited.sum())
    first = one.visited & (~other.visited | jax.random.bernoulli(coin, 0.5, visited.shape))
    decided = lambda a, b: jnp.where(visited, jnp.where(first, a, b), jnp.minimum(a, b))
    return Candidate(visited, jax.tree.map(decided, one.decisions, other.decisions))


@jax.jit
def _best(task: Task, candidates: Candidate) -> tuple[Tableau, Times, dict[str, Array]]:
    """The first candidate as a sampler, its schedule and its decisions."""
    best = jax.tree.map(lambda leaf: leaf[0], candidates)
    return task.build(best), *task.read(best)


@functools.cache
def _unified(highest: int, variant: str) -> Callable[..., Tableau]:
    """One function for each, so that a second search compiles nothing."""
    return functools.partial(unified, highest=highest, variant=variant)


def _filled(key: Array, wanted: Array, count: Array | int) -> Array:
    """The ends and the most wanted of the rest, by lot among equals."""
    wish = (wanted + jax.random.uniform(key, wanted.shape)).at[jnp.array([0, -1])].set(jnp.inf)
    return jnp.argsort(jnp.argsort(-wish)) < count


def _silent(ranges: Ranges, visited: Array, values: dict[str, Array]) -> dict[str, Array]:
    """Decisions where steps begin, the lowest value elsewhere: equal candidates are equal arrays."""
    begins = visited.at[-1].set(False)
    return {name: jnp.where(begins, value, ranges[name][0]) for name, value in values.items()}


@functools.partial(jax.jit, static_argnames="size")
def _population(key: Array, seed: Candidate, change: Partial, ranges: Ranges, *, size: int) -> Candidate:
    """The seed, its mutants, and as many random candidates."""
    nodes = len(seed.visited)

    def stranger(key: Array) -> Candidate:
        fill, *draws = jax.random.split(key, 1 + len(ranges))
        visited = _filled(fill, jnp.zeros(nodes), seed.visited.sum())
        drawn = zip(ranges.items(), draws, strict=True)
        values = {name: jax.random.randint(draw, (nodes,), low, high + 1) for (name, (low, high)), draw in drawn}
        return Candidate(visited, _silent(ranges, visited, values))

    keys = jax.random.split(key, size - 1)
    mutants = jax.vmap(lambda key: change(key, seed))(keys[: size // 2])
    strangers = jax.vmap(stranger)(keys[size // 2 :])
    return jax.tree.map(lambda a, b, c: jnp.concatenate([a[None], b, c]), seed, mutants, strangers)
