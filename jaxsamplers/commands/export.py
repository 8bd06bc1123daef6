"""``export``: a sampler and its network as one file that needs neither."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxsamplers import checks, exports, processes, solvers
from jaxsamplers.commands.files import complete, need
from jaxsamplers.commands.options import build, problem_of, solver_options, times_of


def add(commands: Any) -> None:
    """The arguments of ``export``."""
    parser = commands.add_parser("export", allow_abbrev=False, help="write a sampler and its network as StableHLO")
    parser.set_defaults(command=export)
    parser.add_argument("--problem", default="digits", help="a name of `list`, or package.module:function (digits)")
    parser.add_argument("--solver", default="dpm_solver_pp", help="a name of `list` (default: %(default)s)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the solver: order=3")
    parser.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--schedule", help="default: half_log_snr, uniform for flows")
    parser.add_argument("--process", default="vp_linear", help="default: %(default)s")
    parser.add_argument("--t-start", type=float, help="default: the process's range")
    parser.add_argument("--t-end", type=float, help="default: the process's range")
    parser.add_argument("--platform", nargs="+", default=list(exports.PLATFORMS), help="default: cpu cuda tpu")
    parser.add_argument("--out", type=Path, default=Path("sampler.jaxexport"), help="default: %(default)s")


def export(options: argparse.Namespace) -> None:
    """Write a function from one key per sample to the samples, for every batch."""
    process = checks.look_up("process", options.process, processes.registry)()
    name, times = times_of(options, process, options.steps)
    solver = checks.look_up("solver", options.solver, solvers.registry)
    sampler = build(solver, process, times, solver_options(solver, options.option))
    if not options.out.parent.is_dir():
        raise ValueError(f"cannot write {options.out}: there is no folder {options.out.parent}")
    need("flatbuffers", *(["sklearn"] if options.problem == "digits" else []))
    problem = problem_of(options.problem)

    import jax

    from jaxsamplers.core import network_calls, sample

    model = problem.denoiser(process)

    def draw(keys: Any) -> Any:
        start, noise = (jax.vmap(lambda key, role=role: jax.random.fold_in(key, role))(keys) for role in (0, 1))
        x = jax.vmap(lambda key: process.prior(key, problem.shape, t=times[0]))(start)
        return sample(sampler, model, x, noise)

    keys = jax.random.split(jax.random.key(0), 2)
    made = exports.export(draw, keys, shapes=["batch"], platforms=options.platform)
    with complete(options.out) as drafts:
        exports.save(drafts[0], made)
        size = drafts[0].stat().st_size
    print(f"solver                   {options.solver} {' '.join(options.option)}".rstrip())
    print(f"schedule                 {name}, {len(times) - 1} steps from t = {times[0]:.4g} to {times[-1]:.4g}")
    print(f"process                  {options.process}")
    print(f"network calls            {network_calls(sampler)}")
    print(f"platforms                {', '.join(made.platforms)}")
    print(f"takes and gives          {_shape(made.in_avals[0])} -> {_shape(made.out_avals[0])}")
    print(f"wrote                    {options.out}, {size / 1e6:.2g} MB")
    print("elsewhere                import jax, jax.export")
    print(f'                         draw = jax.export.deserialize(bytearray(open("{options.out}", "rb").read())).call')
    print("                         samples = draw(jax.random.split(jax.random.key(0), 16))")


def _shape(array: Any) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"
