"""Exact laws of samplers on spaces small enough to enumerate: no sampling anywhere.

A sampler's step moves every position independently given the tokens before it, so its law is a matrix over all
sequences, made of the very probabilities it draws from (``sampler.law``). Products of those matrices are what the
sampler's output is distributed like. Tests use these functions; ``python -m experiments.token_laws`` prints the table
in ``docs/discrete.md``: the divergence of the data from each sampler's output against network calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from jaxsamplers.discrete.chain import MarkovChain, chain_posterior, markov_chain
from jaxsamplers.discrete.glauber import Glauber
from jaxsamplers.discrete.ordered import OrderedSampler
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.remdm import Confidence
from jaxsamplers.discrete.table import TokenTable
from jaxsamplers.discrete.two_stage import TwoStage

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    Law = Float[Array, " N"]
    Model = Callable[..., Any]

VOCAB, LENGTH = 3, 5


def chain() -> MarkovChain:
    """Three symbols, strongly dependent, none impossible."""
    transition = jnp.array([[0.75, 0.2, 0.05], [0.1, 0.15, 0.75], [0.5, 0.05, 0.45]])
    return markov_chain(transition, jnp.array([0.5, 0.2, 0.3]))


def sequences(states: int, length: int = LENGTH) -> Int[Array, "N length"]:
    """All of them, the last position fastest."""
    return jnp.array(list(itertools.product(range(states), repeat=length)))


def joint(laws: Float[Array, "n length states"]) -> Float[Array, "n N"]:
    """Independent positions as laws over whole sequences."""
    total = laws[:, 0]
    for i in range(1, laws.shape[1]):
        total = (total[:, :, None] * laws[:, i, None, :]).reshape(len(laws), -1)
    return total


def data_law(source: MarkovChain, states: int, length: int = LENGTH) -> Law:
    """Probabilities of all sequences; 0 where there is a mask."""
    x = sequences(states, length)
    clean = (x < VOCAB).all(-1)
    return jnp.where(clean, jnp.exp(source.log_probability(jnp.where(clean[:, None], x, 0))), 0.0)


def transition(process: Replacement, t: float | Array) -> Float[Array, "states states"]:
    """``q(x_t | x_0)``, one row for each ``x_0``."""
    return process.likelihood(jnp.arange(process.states), jnp.asarray(t)).T


def noised(process: Replacement, law: Law, t: float | Array, length: int = LENGTH) -> Law:
    """The exact law of ``x_t``."""
    return law @ joint(transition(process, t)[sequences(process.states, length)])


def output_law(sampler: TokenTable, model: Model, start: Law, length: int = LENGTH) -> Law:
    """The law of what a sampler of one call a step returns when it starts from this one."""
    x = sequences(sampler.process.states, length)

    def step(law: Law, row: Any) -> tuple[Law, None]:
        return law @ joint(sampler.law(row, x, model(x, row.time))), None

    return jax.lax.scan(step, start, sampler.rows)[0]


def two_stage_law(sampler: TwoStage, model: Model, start: Law, length: int = LENGTH) -> Law:
    """The same for two calls a step: the second leap depends on the tokens before and after the first."""
    x = sequences(sampler.process.states, length)
    kept = (x, jnp.zeros((*x.shape, sampler.process.vocab)))
    row = lambda rows, k: jax.tree.map(lambda leaf: leaf[k], rows)

    def step(law: Law, pair: Any) -> tuple[Law, None]:
        first, second = row(pair, 0), row(pair, 1)
        logits, again = model(x, first.time), model(x, second.time)
        leap = joint(sampler.law(first, x, logits, kept))

        def after(args: tuple[Array, ...]) -> Law:
            here, rates, leapt, weight = args
            full = lambda leaf: jnp.broadcast_to(leaf, (len(x), *leaf.shape))
            return weight * leapt @ joint(sampler.law(second, x, again, (full(here), full(rates))))

        return jax.lax.map(after, (x, sampler.rates(first, x, logits), leap, law)).sum(0), None

    pairs = jax.tree.map(lambda leaf: leaf[:-1].reshape(-1, 2, *leaf.shape[1:]), sampler.rows)
    law = jax.lax.scan(step, start, pairs)[0]
    last = row(sampler.rows, -1)
    return law @ joint(sampler.law(last, x, model(x, last.time), kept))


def one_at_a_time_law(sampler: OrderedSampler, model: Model, start: Law, length: int = LENGTH) -> Law:
    """The same for an order that does not draw, with as many rows as positions and all of them masked."""
    x, vocab = sequences(sampler.process.states, length), sampler.process.vocab
    powers = sampler.process.states ** jnp.arange(length - 1, -1, -1)

    def step(law: Law, row: Any) -> tuple[Law, None]:
        estimate = js.discrete.categorical(model(x, row.time))
        places, chosen = sampler.choose(jax.random.key(0), row, x, estimate, jnp.full(len(x), length))
        place = places[:, 0]
        here = jnp.take_along_axis(x, place[:, None], -1)[:, 0]
        chances = jnp.take_along_axis(estimate.probabilities(), place[:, None, None], -2)[:, 0]
        to = jnp.arange(len(x))[:, None] + (jnp.arange(vocab) - here[:, None]) * powers[place][:, None]
        moved = jnp.where(chosen[:, :1] & (here == vocab)[:, None], law[:, None] * chances, 0.0)
        return jnp.zeros_like(law).at[jnp.clip(to, 0, len(x) - 1)].add(moved), None

    return jax.lax.scan(step, start, sampler.rows)[0]


def ordered_law(sampler: OrderedSampler, model: Model, start: Law, length: int = LENGTH) -> Law:
    """The same for any number of positions a row."""
    x, states = sequences(sampler.process.states, length), sampler.process.states

    def step(law: Law, row: Any) -> tuple[Law, None]:
        estimate = js.discrete.categorical(model(x, row.time))
        places, chosen = sampler.choose(jax.random.key(0), row, x, estimate, jnp.full(len(x), length))
        chosen = jnp.put_along_axis(jnp.zeros(x.shape, bool), places, chosen, axis=-1, inplace=False)
        drawn = jnp.pad(estimate.probabilities(), [(0, 0), (0, 0), (0, states - sampler.process.vocab)])
        return law @ joint(jnp.where(chosen[..., None], drawn, jax.nn.one_hot(x, states))), None

    return jax.lax.scan(step, start, sampler.rows)[0]


def calls_needed(sampler: OrderedSampler, model: Model, start: Law, length: int = LENGTH) -> float:
    """How many rows it takes on average until no mask is left."""
    law = jax.jit(lambda s: ordered_law(s, model, start, length))
    masks = (sequences(sampler.process.states, length) == sampler.process.states - 1).any(-1)
    return 1.0 + sum(float(law(sampler[:k])[masks].sum()) for k in range(1, len(sampler)))


def confidence_law(sampler: Confidence, model: Model) -> Law:
    """The law of ReMDM-conf on two positions, from all masks.

    How sure it was of a token depends on what the other was when it was drawn: a state of a position is both.
    """
    states = sampler.process.states
    both = sequences(states**2, 2)
    x, seen = both // states, both % states  # [N, 2] each; what is seen of a mask does not matter, and is one
    alone = sequences(states, 2)
    mask = jnp.full(len(alone), states - 1)
    chance = [  # [seen, token]: of each position where the other is this
        jax.nn.softmax(model(jnp.stack(pair, -1), jnp.ones(()))[:, i], axis=-1).reshape(states, states, -1)
        for i, pair in enumerate([(mask, alone[:, 0]), (alone[:, 0], mask)])
    ]
    sure = jnp.stack([chance[i][seen[:, i], 0, jnp.minimum(x[:, i], VOCAB - 1)] for i in (0, 1)], -1)
    goal = jnp.arange(states)

    def step(law: Law, row: Any) -> tuple[Law, None]:
        laws = sampler.law(row, x, model(x, row.step.time), sure)  # [N, 2, states]
        kept = jnp.where(x[..., None] == goal, seen[..., None], x[:, ::-1, None])
        to = goal * states + jnp.where(goal == states - 1, states - 1, kept)
        spread = jnp.einsum("nis,nisk->nik", laws, jax.nn.one_hot(to, states**2))
        return law @ joint(spread), None

    start = jnp.zeros(len(both)).at[-1].set(1.0)
    end = jax.lax.scan(step, start, sampler.rows)[0]
    return jnp.zeros(states**2).at[x[:, 0] * states + x[:, 1]].add(end)


def one_site_law(sampler: Glauber, model: Model, start: Law, length: int = LENGTH) -> Law:
    """The same for one position a row, those of the rows' own places."""
    states = sampler.process.states
    x, powers = sequences(states, length), states ** jnp.arange(length - 1, -1, -1)

    def step(law: Law, row: Any) -> tuple[Law, None]:
        i = row.place % length
        place = jnp.full(len(x), i)
        chances = sampler.law(row, x, place, model(sampler.shown(x, place), row.time))
        to = jnp.arange(len(x))[:, None] + (jnp.arange(states) - x[:, i, None]) * powers[i]
        return jnp.zeros_like(law).at[to].add(law[:, None] * chances), None

    return jax.lax.scan(step, start, sampler.rows)[0]


def divergence(truth: Law, law: Law) -> float:
    """KL of the data from a law, in nats; entries without data do not count."""
    some = truth > 0
    return float(jnp.sum(jnp.where(some, truth * (jnp.log(jnp.where(some, truth, 1.0)) - jnp.log(law + ~some)), 0.0)))


def total_variation(a: Law, b: Law) -> float:
    """Half the sum of absolute differences."""
    return float(0.5 * jnp.abs(a - b).sum())


def chi_square(counts: np.ndarray, law: np.ndarray | Array) -> float:
    """Pearson's statistic in standard deviations of its law, cells of less than five expected counts pooled."""
    expected = np.asarray(law, np.float64) * counts.sum()
    assert not counts[expected == 0].any(), "something impossible was drawn"
    rare = expected < 5
    seen, expected = (np.append(v[~rare], v[rare].sum()) for v in (np.asarray(counts, np.float64), expected))
    seen, expected = seen[expected > 0], expected[expected > 0]
    freedom = len(seen) - 1
    return float((((seen - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def problem(kind: str) -> tuple[Replacement, Model, Law, Law]:
    """``(process, model, data's law, the law at t = 1)``."""
    source = chain()
    process = {
        "masked": lambda: js.discrete.masked(VOCAB),
        "uniform": lambda: js.discrete.uniform(VOCAB),
        "marginal": lambda: js.discrete.marginal(jnp.array([0.5, 0.3, 0.2])),
    }[kind]()
    truth = data_law(source, process.states)
    return process, chain_posterior(source, process), truth, noised(process, truth, process.t_max)


def table(calls: tuple[int, ...]) -> list[str]:
    """Lines of the table, a sampler each: KL in nats at these numbers of network calls, the last one included."""
    lines = ["| process, sampler | " + " | ".join(map(str, calls)) + " |", "|---|" + "---|" * len(calls)]

    def add(name: str, value: Callable[[int], float | None]) -> None:
        cells = ["" if number is None else f"{number:.1e}" for number in map(value, calls)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    def one(
        make: Callable[..., TokenTable], process: Replacement, model: Model, truth: Law, start: Law, length: int
    ) -> Any:
        law = jax.jit(lambda s: output_law(s, model, start, length))
        return lambda n: divergence(truth, law(make(process, js.schedules.uniform(process, n))))

    def two(
        make: Callable[..., TwoStage], process: Replacement, model: Model, truth: Law, start: Law, length: int
    ) -> Any:
        law = jax.jit(lambda s: two_stage_law(s, model, start, length))
        return lambda n: divergence(truth, law(make(process, js.schedules.uniform(process, n // 2 + 1))))

    d = js.discrete
    reject: dict[str, Any] = {"leap": "reject"}
    singles: dict[str, Callable[..., TokenTable]] = {
        "ancestral": d.ancestral,
        "euler": d.euler,
        "tau_leaping, clock": d.tau_leaping,
        "tau_leaping, reject": lambda p, t: d.tau_leaping(p, t, **reject),
        "remasking, share 0.1": d.remasking,
        "flow_euler": d.flow_euler,
        "flow_cumulative": d.flow_cumulative,
        "flow_exact": d.flow_exact,
        "flow_exact, corrector 0.5": lambda p, t: d.flow_exact(p, t, corrector=0.5),
        "predictor_corrector": lambda p, t: d.predictor_corrector(p, js.schedules.uniform(p, len(t) // 2)),
    }
    of_masks: dict[str, Callable[..., TokenTable]] = {
        "remdm_cap, sigma 0.02": d.remdm_cap,
        "remdm_rescale, share 0.1": d.remdm_rescale,
    }
    pairs: dict[str, Callable[..., TwoStage]] = {
        "theta_trapezoidal, clock": d.theta_trapezoidal,
        "theta_trapezoidal, reject": lambda p, t: d.theta_trapezoidal(p, t, **reject),
        "theta_rk2, clock": d.theta_rk2,
    }
    data = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(15)))
    toy = d.uniform(15)
    network = lambda x, t: jnp.log(data) + jnp.log(toy.likelihood(x, t))
    for name, where, length in [("15 states", (toy, network, data, toy.push(data, jnp.asarray(1.0))), 1)] + [
        (f"{kind} 3^5", problem(kind), LENGTH) for kind in ("masked", "uniform")
    ]:
        for sampler, make in (singles | of_masks if name.startswith("masked") else singles).items():
            add(f"{name}, {sampler}", one(make, *where, length))
        for sampler, pair in pairs.items():
            if name != "masked 3^5":  # 4^5 states squared, twice
                add(f"{name}, {sampler}", two(pair, *where, length))
        if name.startswith("uniform"):
            process, model, truth, start = where
            wrong = d.denoiser(model, process, "leave_one_out")
            add(
                f"{name}, ancestral, Bayes taken for leave-one-out",
                one(d.ancestral, process, wrong, truth, start, length),
            )
    process, model, truth, start = problem("masked")
    for order in ("left_to_right", "confidence", "margin", "entropy"):
        law = jax.jit(lambda s: one_at_a_time_law(s, model, start))
        number = abs(divergence(truth, law(d.ordered(process, js.schedules.uniform(process, LENGTH), order=order))))
        lines.append(f"| masked 3^5, ordered, {order}, 5 calls | {number:.1e} |" + " |" * (len(calls) - 1))
    return lines


def glauber_lines(calls: tuple[int, ...]) -> list[str]:
    """Lines of the table for one position at a time: half of the calls by ancestral steps, then Glauber dynamics."""
    process, model, truth, start = problem("masked")
    first = jax.jit(lambda s: output_law(s, model, start))
    second = jax.jit(lambda s, law: one_site_law(s, model, law))
    cells = []
    for n in calls:
        law = first(js.discrete.ancestral(process, js.schedules.uniform(process, n // 2)))
        repaired = second(js.discrete.glauber(process, n - n // 2, time=0.2, scan="cyclic"), law)
        cells.append(f"{divergence(truth, repaired):.1e}")
    sweep = js.discrete.glauber_generative(process, js.schedules.uniform(process, 1), LENGTH)
    exact = abs(divergence(truth, second(sweep, start)))
    return [
        f"| masked 3^5, half ancestral, half glauber | {' | '.join(cells)} |",
        f"| masked 3^5, glauber_generative, 5 calls | {exact:.1e} |" + " |" * (len(calls) - 1),
    ]


def order_lines(calls: tuple[int, ...]) -> list[str]:
    """Lines of the table for blocks, rules for how many, PC-Sampler's order, and ReMDM-conf on two positions."""
    process, model, truth, start = problem("masked")
    pair = data_law(chain(), process.states, 2)
    d, times = js.discrete, lambda n: js.schedules.uniform(process, n)
    rest = " |" * (len(calls) - 1)

    def line(name: str, number: Callable[[int], float]) -> str:
        return f"| {name} | {' | '.join(f'{number(n):.1e}' for n in calls)} |"

    blocks = jax.jit(lambda s: output_law(s, model, start))
    halved = lambda n: d.blocks(d.ancestral(process, times(n // 2)), LENGTH, 3)
    plain = jax.jit(lambda s: output_law(s, model, noised(process, pair, 1.0, 2), 2))
    confident = jax.jit(lambda s: confidence_law(s, model))
    lines = [
        line("masked 3^5, blocks of 3, ancestral", lambda n: divergence(truth, blocks(halved(n)))),
        line("masked 3^2, ancestral", lambda n: divergence(pair, plain(d.ancestral(process, times(n))))),
        line(
            "masked 3^2, remdm_confidence", lambda n: divergence(pair, confident(d.remdm_confidence(process, times(n))))
        ),
    ]
    law = jax.jit(lambda s: ordered_law(s, model, start))
    pc = d.ordered(process, times(LENGTH), order=d.orders.pc(jnp.array([0.5, 0.2, 0.3])))
    lines.append(f"| masked 3^5, ordered, pc, 5 calls | {abs(divergence(truth, law(pc))):.1e} |{rest}")
    for name, make, numbers in (
        ("threshold", d.counts.threshold, (0.9, 0.7, 0.5)),
        ("factor", d.counts.factor, (0.5, 1.0, 1.5)),
    ):
        for number in numbers:
            sampler = d.ordered(process, times(LENGTH), order="confidence", count=make(number))
            needed = calls_needed(sampler, model, start)
            apart = abs(divergence(truth, law(sampler)))
            lines.append(f"| masked 3^5, ordered, {name} {number}, {needed:.2f} calls | {apart:.1e} |{rest}")
    return lines


if __name__ == "__main__":
    with jax.enable_x64(True):
        some = (8, 16, 32, 64)
        print("\n".join(table(some) + glauber_lines(some) + order_lines(some)))
