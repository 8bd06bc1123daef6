"""The README's example runs as printed, and its table leaves nothing out."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
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


def test_the_learning_example_runs(tmp_path, monkeypatch):
    example = re.search(r"## Learn the sampler\n.*?```python\n(.*?)```", TEXT, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    process = js.processes.vp_linear()
    model = js.analytic.gaussian_mixture(process, [[1.0, 0.5], [-1.0, 0.0]], 0.05)
    names = {"js": js, "optax": optax, "process": process, "model": model}
    names["noises"] = process.prior(jax.random.key(0), (64, 2))
    exec(example, names)
    sampler = js.recipes.load("unipc8.json").sampler
    assert len(sampler) == 8
    apart = lambda sampler: jnp.linalg.norm(
        js.sample(sampler, model, names["noises"]) - names["pairs"].goal, axis=1
    ).mean()
    assert apart(sampler) < 0.7 * apart(names["build"](names["parameters"]))


@pytest.mark.parametrize("registry", [js.solvers.registry, js.schedules.registry, js.processes.registry])
def test_every_name_is_in_the_table(registry):
    table = TEXT.split("## What is there")[1].split("\n## ")[0]
    missing = [name for name in registry if f"`{name}" not in table]
    assert not missing
