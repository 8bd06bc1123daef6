"""Saving and restoring a pytree of arrays with orbax: the only module that knows of it.

A checkpoint is a directory named after its step. Orbax writes it under a temporary name and renames it when it is
complete; then a manifest is added, which says what is inside and has the SHA-256 of every file. A directory
without a manifest does not count. So a run killed at any moment leaves the earlier checkpoints as they were and
nothing half-written to be loaded, and files that are no longer what was written are reported, not trained on. The
last two complete checkpoints are kept.

The tree is saved as a flat dictionary from the path of a leaf (``network.variables.params.embed.kernel``) to the array,
whatever containers it is made of; typed PRNG keys included. Several processes save and restore together, in a directory
that they share.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxsamplers import distributed
from jaxsamplers.records.files import write_text

if TYPE_CHECKING:
    from jaxtyping import PyTree

KEPT = 2
MANIFEST = "manifest.json"


class CheckpointError(RuntimeError):
    """A checkpoint that is there but cannot be used, or one that cannot be written."""


def save(directory: str | Path, step: int, tree: PyTree) -> None:
    """Save ``tree`` as the checkpoint of ``step`` and forget all but the last two; returns when it is on disk.

    Raises:
        ValueError: there is a checkpoint of this step already.
        CheckpointError: it could not be written, for want of room, as a rule; the earlier ones are as they were.
    """
    directory = Path(directory).absolute()
    present = steps(directory)
    if step in present:
        raise ValueError(f"there is already a checkpoint of step {step} in {directory}")
    try:
        with _quiet():
            _save(directory, step, _flatten(tree))
    except Exception as error:  # whatever orbax and tensorstore make of a full disk
        kept = f"the same run goes on from step {present[-1]}" if present else "the same run starts again"
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {directory}: {error}. Nothing earlier is lost: "
            f"make room there, and {kept}"
        ) from error
    distributed.wait("checkpoint")


def _save(directory: Path, step: int, flat: dict[str, Any]) -> None:
    newest = ocp.training.preservation_policies.LatestN(KEPT + len(unfinished(directory)))
    with ocp.training.Checkpointer(directory, preservation_policy=newest, cleanup_tmp_directories=True) as checkpointer:
        checkpointer.save(step, flat, force=True, overwrite=True)  # over what an interrupted save left
    if distributed.is_main():
        leaves = {name: _describe(leaf) for name, leaf in flat.items()}
        manifest = {"leaves": leaves, "files": _digests(directory / str(step))}
        write_text(directory / str(step) / MANIFEST, json.dumps(manifest, indent=1))


def steps(directory: str | Path) -> list[int]:
    """The steps of the complete checkpoints, oldest first."""
    return sorted(int(path.parent.name) for path in Path(directory).glob(f"*/{MANIFEST}") if path.parent.name.isdigit())


def unfinished(directory: str | Path) -> list[int]:
    """The steps of the checkpoints that lack their manifest, and are not used."""
    present = sorted(int(path.name) for path in Path(directory).glob("*") if path.name.isdigit())
    return [step for step in present if not (Path(directory) / str(step) / MANIFEST).exists()]


def last(directory: str | Path) -> int:
    """The step to go on from, 0 if there is no checkpoint; a warning tells of later ones that are not complete."""
    step = max(steps(directory), default=0)
    later = [other for other in unfinished(directory) if other > step]
    if later and distributed.is_main():
        warnings.warn(
            f"the checkpoint {Path(directory) / str(later[-1])} is incomplete (it has no {MANIFEST}) and is not used: "
            + (f"the run goes on from step {step}" if step else "the run starts from the beginning"),
            stacklevel=2,
        )
    return step


def restore(directory: str | Path, like: PyTree, step: int | None = None) -> PyTree:
    """The tree saved at ``step``, the latest by default.

    Args:
        directory: where ``save`` put it.
        like: a tree of arrays, or of ``ShapeDtypeStruct``, with the structure, shapes, dtypes and shardings to restore
            to; what has no sharding goes to the first device.
        step: which checkpoint.

    Raises:
        FileNotFoundError: no checkpoint, or none of this step.
        CheckpointError: one that is damaged, or does not fit ``like``. Nothing is deleted; the message says which
            earlier checkpoint there is.
    """
    present = steps(directory)
    if not present or (step is not None and step not in present):
        wanted = "" if step is None else f" of step {step}"
        raise FileNotFoundError(f"there is no checkpoint{wanted} in {directory} (steps there: {present or 'none'})")
    step = present[-1] if step is None else step
    folder = Path(directory).absolute() / str(step)
    flat = _flatten(like)
    problem = _damage(folder) or _misfit(folder, flat)
    if problem:
        raise CheckpointError(f"the checkpoint {folder} cannot be used: {problem}. {_advice(step, present)}")
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted_leaves = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or first)
        for name, leaf in flat.items()
    }
    try:
        with ocp.training.Checkpointer(folder.parent) as checkpointer:
            loaded = checkpointer.load(step, wanted_leaves)
    except Exception as error:  # whatever orbax and tensorstore make of a disk that fails
        problem = f"it cannot be read ({error})"
        raise CheckpointError(f"the checkpoint {folder} cannot be used: {problem}. {_advice(step, present)}") from error
    return jax.tree.unflatten(jax.tree.structure(like), [loaded[name] for name in flat])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Each of orbax's threads logs what fails, with its whole stack; the exception says it once."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _flatten(tree: PyTree) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _damage(folder: Path) -> str:
    """What is wrong with the files of a checkpoint, or nothing."""
    try:
        written = json.loads((folder / MANIFEST).read_text())["files"]
        present = _digests(folder)
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} is damaged"
    except OSError as error:
        return f"it cannot be read ({error})"
    damaged = [name for name, digest in written.items() if present.get(name) != digest]
    return f"{len(damaged)} of its files are damaged or missing ({damaged[0]})" if damaged else ""


def _misfit(folder: Path, flat: dict[str, Any]) -> str:
    """The first difference between what was saved and what is wanted, or nothing."""
    saved = json.loads((folder / MANIFEST).read_text())["leaves"]
    wanted = {name: _describe(leaf) for name, leaf in flat.items()}
    for name in [*wanted, *saved]:
        if wanted.get(name) != saved.get(name):
            return f"it has {saved.get(name, 'no')} {name} where {wanted.get(name, 'none')} is wanted"
    return ""


def _advice(step: int, present: list[int]) -> str:
    earlier = [other for other in present if other < step]
    if not earlier:
        return "Nothing was changed; there is no earlier one"
    return f"Nothing was changed; move that directory away to go on from step {earlier[-1]}"
