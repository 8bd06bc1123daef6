"""The diffusion transformer that samplers are measured with, and the benchmarks of devices; nothing is timed."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dit
from experiments.benchmarks import dit as benchmark
from experiments.benchmarks import estimate, scaling

ROOT = Path(__file__).parents[1]
SMALL = ["values=256", "rows=2", "batch=8", "width=4", "steps=1", "rounds=2"]
TINY = dit.DiTSettings(16, 1, 2, 4, 8, classes=3, dtype="float32")


@pytest.mark.parametrize(
    ("name", "parameters", "products"),
    [("DiT-S/8", None, 0.36), ("DiT-B/2", 130e6, 23.01), ("DiT-L/2", None, 80.71), ("DiT-XL/2", 675e6, 118.64)],
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


@pytest.mark.slow
def test_the_work_of_one_start(tmp_path, capsys):
    """On the eight devices of the tests; the first chunk of learning, which is compiled, is not counted."""
    out = tmp_path / "seconds.json"
    assert scaling.main(["--worker", str(out), "--set", *SMALL]) == 0
    seconds = json.loads(out.read_text())
    assert list(seconds) == ["sample", "learn"]
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in seconds.values())


def test_efficiency_is_of_what_cores_allow(monkeypatch, tmp_path):
    """Two cores and four devices: twice as fast would be ideal."""
    monkeypatch.setattr(scaling.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    given = {1: 4.0, 2: 2.5, 4: 2.0}
    fake = lambda settings, count: {"sample": [given[count]] * 3, "learn": [8.0, 8.0, 80.0]}
    monkeypatch.setattr(scaling, "on_devices", fake)
    monkeypatch.setattr(scaling, "on_processes", fake)
    out = tmp_path / "scaling.json"
    assert scaling.main(["--devices", "2", "4", "--processes", "2", "--json", str(out)]) == 0
    lines = json.loads(out.read_text())["lines"]
    assert [(line["kind"], line["count"], line["ideal"]) for line in lines] == [
        ("devices", 1, 1),
        ("devices", 2, 2),
        ("devices", 4, 2),
        ("processes", 1, 1),
        ("processes", 2, 2),
    ]
    assert [line["sample_efficiency"] for line in lines] == pytest.approx([1, 0.8, 1, 1, 0.8])
    assert [line["learn_efficiency"] for line in lines] == pytest.approx([1, 0.5, 0.5, 1, 0.5])


def test_devices_that_do_not_divide(capsys):
    assert scaling.main(["--devices", "3"]) == 1
    assert "devices must divide 64 and the batch of 1024, got 3" in capsys.readouterr().err


@pytest.mark.slow
def test_devices_and_processes(tmp_path):
    out = tmp_path / "scaling.json"
    assert scaling.main(["--devices", "2", "--processes", "2", "--json", str(out), "--set", *SMALL]) == 0
    assert [line["count"] for line in json.loads(out.read_text())["lines"]] == [1, 2, 1, 2]


def test_the_estimate_is_what_the_program_prints():
    assert estimate.tables() in (ROOT / "experiments" / "scaling.md").read_text()


def test_the_estimates_arithmetic():
    """By hand: DiT-XL/2, 32 images a chip of a v5p; a picture's call on a v5e, which reads weights at least as long."""
    network, machine = estimate.NETWORKS["DiT-XL/2"], estimate.MACHINES["v5p-128"]
    assert estimate.call(network, machine, 32) == pytest.approx(32 * 237.24e9 / (0.4 * 459e12), rel=1e-3)
    assert estimate.call(network, machine, 1e-9) == pytest.approx(2 * 674.8e6 / 2765e9, rel=1e-3)
    row = estimate.sampling(network, machine)
    assert float(row["50 steps"].replace(",", "")) == pytest.approx(64 * 32 / (50 * 0.04135), rel=2e-2)
    assert estimate.sweeps(16) < 50
    with pytest.raises(ValueError, match="no run with a window of 5"):
        estimate.sweeps(5)


@pytest.mark.slow
def test_one_sum_a_row_is_sent():
    assert estimate.count_collectives() == [f"{estimate.SCALARS} scalars"]


def test_attention_keeps_its_matrices_unless_it_is_fused():
    """At least one of 2 heads, 64 x 64 tokens, of four bytes; less the answer, which only a fused one keeps."""
    settings = dataclasses.replace(TINY, size=32)
    plain, fused = (estimate.count_dit(settings, fused) for fused in (False, True))
    assert plain - fused >= 4 * (2 * 64 * 64 - 64 * 16)
    assert fused > 0
