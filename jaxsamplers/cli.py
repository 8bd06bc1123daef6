"""The command line: ``python -m jaxsamplers sample | compare | list``.

Every command is a short program over the public functions; what it imports beyond jax, it imports when it runs.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxsamplers import checks, processes, schedules, solvers
from jaxsamplers.core import network_calls, run

if TYPE_CHECKING:
    from jaxsamplers.tableau import Tableau

EXTRA = "pip install 'jaxsamplers[experiments]'"
INFINITE_ENDS = {"rectified_flow"}  # half-log-SNR schedules need t_start and t_end there


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 after one sentence on standard error."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except ModuleNotFoundError as error:
        print(f"error: this command needs {error.name}: {EXTRA}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jaxsamplers", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="{sample,compare,list}")

    draw = commands.add_parser("sample", help="draw a sheet of handwritten digits with an exact denoiser")
    draw.set_defaults(command=_sample)
    draw.add_argument("--solver", default="dpm_solver_pp", help="a name of `list` (default: %(default)s)")
    draw.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the solver: order=3")
    draw.add_argument("--schedule", help="default: half_log_snr, uniform for rectified_flow")
    draw.add_argument("--process", default="vp_linear", help="default: %(default)s")
    draw.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    draw.add_argument("--t-start", type=float, help="default: the process's range")
    draw.add_argument("--t-end", type=float, help="default: the process's range")
    draw.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    draw.add_argument("--count", type=int, default=64, help="how many digits (default: %(default)s)")
    draw.add_argument("--out", type=Path, default=Path("samples.png"), help="default: %(default)s")
    draw.add_argument("--trajectory", type=Path, metavar="PNG", help="also a picture of one sample's path from noise")

    compare = commands.add_parser("compare", help="error to the exact solution against network calls")
    compare.set_defaults(command=_compare)
    compare.add_argument("--problem", default="mixture", help="digits, mixture or mixture-8 (default: %(default)s)")
    compare.add_argument("--solver", action="append", metavar="NAME", help="only these (default: all deterministic)")
    compare.add_argument("--schedule", help="default: half_log_snr, uniform for rectified_flow")
    compare.add_argument("--process", default="vp_linear", help="default: %(default)s")
    compare.add_argument("--calls", type=int, nargs="+", default=[5, 8, 10, 15, 20, 40], help="default: %(default)s")
    compare.add_argument("--t-start", type=float, help="default: the process's range")
    compare.add_argument("--t-end", type=float, help="default: the process's range")
    compare.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    compare.add_argument("--count", type=int, default=64, help="starts to average over (default: %(default)s)")
    compare.add_argument("--out", type=Path, default=Path("compare.png"), help="and a .json beside it")

    names = commands.add_parser("list", help="every solver, schedule and process")
    names.set_defaults(command=_list)
    return parser


def _sample(options: argparse.Namespace) -> None:
    import jax
    import jax.numpy as jnp

    from jaxsamplers import datasets, metrics, plotting, problems

    checks.integer("--count", options.count, low=1)
    process = checks.look_up("process", options.process, processes.registry)()
    name, times = _times(options, process, options.steps)
    solver = checks.look_up("solver", options.solver, solvers.registry)
    sampler = solver(process, times, **_solver_options(solver, options.option))
    for path in (options.out, options.trajectory):
        _check_folder(path)
    data, problem = datasets.digits(), problems.digits()
    model = problem.denoiser(process)

    start, noise = jax.random.split(jax.random.key(options.seed))
    x = process.prior(start, (options.count, *problem.shape), t=times[0])
    path = [0] if options.trajectory else []
    draw = jax.jit(lambda sampler, x: run(sampler, model, x, noise, record=lambda state: [state.x[i] for i in path]))
    began = time.perf_counter()
    compiled = draw.lower(sampler, x).compile()
    built = time.perf_counter()
    state, visited = jax.block_until_ready(compiled(sampler, x))
    ended = time.perf_counter()

    calls = network_calls(sampler)
    samples = state.x
    train, unseen = jnp.asarray(data.train), jnp.asarray(data.held_out)
    held_out = metrics.energy_distance(samples, unseen)
    floor = metrics.energy_distance(train[: options.count], unseen)
    nearest = metrics.nearest_distance(samples, train).mean()
    usual = metrics.nearest_distance(unseen, train).mean()
    plotting.sheet(samples, options.out, title=f"{options.solver}, {name}, {calls} network calls")
    print(f"solver                   {options.solver} {' '.join(options.option)}".rstrip())
    print(f"schedule                 {name}, {len(times) - 1} steps from t = {times[0]:.4g} to {times[-1]:.4g}")
    print(f"process                  {options.process}")
    print(f"network calls            {calls}")
    print(f"seconds                  {ended - built:.3f} to sample, {built - began:.2f} to compile")
    print(f"distance to held-out     {held_out:.3f} (energy distance; as many training digits: {floor:.3f})")
    print(f"nearest training image   {nearest:.2f} (mean Euclidean distance; held-out digits: {usual:.2f})")
    print(f"wrote                    {options.out}")
    if options.trajectory:
        import numpy as np

        frames = np.concatenate([np.asarray(x[:1]), np.asarray(visited[0])])
        shown = np.append(np.asarray(sampler.rows.time), times[-1])
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 12)).round().astype(int))
        levels = process.alpha(shown[chosen]) ** 2 + process.sigma(shown[chosen]) ** 2
        scale = np.sqrt(np.asarray(levels))[:, None, None, None]  # unit size at every time, or EDM's noise hides all
        plotting.trajectory(frames[chosen] / scale, shown[chosen], options.trajectory, title="one path from noise")
        print(f"wrote                    {options.trajectory}")


def _compare(options: argparse.Namespace) -> None:
    import jax
    import numpy as np

    from jaxsamplers import adaptive, plotting, problems

    checks.integer("--count", options.count, low=1)
    chosen = {name: checks.look_up("solver", name, solvers.registry) for name in options.solver or solvers.registry}
    make = checks.look_up("process", options.process, processes.registry)
    problem = checks.look_up("problem", options.problem, problems.registry)()
    _check_folder(options.out)
    with jax.enable_x64(True):
        process = make()
        model = problem.denoiser(process)
        schedule, times = _times(options, process, max(options.calls))
        like = jax.ShapeDtypeStruct((options.count, *problem.shape), np.float64)
        x = process.prior(jax.random.key(options.seed), like, t=times[0])
        print(f"{options.problem}, {options.process}, {schedule}: exact solution of {options.count} starts", flush=True)
        ends = {"t_start": times[0], "t_end": times[-1]}
        exact = jax.jit(lambda x: adaptive.solve(process, model, x, rtol=1e-9, atol=1e-9, **ends))(x)
        draw = jax.jit(lambda sampler, x: run(sampler, model, x, None).x)
        print(f"\n{'median error after N calls':28s}" + "".join(f"{calls:>10d}" for calls in options.calls), flush=True)
        results: dict[str, list[dict[str, Any]]] = {}
        for name, solver in chosen.items():
            points, cells = [], []
            for budget in options.calls:
                found = _within_budget(solver, process, options, budget)
                if isinstance(found, str):
                    cells.append(found)
                    continue
                distance = np.linalg.norm(np.asarray(draw(found, x) - exact).reshape(options.count, -1), axis=1)
                point = {"calls": network_calls(found), "mean": distance.mean(), "median": np.median(distance)}
                points.append({key: float(value) for key, value in point.items()})
                cells.append(f"{point['median']:.2e}")
            if cells and set(cells) == {"random"}:
                continue  # a stochastic solver has no error to the flow
            results[name] = points
            print(f"{name:28s}" + "".join(f"{cell:>10s}" for cell in cells), flush=True)
    title = f"{options.problem}, {options.process}, {schedule} schedule"
    plotting.errors({n: [(p["calls"], p["median"]) for p in r] for n, r in results.items() if r}, options.out, title)
    beside = options.out.with_suffix(".json")
    beside.write_text(json.dumps({"problem": title, "starts": options.count, "solvers": results}, indent=1) + "\n")
    print(f"\nwrote {options.out} and {beside}")


def _within_budget(solver: Callable[..., Tableau], process: Any, options: Any, budget: int) -> Tableau | str:
    """The sampler with the most steps that makes at most ``budget`` network calls, or a word on why there is none."""
    import jax

    make = lambda steps: solver(process, _times(options, process, steps)[1])
    for steps in range(budget, 0, -1):
        if network_calls(jax.eval_shape(lambda steps=steps: make(steps))) <= budget:  # counted without computing
            break
    else:
        return "-"
    try:
        sampler = make(steps)
    except ValueError:
        return "refused"
    return "random" if sampler.stochastic else sampler


def _list(_: argparse.Namespace) -> None:
    for kind, registry in (("solvers", solvers), ("schedules", schedules), ("processes", processes)):
        print(f"{kind}:")
        for name, function in registry.registry.items():
            print(f"  {name:24s} {(inspect.getdoc(function) or '').splitlines()[0]}")
        print()


def _times(options: argparse.Namespace, process: Any, steps: int) -> tuple[str, Any]:
    name = options.schedule or ("uniform" if options.process in INFINITE_ENDS else "half_log_snr")
    schedule = checks.look_up("schedule", name, schedules.registry)
    return name, schedule(process, steps, t_start=options.t_start, t_end=options.t_end)


def _solver_options(solver: Callable[..., Any], given: Sequence[str]) -> dict[str, Any]:
    known = {n: p for n, p in inspect.signature(solver).parameters.items() if p.kind is p.KEYWORD_ONLY}
    return dict(_solver_option(known, item) for item in given)


def _solver_option(known: Mapping[str, Any], item: str) -> tuple[str, Any]:
    name, equals, value = item.partition("=")
    if not equals:
        raise ValueError(f"--option wants NAME=VALUE, got {item!r}")
    checks.one_of("option", name, known)
    words = {"true": True, "false": False}
    if value.lower() in words:
        return name, words[value.lower()]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _check_folder(path: Path | None) -> None:
    """Before the work, not after it."""
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
