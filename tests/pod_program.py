"""What the processes of a local pod run in the tests: ``python -m tests.pod_program sample OUT``."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from jaxsamplers import distributed, problems

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


if __name__ == "__main__":
    distributed.start(timeout=60)
    {"sample": sample}[sys.argv[1]](Path(sys.argv[2]))
