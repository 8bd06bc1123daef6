"""Learned samplers of tokens against schedules: likelihood and entropy side by side, exact posteriors or trained.

    nice python -m experiments.learned_tokens --config configs/learned_tokens.py --out docs/learned_tokens

Two Markov chains: English characters (``js.discrete.text``), masked and with uniform noise, and countdown, masked,
where each number is one less than that before it, and any number follows 0. **trained text** and **trained countdown**
are the same asking networks that ``experiments.train_text`` has trained in ``runs/``. Ancestral steps, 8 to 64 network
calls:

    uniform, cosine     equal steps of time; few tokens first, MaskGIT's
    even counts         so many tokens each step, k-Gillespie
    JYS, JYS counts     jump-your-steps times, and numbers of tokens
    best sum            the schedule of the least path bound, by dynamic programming (see ``learn/jump_your_steps.py``)
    LSD score, log      a factor of the rates, a power of the posterior, in closed form on uniform times
    LSD independent     the factor with independent random numbers, the published objective
    LSD+                learned steps

Of the samples: ``nll``, the mean of ``-log p(next | before)`` under the chain, in nats a token; ``entropy``, that of
the next token given the one before among all samples; ``excess``, their difference, which is the divergence of the
samples' pairs from the chain; and ``wrong``, the share of pairs that countdown forbids. Writes ``.json``, ``.png`` and
``.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from experiments import config, tokens
from experiments.countdown import SMOOTHING, SYMBOLS, countdown
from jaxsamplers import checks
from jaxsamplers.discrete.chain import MarkovChain, chain_posterior
from jaxsamplers.records.files import write_text

if TYPE_CHECKING:
    from jaxtyping import Array, Float

TRAINED = {"trained text": "configs/train_text_masked.py", "trained countdown": "configs/train_text_countdown.py"}
PROBLEMS = ("text", "text, uniform noise", "countdown")
NAMES = (
    "uniform",
    "cosine",
    "even counts",
    "JYS",
    "JYS counts",
    "best sum",
    "LSD score",
    "LSD log",
    "LSD independent",
    "LSD+",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        problems: "text", "text, uniform noise", "countdown", "trained text", "trained countdown".
        lengths: of their sequences.
        calls: numbers of network calls, powers of 2.
        teacher: its steps.
        learn: sequences to learn from.
        judge: sequences that are drawn with each sampler.
        iterations: of a golden section.
        fine: nodes of the dynamic programme.
        seed: of everything.
    """

    problems: tuple[str, ...] = PROBLEMS
    lengths: tuple[int, ...] = (64, 64, 256)
    calls: tuple[int, ...] = (8, 16, 32, 64)
    teacher: int = 256
    learn: int = 64
    judge: int = 512
    iterations: int = 10
    fine: int = 129
    seed: int = 0

    def __post_init__(self) -> None:
        for problem in self.problems:
            checks.one_of("problems", problem, (*PROBLEMS, *TRAINED))
        if len(self.lengths) != len(self.problems):
            raise ValueError(f"lengths must be one for each of problems, got {self.lengths} for {self.problems}")


def chains(problem: str) -> tuple[MarkovChain, MarkovChain]:
    """The data's chain, and that of an exact network."""
    text = js.discrete.text.characters(order=1) if "text" in problem else None
    return (text, text) if text is not None else (countdown(), countdown(smoothing=SMOOTHING))


def process_of(problem: str, chain: MarkovChain) -> js.discrete.Replacement:
    """The noise."""
    make = js.discrete.uniform if problem.endswith("uniform noise") else js.discrete.masked
    return make(chain.transition.shape[-1])


def network(problem: str, process: js.discrete.Replacement, chain: MarkovChain, length: int) -> Any:
    """The posterior, exact or trained.

    Raises:
        CheckpointError: there is no trained one.
        ValueError: it is of another length.
    """
    if problem not in TRAINED:
        return chain_posterior(chain, process)
    study, model = tokens.load(TRAINED[problem])
    if study.length != length:
        raise ValueError(f"lengths must have {study.length}, for which {TRAINED[problem]} trains, got {length}")
    return model


def draw(chain: MarkovChain, count: int, length: int, seed: int) -> np.ndarray:
    """Sequences of a chain of order 1."""
    random = np.random.default_rng(seed)
    sums = np.cumsum(np.asarray(chain.transition, np.float64)[:, 0], axis=-1)
    now = random.choice(len(sums), size=count, p=np.asarray(chain.start, np.float64)[:, 0])
    path = []
    for _ in range(length):
        now = (random.random(count)[:, None] > sums[now] / sums[now][:, -1:]).sum(-1)
        path.append(now)
    return np.stack(path, axis=1)


def judge(chain: MarkovChain, x: np.ndarray) -> dict[str, float]:
    """The numbers of the module's docstring."""
    law = np.asarray(chain.transition, np.float64)[:, 0]
    pairs = np.zeros_like(law)
    np.add.at(pairs, (x[:, :-1].ravel(), x[:, 1:].ravel()), 1.0)
    share, allowed = pairs / pairs.sum(), law > 2 * SMOOTHING / SYMBOLS
    following = pairs / np.maximum(pairs.sum(-1, keepdims=True), 1.0)
    entropy = -np.sum(share * np.log(np.where(following > 0, following, 1.0)))
    nll = -np.sum(share * np.log(np.where(law > 0, law, 1.0)))
    wrong = share[~allowed].sum()
    return {"nll": float(nll), "entropy": float(entropy), "excess": float(nll - entropy), "wrong": float(wrong)}


def best_sum(process: Any, model: Any, x0: Array, fine: int, steps: int, key: Array) -> Float[Array, " steps+1"]:
    """The times whose left Riemann sum of a masked token's entropy is least, by dynamic programming."""
    times = jnp.linspace(process.t_max, 0.0, fine)

    @jax.jit
    def entropies(x0: Array) -> Array:
        def at(t: Array) -> Array:
            x = process.forward(key, x0, t)
            log_p = jax.nn.log_softmax(model(x, t))
            each = -jnp.where(log_p > -jnp.inf, jnp.exp(log_p) * jnp.where(log_p > -jnp.inf, log_p, 0.0), 0.0).sum(-1)
            hidden = x == process.vocab
            return jnp.where(hidden, each, 0.0).sum() / jnp.maximum(hidden.sum(), 1)

        return jax.lax.map(at, times)

    cleaned = process.survival(times)[None, :] - process.survival(times)[:, None]
    return times[js.learn.shortest_path(cleaned * entropies(x0)[:, None], steps)]


def samplers(settings: Settings, problem: str, length: int) -> Callable[[int], dict[str, Any]]:
    """What makes all samplers of so many calls, and the numbers that were learned."""
    data, chain = chains(problem)
    process = process_of(problem, chain)
    model, key = network(problem, process, chain, length), jax.random.key(settings.seed)
    x0 = jnp.asarray(draw(data, settings.learn, length, settings.seed + 1))
    fine = js.discrete.ancestral(process, js.schedules.uniform(process, settings.teacher))
    teacher = js.learn.lsd_teacher(fine, model, process.prior(key, x0.shape), jax.random.fold_in(key, 1))
    most = max(settings.calls)
    jumps = js.learn.jump_your_steps(process, model, x0, most, key, iterations=settings.iterations)
    make = functools.partial(js.discrete.ancestral, process)

    def of(calls: int) -> dict[str, Any]:
        uniform = js.schedules.uniform(process, calls)
        cosine = jnp.cos(jnp.pi / 2 * jnp.arange(calls + 1) / calls).at[-1].set(0.0)
        student = make(uniform)
        score = js.learn.lsd(student, model, teacher)
        power = js.learn.lsd(student, model, teacher, on="log_score")
        independent = js.learn.lsd(student, model, teacher, noise="independent")
        steps = js.learn.lsd_steps(js.discrete.ancestral, process, uniform, model, teacher)
        jumped = jumps[:: most // calls]
        found: dict[str, Any] = {
            "uniform": (student, uniform),
            "cosine": (make(cosine), cosine),
            "JYS": (make(jumped), jumped),
            "LSD score": (js.discrete.scaled(student, score), score),
            "LSD log": (js.discrete.tempered(student, power), power),
            "LSD independent": (js.discrete.scaled(student, independent), independent),
            "LSD+": (make(steps), steps),
        }
        if process.noise.absorbing:
            counts = js.learn.jump_your_counts(process, model, x0, calls, key, iterations=settings.iterations)
            sums = best_sum(process, model, x0, settings.fine, calls, key)
            even = np.diff(np.round(np.linspace(0, length, calls + 1))).astype(int)
            found |= {
                "even counts": (js.discrete.k_gillespie(process, list(map(int, even))), even),
                "JYS counts": (js.discrete.k_gillespie(process, counts), counts),
                "best sum": (make(sums), sums),
            }
        return found

    return of


def study(settings: Settings, keep: Callable[[dict[str, Any]], None]) -> None:
    """All numbers, handed over after each problem."""
    results: dict[str, Any] = {"settings": config.to_json(settings), "problems": {}}
    for problem, length in zip(settings.problems, settings.lengths, strict=True):
        data, chain = chains(problem)
        process = process_of(problem, chain)
        model, key = network(problem, process, chain, length), jax.random.key(settings.seed + 2)
        x = process.prior(key, (settings.judge, length))
        run = jax.jit(lambda sampler, model=model, x=x, key=key: js.sample(sampler, model, x, key))
        rows = [{"sampler": "data", **judge(chain, draw(data, settings.judge, length, settings.seed + 3))}]
        of = samplers(settings, problem, length)
        for calls in settings.calls:
            for name, (sampler, numbers) in of(calls).items():
                found = judge(chain, np.asarray(run(sampler)))
                learned = [round(float(number), 4) for number in numbers]
                rows.append({"sampler": name, "calls": calls, **found, "numbers": learned})
                print(problem, calls, name, {key: round(value, 4) for key, value in found.items()}, flush=True)
        results["problems"][problem] = {"length": length, "rows": rows}
        keep(results)


def table(results: dict[str, Any]) -> str:
    """Markdown: a table a problem."""
    lines = []
    for problem, found in results["problems"].items():
        rows, calls = found["rows"], results["settings"]["calls"]
        shown = ("nll", "entropy", "excess") if "text" in problem else ("wrong", "entropy")
        data = ", ".join(f"{name} {rows[0][name]:.3f}" for name in shown)
        lines += [f"**{problem}**, {found['length']} tokens; as many sequences of the data: {data}", ""]
        lines += [f"| {' / '.join(shown)} | " + " | ".join(map(str, calls)) + " |", "|---|" + "---|" * len(calls)]
        for name in NAMES:
            mine = {row["calls"]: row for row in rows[1:] if row["sampler"] == name}
            if not mine:
                continue
            cells = [" / ".join(f"{mine[n][k]:.3f}" for k in shown) for n in calls]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def figure(results: dict[str, Any], path: Path) -> None:
    """What is unlikely, beyond what is various, and what is various, against calls; a row a problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = results["problems"]
    figure, axes = plt.subplots(
        len(problems), 2, figsize=(11, 3.6 * len(problems)), squeeze=False, layout="constrained"
    )
    for (problem, found), (left, right) in zip(problems.items(), axes, strict=True):
        shown = {left: "excess" if "text" in problem else "wrong", right: "entropy"}
        for axis, key in shown.items():
            for number, name in enumerate(NAMES):
                mine = [row for row in found["rows"][1:] if row["sampler"] == name and row[key] > 0]
                style = {"color": f"C{number}", "marker": "osPv^Dxd<>"[number], "markersize": 4, "label": name}
                axis.plot([row["calls"] for row in mine], [row[key] for row in mine], **style)
            if found["rows"][0][key] > 0:
                axis.axhline(found["rows"][0][key], color="black", linestyle="--", linewidth=1, label="data")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log" if axis is left else "linear")
            axis.set_xlabel("network calls")
            units = {"excess": "nll less entropy, nats a token", "wrong": "share of wrong pairs"}
            axis.set_title(f"{problem}: " + units.get(key, "entropy, nats a token"))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, and write the three files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--config", type=Path, default=Path("configs/learned_tokens.py"))
    parser.add_argument("--out", type=Path, required=True, help="path without an ending")
    parser.add_argument("settings", nargs="*", help="name=value")
    options = parser.parse_args(arguments)

    def keep(results: dict[str, Any]) -> None:
        write_text(options.out.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
        write_text(options.out.with_suffix(".md"), table(results))
        figure(results, options.out.with_suffix(".png"))

    study(config.override(config.load(options.config), options.settings), keep)


if __name__ == "__main__":
    main()
