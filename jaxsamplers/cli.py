"""The command line: ``python -m jaxsamplers sample | compare | schedules | list``.

Every command is a short program over the public functions; what it imports beyond jax, it imports when it runs. What
can be refused is refused before the work starts, and a file appears under its name only when all of it is written.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jaxsamplers import checks, processes, schedules, solvers
from jaxsamplers.core import network_calls, run

if TYPE_CHECKING:
    from jaxsamplers.core import Sampler

EXTRA = "pip install 'jaxsamplers[experiments]'"
PACKAGES = {"sklearn": "scikit-learn"}  # where the name to install is not the name to import
INFINITE_ENDS = {"rectified_flow", "trigonometric"}  # half-log-SNR schedules need t_start and t_end there
PICTURES = (".png", ".pdf", ".svg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 after one sentence on standard error (130 when interrupted)."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
        options.command(options)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(error.name or "", error.name)
        return _complain(f"this command needs {package}, which is not installed: {EXTRA}")
    except (ValueError, OSError, RuntimeError) as error:
        return _complain(" ".join(str(error).strip().split("\n\n")[0].split()))
    except KeyboardInterrupt:
        return _complain("interrupted, nothing was written", status=130)
    return 0


def _complain(sentence: str, status: int = 2) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """argparse, answering in one sentence instead of a page."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser, commands = _parsers()
    if arguments and not arguments[0].startswith("-"):
        checks.one_of("command", arguments[0], commands)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = re.findall(r"--[a-z-]+", commands[arguments[0]].format_usage())
        checks.one_of("argument", unknown[0].partition("=")[0], known)
    return options


def _parsers() -> tuple[_Parser, Mapping[str, _Parser]]:
    parser = _Parser(prog="python -m jaxsamplers", allow_abbrev=False, description="Sample, compare and list solvers.")
    commands = parser.add_subparsers(required=True, metavar="{sample,compare,schedules,list}")

    draw = commands.add_parser("sample", allow_abbrev=False, help="draw a sheet of digits with an exact denoiser")
    draw.set_defaults(command=_sample)
    draw.add_argument("--solver", default="dpm_solver_pp", help="a name of `list` (default: %(default)s)")
    draw.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the solver: order=3")
    draw.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    draw.add_argument("--count", type=int, default=64, help="how many digits (default: %(default)s)")
    draw.add_argument("--out", type=Path, default=Path("samples.png"), help="default: %(default)s")
    draw.add_argument(
        "--trajectory",
        type=Path,
        nargs="?",
        const=Path("trajectory.png"),
        metavar="PNG",
        help="also a picture of one sample's path from noise (default: %(const)s)",
    )

    compare = commands.add_parser("compare", allow_abbrev=False, help="error to the exact solution against calls")
    compare.set_defaults(command=_compare)
    compare.add_argument("--problem", action="append", help="a name of `list`, or package.module:function (mixture)")
    compare.add_argument("--schedule", action="append", help="one or more, or all; default as for sample")
    compare.add_argument("--solver", action="append", metavar="NAME", help="only these (default: all deterministic)")
    compare.add_argument("--calls", type=int, nargs="+", default=[5, 8, 10, 15, 20, 40], help="default: %(default)s")
    compare.add_argument("--count", type=int, default=64, help="starts to average over (default: %(default)s)")
    compare.add_argument("--out", type=Path, default=Path("compare.png"), help="one a problem, and a .json beside it")

    picture = commands.add_parser("schedules", allow_abbrev=False, help="draw where the steps of every schedule are")
    picture.set_defaults(command=_picture)
    picture.add_argument("--schedule", action="append", help="one or more; default: all that the process can carry")
    picture.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    picture.add_argument("--out", type=Path, default=Path("schedules.png"), help="default: %(default)s")

    draw.add_argument("--schedule", help="default: half_log_snr, uniform for flows")
    for command in (draw, compare, picture):
        command.add_argument("--process", default="vp_linear", help="default: %(default)s")
        command.add_argument("--t-start", type=float, help="default: the process's range")
        command.add_argument("--t-end", type=float, help="default: the process's range")
    for command in (draw, compare):
        command.add_argument("--seed", type=int, default=0, help="default: %(default)s")

    names = commands.add_parser("list", allow_abbrev=False, help="every solver, schedule, process and problem")
    names.set_defaults(command=_list)
    return parser, commands.choices


def _sample(options: argparse.Namespace) -> None:
    checks.integer("--count", options.count, low=1)
    process = checks.look_up("process", options.process, processes.registry)()
    name, times = _times(options, process, options.steps)
    solver = checks.look_up("solver", options.solver, solvers.registry)
    sampler = _build(solver, process, times, _solver_options(solver, options.option))
    pictures = [path for path in (options.out, options.trajectory) if path]
    _check_pictures(*pictures)
    _need("matplotlib", "sklearn")

    import jax
    import jax.numpy as jnp

    from jaxsamplers import datasets, metrics, plotting, problems

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
    with _complete(*pictures) as drafts:
        plotting.sheet(samples, drafts[0], title=f"{options.solver}, {name}, {calls} network calls")
        if options.trajectory:
            _draw_trajectory(process, sampler, times, [x[0], *visited[0]], drafts[1])
    train, unseen = jnp.asarray(data.train), jnp.asarray(data.held_out)
    distance, nearest = jax.jit(metrics.energy_distance), jax.jit(metrics.nearest_distance)
    held_out, floor = distance(samples, unseen), distance(train[: options.count], unseen)
    copied, usual = nearest(samples, train).mean(), nearest(unseen, train).mean()
    print(f"solver                   {options.solver} {' '.join(options.option)}".rstrip())
    print(f"schedule                 {name}, {len(times) - 1} steps from t = {times[0]:.4g} to {times[-1]:.4g}")
    print(f"process                  {options.process}")
    print(f"network calls            {calls}")
    print(f"seconds                  {ended - built:.3f} to sample, {built - began:.2f} to compile")
    print(f"distance to held-out     {held_out:.3f} (energy distance; as many training digits: {floor:.3f})")
    print(f"nearest training image   {copied:.2f} (mean Euclidean distance; held-out digits: {usual:.2f})")
    for written in pictures:
        print(f"wrote                    {written}")


def _draw_trajectory(process: Any, sampler: Any, times: Any, visited: Sequence[Any], path: Path) -> None:
    """At most twelve of the samples that the network was shown, and the last one."""
    import numpy as np

    from jaxsamplers import plotting

    frames, shown = np.stack(visited), np.append(np.asarray(sampler.rows.time), times[-1])
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 12)).round().astype(int))
    levels = process.alpha(shown[chosen]) ** 2 + process.sigma(shown[chosen]) ** 2
    scale = np.sqrt(np.asarray(levels))[:, None, None, None]  # unit size at every time, or EDM's noise hides all
    plotting.trajectory(frames[chosen] / scale, shown[chosen], path, title="one path from noise")


def _compare(options: argparse.Namespace) -> None:
    checks.integer("--count", options.count, low=1)
    for calls in options.calls:
        checks.integer("--calls", calls, low=1)
    chosen = {name: checks.look_up("solver", name, solvers.registry) for name in options.solver or solvers.registry}
    make = checks.look_up("process", options.process, processes.registry)
    budgets = sorted(set(options.calls))
    named = options.problem or ["mixture"]
    _check_pictures(options.out)
    _need("matplotlib", "diffrax")

    import jax
    import jax.numpy as jnp

    from jaxsamplers import comparison, leaderboard

    problems = {name.rpartition(":")[2]: _problem(name)() for name in named}
    with jax.enable_x64(True):
        process = make()
        grids = _schedules(options, process, budgets[-1])
        first = next(iter(grids.values()))(budgets[-1])
        about = f"{options.process}, {' '.join(grids) if len(grids) < 4 else f'best of {len(grids)} schedules'}"
        tasks = {}
        for name, problem in problems.items():
            print(f"{name}, {about}: exact solution of {options.count} starts", flush=True)
            model = problem.denoiser(process)
            like = jax.ShapeDtypeStruct((options.count, *problem.shape), jnp.float64)
            x = process.prior(jax.random.key(options.seed), like, t=first[0])
            tasks[name] = comparison.Task(model, x, comparison.exact(process, model, x, first))
        leading, by = next(iter(tasks)), 10 if 10 in budgets else budgets[len(budgets) // 2]
        table = functools.partial(leaderboard.table, budgets=budgets, by=by, schedules=len(grids) > 1)
        results: list[comparison.Measured] = []
        for measured in comparison.measure(chosen, process, grids, tasks, budgets):
            results.append(measured)
            done = [r for r in results if r.solver == measured.solver]
            if len(done) == len(grids) and (entry := leaderboard.board(done, leading)):
                print("\n".join(table(entry).splitlines()[len(results) > len(done) :]), flush=True)
    boards = {name: leaderboard.board(results, name) for name in tasks}
    for name, board in boards.items():
        if board and len(chosen) > 1:
            print(f"\n{name}, {about}\n{table(board)}")
    notes = leaderboard.notes(results)
    if not any(boards.values()):
        raise ValueError(f"no solver has an error to show ({'; '.join(notes)})")
    if notes:
        print("", *notes, sep="\n")
    ends = [float(first[0]), float(first[-1])]
    numbers = leaderboard.record(
        results, tasks, process=options.process, times=ends, starts=options.count, seed=options.seed
    )
    pictures = {name: _beside(options.out, name if len(tasks) > 1 else "") for name, board in boards.items() if board}
    families = {name: solver.__module__ for name, solver in chosen.items()}
    with _complete(*pictures.values(), options.out.with_suffix(".json")) as drafts:
        for (name, board), draft in zip(((n, b) for n, b in boards.items() if b), drafts, strict=False):
            leaderboard.draw(board, draft, families=families, title=f"{name}, {about}")
        drafts[-1].write_text(json.dumps(numbers, indent=1) + "\n")
    print(f"\nwrote {', '.join(map(str, pictures.values()))} and {options.out.with_suffix('.json')}")
    if len(boards) > 1:
        print(f"\n{leaderboard.markdown(boards, by=by, rows=10)}")


def _picture(options: argparse.Namespace) -> None:
    process = checks.look_up("process", options.process, processes.registry)()
    chosen = {n: checks.look_up("schedule", n, schedules.registry) for n in options.schedule or schedules.registry}
    made, refused = {}, {}
    for name, schedule in chosen.items():
        try:
            made[name] = schedule(process, options.steps, t_start=options.t_start, t_end=options.t_end)
        except ValueError as error:
            refused[name] = str(error)
    if not made:
        raise ValueError(f"there is no schedule to draw: {next(iter(refused.values()))}")
    _check_pictures(options.out)
    _need("matplotlib")

    import numpy as np

    from jaxsamplers import plotting_schedules

    families = {name: schedule.__module__ for name, schedule in chosen.items()}
    title = f"{options.process}, {options.steps} steps"
    with _complete(options.out) as drafts:
        plotting_schedules.draw(process, made, drafts[0], families=families, title=title)
    if len(chosen) == 1:
        (times,) = made.values()
        print(f"{'time':>12s} {'sigma / alpha':>14s}")
        for time_, level in zip(times, np.exp(-process.half_log_snr(times)), strict=True):
            print(f"{time_:12.6g} {level:14.6g}")
    for name, reason in refused.items():
        print(f"{name}: {reason}")
    print(f"wrote {options.out}")


def _problem(name: str) -> Callable[[], Any]:
    """A named problem, or a function of one's own as ``package.module:function``."""
    module, colon, function = name.partition(":")
    if not colon:
        from jaxsamplers import problems

        return checks.look_up("problem", name, problems.registry)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no problem {name}: {error}") from error


def _schedules(options: argparse.Namespace, process: Any, steps: int) -> dict[str, Callable[[int], Any]]:
    """The schedules that were asked for; of "all", those that differ and that start and end as asked."""

    def grid(name: str) -> Callable[[int], Any]:
        make = checks.look_up("schedule", name, schedules.registry)
        return lambda steps: make(process, steps, t_start=options.t_start, t_end=options.t_end)

    if options.schedule != ["all"]:
        return {name: grid(name) for name in options.schedule or [_usual_schedule(options)]}
    import numpy as np

    whole, allowed = grid("uniform")(steps)[::steps], {}
    known: list[np.ndarray] = []
    for name in schedules.registry:
        with contextlib.suppress(ValueError):
            times = np.asarray(grid(name)(steps))
            if np.array_equal(times[::steps], whole) and not any(np.allclose(times, other, 1e-6, 0) for other in known):
                allowed[name] = grid(name)
                known.append(times)
    return allowed


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}-{name}{path.suffix}") if name else path


def _list(_: argparse.Namespace) -> None:
    from jaxsamplers import problems

    kinds = {"solvers": solvers, "schedules": schedules, "processes": processes, "problems": problems}
    for kind, module in kinds.items():
        print(f"{kind}:")
        for name, function in module.registry.items():
            print(f"  {name:24s} {(inspect.getdoc(function) or '').partition(chr(10))[0].replace('``', '')}")
        print()


def _times(options: argparse.Namespace, process: Any, steps: int) -> tuple[str, Any]:
    name = options.schedule or _usual_schedule(options)
    schedule = checks.look_up("schedule", name, schedules.registry)
    return name, schedule(process, steps, t_start=options.t_start, t_end=options.t_end)


def _usual_schedule(options: argparse.Namespace) -> str:
    return "uniform" if options.process in INFINITE_ENDS else "half_log_snr"


def _build(solver: Callable[..., Sampler], process: Any, times: Any, options: Mapping[str, Any]) -> Sampler:
    missing = [
        name
        for name, parameter in list(inspect.signature(solver).parameters.items())[2:]
        if parameter.default is parameter.empty and name not in options
    ]
    if missing:
        raise ValueError(f"this solver needs {' and '.join(f'--option {name}=...' for name in missing)}")
    try:
        return solver(process, times, **options)
    except TypeError as error:
        raise ValueError(f"this solver cannot use {dict(options)}: {error}") from error


def _solver_options(solver: Callable[..., Any], given: Sequence[str]) -> dict[str, Any]:
    known = {n: p.default for n, p in inspect.signature(solver).parameters.items() if p.kind is p.KEYWORD_ONLY}
    return dict(_solver_option(known, item) for item in given)


def _solver_option(known: Mapping[str, Any], item: str) -> tuple[str, Any]:
    """The name and the value of ``NAME=VALUE``, which must be of the default's kind."""
    name, equals, text = item.partition("=")
    if not equals:
        raise ValueError(f"--option wants NAME=VALUE, got {item!r}")
    checks.one_of("option", name, known)
    value, default = _value(text), known[name]
    kinds = {bool: "true or false", int: "an integer", float: "a number", str: "a word"}
    kind = type(default)
    if kind in kinds and type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"option {name} must be {kinds[kind]}, such as its default {default}, got {text!r}")
    return name, value


def _value(text: str) -> bool | int | float | str:
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _need(*packages: str) -> None:
    """Before the work, not after it."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(name=package)


def _check_pictures(*paths: Path) -> None:
    """Before the work, not after it."""
    for path in paths:
        if not path.parent.is_dir():
            raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
        if path.is_dir():
            raise ValueError(f"cannot write {path}: it is a folder")
        if path.suffix.lower() not in PICTURES:
            raise ValueError(f"cannot write {path}: a picture's name must end in {', '.join(PICTURES)}")
    if len(set(paths)) < len(paths):
        raise ValueError(f"two pictures cannot both be written to {paths[0]}")


@contextlib.contextmanager
def _complete(*paths: Path) -> Iterator[list[Path]]:
    """Names to write under; they become ``paths`` when all is written, and nothing is left when it is not."""
    drafts = [path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}") for path in paths]
    try:
        yield drafts
        for draft, path in zip(drafts, paths, strict=True):
            draft.replace(path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
