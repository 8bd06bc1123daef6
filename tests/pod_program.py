"""What the processes of a local pod run in the tests: ``python -m tests.pod_program everything OUT``."""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsamplers as js
from jaxsamplers import distributed, problems
from jaxsamplers.records import checkpoints
from tests import pod_parallel

loop = sys.modules["jaxsamplers.learn.fit"]  # the module: its name is its function's, too
COUNT, STEPS = 24, 4
LONG = 400  # steps that are not all done
ADAM = optax.adam(0.02)


def program():
    """A stochastic sampler of a closed-form network, and where a batch of ``COUNT`` starts."""
    process = js.processes.vp_linear()
    model = problems.mixture().denoiser(process)
    sampler = js.solvers.sde_dpm_solver_pp(process, js.schedules.half_log_snr(process, STEPS), order=2)
    return process, model, sampler


def draw(keys):
    process, model, sampler = program()
    return js.sample(sampler, model, process.prior(keys, (len(keys), 2)), keys)


def sample(out: Path) -> None:
    mesh = distributed.mesh()
    samples = jax.jit(draw)(distributed.keys(jax.random.key(7), COUNT, mesh))
    assert len(samples.sharding.device_set) == jax.device_count()
    mine = np.full((2, 3), jax.process_index())
    total = jnp.sum(distributed.shard(mine, mesh))
    everything = distributed.gather((samples, total))
    if distributed.is_main():
        np.savez(out, samples=everything[0], total=everything[1], processes=jax.process_count())


def everything(out: Path) -> None:
    """Samples, tokens and Picard's rows; then a run that is told to leave."""
    sample(out)
    mesh = distributed.mesh()
    written = jax.jit(pod_parallel.tokens)(distributed.keys(jax.random.key(7), pod_parallel.COUNT, mesh))
    made = jax.jit(lambda: pod_parallel.picard(jax.NamedSharding(mesh, jax.P("data"))))()
    found = distributed.gather((written, made))
    if distributed.is_main():
        np.savez(out.with_name("more.npz"), *jax.tree.leaves(found))
    terminated(out)


def shards(out: Path) -> None:
    """Samples in Zarr's chunks; then in six files, of which the last process writes one and is gone."""
    last = jax.process_index() == jax.process_count() - 1

    def report(done, total):
        if last and done < total:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = {"key": jax.random.key(7), "size": 4}
    js.shards.write(draw, COUNT, out.with_suffix(".zarr"), **settings, format="zarr", report=lambda *_: None)
    js.shards.write(draw, COUNT, out, **settings, report=report)


def line(sharding=None, out: Path | None = None, steps: int = 6, checkpoint: int = 1):
    """A line through points, by gradient: little to compile."""
    points = jax.random.normal(jax.random.key(2), (COUNT, 2))
    return js.learn.fit(
        misfit, {"slope": jnp.zeros(()), "shift": jnp.zeros(())}, optimizer=ADAM,
        batches=js.learn.batches(points, 8), steps=steps, every=2, checkpoint=checkpoint, sharding=sharding, out=out,
        report=lambda *_, **__: None,
    )  # fmt: skip


def misfit(parameters, batch, key):
    return ((parameters["slope"] * batch[:, 0] + parameters["shift"] - batch[:, 1]) ** 2).mean()


def learn(sharding=None, out: Path | None = None, steps: int = 6):
    """A few steps of a learned schedule and coefficients, from a teacher's samples."""
    process, model, _ = program()
    x = process.prior(jax.random.key(1), (COUNT, 2))
    start = js.schedules.half_log_snr(process, STEPS)
    teacher = js.solvers.unipc(process, js.schedules.half_log_snr(process, 20), order=3)
    pairs = js.learn.teach(teacher, model, x, chunk=8, sharding=sharding)
    build = js.learn.builder(js.solvers.unipc, process, order=2)
    objective = js.learn.endpoint(build, model)
    return js.learn.fit(
        objective,
        js.learn.parameters(process, STEPS, schedule=start, coefficients=True),
        optimizer=ADAM,
        batches=js.learn.batches(pairs, 8),
        steps=steps,
        every=2,
        validate=jax.tree_util.Partial(validation, objective, pairs),
        sharding=sharding,
        out=out,
    )


def validation(objective, pairs, parameters):
    return objective(parameters, pairs, None)


def killed(out: Path) -> None:
    """Process 1 is gone while both save the second checkpoint."""
    save = checkpoints.save

    def last(directory, step, tree):
        if step == 4 and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        save(directory, step, tree)

    checkpoints.save = last
    fit(out)


def terminated(out: Path) -> None:
    """The last process is told to leave at step 6; all do, a few steps later, and there is no other checkpoint."""
    write = loop._Log.write

    def told(log, state, row, **how):
        write(log, state, row, **how)
        if row["step"] == 6 and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)  # the notice takes its time

    loop._Log.write = told
    try:
        line(distributed.over_data(distributed.mesh()), out.parent / "run", steps=LONG, checkpoint=LONG)
    except js.learn.Preempted as error:
        print(error)
        sys.exit(128 + signal.SIGTERM)


def fit(out: Path) -> None:
    found = learn(distributed.over_data(distributed.mesh()), out.parent / "run")
    if distributed.is_main():
        leaves = jax.tree.leaves((found.parameters, found.last))
        np.savez(out, *map(np.asarray, leaves), value=found.value, losses=[row["loss"] for row in found.history])


if __name__ == "__main__":
    distributed.start(timeout=60)
    programs = {"sample": sample, "everything": everything, "shards": shards, "fit": fit, "killed": killed}
    programs[sys.argv[1]](Path(sys.argv[2]))
