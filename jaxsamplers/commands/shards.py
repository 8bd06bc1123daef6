"""``sample --out FOLDER``: as many samples as one likes, in files, by any number of devices and processes."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxsamplers import distributed, shards
from jaxsamplers.commands.files import need
from jaxsamplers.core import Sampler, network_calls, sample

Draw = Callable[[Any], Any]
SIZE, ZARR = 500, ".zarr"


def is_folder(out: Path) -> bool:
    """Whether a name has no ending, or Zarr's, and so is not that of a picture or a text."""
    return bool(out.name) and out.suffix in ("", ZARR)


def write_shards(options: argparse.Namespace, sampler: Sampler, draw: Draw, schedule: str, times: Any) -> None:
    """Draw, write, and say what it cost.

    Args:
        options: the command line's.
        sampler: for its network calls.
        draw: keys to samples.
        schedule: its name.
        times: its times.
    """
    if options.trajectory:
        raise ValueError("--trajectory is a picture, which a folder of samples has not: --out samples.png")
    zarr = options.out.suffix == ZARR
    need("rich", *(["tensorstore"] if zarr else []))

    import jax

    about = {name: getattr(options, name) for name in ("data", "solver", "option", "process", "length", "order")}
    about |= {"schedule": schedule, "times": [float(f"{time:.5g}") for time in times], "calls": network_calls(sampler)}
    about |= {"seed": options.seed}
    key = jax.random.key(options.seed)
    size = SIZE if options.shard is None else options.shard
    began = time.perf_counter()
    try:
        form = "zarr" if zarr else "npz"
        shards.write(draw, options.count, options.out, key=key, size=size, format=form, about=about)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the same command goes on with what {options.out} has not yet") from None
    if distributed.is_main():
        print(f"solver                   {options.solver} {' '.join(options.option)}".rstrip())
        print(f"schedule                 {schedule}, {len(times) - 1} steps from t = {times[0]:.4g} to {times[-1]:.4g}")
        print(f"process                  {options.process}")
        print(f"network calls            {network_calls(sampler)} a sample")
        print(f"seconds                  {time.perf_counter() - began:.1f}, with compilation and what was missing")
        print(f"wrote                    {options.out}: {options.count} samples, jaxsamplers.shards.read(folder)")


def drawn(sampler: Sampler, model: Any, process: Any, shape: tuple[int, ...], **prior: Any) -> Draw:
    """Keys to samples, a pytree."""
    import jax

    return jax.tree_util.Partial(functools.partial(_drawn, shape), sampler, model, process, **prior)


def _drawn(shape: tuple[int, ...], sampler: Sampler, model: Any, process: Any, keys: Any, **prior: Any) -> Any:
    return sample(sampler, model, process.prior(keys, (len(keys), *shape), **prior), keys)
