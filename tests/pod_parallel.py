"""Rows of Picard's window, and a batch of tokens, over several processes: ``python -m tests.pod_parallel OUT``."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from jaxsamplers import distributed, problems

WINDOW, COUNT = 8, 16
SEED = 5  # keys are made where they are used: nothing may run before the processes have met


def picard(sharding=None):
    process = js.processes.vp_linear()
    model = problems.mixture().denoiser(process)
    sampler = js.solvers.ddpm(process, js.schedules.half_log_snr(process, 12))
    x = process.prior(jax.random.key(4), (3, 2))
    tolerance = 1e-2 * process.sigma(sampler.rows.time)
    run = js.parallel.picard(
        sampler, model, x, jax.random.key(SEED), window=WINDOW, tolerance=tolerance, sharding=sharding
    )
    return run.x, run.sweeps, run.calls


def tokens(keys):
    process = js.discrete.masked(5)
    sampler = js.discrete.ancestral(process, js.schedules.uniform(process, 4))
    model = lambda x, t: jnp.where(jnp.roll(x, 1, -1)[..., None] == jnp.arange(5), 2.0, 0.0) + t
    return js.sample(sampler, model, jnp.full((COUNT, 6), 5), keys)


if __name__ == "__main__":
    distributed.start(timeout=60)
    mesh = distributed.mesh()
    made = jax.jit(lambda: picard(jax.NamedSharding(mesh, jax.P("data"))))()
    written = jax.jit(tokens)(distributed.keys(jax.random.key(SEED), COUNT, mesh))
    everything = distributed.gather((made, written))
    if distributed.is_main():
        np.savez(Path(sys.argv[1]), *jax.tree.leaves(everything), devices=jax.device_count())
