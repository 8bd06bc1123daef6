"""More samples than fit in memory, or in one sitting: written in files of so many, by any number of processes.

    js.distributed.start()
    draw = lambda keys: js.sample(sampler, model, process.prior(keys, (len(keys), 32, 32, 3)), keys)
    js.shards.write(draw, 50_000, "samples", key=jax.random.key(0), size=500)
    images = js.shards.read("samples")

Sample ``i`` is drawn with a key of its own, ``js.sample_keys(key, i)``, so it is the same, but for rounding, whatever
the number of files, devices and processes. A process draws whole files, on its own devices, and needs no other: a job
that has lost some, or all, goes on with those that are left. A file is complete or not there.

What differs between formats is a module each, ``npz`` and ``zarr``: ``check`` what is asked, tell the files a shard is
``lacking``, ``write`` and ``load`` one, ``finish`` when all are there.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsamplers import checks, distributed
from jaxsamplers.core import as_key, sample_keys
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.shards import npz, zarr
from jaxsamplers.shards.plan import ONLY, Plan, planned

if TYPE_CHECKING:
    from jaxtyping import Array, Key

Samples = Any  # an array, or a dictionary of arrays, whose leading axis is the sample
SETTINGS, FORMATS = "shards.json", {"npz": npz, "zarr": zarr}


def write(
    draw: Callable[..., Samples],
    count: int,
    out: str | Path,
    *,
    key: Key[Array, ""],
    size: int = 500,
    format: str = "npz",
    about: Mapping[str, Any] | None = None,
    report: Callable[..., None] | None = None,
) -> None:
    """Draw ``count`` samples and write them in files of so many; what is there already is not drawn again.

    One program is compiled for all files; while one is written, the next is drawn. With several processes, all must
    call it, with ``out`` on storage that they share. A later call may ask for more samples.

    Args:
        draw: ``keys [n] -> samples``, an array or a dictionary of arrays with leading axis ``n``. A network's weights
            are better leaves of ``draw``, a pytree such as ``jax.tree_util.Partial``, than constants of its program.
        count: samples in all.
        out: a directory, made if need be.
        key: of everything random.
        size: samples a file, and at a time.
        format: ``"npz"``, files ``out/shard-00000.npz`` and so on, or ``"zarr"``, for which ``out`` becomes a group of
            Zarr version 3, with an array a name, ``samples`` if it has none, in chunks of ``size``; needs tensorstore.
        about: what else the samples depend on, plain values for ``shards.json``.
        report: called after each file with ``(done, total)``, the samples of this process; a bar on a terminal, or a
            plain line now and then, by default. ``lambda *_, **__: None`` for silence.

    Raises:
        ValueError: ``out`` has samples of other settings, or more of them; the format cannot hold these.
        ModuleNotFoundError: tensorstore is not installed.
        OSError: a file could not be written; those that were are kept.
        distributed.Preempted: SIGTERM came; what has been drawn is written, and the same call goes on.
    """
    checks.integer("count", count, low=1)
    checks.integer("size", size, low=1)
    checks.one_of("format", format, FORMATS)
    out, key, task, files = Path(out), as_key(key), as_pytree(draw), FORMATS[format]
    here, sharding = _here(size)
    asked = _drawn.eval_shape(task, key, 0, here, sharding)
    settings = _settings({"count": count, "size": size, "format": format, "key": _words(key)}, asked, about)
    plan = planned(out, settings)
    files.check(plan)
    _begin(out, settings)
    todo = _share(_missing(plan, files), len(plan.shards))
    from jaxsamplers.records.preemption import preemption

    drawn = {number: len(range(*plan.span(number))) for number in todo}
    total, done = sum(drawn.values()), 0
    with _reporting(report, total) as advance, preemption() as told:
        start = lambda number: _drawn(task, key, plan.span(number)[0], here, sharding)
        ahead = start(todo[0]) if todo else None
        for place, number in enumerate(todo):
            made, ahead = ahead, start(todo[place + 1]) if place + 1 < len(todo) else None
            named = made if isinstance(made, dict) else {ONLY: made}
            files.write(plan, number, {name: np.asarray(leaf) for name, leaf in named.items()})
            done += drawn[number]
            advance(done)
            if told(place + 1) and place + 1 < len(todo):
                raise distributed.Preempted(
                    f"told to leave (SIGTERM): {done} of {total} samples of this process are in {out}, and the same "
                    "call goes on",
                    done,
                )
    distributed.wait("shards")
    if distributed.is_main():
        files.finish(plan)
    distributed.wait("finish")


def read(out: str | Path) -> Samples:
    """All samples in order, in memory.

    Raises:
        ValueError: there are none, or some are missing or damaged, in a sentence that says which.
        ModuleNotFoundError: they are Zarr's, and tensorstore is not installed.
    """
    parts = list(each(out))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def each(out: str | Path) -> Iterator[Samples]:
    """The samples of one file after another; raises what ``read`` does, before the first."""
    out = Path(out)
    known = _known(out)
    if known is None:
        raise ValueError(f"there are no samples in {out}")
    files, plan = FORMATS[known["format"]], planned(out, known)
    files.check(plan)
    gaps = [plan.span(number) for number in plan.shards if files.lacking(plan, number)]
    if gaps:
        first = ", ".join(f"{start} to {stop - 1}" for start, stop in gaps[:3])
        more = f" and {len(gaps) - 3} files more" if len(gaps) > 3 else ""
        raise ValueError(
            f"samples {first}{more} are missing in {out}: the call that began it goes on when it is repeated"
        )
    loaded = (files.load(plan, number) for number in plan.shards)
    return (found[ONLY] if set(found) == {ONLY} else found for found in loaded)


def _here(size: int) -> tuple[int, NamedSharding | None]:
    """Samples at a time, as many as there are in a file or a few more, over this process's devices."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return size, None
    mesh = Mesh(np.asarray(devices), ("data",))
    return math.ceil(size / len(devices)) * len(devices), NamedSharding(mesh, PartitionSpec("data"))


@functools.partial(jax.jit, static_argnames=("count", "sharding"))
def _drawn(
    draw: Callable[..., Samples], key: Key[Array, ""], first: Any, count: int, sharding: NamedSharding | None
) -> Samples:
    numbers = first + jnp.arange(count)
    if sharding is not None:
        numbers = jax.lax.with_sharding_constraint(numbers, sharding)
    return draw(sample_keys(key, numbers))


def _missing(plan: Plan, files: Any) -> list[int]:
    """Shards that are to be drawn, with a warning of files that are there and cannot be used."""
    lacking = {number: paths for number in plan.shards if (paths := files.lacking(plan, number, whole=True))}
    there = [str(path.relative_to(plan.out)) for paths in lacking.values() for path in paths if path.exists()]
    if there and distributed.is_main():
        text = f"{', '.join(there)} in {plan.out}: cut off, damaged or of fewer samples, and drawn again"
        warnings.warn(text, stacklevel=3)
    return list(lacking)


def _share(numbers: list[int], count: int) -> list[int]:
    """This process's part of the missing files: what process 0 misses, since others may see its files later."""
    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    missing = np.isin(np.arange(count), numbers)
    missing = np.asarray(multihost_utils.broadcast_one_to_all(missing))
    return [int(number) for number in np.flatnonzero(missing)[jax.process_index() :: jax.process_count()]]


def _known(out: Path) -> dict[str, Any] | None:
    try:
        known: dict[str, Any] = json.loads((out / SETTINGS).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{out / SETTINGS} cannot be read ({error}): remove {out}, or write elsewhere") from error
    return {"format": "npz", **known}


def _settings(asked: Mapping[str, Any], samples: Samples, about: Mapping[str, Any] | None) -> dict[str, Any]:
    """What ``shards.json`` is to say, as it will be read."""
    asked = {**asked, "samples": _shapes(samples)}
    taken = ", ".join(name for name in about or {} if name in asked)
    if taken:
        raise ValueError(f"about has {taken}, which {SETTINGS} says already: another name")
    return json.loads(json.dumps({**asked, **(about or {})}))


def _begin(out: Path, settings: Mapping[str, Any]) -> None:
    """The directory and what its samples are, or a sentence that says what they are instead."""
    known = _known(out)
    if known is not None:
        names = [name for name in {**known, **settings} if name != "count" and known.get(name) != settings.get(name)]
        if names:
            other = "; ".join(f"{name} {_short(known.get(name))}, not {_short(settings.get(name))}" for name in names)
            raise ValueError(f"{out} has samples of other settings ({other}): write elsewhere, or remove it")
        if known["count"] > settings["count"]:
            raise ValueError(f"{out} has {known['count']} samples already, more than count={settings['count']}")
    distributed.wait("settings")
    if distributed.is_main():
        from jaxsamplers.records.files import write_text

        out.mkdir(parents=True, exist_ok=True)
        write_text(out / SETTINGS, json.dumps(settings, indent=1) + "\n")
    distributed.wait("begin")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _words(key: Key[Array, ""]) -> list[int]:
    return [int(word) for word in jax.random.key_data(key)]


def _shapes(asked: Samples) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape[1:])}", asked)


def _reporting(report: Callable[..., None] | None, total: int) -> Any:
    if report is not None:
        return contextlib.nullcontext(lambda done: report(done, total))
    from jaxsamplers.records.progress import progress

    count = jax.process_count()
    return progress("samples" if count == 1 else f"samples of process {jax.process_index()} of {count}", total)
