"""The diffusion transformer that samplers are measured with, and the benchmarks of devices; nothing is timed."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dit
from experiments.benchmarks import dit as benchmark

TINY = dit.DiTSettings(16, 1, 2, 4, 8, classes=3, dtype="float32")


@pytest.mark.parametrize(
    ("name", "parameters", "products"),
    [("DiT-S/8", None, 0.36), ("DiT-B/2", 130e6, 23.01), ("DiT-L/2", 458e6, 80.71), ("DiT-XL/2", 675e6, 118.64)],
)
def test_sizes_of_the_paper(name, parameters, products):
    """Tables 1 and 4 and the appendix of arXiv 2212.09748: millions of parameters, with the fixed positions; Gflops."""
    settings = dit.sizes[name]
    assert settings.products / 1e9 == pytest.approx(products, rel=6e-3)
    if parameters:
        count = sum(leaf.size for leaf in jax.tree.leaves(dit.shapes(settings))) + settings.tokens * settings.width
        assert count == pytest.approx(parameters, rel=5e-3)


def test_counted_products():
    """The formula against XLA's own count, for a network whose other arithmetic is small beside its products."""
    settings = dit.DiTSettings(256, 2, 2, 4, 32, classes=1, dtype="float32")
    x, label = jax.ShapeDtypeStruct((1, *settings.shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    apply = lambda weights, x, label: dit.DiT(settings).apply(weights, x, 500.0, label)
    counted = jax.jit(apply).lower(dit.shapes(settings), x, label).cost_analysis()
    assert counted["flops"] == pytest.approx(2 * settings.products, rel=0.1)


def test_time_and_label_matter_and_an_untrained_network_is_silent():
    """One image three times: at two times, and of two labels; one time for all and one each."""
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), TINY.shape), (3, *TINY.shape))
    t, label = jnp.array([10.0, 900.0, 10.0]), jnp.array([0, 0, 2])

    @jax.jit
    def both(weights, x, t, label):
        untrained = dit.DiT(TINY).init(jax.random.key(0), x, t[0], label)
        return dit.noise(TINY, weights)(x, t, label=label), dit.noise(TINY, untrained)(x, t[0], label=label)

    random, untrained = both(dit.random_weights(TINY), x, t, label)
    assert random.shape == x.shape
    assert random.dtype == x.dtype
    for other in random[1:]:
        assert jnp.abs(random[0] - other).max() > 0.01
    np.testing.assert_array_equal(untrained, 0.0)


def test_a_tiny_run(tmp_path, monkeypatch, capsys):
    """Every line, with what is not installed named; PyTorch's are tried by hand, as it is no dependency.

    On eight devices, with axes of either mode, samples are the same, and no device asks another.
    """
    made = {}
    ours = benchmark.ours
    monkeypatch.setattr(benchmark, "ours", lambda *task: made.update(ours(*task)) or dict(made))
    monkeypatch.setattr(benchmark, "installed", lambda package: False)
    out = tmp_path / "dit.json"
    assert benchmark.main(["--size", "tiny", "--steps", "2", "--batch", "8", "--rounds", "1", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    ways = [line["way"] for line in results["time"]]
    assert ways == ["ours", "Auto mesh", "Explicit mesh", "network alone, JAX"]
    alone = made["ours"]()
    assert alone.std() > 0.1
    for mode in ("Auto mesh", "Explicit mesh"):
        shared = made[mode]()
        assert len(shared.sharding.device_set) == 8
        np.testing.assert_allclose(shared, alone, rtol=1e-4, atol=1e-4 * float(alone.std()))
        assert not re.search("all-gather|all-reduce|all-to-all|collective", made[mode].func.as_text())
    memory = {line["way"]: line["memory_mb"] for line in results["memory"]}
    assert memory["forward"] < memory["remat=True"] < memory["remat=False"]
    printed = capsys.readouterr().out
    assert "not installed: torch, diffusers" in printed
    assert ("This is a CPU" in printed) == (jax.default_backend() == "cpu")


def test_a_batch_that_the_devices_do_not_divide(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "installed", lambda package: False)
    assert benchmark.main(["--size", "tiny", "--batch", "3"]) == 1
    assert "batch must be a multiple of the 8 devices, got 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 6, "heads": 2}, "width must be a multiple of 4 and of heads=2, got 6"),
        ({"size": 8, "patch": 3}, "patch must divide the image's side 8, got 3"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
    ],
)
def test_settings_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        dit.DiTSettings(**options)
