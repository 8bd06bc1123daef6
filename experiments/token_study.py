"""Every sampler of tokens against network calls: English characters, and countdown, with exact posteriors or trained.

    nice python -m experiments.token_study --config configs/token_study.py --docs docs

**text** is ``js.discrete.text.characters(1)``, judged as ``python -m jaxsamplers compare --data text`` does.
**countdown** is the task of ``experiments/countdown.py``, judged by its two error rates, the entropy of a token given
the one before it, and the total variation of the pairs, which sees both. **trained text** and **trained countdown** are
the same, asking networks that ``experiments.train_text`` has trained in ``runs/``. **trained digits** are images of 64
tokens and the network of the package, judged by the distance to images held out, and by entropy.

Each result is a line of ``results.jsonl``, and what is there already is not done again. Other samplers and networks,
trained or learned, are compared by adding to ``EXTRA`` and ``PROBLEMS``. At the end

    tokens.json, tokens-text.png, tokens-countdown.png, tokens.md
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxsamplers as js
from experiments import config, tokens
from experiments.countdown import SMOOTHING, countdown, violations
from jaxsamplers import checks, datasets, metrics, plotting_tokens, token_comparison, token_quality
from jaxsamplers.commands.tokens import PANELS
from jaxsamplers.discrete.chain import MarkovChain, chain_posterior
from jaxsamplers.records import history
from jaxsamplers.records.checkpoints import CheckpointError
from jaxsamplers.records.files import write_text

COUNTDOWN = {
    "violations": "violated pairs",
    "check_err": "check_err, as published",
    "entropy": PANELS["entropy"].replace("character", "token"),
    "total_variation": PANELS["total_variation"],
}

DIGITS = {"distance": "energy distance to digits held out", "entropy": "entropy of all tokens together, bits"}

Make = Callable[[js.discrete.Replacement, int, int], Any]


def in_order(order: str) -> Make:
    """``ordered`` with another order than at random."""
    return lambda process, calls, length: js.discrete.ordered(
        process, js.schedules.uniform(process, calls), order=order
    )


def four_blocks(process: js.discrete.Replacement, calls: int, length: int) -> Any:
    """Ancestral steps, a quarter of them for each quarter of the sequence, from left to right."""
    steps = js.schedules.uniform(process, calls // 4)
    return js.discrete.blocks(js.discrete.ancestral(process, steps), length, -(-length // 4))


def repaired(process: js.discrete.Replacement, calls: int, length: int) -> Any:
    """Ancestral steps in half of the calls, and as many of Glauber dynamics, one position each."""
    first = js.discrete.ancestral(process, js.schedules.uniform(process, calls - calls // 2))
    one = float(process.time(np.log1p(-1 / length)))
    return first, js.discrete.glauber(process, calls // 2, time=one)


EXTRA: dict[str, Make] = {  # name to (process, calls, length) -> sampler, samplers in turn, or why there is none
    "ordered, confidence": in_order("confidence"),
    "ordered, margin": in_order("margin"),
    "ordered, entropy": in_order("entropy"),
    "ordered, left to right": in_order("left_to_right"),
    "ancestral, four blocks": four_blocks,
    "ancestral, then glauber": repaired,
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """A source of tokens, a network and what is measured.

    Attributes:
        vocab: how many tokens there are.
        exact: what the law itself gives, ``(seed, count, length) -> tokens``.
        own: the law's own numbers, ``length -> {name: number}``.
        model: the network, ``process -> (tokens, t) -> logits``.
        judge: tokens to numbers.
        panels: those that are drawn, with their names.
    """

    vocab: int
    exact: Callable[[int, int, int], np.ndarray]
    own: Callable[[int], dict[str, float]]
    model: Callable[[js.discrete.Replacement], Any]
    judge: Callable[[np.ndarray], dict[str, float]]
    panels: dict[str, str]


def judge_countdown(x: np.ndarray) -> dict[str, float]:
    """All numbers of countdown."""
    found = token_quality.quality(countdown(), x)
    return {**violations(x), "entropy": found["entropy"], "total_variation": found["total_variation"]}


def text_problem(settings: Settings) -> Problem:
    """English characters."""
    chain = js.discrete.text.characters(order=1)
    posterior = lambda process: chain_posterior(chain, process)
    return Problem(*_law(chain), posterior, lambda x: token_quality.quality(chain, x), PANELS)


def countdown_problem(settings: Settings) -> Problem:
    """Numbers that count down."""
    smooth = countdown(smoothing=SMOOTHING)
    return Problem(*_law(countdown()), lambda process: chain_posterior(smooth, process), judge_countdown, COUNTDOWN)


def digits_problem(settings: Settings) -> Problem:
    """Handwritten digits as tokens and the network of the package; judged by images it was not trained on.

    Raises:
        ValueError: another process than the network's.
    """
    if settings.process != "masked":
        raise ValueError(f"process must be masked, for which the network of digits was trained, got {settings.process}")
    data = datasets.digits()
    unseen, known = jax.numpy.asarray(data.held_out), np.asarray(js.discrete.digits.encode(data.train))
    distance = jax.jit(lambda x: metrics.energy_distance(js.discrete.digits.decode(x), unseen))
    levels = js.discrete.digits.LEVELS

    def judge(x: np.ndarray) -> dict[str, float]:
        return {"distance": float(distance(x)), "entropy": float(tokens.entropy(jax.numpy.asarray(x), levels))}

    def exact(seed: int, count: int, length: int) -> np.ndarray:
        return known[np.random.default_rng(seed).permutation(len(known))[:count]]

    network = lambda process: js.discrete.digits.network()
    return Problem(levels, exact, lambda length: {}, network, judge, DIGITS)


def _law(chain: MarkovChain) -> tuple[int, Callable[[int, int, int], np.ndarray], Callable[[int], dict[str, float]]]:
    """Vocabulary, samples and numbers of a chain."""
    draw = functools.partial(token_quality.draw, chain)
    return chain.transition.shape[-1], draw, functools.partial(token_quality.expected, chain)


def trained(paths: dict[str, str], exact: Callable[[Settings], Problem], settings: Settings) -> Problem:
    """A problem with the network that ``experiments.train_text`` has trained, by the settings file of the process.

    Raises:
        CheckpointError: it has not.
        ValueError: there are none for this process, or for another length.
    """
    checks.one_of("process", settings.process, paths)
    path = paths[settings.process]
    study, network = tokens.load(path)
    if study.length not in settings.lengths:
        raise ValueError(f"lengths must have {study.length}, for which {path} trains, got {settings.lengths}")
    return dataclasses.replace(exact(settings), model=lambda process: network)


PROBLEMS: dict[str, Callable[[Settings], Problem]] = {
    "text": text_problem,
    "countdown": countdown_problem,
    "trained digits": digits_problem,
    "trained text": functools.partial(
        trained, {"masked": "configs/train_text_masked.py", "uniform": "configs/train_text_uniform.py"}, text_problem
    ),
    "trained countdown": functools.partial(trained, {"masked": "configs/train_text_countdown.py"}, countdown_problem),
}
SAMPLERS = tuple(name for name in token_comparison.registry if name not in token_comparison.TWINS)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        problems: names in ``PROBLEMS``.
        lengths: of their sequences.
        samplers: names in ``token_comparison.registry`` or ``EXTRA``.
        process: "masked" or "uniform".
        calls: budgets of network calls.
        count: sequences.
        seed: of everything.
    """

    problems: tuple[str, ...] = ("text", "countdown")
    lengths: tuple[int, ...] = (64, 256)
    samplers: tuple[str, ...] = (*SAMPLERS, *EXTRA)
    process: str = "masked"
    calls: tuple[int, ...] = (8, 16, 32, 64)
    count: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for problem in self.problems:
            checks.one_of("problems", problem, PROBLEMS)
        for sampler in self.samplers:
            checks.one_of("samplers", sampler, (*token_comparison.registry, *EXTRA))
        checks.one_of("process", self.process, ("masked", "uniform"))
        if len(self.lengths) != len(self.problems):
            raise ValueError(f"lengths must be one for each of problems, got {self.lengths} for {self.problems}")


def study(settings: Settings, out: Path) -> list[dict[str, Any]]:
    """Every result that ``settings`` ask for, those in ``out`` already and those that are missing."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.jsonl"
    done = {_name(row): row for row in history.read(file)}
    rows = []
    for problem, length in zip(settings.problems, settings.lengths, strict=True):
        ready = PROBLEMS[problem](settings)
        process = (js.discrete.masked if settings.process == "masked" else js.discrete.uniform)(ready.vocab)
        for name in ("exact samples", *settings.samplers):
            for budget in (0,) if name == "exact samples" else settings.calls:
                row: dict[str, Any] = {"problem": problem, "process": settings.process, "sampler": name}
                row |= {"length": length, "count": settings.count, "seed": settings.seed, "budget": budget}
                if _name(row) not in done:
                    row |= measure(settings, ready, process, length, name, budget)
                    history.append(file, row)
                    done[_name(row)] = row
                    print(*(f"{v:.4f}" if isinstance(v, float) else v for v in row.values()), flush=True)
                rows.append(done[_name(row)])
        jax.clear_caches()
    return rows


def measure(
    settings: Settings, ready: Problem, process: js.discrete.Replacement, length: int, name: str, budget: int
) -> dict[str, Any]:
    """The numbers of one sampler, or of exact samples, in at most so many calls."""
    if name == "exact samples":
        return {"calls": 0, **ready.judge(ready.exact(settings.seed, settings.count, length))}
    make = EXTRA.get(name, lambda process, calls, length: token_comparison.within(name, process, calls, length))
    try:
        sampler = make(process, budget, length)
    except (ValueError, TypeError) as error:
        sampler = str(error)
    if isinstance(sampler, str):
        return {"refused": " ".join(sampler.split())}
    parts = sampler if isinstance(sampler, tuple) else (sampler,)
    key, start = jax.random.split(jax.random.key(settings.seed))
    x, calls = process.prior(start, (settings.count, length)), sum(map(js.network_calls, parts))
    model = token_comparison.model_for(name, process, ready.model(process))
    if len(parts) > 1:
        tokens = np.asarray(_in_turn(parts, model, x, key))
    else:
        full = token_comparison.padded(sampler, max(budget, *settings.calls))
        tokens = np.asarray(token_comparison.run_first(full, calls, model, x, key))
    if (tokens >= process.vocab).any():
        return {"refused": "leaves masks"}
    return {"calls": calls, **ready.judge(tokens)}


@jax.jit
def _in_turn(parts: tuple[js.Sampler, ...], model: js.Model, x: Any, key: Any) -> Any:
    """Samplers one after another, each from what the one before it returned."""
    return js.stitch([(part, model) for part in parts], x, key)


def markdown(rows: Sequence[dict[str, Any]], panels: dict[str, dict[str, str]]) -> str:
    """A table for each problem: what as many exact samples show, then all samplers at every budget."""
    lines = []
    for problem, shown in panels.items():
        mine = [row for row in rows if row["problem"] == problem and "refused" not in row]
        budgets = sorted({row["budget"] for row in mine if row["budget"]})
        cell = lambda row, shown=shown: " / ".join(f"{row[key]:.3f}" for key in shown)
        lines += [f"| {problem}: {' / '.join(shown)} | " + " | ".join(map(str, budgets)) + " |"]
        lines += ["|---|" + "---|" * len(budgets)]
        for name in dict.fromkeys(row["sampler"] for row in mine):
            found = {row["budget"]: cell(row) for row in mine if row["sampler"] == name}
            cells = (
                [found.get(0, "")] + [""] * (len(budgets) - 1) if 0 in found else [found.get(b, "") for b in budgets]
            )
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], problem: str, ready: Problem, path: Path, title: str) -> None:
    """The picture of a problem."""
    panels = ready.panels
    mine = [row for row in rows if row["problem"] == problem and "refused" not in row]
    curves: dict[str, list[dict[str, float]]] = {}
    for row in mine:
        if row["budget"]:
            curves.setdefault(row["sampler"], []).append(row)
    floor = next(row for row in mine if not row["budget"])
    own = ready.own(floor["length"])
    families = {n: token_comparison.registry[n.split(",")[0]].__module__ for n in curves if n.split(",")[0] in SAMPLERS}
    plotting_tokens.draw(
        curves, path, panels=panels, true={key: own[key] for key in own if key in panels},
        floor={key: floor[key] for key in panels}, families=families, title=title,
        logarithmic=("kl", "violations", "check_err"),
    )  # fmt: skip


def _name(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("problem", "process", "sampler", "length", "count", "seed", "budget"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.token_study", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/token_study.py", help="a settings file")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="count=64")
    parser.add_argument("--out", type=Path, default=Path("runs/token_study"), help="where results are kept")
    parser.add_argument("--docs", type=Path, help="where numbers and pictures go; the same by default")
    given = parser.parse_args(arguments)
    docs = given.docs or given.out
    try:
        settings = config.override(config.load(given.config), given.set)
        rows = study(settings, given.out)
    except (ValueError, FileNotFoundError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is missing", file=sys.stderr)
        return 130
    ready = {problem: PROBLEMS[problem](settings) for problem in settings.problems}
    panels = {problem: made.panels for problem, made in ready.items()}
    write_text(docs / "tokens.json", json.dumps({"settings": config.to_json(settings), "results": rows}) + "\n")
    write_text(given.out / "tokens.md", markdown(rows, panels))
    for problem, length in zip(settings.problems, settings.lengths, strict=True):
        title = f"{problem}, {settings.process}, {settings.count} sequences of {length} tokens"
        draw(rows, problem, ready[problem], docs / f"tokens-{problem.replace(' ', '-')}.png", title)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
