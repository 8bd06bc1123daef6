"""Samples in files: the same as in one piece, whatever stops the work; and sentences for what cannot be."""

import contextlib
import errno
import functools
import importlib.util
import os
import re
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import jaxsamplers as js
from jaxsamplers import cli, shards
from tests import pod_program
from tests.test_distributed import ROOT, alone, pod  # noqa: F401

COUNT, SIZE, KEY = pod_program.COUNT, 4, jax.random.key(7)
write = functools.partial(shards.write, pod_program.draw, key=KEY, size=SIZE, report=lambda *_: None)
FILES = {"npz": "shard-{:05d}.npz", "zarr": "samples/c.{}.0"}
formats = pytest.mark.parametrize("format", FILES)


@pytest.fixture(scope="module")
def whole():
    """All samples at once, on one device."""
    return np.asarray(jax.jit(pod_program.draw)(js.sample_keys(KEY, jnp.arange(COUNT))))


def same(found, whole):
    np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-6)


def name(format, number):
    return FILES[format].format(number)


def listed(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def written(out, format):
    return [path.stat().st_mtime_ns for number in range(6) if (path := out / name(format, number)).exists()]


@formats
def test_files_on_eight_devices_hold_the_samples_of_one(format, whole, tmp_path):
    assert jax.local_device_count() == 8
    heard = []
    write(COUNT - 2, tmp_path, format=format, report=lambda *numbers: heard.append(numbers))
    assert heard == [(done, 22) for done in (4, 8, 12, 16, 20, 22)]
    described = ["samples/zarr.json", "zarr.json"] if format == "zarr" else []
    assert listed(tmp_path) == sorted(["shards.json", *described, *(name(format, number) for number in range(6))])
    same(shards.read(tmp_path), whole[:-2])
    before = written(tmp_path, format)
    told = pytest.warns(match=r"shard-00005\.npz in .* of fewer samples")
    with told if format == "npz" else contextlib.nullcontext():  # two more: a file of NumPy's, or in Zarr's already
        write(COUNT, tmp_path, format=format)
    same(shards.read(tmp_path), whole)
    drawn = [old != new for old, new in zip(before, written(tmp_path, format), strict=True)]
    assert drawn == [False] * 5 + [format == "npz"]
    assert [len(part) for part in shards.each(tmp_path)] == [4] * 6


def test_one_program_for_all_files(tmp_path):
    seen = []

    def draw(keys):
        seen.append(len(keys))
        return {"first": jax.vmap(jax.random.normal)(keys), "second": jax.vmap(jax.random.bits)(keys)}

    shards.write(draw, 20, tmp_path, key=KEY, size=3, report=lambda *_: None)
    assert seen == [8]  # of which three are kept: one a device
    found = shards.read(tmp_path)
    assert found["second"].dtype == np.uint32
    same(found["first"], jax.vmap(jax.random.normal)(js.sample_keys(KEY, jnp.arange(20))))


@formats
def test_types(format, x64, tmp_path):
    def draw(keys):
        words = jax.vmap(lambda key: jax.random.bits(key, (2, 3)))(keys)
        typed = {
            dtype: (words % 7).astype(dtype) for dtype in ("bfloat16", "float8_e4m3fn", "int4", "bool", "complex128")
        }
        return typed | {"words": words, "tokens": words[:, 0, 0].astype(int) << 20, "none": 0 * words}

    shards.write(draw, 10, tmp_path, key=KEY, size=4, format=format, report=lambda *_: None)
    found, made = shards.read(tmp_path), jax.jit(draw)(js.sample_keys(KEY, jnp.arange(10)))
    assert {leaf: array.dtype for leaf, array in found.items()} == {leaf: array.dtype for leaf, array in made.items()}
    for leaf, array in made.items():
        np.testing.assert_array_equal(found[leaf], array)
        if format == "zarr":  # of nothing but zeros, too
            data = b"".join(path.read_bytes()[:-4] for path in sorted((tmp_path / leaf).glob("c.*")))
            assert data[: array.nbytes] == np.asarray(array).tobytes()


def test_zarr_opens_them(tmp_path):
    draw = lambda keys: {
        "image": jax.vmap(lambda key: jax.random.normal(key, (2, 3)))(keys),
        "one": jnp.ones(len(keys)),
    }
    save = functools.partial(shards.write, draw, out=tmp_path, key=KEY, size=4, format="zarr")
    told = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    save(6, report=lambda *_: None)
    for _ in range(2):
        with pytest.raises(js.distributed.Preempted):
            save(18, report=told)
        assert zarr.open(tmp_path)["image"].shape == (6, 2, 3)  # until all is drawn
    save(18, report=lambda *_: None)
    group = zarr.open(tmp_path)
    assert sorted(group) == ["image", "one"]
    assert group["image"].chunks == (4, 2, 3)
    made = draw(js.sample_keys(KEY, jnp.arange(18)))
    for leaf, array in shards.read(tmp_path).items():
        np.testing.assert_array_equal(group[leaf], array)
        same(array, made[leaf])
    (tmp_path / "image" / "c.1.0.0").unlink()
    assert np.isnan(zarr.open(tmp_path)["image"]).all((1, 2)).tolist() == [4 <= number < 8 for number in range(18)]


def test_a_process_is_killed_and_another_number_goes_on(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_POD_GRACE", "1")
    out = tmp_path / "samples"
    left = pod(2, tmp_path, "-m", "tests.pod_program", "shards", out, check=False)
    assert left.returncode == 137, left.stdout + left.stderr
    assert [(out / name("npz", number)).exists() for number in (1, 3, 5)] == [True, False, False]
    with pytest.raises(ValueError, match=r"12 to 15.* are missing in"):
        shards.read(out)
    write(COUNT, out)
    same(shards.read(out), whole)
    same(zarr.open(tmp_path / "samples.zarr")["samples"], whole)  # which two processes wrote before


@formats
def test_told_to_leave(format, whole, tmp_path):
    def report(done, total):
        if done == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    sentence = f"told to leave .*: 8 of 24 samples of this process are in {tmp_path}, and the same call goes on"
    with pytest.raises(js.distributed.Preempted, match=sentence) as caught:
        write(COUNT, tmp_path, format=format, report=report)
    assert caught.value.step == 8
    assert listed(tmp_path) == sorted(["shards.json", name(format, 0), name(format, 1)])
    heard = []
    write(COUNT, tmp_path, format=format, report=lambda *numbers: heard.append(numbers))
    assert heard == [(4, 16), (8, 16), (12, 16), (16, 16)]
    same(shards.read(tmp_path), whole)


@formats
def test_a_file_that_is_cut_off_is_drawn_again(format, whole, tmp_path):
    write(COUNT, tmp_path, format=format)
    first, second, third = (tmp_path / name(format, number) for number in (1, 4, 2))
    first.write_bytes(first.read_bytes()[:-20])
    second.write_bytes(b"")
    with pytest.raises(ValueError, match="samples 4 to 7, 16 to 19 are missing in"):
        shards.each(tmp_path)
    with pytest.warns(match=f"{re.escape(name(format, 1))}, {re.escape(name(format, 4))} in .*: cut off"):
        write(COUNT, tmp_path, format=format)
    same(shards.read(tmp_path), whole)
    data = bytearray(third.read_bytes())
    data[len(data) // 4] ^= 255  # among the samples
    third.write_bytes(data)
    with pytest.raises(ValueError, match=f"{re.escape(str(third))} is damaged"):
        shards.read(tmp_path)
    with pytest.warns(match=f"{re.escape(name(format, 2))} in"):
        write(COUNT, tmp_path, format=format)
    same(shards.read(tmp_path), whole)


@formats
def test_a_full_disk(format, whole, tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(file):
        calls.append(1)
        if len(calls) == 4:  # the settings' are the first
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    sentence = f"{re.escape(name(format, 2))} could not be written .No space left on device"
    with pytest.raises(OSError, match=sentence):
        write(COUNT, tmp_path, format=format)
    assert listed(tmp_path) == sorted(["shards.json", name(format, 0), name(format, 1)])
    write(COUNT, tmp_path, format=format)
    same(shards.read(tmp_path), whole)


def test_what_does_not_fit(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there are no samples in"):
        shards.read(tmp_path)
    write(COUNT, tmp_path, about={"steps": 4, "times": [0.5] * 30})
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"other settings \(size 4, not 5; steps 4, not 6; times .*\.\.\., not None"):
        write(COUNT, tmp_path, size=5, about={"steps": 6})
    with pytest.raises(ValueError, match=r"other settings \(key \[0, 7\], not \[0, 8\]"):
        write(COUNT, tmp_path, key=jax.random.key(8))
    with pytest.raises(ValueError, match="has 24 samples already, more than count=8"):
        write(8, tmp_path, about={"steps": 4, "times": [0.5] * 30})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    with pytest.raises(ValueError, match=r"other settings \(format npz, not zarr; steps"):
        write(COUNT, tmp_path, format="zarr")
    with pytest.raises(ValueError, match="unknown format 'parquet': known: npz, zarr"):
        write(COUNT, tmp_path, format="parquet")
    with pytest.raises(ValueError, match=r"about has key, which shards\.json says already"):
        write(COUNT, tmp_path, about={"key": 1})
    for arguments, argument in (((0, tmp_path), "count"), ((4, tmp_path), "size")):
        with pytest.raises(ValueError, match=f"{argument} must be"):
            write(*arguments, size=0 if argument == "size" else 4)
    (tmp_path / "shards.json").write_text("{")
    with pytest.raises(ValueError, match=r"shards\.json cannot be read"):
        write(COUNT, tmp_path)
    for made, sentence in (
        (lambda keys: {"a/b": jnp.ones(len(keys))}, "makes a folder of each name, which 'a/b' cannot be"),
        (lambda keys: jnp.ones((len(keys), 0)), r"cannot hold 'samples', float32\[0\] a sample .* format='npz' can"),
    ):
        with pytest.raises(ValueError, match=f"format='zarr' {sentence}"):
            shards.write(made, 4, tmp_path / "new", key=KEY, format="zarr")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "tensorstore", None)
        with pytest.raises(ModuleNotFoundError, match=r"needs tensorstore, .* pip install 'jaxsamplers\[zarr\]'"):
            write(COUNT, tmp_path / "new", format="zarr")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write(COUNT, tmp_path / "file" / "samples")


def test_the_readme(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(draw = .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    process, model, sampler = pod_program.program()
    names = {"js": js, "key": KEY, "process": process, "model": model, "sampler": sampler}
    exec(example.replace("50_000", "24").replace("32, 32, 3", "2").replace("size=500", "size=10"), names)
    same(names["images"], whole)


def test_the_command(tmp_path, capsys, monkeypatch):
    out = tmp_path / "digits"
    command = ["sample", "--data", "digits-tokens", "--steps", "2", "--count", "12", "--shard", "8", "--out", str(out)]
    keep = shards.npz.write

    def told(*arguments):
        keep(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(shards.npz, "write", told)
    assert cli.main(command) == 143
    assert "8 of 12 samples of this process are in" in capsys.readouterr().err
    monkeypatch.setattr(shards.npz, "write", keep)
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert f"wrote                    {out}: 12 samples" in printed
    assert "network calls            2 a sample" in printed
    process = js.discrete.digits.process()
    sampler = js.discrete.ancestral(process, js.schedules.uniform(process, 2))
    keys = js.sample_keys(jax.random.key(0), jnp.arange(12))
    tokens = js.sample(sampler, js.discrete.digits.network(), process.prior(keys, (12, 64)), keys)
    np.testing.assert_array_equal(shards.read(out), tokens)
    assert cli.main([*command, "--solver", "tau_leaping"]) == 2
    assert "solver ancestral, not tau_leaping" in capsys.readouterr().err


def test_the_command_for_zarr(tmp_path, capsys, monkeypatch):
    out = tmp_path / "lines.zarr"
    command = ["sample", "--data", "text", "--length", "3", "--order", "1", "--steps", "1", "--count", "5"]
    assert cli.main([*command, "--shard", "2", "--out", str(out)]) == 0
    assert f"wrote                    {out}: 5 samples" in capsys.readouterr().out
    np.testing.assert_array_equal(zarr.open(out)["samples"], shards.read(out))
    assert zarr.open(out)["samples"].shape == (5, 3)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorstore" else real(name))
    assert cli.main([*command, "--out", str(out)]) == 2
    assert "this command needs tensorstore, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shard", "4"], "--shard is for --out FOLDER"),
        (["--shard", "4", "--out", "x.png"], "--shard is for --out FOLDER"),
        (["--shard", "4", "--out", "x.zar"], "or .zarr, got --out x.zar"),
        (["--out", "folder.zarr", "--trajectory"], "--trajectory is a picture"),
        (["--out", "folder", "--trajectory"], "--trajectory is a picture"),
        (["--out", "folder", "--shard", "0"], "size must be"),
    ],
)
def test_the_command_refuses(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sample", "--steps", "2", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
