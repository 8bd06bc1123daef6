"""More samples than fit in memory, or in one sitting: written in files of so many, by any number of processes.

    js.distributed.start()
    draw = lambda keys: js.sample(sampler, model, process.prior(keys, (len(keys), 32, 32, 3)), keys)
    js.shards.write(draw, 50_000, "samples", key=jax.random.key(0), size=500)
    images = js.shards.read("samples")

Sample ``i`` is drawn with a key of its own, ``js.sample_keys(key, i)``, so it is the same, but for rounding, whatever
the number of files, devices and processes. A process draws whole files, on its own devices, and needs no other: a job
that has lost some, or all, goes on with those that are left. A file is complete or not there.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import warnings
import zipfile
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

if TYPE_CHECKING:
    from jaxtyping import Array, Key

Samples = Any  # an array, or a dictionary of arrays, whose leading axis is the sample
SETTINGS, SPAN, ONLY = "shards.json", "_span", "samples"


def write(
    draw: Callable[..., Samples],
    count: int,
    out: str | Path,
    *,
    key: Key[Array, ""],
    size: int = 500,
    about: Mapping[str, Any] | None = None,
    report: Callable[..., None] | None = None,
) -> None:
    """Draw ``count`` samples and write ``out/shard-00000.npz`` and so on; what is there already is not drawn again.

    One program is compiled for all files; while one is written, the next is drawn. With several processes, all must
    call it, with ``out`` on storage that they share. A later call may ask for more samples.

    Args:
        draw: ``keys [n] -> samples``, an array or a dictionary of arrays with leading axis ``n``. A network's weights
            are better leaves of ``draw``, a pytree such as ``jax.tree_util.Partial``, than constants of its program.
        count: samples in all.
        out: a directory, made if need be.
        key: of everything random.
        size: samples a file, and at a time.
        about: what else the samples depend on, plain values for ``shards.json``.
        report: called after each file with ``(done, total)``, the samples of this process; a bar on a terminal, or a
            plain line now and then, by default. ``lambda *_, **__: None`` for silence.

    Raises:
        ValueError: ``out`` has samples of other settings, or more of them.
        OSError: a file could not be written; those that were are kept.
        distributed.Preempted: SIGTERM came; what has been drawn is written, and the same call goes on.
    """
    checks.integer("count", count, low=1)
    checks.integer("size", size, low=1)
    out, key, task = Path(out), as_key(key), as_pytree(draw)
    here, sharding = _here(size)
    asked = _drawn.eval_shape(task, key, 0, here, sharding)
    spans = _spans(count, size)
    _begin(out, count, size, {"key": _words(key), "samples": _shapes(asked), **(about or {})})
    todo = _share(_missing(out, spans), len(spans))
    from jaxsamplers.records.preemption import preemption

    drawn = {number: stop - first for number, (first, stop) in enumerate(spans)}
    total, done = sum(drawn[number] for number in todo), 0
    with _reporting(report, total) as advance, preemption() as told:
        start = lambda number: _drawn(task, key, spans[number][0], here, sharding)
        ahead = start(todo[0]) if todo else None
        for place, number in enumerate(todo):
            made, ahead = ahead, start(todo[place + 1]) if place + 1 < len(todo) else None
            _write(_file(out, number), made, spans[number])
            done += drawn[number]
            advance(done)
            if told(place + 1) and place + 1 < len(todo):
                raise distributed.Preempted(
                    f"told to leave (SIGTERM): {done} of {total} samples of this process are in {out}, and the same "
                    "call goes on",
                    done,
                )
    distributed.wait("shards")


def read(out: str | Path) -> Samples:
    """All samples in order, in memory.

    Raises:
        ValueError: there are none, or some are missing or damaged, in a sentence that says which.
    """
    parts = list(each(out))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def each(out: str | Path) -> Iterator[Samples]:
    """The samples of one file after another; raises what ``read`` does, before the first."""
    out = Path(out)
    known = _known(out)
    if known is None:
        raise ValueError(f"there are no samples in {out}")
    spans = _spans(known["count"], known["size"])
    gaps = [span for number, span in enumerate(spans) if not _complete(_file(out, number), span)]
    if gaps:
        first = ", ".join(f"{start} to {stop - 1}" for start, stop in gaps[:3])
        more = f" and {len(gaps) - 3} files more" if len(gaps) > 3 else ""
        raise ValueError(
            f"samples {first}{more} are missing in {out}: the call that began it goes on when it is repeated"
        )
    return (_load(_file(out, number)) for number in range(len(spans)))


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


def _spans(count: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def _file(out: Path, number: int) -> Path:
    return out / f"shard-{number:05d}.npz"


def _complete(path: Path, span: tuple[int, int], *, whole: bool = False) -> bool:
    """Whether a file is there and has these samples; ``whole`` also reads it all, against its check sums."""
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            return tuple(file[SPAN]) == span and not (whole and file.zip.testzip())
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, KeyError, ValueError):
        return False


def _missing(out: Path, spans: list[tuple[int, int]]) -> list[int]:
    """Files that are to be drawn, with a warning of those that are there and cannot be used."""
    numbers = [number for number, span in enumerate(spans) if not _complete(_file(out, number), span, whole=True)]
    there = [_file(out, number).name for number in numbers if _file(out, number).exists()]
    if there and distributed.is_main():
        text = f"{', '.join(there)} in {out}: cut off, damaged or of fewer samples, and drawn again"
        warnings.warn(text, stacklevel=3)
    return numbers


def _share(numbers: list[int], count: int) -> list[int]:
    """This process's part of the missing files: what process 0 misses, since others may see its files later."""
    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    missing = np.isin(np.arange(count), numbers)
    missing = np.asarray(multihost_utils.broadcast_one_to_all(missing))
    return [int(number) for number in np.flatnonzero(missing)[jax.process_index() :: jax.process_count()]]


def _write(path: Path, samples: Samples, span: tuple[int, int]) -> None:
    from jaxsamplers.records.files import replacing

    named = samples if isinstance(samples, dict) else {ONLY: samples}
    arrays: dict[str, Any] = {name: np.asarray(leaf)[: span[1] - span[0]] for name, leaf in named.items()}
    with replacing(path) as file:
        np.savez(file, **arrays | {SPAN: np.asarray(span)})


def _load(path: Path) -> Samples:
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            found = {name: file[name] for name in file.files if name != SPAN}
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): the call that began it draws it again when repeated") from error
    return found[ONLY] if set(found) == {ONLY} else found


def _known(out: Path) -> dict[str, Any] | None:
    try:
        known: dict[str, Any] = json.loads((out / SETTINGS).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{out / SETTINGS} cannot be read ({error}): remove {out}, or write elsewhere") from error
    return known


def _begin(out: Path, count: int, size: int, about: Mapping[str, Any]) -> None:
    """The directory and what its samples are, or a sentence that says what they are instead."""
    settings = json.loads(json.dumps({"count": count, "size": size, **about}))
    known = _known(out)
    if known is not None:
        names = [name for name in {**known, **settings} if name != "count" and known.get(name) != settings.get(name)]
        if names:
            other = "; ".join(f"{name} {_short(known.get(name))}, not {_short(settings.get(name))}" for name in names)
            raise ValueError(f"{out} has samples of other settings ({other}): write elsewhere, or remove it")
        if known["count"] > count:
            raise ValueError(f"{out} has {known['count']} samples already, more than count={count}")
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
