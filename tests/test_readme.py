"""The README's example runs as printed, and its table leaves nothing out."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxsamplers as js

TEXT = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs():
    example = re.search(r"## In code\n\n```python\n(.*?)```", TEXT, re.DOTALL)[1]
    names = {"apply": lambda x, t: 0.5 * x, "noise": jnp.ones((4, 2)), "key": jax.random.key(0)}
    exec(example, names)
    assert names["x"].shape == (4, 2)
    assert len(names["sampler"]) == 10
    assert bool(jnp.isfinite(names["x"]).all())


def test_the_guidance_example_runs():
    example = re.search(r"## Guidance\n\n```python\n(.*?)```", TEXT, re.DOTALL)[1]
    process = js.processes.vp_linear()
    apply = lambda x, t, label: 0.5 * x * label[:, None] / 10
    names = {
        "jax": jax,
        "js": js,
        "process": process,
        "sampler": js.solvers.ddim(process, js.schedules.half_log_snr(process, 10)),
        "model": js.denoiser(apply, process),
        "labels": jnp.arange(4),
        "noise": jnp.ones((4, 2)),
    }
    exec(example, names)
    assert [len(part) for part, _ in names["parts"]] == [4, 3, 3]
    assert bool(jnp.isfinite(names["x"]).all())
    assert not jnp.allclose(names["x"][0], names["x"][1])


@pytest.mark.parametrize("registry", [js.solvers.registry, js.schedules.registry, js.processes.registry])
def test_every_name_is_in_the_table(registry):
    table = TEXT.split("## What is there")[1].split("\n## ")[0]
    missing = [name for name in registry if f"`{name}" not in table]
    assert not missing
