"""Learn a sampler for one network: the schedule, and what else is asked for.

    python -m experiments.learn_schedule --config configs/learn/ld3_closed_form.py
    python -m experiments.learn_schedule --config configs/learn/ld3_digits.py --set learn.steps=500 --out runs/short

A teacher of many steps is run once; the start is the hand-made schedule that is best on the noises learned from. The
same command again goes on where the run stopped, however it stopped, and ends in the same numbers. In the run's
directory are

    config.json         the resolved settings; a run only resumes with equal ones
    pairs.npz           the teacher's samples
    history.jsonl       a line a validation: step, loss, validation, best, rate
    checkpoints/        the last two
    recipe.json         the learned sampler, for js.recipes.load
    schedule.png, curves.png, before_after.png, summary.json      at the end
    trace/              for xprof, if asked for by --trace

The same command runs on many devices and in many processes (docs of ``js.distributed.start``, tpu_scripts/), if they
share the run's directory, and ends in the same numbers.

Align Your Steps needs no teacher to learn from and takes seconds; it starts again instead of going on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from experiments import config, methods
from experiments import learned_vs_hand as study
from jaxsamplers import checks, plotting, plotting_schedules
from jaxsamplers.records import checkpoints, history
from jaxsamplers.records.files import write_text
from jaxsamplers.records.progress import progress

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.core import Model
    from jaxsamplers.processes import Process
    from jaxsamplers.tableau import Tableau

    Times = Float[Array, " n+1"]

METHODS = ("ld3", "endpoint", "align_your_steps")
DISTANCES = {"squared": js.learn.squared, "rms": js.learn.rms, "absolute": js.learn.absolute}
SHOWN, POINTS = 12, 512  # samples in a picture


@dataclasses.dataclass(frozen=True)
class TeacherSettings:
    """What is learned from.

    Attributes:
        steps: of the teacher, UniPC-3 or Heun's method on flows, on equal steps in half-log-SNR or in time.
        train: noises to learn from.
        check: noises to validate on.
        test: noises for the numbers and pictures at the end.
        seed: of all noises.
    """

    steps: int = 60
    train: int = 512
    check: int = 256
    test: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "train", "check", "test"):
            checks.integer(name, getattr(self, name), low=1)


@dataclasses.dataclass(frozen=True)
class LearnSettings:
    """How it is learned.

    Attributes:
        method: "ld3", a teacher met half way; "endpoint", the teacher itself; "align_your_steps", the KLUB.
        distance: between two samples: "squared", "rms" or "absolute".
        network_times: learn the times the network is shown.
        coefficients: learn the weights of the network's answers.
        radius: of LD3; its own default if ``None``.
        steps: gradient steps, or at most so many sweeps of Align Your Steps.
        batch: noises in each.
        rate: of Adam, which falls to zero along a cosine.
        every: steps between validations; ``steps`` must be a multiple.
        checkpoint: validations between checkpoints.
        seed: of everything random.
    """

    method: str = "ld3"
    distance: str = "rms"
    network_times: bool = True
    coefficients: bool = False
    radius: float | None = None
    steps: int = 1000
    batch: int = 64
    rate: float = 0.03
    every: int = 50
    checkpoint: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("method", self.method, METHODS)
        checks.one_of("distance", self.distance, DISTANCES)
        for name in ("steps", "batch", "every", "checkpoint"):
            checks.integer(name, getattr(self, name), low=1)
        checks.within("rate", self.rate, 0.0, above=True)
        if self.radius is not None:
            checks.within("radius", self.radius, 0.0)
        if self.method != "align_your_steps" and self.steps % self.every:
            raise ValueError(f"steps must be a multiple of every={self.every}, got {self.steps}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A run.

    Attributes:
        problem: "mixture", "mixture-8", "mixture-64", "digits" or "trained-digits".
        solver: "ddim", "dpm_solver_pp", "unipc-3", or, on a rectified flow, "euler" or "heun".
        calls: network calls.
        start: a name in ``jaxsamplers.schedules.registry``; if "", the best one on the noises that are learned from.
        teacher: what is learned from.
        learn: how it is learned.
    """

    problem: str = "digits"
    solver: str = "unipc-3"
    calls: int = 8
    start: str = ""
    teacher: TeacherSettings = dataclasses.field(default_factory=TeacherSettings)
    learn: LearnSettings = dataclasses.field(default_factory=LearnSettings)

    def __post_init__(self) -> None:
        checks.one_of("problem", self.problem, study.PROBLEMS)
        checks.one_of("solver", self.solver, study.SOLVERS)
        checks.integer("calls", self.calls, low=1)
        if self.start:
            checks.one_of("start", self.start, js.schedules.registry)
        if self.learn.batch > self.teacher.train:
            raise ValueError(f"learn.batch must be at most teacher.train={self.teacher.train}, got {self.learn.batch}")


def prepare(settings: Settings, out: Path) -> study.Ready:
    """The network, and noises with what the teacher makes of them."""
    kind, sizes = study.SOLVERS[settings.solver][0], settings.teacher
    process, problem = study.PROCESSES[kind](), study.PROBLEMS[settings.problem]()
    key = jax.random.key(sizes.seed)
    x = process.prior(key, (sizes.train + sizes.check + sizes.test, *problem.shape))
    model = problem.denoiser(process)
    if kind == "flow":
        teacher = js.solvers.heun(process, js.schedules.uniform(process, sizes.steps))
    else:
        teacher = js.solvers.unipc(process, js.schedules.half_log_snr(process, sizes.steps), order=3)
    over = _over_devices(settings.learn.batch)
    taught = js.learn.teach(teacher, model, x, cache=out / "pairs.npz", sharding=over)
    first, second = sizes.train, sizes.train + sizes.check
    cuts = slice(first), slice(first, second), slice(second, None)
    train, check, test = (js.learn.pairs(taught.x[cut], taught.goal[cut]) for cut in cuts)
    return study.Ready(process, model, train, check, test, study.data_of(settings.problem, model, sizes.test, key))


def learn(
    settings: Settings, ready: study.Ready, start: Times, out: Path, trace: tuple[int, int] | None = None
) -> tuple[Tableau, Times]:
    """The learned sampler and its schedule."""
    if settings.learn.method == "align_your_steps":
        times = align(settings, ready, start)
        _, make, options = study.SOLVERS[settings.solver]
        return make(ready.process, times, **options), times
    return distill(settings, ready, start, out, trace)


def distill(
    settings: Settings, ready: study.Ready, start: Times, out: Path, trace: tuple[int, int] | None
) -> tuple[Tableau, Times]:
    """By gradient, from the teacher's samples, each batch over all devices of all processes."""
    how, steps = settings.learn, len(start) - 1
    _, make, options = study.SOLVERS[settings.solver]
    build = js.learn.builder(make, ready.process, **options)
    calls = js.network_calls(make(ready.process, start, **options))
    distance = DISTANCES[how.distance]
    over, check = _over_devices(how.batch), ready.check
    if over is not None and len(check.which) % jax.device_count() == 0:
        check = js.distributed.spread(check, js.distributed.mesh())
    soft = js.learn.ld3(build, ready.model, ready.train, steps=steps, radius=how.radius, distance=distance)
    hard = js.learn.endpoint(build, ready.model, distance=distance)
    found = js.learn.fit(
        soft if how.method == "ld3" else hard,
        js.learn.parameters(
            ready.process,
            steps,
            schedule=start,
            calls=calls,
            network_times=how.network_times,
            coefficients=how.coefficients,
        ),
        optimizer=methods.optimizer(how.rate, how.steps),
        batches=js.learn.batches(ready.train, how.batch),
        steps=how.steps,
        key=jax.random.key(how.seed),
        validate=jax.tree_util.Partial(_validate, hard, check),
        every=how.every,
        checkpoint=how.checkpoint,
        out=out,
        sharding=over,
        trace=trace,
    )
    return build(found.parameters), found.parameters.times(ready.process)


def align(settings: Settings, ready: study.Ready, start: Times) -> Times:
    """Align Your Steps, of its schedules the one with the best samples."""
    how = settings.learn
    _, make, options = study.SOLVERS[settings.solver]
    named = tuple(options.items())
    error = lambda times: _error(DISTANCES[how.distance], make, named, ready.process, times, ready.model, ready.check)
    with progress("sweeps", how.steps) as report:
        return js.learn.align_your_steps(
            ready.process,
            ready.model,
            ready.data,
            start,
            jax.random.key(how.seed),
            sweeps=how.steps,
            metric=error,
            report=lambda done, total, **numbers: report(done, **numbers),
        )


def run(settings: Settings, out: str | Path, trace: tuple[int, int] | None = None) -> dict[str, Any]:
    """All of it; returns what is in ``summary.json``. Several processes call it alike, and process 0 writes.

    Args:
        settings: of the run.
        out: its directory.
        trace: steps before and in a trace for xprof, see ``js.learn.fit``.

    Raises:
        ValueError: ``out`` holds a run with other settings, or there is no trained network yet.
        CheckpointError: the last checkpoint cannot be read; nothing has been changed then.
        NotFinite: learning broke down; the last good checkpoint is kept.
        Preempted: SIGTERM came while it learned, and the run is saved.
        OSError: a file could not be written; nothing that was there is lost.
    """
    out = Path(out)
    _claim(settings, out)
    ready = prepare(settings, out)
    _, make, options = study.SOLVERS[settings.solver]
    start, best, hand = study.by_hand(ready, make, options, settings.calls)
    if settings.start:
        start = js.schedules.registry[settings.start](ready.process, len(start) - 1)
    before = make(ready.process, start, **options)
    begun = time.perf_counter()
    after, times = jax.block_until_ready(learn(settings, ready, start, out, trace))
    seconds = time.perf_counter() - begun
    errors = {"before": study.errors(ready, before), "after": study.errors(ready, after)}
    summary = {
        "calls": js.network_calls(after),
        "best_by_hand": best,
        "ratio": errors["after"]["mean"] / hand["mean"],
        "by_hand": {name: hand[name] for name in errors["after"]},
        **errors,
        "seconds": round(seconds, 2),
        "times": np.asarray(times).tolist(),
        "network_times": np.asarray(after.rows.time).tolist(),
    }
    if js.distributed.is_main():
        finish(settings, ready, before, after, times, best, summary, out)
    js.distributed.wait("written")
    return summary


def finish(
    settings: Settings,
    ready: study.Ready,
    before: Tableau,
    after: Tableau,
    times: Times,
    best: str,
    summary: dict[str, Any],
    out: Path,
) -> None:
    """The recipe, the pictures and the summary."""
    provenance = {"learned": config.to_json(settings), "errors": summary["after"]}
    js.recipes.save(out / "recipe.json", after, process=ready.process, times=times, provenance=provenance)
    draw(settings, ready, before, after, times, best, out)
    write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")


def draw(
    settings: Settings, ready: study.Ready, before: Tableau, after: Tableau, times: Times, best: str, out: Path
) -> None:
    """The schedule among the hand-made ones, how learning went, and samples from the same noises."""
    others = {}
    for name, schedule in js.schedules.registry.items():
        with contextlib.suppress(ValueError):
            others[name] = schedule(ready.process, len(times) - 1)
    title = f"{settings.solver} with {js.network_calls(after)} network calls on {settings.problem}"
    asked = after.rows.time if settings.learn.network_times else None
    plotting_schedules.among(ready.process, times, others, out / "schedule.png", best=best, asked=asked, title=title)
    rows = history.read(out / "history.jsonl")
    if rows:
        steps = [row["step"] for row in rows]
        lines = {name: [row[name] for row in rows] for name in ("loss", "validation")}
        plotting.curves(steps, lines, out / "curves.png", logarithmic=list(lines))
    ends = [ready.test.goal, *(_sample(sampler, ready.model, ready.test.x) for sampler in (before, after))]
    if ready.test.x.ndim == 4:
        worst = jnp.argsort(-jnp.sum((ends[1] - ends[0]) ** 2, axis=(1, 2, 3)))[:SHOWN]
        title = "teacher, before, after: the noises that the hand-made schedule does worst on"
        plotting.sheet(jnp.concatenate([samples[worst] for samples in ends]), out / "before_after.png", SHOWN, title)
    else:
        clouds = dict(zip(("teacher", "before", "after"), (samples[:POINTS] for samples in ends), strict=True))
        plotting.points(clouds, out / "before_after.png", title=title)


def _claim(settings: Settings, out: Path) -> None:
    """Make the directory, or make sure that the run in it has the same settings."""
    written = out / "config.json"
    changed = config.differences(settings, written) if written.exists() else []
    if changed:
        raise ValueError(
            f"{out} holds a run with other settings; give another --out, or the same settings to go on. "
            f"Changed: {'; '.join(changed)}"
        )
    out.mkdir(parents=True, exist_ok=True)
    if js.distributed.is_main():
        config.write(settings, written)


def _over_devices(batch: int) -> jax.sharding.NamedSharding | None:
    """How a batch lies on all devices, if there are several."""
    count = jax.device_count()
    if batch % count:
        raise ValueError(f"learn.batch must be a multiple of the number of devices, {count}, got {batch}")
    return js.distributed.over_data(js.distributed.mesh()) if count > 1 else None


@functools.partial(jax.jit, static_argnames=("distance", "solver", "options"))
def _error(
    distance: Any, solver: Any, options: Any, process: Process, times: Times, model: Model, pairs: js.learn.Pairs
) -> Float[Array, ""]:
    return distance(js.sample(solver(process, times, **dict(options)), model, pairs.x), pairs.goal).mean()


def _validate(objective: Any, pairs: js.learn.Pairs, parameters: Any) -> Float[Array, ""]:
    return objective(parameters, pairs, None)


_sample = jax.jit(js.sample)


def _trace(parser: argparse.ArgumentParser, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, steps = text.partition(":")
    if not first.isdigit() or not steps.isdigit() or not int(steps):
        parser.error(f"--trace must be FIRST:STEPS, such as 100:50, got {text!r}")
    return int(first), int(steps)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.learn_schedule", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a settings file, such as configs/learn/ld3_closed_form.py")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="learn.steps=500")
    parser.add_argument("--out", help="the run's directory; runs/<name of the settings file> by default")
    parser.add_argument("--trace", metavar="FIRST:STEPS", help="trace so many steps after the first ones, for xprof")
    given = parser.parse_args(arguments)
    trace = _trace(parser, given.trace)
    try:
        js.distributed.start()
        jax.devices()  # a platform that is not there
    except (ValueError, RuntimeError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out = Path(given.out or Path("runs") / Path(given.config).stem)
    try:
        summary = run(config.override(config.load(given.config), given.set), out, trace)
    except js.learn.Preempted as error:
        print(error, file=sys.stderr)
        return 128 + signal.SIGTERM
    except (ValueError, OSError, FloatingPointError, checkpoints.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = checkpoints.steps(out / "checkpoints")
        print(f"interrupted; the same command goes on from step {kept[-1] if kept else 0}", file=sys.stderr)
        return 130
    if not js.distributed.is_main():
        return 0
    before, hand, after = (summary[name]["mean"] for name in ("before", "by_hand", "after"))
    print(
        f"mean distance to the teacher with {summary['calls']} network calls: {before:.4g} at the start, {hand:.4g} "
        f"with the best hand-made schedule ({summary['best_by_hand']}), {after:.4g} learned in {summary['seconds']} s: "
        f"{summary['ratio']:.2f} of the best"
    )
    print(f"recipe: {out / 'recipe.json'}; pictures: {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
