"""Many devices and many hosts, by JAX's own means: meeting, a mesh, a batch over it.

    js.distributed.start()                       # before anything else of JAX; does nothing on a single process
    mesh = js.distributed.mesh(data=-1)          # all devices of all processes
    keys = js.distributed.keys(key, 50_000, mesh)
    x = process.prior(keys, (50_000, 32, 32, 3))
    samples = jax.jit(js.sample)(sampler, model, x, keys)

Each sample has a key of its own, from its number in the whole batch, so it is the same sample whatever the number of
devices and processes. Nothing in a sampler knows of meshes: ``x`` is spread over the devices, the rows of the sampler
are on all of them, and no sample needs another.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsamplers import checks
from jaxsamplers.core import as_key, sample_keys

if TYPE_CHECKING:
    from jaxtyping import Array, Key, PyTree

ADDRESS, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


class Preempted(RuntimeError):
    """The machine is about to be taken away: what is done is kept, and the same call goes on.

    Attributes:
        step: how far it came: of the checkpoint, or samples that are written.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def start(
    address: str | None = None, processes: int | None = None, process: int | None = None, *, timeout: float = 300.0
) -> None:
    """Meet the other processes, if there are any; to be called before anything else of JAX is used.

    A TPU pod, Slurm and Open MPI are found by themselves. Elsewhere say it by arguments, or by the environment's
    ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``. A second call does nothing.

    Args:
        address: of process 0, ``host:port``, to be reached from all hosts.
        processes: how many there are. On a cluster that is found by itself: how many there must be.
        process: which one this is, from 0.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: something is missing or does not fit together.
        TimeoutError: nobody listens at ``address``.
        RuntimeError: not as many processes as ``processes`` have met, or JAX has been used already. If some never come,
            JAX ends the process by itself when the time is over, after a sentence that says so.
    """
    checks.within("timeout", timeout, 0.0, above=True)
    address = os.environ.get(ADDRESS) if address is None else address
    processes = _number("processes", PROCESSES, processes, low=1)
    process = _number("process", PROCESS, process, low=0)
    if not jax.distributed.is_initialized():
        cluster = "" if None not in (address, processes, process) else _cluster()
        if address is None and not cluster:
            if (processes or 1) > 1:
                raise ValueError(
                    f"processes={processes}, but no cluster (a TPU pod, Slurm, Open MPI) is to be seen from here: give "
                    f"address and process, or set {ADDRESS} and {PROCESS}"
                )
            return
        if not cluster:
            if processes == 1:
                return
            _check(str(address), processes, process)
            _reach(str(address), process, processes, timeout)
        told = None if cluster else processes  # a cluster knows its own number, which is compared afterwards
        with _impatient(timeout, process, processes):
            try:
                jax.distributed.initialize(address, told, process, initialization_timeout=math.ceil(timeout) + 2)
            except ValueError:
                if cluster != "TPU" or address is not None or (processes or 1) > 1:
                    raise
                return  # chips that JAX knows no others of, such as a notebook's
    if processes is not None and jax.process_count() != processes:
        raise RuntimeError(
            f"processes={processes}, but {jax.process_count()} have met: start all of them with the same number"
        )


def mesh(data: int = -1, model: int = 1, *, axis_type: AxisType = AxisType.Auto) -> Mesh:
    """A mesh of all devices of all processes, with axes ``data`` and ``model``.

    Devices that talk fast to each other (a slice of TPUs, the GPUs of a host) are kept together: the slow network lies
    between shares of the batch, and between parts of a network only if ``data`` is less than the number of slices.

    Args:
        data: devices the batch is spread over; -1 for all that ``model`` leaves.
        model: devices a network is spread over, by its own annotations; -1 for all that ``data`` leaves.
        axis_type: of both axes: who decides how intermediate results are spread, the compiler by default.

    Raises:
        ValueError: sizes whose product is not the number of devices.
    """
    sizes, count = {"data": data, "model": model}, jax.device_count()
    rest = [name for name, size in sizes.items() if size == -1]
    for name, size in sizes.items():
        if size != -1:
            checks.integer(name, size, low=1)
    given = " and ".join(f"{name}={size}" for name, size in sizes.items())
    advice = f"their product must be the number of devices, {count} (of {jax.process_count()} processes)"
    if len(rest) > 1:
        raise ValueError(f"only one of data and model can be -1, the rest, got {given}")
    if rest:
        other = math.prod(size for size in sizes.values() if size != -1)
        if count % other:
            raise ValueError(f"{other} does not divide the devices: got {given}; {advice}")
        sizes[rest[0]] = count // other
    if math.prod(sizes.values()) != count:
        raise ValueError(f"the mesh does not fit the devices: got {given}; {advice}")
    axis_types = (axis_type,) * len(sizes)
    if _slices(jax.devices()) == 1:
        return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=axis_types)
    return Mesh(_hybrid(sizes["data"], sizes["model"], jax.devices()), tuple(sizes), axis_types=axis_types)


def over_data(mesh: Mesh) -> NamedSharding:
    """The leading axis over ``data``: how batches are spread, for ``js.learn.fit(sharding=...)`` too."""
    return NamedSharding(mesh, PartitionSpec("data"))


def keys(key: Key[Array, ""], count: int, mesh: Mesh, first: int = 0) -> Key[Array, " count"]:
    """One key per sample, ``core.sample_keys`` of ``first, ..., first + count - 1``, spread over the mesh.

    Raises:
        ValueError: a count that the mesh's data axis does not divide.
    """
    count = _divided(count, mesh)
    return _keys(as_key(key), jnp.asarray(checks.integer("first", first, low=0)), count, over_data(mesh))


def shard(rows: PyTree, mesh: Mesh) -> PyTree:
    """One batch over the mesh, from what each process has of it: process 0's rows first, then process 1's, and so on.

    Args:
        rows: arrays ``[count / processes, ...]``, other ones in each process.
        mesh: see ``mesh``.

    Raises:
        ValueError: a count that the mesh's data axis does not divide.
    """
    leaves = jax.tree.leaves(rows)
    for leaf in leaves:
        _divided(leaf.shape[0] * jax.process_count(), mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(over_data(mesh), leaf), rows)


def replicate(tree: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
    """Arrays that every process has alike, on all devices of the mesh."""
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)


def spread(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays that every process has alike, each with its leading axis over the mesh.

    Raises:
        ValueError: a count that the mesh's data axis does not divide.
    """
    for leaf in jax.tree.leaves(tree):
        _divided(leaf.shape[0], mesh)
    return jax.jit(lambda tree: tree, out_shardings=over_data(mesh))(tree)


def local(tree: PyTree) -> PyTree:
    """What is on all devices, as this process's own arrays, which no other process is needed for."""
    return jax.tree.map(lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0), tree)


def gather(tree: PyTree) -> PyTree:
    """All of it in every process, as NumPy arrays. Every process must call it."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def wait(where: str) -> None:
    """Wait for all processes to come here; nothing on a single one.

    Args:
        where: a word for the error message, the same in all.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def agreed(answer: bool) -> bool:
    """Process 0's answer, for all: what each sees of the storage that they share may differ for a while."""
    if jax.process_count() == 1:
        return answer
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(answer))


def is_main() -> bool:
    """Whether this is process 0, which writes what is written once."""
    return jax.process_index() == 0


def _slices(devices: Sequence[Any]) -> int:
    return len({getattr(device, "slice_index", 0) for device in devices})


def _hybrid(data: int, model: int, devices: Sequence[Any]) -> np.ndarray:
    """Devices of several slices, ``[data, model]``; ``jax.make_mesh`` refuses them."""
    from jax.experimental import mesh_utils

    outer = math.gcd(data, _slices(devices))
    slow = outer, _slices(devices) // outer
    fast = data // slow[0], model // slow[1]
    return mesh_utils.create_hybrid_device_mesh(fast, slow, devices, allow_split_physical_axes=True)


@jax.jit(static_argnames=("count", "sharding"))
def _keys(key: Key[Array, ""], first: Array, count: int, sharding: NamedSharding) -> Key[Array, " count"]:
    return sample_keys(key, jax.lax.with_sharding_constraint(first + jnp.arange(count), sharding))


def _divided(count: int, mesh: Mesh) -> int:
    checks.integer("count", count, low=1)
    if count % mesh.shape["data"]:
        below = count - count % mesh.shape["data"]
        near = f"{below} or {below + mesh.shape['data']}" if below else f"{mesh.shape['data']}"
        raise ValueError(f"a batch of {count} does not divide over data={mesh.shape['data']}: {near} would")
    return count


def _number(argument: str, variable: str, given: int | None, low: int) -> int | None:
    if given is None and (text := os.environ.get(variable)):
        if not text.isdigit():
            raise ValueError(f"{variable} must be an integer of at least {low}, got {text!r}")
        given, argument = int(text), variable
    return None if given is None else checks.integer(argument, given, low=low)


def _check(address: str, processes: int | None, process: int | None) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"address must be host:port, got {address!r}")
    if processes is None or process is None:
        missing = "processes" if processes is None else "process"
        variable = PROCESSES if processes is None else PROCESS
        raise ValueError(f"with an address ({address}), {missing} is needed too: give it, or set {variable}")
    if process >= processes:
        raise ValueError(f"process must be from 0 to {processes - 1}, since there are {processes}, got {process}")


def _reach(address: str, process: int | None, processes: int | None, timeout: float) -> None:
    """Wait until process 0 listens: JAX would end the process without a word that helps."""
    host, _, port = address.rpartition(":")
    end, problem = time.monotonic() + timeout, ""
    while process and (left := end - time.monotonic()) > 0:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError as error:
            problem = str(error)
            time.sleep(min(0.2, left))
    if process:
        raise TimeoutError(
            f"process {process} of {processes} reached nobody at {address} within {timeout:g} s ({problem}): process 0 "
            "must be running on that host, and its port open to the others"
        )


@contextlib.contextmanager
def _impatient(timeout: float, process: int | None, processes: int | None) -> Iterator[None]:
    """A sentence on the terminal when the time is over, just before JAX ends the process."""
    who = "this process" if process is None else f"process {process}"
    others = "all others" if processes is None else f"all {processes}"
    sentence = (
        f"error: {who} waited {timeout:g} s for {others} to come, and some did not: each host must run the same "
        "program with the same number of processes; look at the logs of the others"
    )
    timer = threading.Timer(timeout, lambda: print(sentence, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cluster() -> str:
    """The kind of cluster that JAX finds by itself here, if it has more than one process; a TPU's host may be alone."""
    if _integer("SLURM_NTASKS") > 1 and {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID"} <= set(os.environ):
        return "Slurm"
    if _integer("OMPI_COMM_WORLD_SIZE") > 1 and "OMPI_MCA_orte_hnp_uri" in os.environ:
        return "Open MPI"
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*")
    wanted = (jax.config.jax_platforms or "tpu").split(",")  # type: ignore[attr-defined]
    return "TPU" if chips and "tpu" in wanted and importlib.util.find_spec("libtpu") else ""


def _integer(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdigit() else 0
