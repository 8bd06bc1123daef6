"""What the processes of a local pod run in the tests: ``python -m tests.pod_program sample OUT``."""

import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from jaxsamplers import distributed, problems
from jaxsamplers.records import checkpoints

COUNT, STEPS = 24, 4


def program():
    """A stochastic sampler of a closed-form network, and where a batch of ``COUNT`` starts."""
    process = js.processes.vp_linear()
    model = problems.mixture().denoiser(process)
    sampler = js.solvers.sde_dpm_solver_pp(process, js.schedules.half_log_snr(process, STEPS), order=2)
    return process, model, sampler


def draw(keys):
    process, model, sampler = program()
    return js.sample(sampler, model, process.prior(keys, (COUNT, 2)), keys)


def sample(out: Path) -> None:
    mesh = distributed.mesh()
    samples = jax.jit(draw)(distributed.keys(jax.random.key(7), COUNT, mesh))
    assert len(samples.sharding.device_set) == jax.device_count()
    mine = np.full((2, 3), jax.process_index())
    total = jnp.sum(distributed.shard(mine, mesh))
    everything = distributed.gather((samples, total))
    if distributed.is_main():
        np.savez(out, samples=everything[0], total=everything[1], processes=jax.process_count())


def learn(sharding=None, out: Path | None = None, steps: int = 6):
    """A few steps of a learned schedule and coefficients, from a teacher's samples."""
    import optax

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
        optimizer=optax.adam(0.02),
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


def fit(out: Path) -> None:
    found = learn(distributed.over_data(distributed.mesh()), out.parent / "run")
    if distributed.is_main():
        leaves = jax.tree.leaves((found.parameters, found.last))
        np.savez(out, *map(np.asarray, leaves), value=found.value, losses=[row["loss"] for row in found.history])


if __name__ == "__main__":
    distributed.start(timeout=60)
    {"sample": sample, "fit": fit, "killed": killed}[sys.argv[1]](Path(sys.argv[2]))
