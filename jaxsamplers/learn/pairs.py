"""What a sampler is taught: noises, and where the teacher takes them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks, distributed
from jaxsamplers.core import Model, Sampler, sample, sample_keys
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.records.files import replacing

if TYPE_CHECKING:
    from jaxtyping import Array, Int, Key, PyTree

    Batches = Callable[[Array, Key[Array, ""]], Any]


class Pairs(NamedTuple):
    """Starts and goals.

    Attributes:
        x: noises, ``[count, ...]``.
        goal: what the teacher makes of each, ``[count, ...]``.
        which: their numbers, ``[count]``: what a method that remembers something of each sample finds it by.
    """

    x: PyTree
    goal: PyTree
    which: Int[Array, " count"]


def pairs(x: PyTree, goal: PyTree) -> Pairs:
    """Pairs from arrays.

    Raises:
        ValueError: not as many goals as noises.
    """
    counts = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves((x, goal))}
    if len(counts) != 1:
        raise ValueError(f"there must be as many goals as noises, got leading axes of {sorted(counts)}")
    return Pairs(x, goal, jnp.arange(counts.pop()))


def teach(
    teacher: Sampler,
    model: Model,
    x: PyTree,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int = 256,
    cache: str | Path | None = None,
    sharding: jax.sharding.NamedSharding | None = None,
) -> Pairs:
    """The teacher's samples from ``x``, computed ``chunk`` at a time.

    Args:
        teacher: a sampler of many steps.
        model: the denoiser.
        x: noises, ``[count, ...]``.
        key: one key, if the teacher draws noise; every sample has its own by its index.
        chunk: samples in one compiled call.
        cache: a ``.npz`` file to keep the pairs in. If it is there, it is read, and nothing is computed, provided that
            it was made from the same noises, teacher and key. Which model it was is not looked at.
        sharding: of the samples over a mesh, ``js.distributed.over_data(mesh)``, with ``chunk`` samples on each device.
            All processes of the mesh must call ``teach`` alike; each has all pairs in the end.

    Raises:
        ValueError: the cache is of other noises, another teacher or another key.
    """
    checks.integer("chunk", chunk, low=1)
    x = jax.tree.map(jnp.asarray, x)
    count = _count(x)
    mark = _digest((teacher, x, None if key is None else jax.random.key_data(key)))
    if cache is not None and distributed.agreed(Path(cache).exists()):
        return pairs(x, _read(Path(cache), mark, x))
    keys = None if key is None else sample_keys(key, jnp.arange(count))
    model, size = as_pytree(model), chunk * (1 if sharding is None else sharding.mesh.shape["data"])
    cut = lambda tree, some: jax.tree.map(lambda leaf: leaf[some], tree)
    parts = []
    for first in range(0, count, size):
        some = slice(first, min(first + size, count))
        over = None if sharding is None or (some.stop - first) % sharding.mesh.shape["data"] else sharding
        part = _sample(teacher, model, cut(x, some), cut(keys, some), over)
        parts.append(part if over is None else distributed.gather(part))
    goal = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    if cache is not None and distributed.is_main():
        _write(Path(cache), mark, goal)
    return pairs(x, goal)


def batches(data: PyTree, size: int) -> Batches:
    """``(step, key) -> batch``: every row of ``data`` once in each pass, in an order of its own.

    Args:
        data: arrays ``[count, ...]``, ``Pairs`` for instance.
        size: rows a batch; what does not fill one is left for another pass.

    Raises:
        ValueError: fewer rows than one batch.
    """
    return Shuffled(data, checks.integer("size", size, low=1, high=_count(data)))


def draws(draw: Callable[[Key[Array, ""]], Any]) -> Batches:
    """``(step, key) -> draw(key of the step)``: batches that are made anew each time."""
    return Drawn(as_pytree(draw))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["data"], meta_fields=["size"])
@dataclasses.dataclass(frozen=True)
class Shuffled:
    """See ``batches``."""

    data: PyTree
    size: int

    def __call__(self, step: Array, key: Key[Array, ""]) -> PyTree:
        """The batch of a step."""
        passes = _count(self.data) // self.size
        order = jax.random.permutation(jax.random.fold_in(key, step // passes), _count(self.data))
        rows = jax.lax.dynamic_slice_in_dim(order, (step % passes) * self.size, self.size)
        return jax.tree.map(lambda leaf: leaf[rows], self.data)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn:
    """See ``draws``."""

    draw: Callable[[Key[Array, ""]], Any]

    def __call__(self, step: Array, key: Key[Array, ""]) -> Any:
        """The batch of a step."""
        return self.draw(jax.random.fold_in(key, step))


def _count(data: PyTree) -> int:
    return jax.tree.leaves(data)[0].shape[0]


@functools.partial(jax.jit, static_argnames=("sharding",))
def _sample(teacher: Sampler, model: Model, x: PyTree, key: Any, sharding: jax.sharding.NamedSharding | None) -> PyTree:
    if sharding is not None:
        x, key = jax.lax.with_sharding_constraint((x, key), sharding)
    return sample(teacher, model, x, key)


def _digest(tree: PyTree) -> str:
    """What tells two pytrees of arrays apart."""
    mark = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        mark.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return mark.hexdigest()


def _write(path: Path, mark: str, goal: PyTree) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"goal_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(goal))}
    with replacing(path) as file:
        np.savez(file, mark=mark, **arrays)


def _read(path: Path, mark: str, like: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    try:
        with np.load(path) as file:
            kept = str(file["mark"])
            goal = [jnp.asarray(file[f"goal_{i}"]) for i in range(len(leaves))] if kept == mark else []
    except (OSError, KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it, and the teacher runs once more") from error
    if kept != mark:
        raise ValueError(f"{path} holds pairs of other noises, another teacher or key: remove it or name another")
    return jax.tree.unflatten(treedef, goal)
