"""``sample``: a sheet of digits, what it cost and how good it is."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsamplers import checks, processes, solvers
from jaxsamplers.commands.files import check_pictures, complete, need
from jaxsamplers.commands.options import build, solver_options, times_of
from jaxsamplers.commands.shards import drawn, is_folder, write_shards
from jaxsamplers.core import network_calls, run


def sample(options: argparse.Namespace) -> None:
    """Draw a sheet of digits with the exact denoiser of the data."""
    checks.integer("--count", options.count, low=1)
    process = checks.look_up("process", options.process, processes.registry)()
    name, times = times_of(options, process, options.steps)
    solver = checks.look_up("solver", options.solver, solvers.registry)
    sampler = build(solver, process, times, solver_options(solver, options.option))
    if is_folder(options.out):
        return _write(options, process, sampler, name, times)
    pictures = [path for path in (options.out, options.trajectory) if path]
    check_pictures(*pictures)
    need("matplotlib", "sklearn")

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
    with complete(*pictures) as drafts:
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


def _write(options: argparse.Namespace, process: Any, sampler: Any, schedule: str, times: Any) -> None:
    """Digits in files, ``[n, 8, 8, 1]``."""
    need("sklearn")

    from jaxsamplers import problems

    problem = problems.digits()
    draw = drawn(sampler, problem.denoiser(process), process, problem.shape, t=times[0])
    write_shards(options, sampler, draw, schedule, times)


def _draw_trajectory(process: Any, sampler: Any, times: Any, visited: Sequence[Any], path: Path) -> None:
    """At most twelve of the samples that the network was shown, and the last one."""
    import numpy as np

    from jaxsamplers import plotting

    frames, shown = np.stack(visited), np.append(np.asarray(sampler.rows.time), times[-1])
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 12)).round().astype(int))
    levels = process.alpha(shown[chosen]) ** 2 + process.sigma(shown[chosen]) ** 2
    scale = np.sqrt(np.asarray(levels))[:, None, None, None]  # unit size at every time, or EDM's noise hides all
    plotting.trajectory(frames[chosen] / scale, shown[chosen], path, title="one path from noise")
