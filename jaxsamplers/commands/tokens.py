"""``sample`` and ``compare`` on tokens: English characters with an exact posterior, digits with a trained network."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from jaxsamplers import checks, discrete, solvers
from jaxsamplers.commands.files import check_folder, check_pictures, complete, need
from jaxsamplers.commands.options import solver_options, times_of
from jaxsamplers.commands.shards import drawn, is_folder, write_shards
from jaxsamplers.core import network_calls, sample

PROCESSES = ("masked", "uniform", "marginal")
PANELS = {
    "log_likelihood": "log-likelihood a character, nats",
    "entropy": "entropy of a character\ngiven the one before, nats",
    "kl": "divergence of pairs, nats",
    "total_variation": "total variation of pairs",
}


def sample_text(options: argparse.Namespace) -> None:
    """Lines of characters, what they cost and how good they are."""
    from jaxsamplers import token_quality

    checks.integer("--order", options.order, low=1, high=3)
    checks.integer("--length", options.length, low=options.order + 1)
    if not is_folder(options.out):
        check_folder(options.out)
    chain = discrete.text.characters(options.order)
    process = _process(options.process, chain)
    model = discrete.chain.chain_posterior(chain, process)
    if is_folder(options.out):
        return _write(options, process, model, options.length)
    written = _draw(options, process, model, options.length)
    lines = [discrete.text.decode(line) for line in written]
    with complete(options.out) as drafts:
        drafts[0].write_text("\n".join(lines) + "\n")
    clean = written[(written < process.vocab).all(axis=1)]
    if len(clean) < len(written):
        print(f"lines with masks left    {len(written) - len(clean)} of {len(written)}, not in the numbers below")
    if len(clean):
        own = token_quality.expected(chain, options.length)
        floor = token_quality.floor(chain, options.seed, len(clean), options.length)
        found = token_quality.quality(chain, clean)
        for key, name in (("log_likelihood", "log-likelihood"), ("entropy", "entropy")):
            print(f"{name:24s} {found[key]:.3f} nats a character ({_beside(own[key], floor[key])})")
        print(f"{'divergence of pairs':24s} {found['kl']:.3f} nats ({_beside(0.0, floor['kl'])})")
    print(f"wrote                    {options.out}")


def sample_digits(options: argparse.Namespace) -> None:
    """A sheet of digits drawn as tokens, by the trained network of this package."""
    if options.process != "masked":
        raise ValueError(
            f"the network of digits as tokens was trained on masks: --process masked, got {options.process}"
        )
    process = discrete.digits.process()
    if is_folder(options.out):
        return _write(options, process, discrete.digits.network(), discrete.digits.SIDE**2)
    check_pictures(options.out)
    need("matplotlib", "sklearn")

    import jax
    import jax.numpy as jnp

    from jaxsamplers import datasets, metrics, plotting

    codes = _draw(options, process, discrete.digits.network(), discrete.digits.SIDE**2)
    images = discrete.digits.decode(jnp.asarray(codes))
    with complete(options.out) as drafts:
        plotting.sheet(images, drafts[0], title=f"{options.solver}, {options.steps} steps")
    data = datasets.digits()
    train, unseen = jnp.asarray(data.train), jnp.asarray(data.held_out)
    distance = jax.jit(metrics.energy_distance)
    held_out, floor = distance(images, unseen), distance(train[: options.count], unseen)
    print(f"distance to held-out     {held_out:.3f} (energy distance; as many training digits: {floor:.3f})")
    print(f"wrote                    {options.out}")


def compare_text(options: argparse.Namespace) -> None:
    """Measure, print, draw and record all samplers of tokens."""
    from jaxsamplers import token_comparison

    checks.integer("--count", options.count, low=1)
    checks.integer("--order", options.order, low=1, high=3)
    checks.integer("--length", options.length, low=options.order + 1)
    for calls in options.calls:
        checks.integer("--calls", calls, low=1)
    for argument in ("problem", "schedule", "t_start", "t_end"):
        if getattr(options, argument) is not None:
            raise ValueError(f"--{argument.replace('_', '-')} is not for --data text, where steps are equal in time")
    chosen = [name for name in token_comparison.registry if name not in token_comparison.TWINS]
    for name in options.solver or []:
        _known(name)
    chosen, budgets = options.solver or chosen, sorted(set(options.calls))
    check_pictures(options.out)
    need("matplotlib")

    import jax
    import numpy as np

    from jaxsamplers import plotting_tokens, token_quality

    chain = discrete.text.characters(options.order)
    process = _process(options.process, chain)
    model = discrete.chain.chain_posterior(chain, process)
    key, start = jax.random.split(jax.random.key(options.seed))
    x = process.prior(start, (options.count, options.length))
    true = {**token_quality.expected(chain, options.length), "kl": 0.0, "total_variation": 0.0}
    floor = token_quality.floor(chain, options.seed, options.count, options.length)
    head = "".join(f"{name:>16s}" for name in ("log-likelihood", "entropy", "divergence", "total variation"))
    row = lambda name, calls, values: f"{name:20s} {calls:>6}" + "".join(f"{values[k]:>16.4f}" for k in PANELS)
    print(f"text, {options.process}, {options.count} lines of {options.length} characters, nats a character")
    print(f"{'sampler':20s} {'calls':>6}{head}")
    print(row("true law", "", true), row("exact samples", "", floor), sep="\n", flush=True)
    curves: dict[str, list[dict[str, float]]] = {}
    refused: dict[str, str] = {}
    for name in chosen:
        for budget in budgets:
            sampler = token_comparison.within(name, process, budget, options.length)
            if isinstance(sampler, str):
                refused[name] = " ".join(sampler.split())
                continue
            calls = network_calls(sampler)
            full = token_comparison.padded(sampler, budgets[-1])
            asked = token_comparison.model_for(name, process, model)
            tokens = np.asarray(token_comparison.run_first(full, calls, asked, x, key))
            if (tokens >= process.vocab).any():
                refused[name] = f"leaves masks after {calls} calls"
                continue
            found = token_quality.quality(chain, tokens)
            curves.setdefault(name, []).append({"calls": calls, **found})
            print(row(name, calls, found), flush=True)
    if not curves:
        raise ValueError(f"no sampler has numbers to show ({'; '.join(refused.values())})")
    twins = {} if options.solver else token_comparison.TWINS
    print("", *(f"{name}: {reason}" for name, reason in {**refused, **twins}.items()), sep="\n")
    about = {"data": "text", "process": options.process, "order": options.order, "seed": options.seed}
    about |= {"count": options.count, "length": options.length, "true": true, "floor": floor}
    families = {name: token_comparison.registry[name].__module__ for name in curves}
    title = f"text, {options.process}, {options.count} lines of {options.length} characters"
    with complete(options.out, options.out.with_suffix(".json")) as drafts:
        plotting_tokens.draw(
            curves, drafts[0], panels=PANELS, true={k: true[k] for k in ("log_likelihood", "entropy")}, floor=floor,
            families=families, title=title,
        )  # fmt: skip
        drafts[1].write_text(json.dumps({**about, "samplers": curves, "refused": refused}, indent=1) + "\n")
    print(f"\nwrote {options.out} and {options.out.with_suffix('.json')}")


def _draw(options: argparse.Namespace, process: discrete.Replacement, model: Any, length: int) -> Any:
    """Tokens, after what they cost has been printed."""
    sampler, model, name, times = _sampler(options, process, model, length)

    import jax
    import numpy as np

    noise, start = jax.random.split(jax.random.key(options.seed))
    x = process.prior(start, (options.count, length))
    began = time.perf_counter()
    compiled = jax.jit(sample).lower(sampler, model, x, noise).compile()
    built = time.perf_counter()
    tokens = np.asarray(jax.block_until_ready(compiled(sampler, model, x, noise)))
    ended = time.perf_counter()
    print(f"solver                   {options.solver} {' '.join(options.option)}".rstrip())
    print(f"schedule                 {name}, {len(times) - 1} steps from t = {times[0]:.4g} to {times[-1]:.4g}")
    print(f"process                  {options.process}")
    print(f"network calls            {network_calls(sampler)}")
    print(f"seconds                  {ended - built:.3f} to sample, {built - began:.2f} to compile")
    return tokens


def _write(options: argparse.Namespace, process: discrete.Replacement, model: Any, length: int) -> None:
    """Tokens in files, ``[n, length]``."""
    sampler, model, name, times = _sampler(options, process, model, length)
    write_shards(options, sampler, drawn(sampler, model, process, (length,)), name, times)


def _sampler(options: argparse.Namespace, process: discrete.Replacement, model: Any, length: int) -> Any:
    """The sampler, the model as it wants it, the schedule's name and times."""
    from jaxsamplers import token_comparison

    checks.integer("--count", options.count, low=1)
    if options.trajectory:
        raise ValueError(f"--trajectory draws the path of an image's noise, which --data {options.data} has not")
    solver = _known(options.solver)
    options.schedule = options.schedule or "uniform"
    try:
        name, times = times_of(options, process, options.steps)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"schedule {options.schedule} is made of noise levels, which tokens have not: uniform"
        ) from error
    sampler = token_comparison.build(options.solver, process, times, length, solver_options(solver, options.option))
    return sampler, token_comparison.model_for(options.solver, process, model), name, times


def _known(name: str) -> Any:
    from jaxsamplers.token_comparison import registry

    if name in solvers.registry and name not in registry:
        raise ValueError(f"{name} solves for pixels; of tokens there are {', '.join(registry)}")
    return checks.look_up("solver", name, registry)


def _process(name: str, chain: discrete.chain.MarkovChain) -> discrete.Replacement:
    from jaxsamplers import token_quality

    checks.one_of("process", name, PROCESSES)
    vocab = chain.transition.shape[-1]
    law = lambda: token_quality.pair_law(chain, 2).sum(axis=0)
    make = {"masked": discrete.masked, "uniform": discrete.uniform, "marginal": lambda _: discrete.marginal(law())}
    return make[name](vocab)


def _beside(own: float, floor: float) -> str:
    return f"the true model: {own:.3f}, as many exact lines: {floor:.3f}"
