"""Samples in files: the same as in one piece, whatever stops the work; and sentences for what cannot be."""

import errno
import functools
import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers import cli, shards
from tests import pod_program
from tests.test_distributed import ROOT, alone, pod  # noqa: F401

COUNT, SIZE, KEY = pod_program.COUNT, 4, jax.random.key(7)
write = functools.partial(shards.write, pod_program.draw, key=KEY, size=SIZE, report=lambda *_: None)


@pytest.fixture(scope="module")
def whole():
    """All samples at once, on one device."""
    return np.asarray(jax.jit(pod_program.draw)(js.sample_keys(KEY, jnp.arange(COUNT))))


def same(found, whole):
    np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-6)


def test_files_on_eight_devices_hold_the_samples_of_one(whole, tmp_path):
    assert jax.local_device_count() == 8
    heard = []
    write(COUNT - 2, tmp_path, report=lambda *numbers: heard.append(numbers))
    assert heard == [(done, 22) for done in (4, 8, 12, 16, 20, 22)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"shard-0000{i}.npz" for i in range(6)),
        "shards.json",
    ]
    same(shards.read(tmp_path), whole[:-2])
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.npz"))]
    with pytest.warns(match=r"shard-00005\.npz in .* of fewer samples"):  # two more, and no other file is drawn again
        write(COUNT, tmp_path)
    same(shards.read(tmp_path), whole)
    again = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.npz"))]
    assert again[:-1] == times[:-1]
    assert again[-1] > times[-1]
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


def test_a_process_is_killed_and_another_number_goes_on(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_POD_GRACE", "1")
    out = tmp_path / "samples"
    left = pod(2, tmp_path, "-m", "tests.pod_program", "shards", out, check=False)
    assert left.returncode == 137, left.stdout + left.stderr
    there = {path.name for path in out.glob("*.npz")}
    assert "shard-00001.npz" in there
    assert not there & {"shard-00003.npz", "shard-00005.npz"}
    with pytest.raises(ValueError, match=r"12 to 15.* are missing in"):
        shards.read(out)
    write(COUNT, out)
    same(shards.read(out), whole)


def test_told_to_leave(whole, tmp_path):
    def report(done, total):
        if done == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    sentence = f"told to leave .*: 8 of 24 samples of this process are in {tmp_path}, and the same call goes on"
    with pytest.raises(js.distributed.Preempted, match=sentence) as caught:
        write(COUNT, tmp_path, report=report)
    assert caught.value.step == 8
    assert len(list(tmp_path.glob("*.npz"))) == 2
    heard = []
    write(COUNT, tmp_path, report=lambda *numbers: heard.append(numbers))
    assert heard == [(4, 16), (8, 16), (12, 16), (16, 16)]
    same(shards.read(tmp_path), whole)


def test_a_file_that_is_cut_off_is_drawn_again(whole, tmp_path):
    write(COUNT, tmp_path)
    path = tmp_path / "shard-00001.npz"
    path.write_bytes(path.read_bytes()[:-60])
    (tmp_path / "shard-00004.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="samples 4 to 7, 16 to 19 are missing in"):
        shards.each(tmp_path)
    with pytest.warns(match=r"shard-00001\.npz, shard-00004\.npz in .*: cut off"):
        write(COUNT, tmp_path)
    same(shards.read(tmp_path), whole)
    path = tmp_path / "shard-00002.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 255  # among the samples
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-00002\.npz is damaged"):
        shards.read(tmp_path)
    with pytest.warns(match=r"shard-00002\.npz in"):
        write(COUNT, tmp_path)
    same(shards.read(tmp_path), whole)


def test_a_full_disk(whole, tmp_path, monkeypatch):
    save, calls = np.savez, []

    def full(file, **arrays):
        calls.append(1)
        if len(calls) == 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"shard-00002\.npz could not be written .No space left on device"):
        write(COUNT, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-00000.npz", "shard-00001.npz", "shards.json"]
    write(COUNT, tmp_path)
    same(shards.read(tmp_path), whole)


def test_what_does_not_fit(tmp_path):
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
    for arguments, name in (((0, tmp_path), "count"), ((4, tmp_path), "size")):
        with pytest.raises(ValueError, match=f"{name} must be"):
            write(*arguments, size=0 if name == "size" else 4)
    (tmp_path / "shards.json").write_text("{")
    with pytest.raises(ValueError, match=r"shards\.json cannot be read"):
        write(COUNT, tmp_path)
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
    keep = shards._write

    def told(path, samples, span):
        keep(path, samples, span)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(shards, "_write", told)
    assert cli.main(command) == 143
    assert "8 of 12 samples of this process are in" in capsys.readouterr().err
    monkeypatch.setattr(shards, "_write", keep)
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shard", "4"], "--shard is for --out FOLDER"),
        (["--shard", "4", "--out", "x.png"], "--shard is for --out FOLDER"),
        (["--out", "folder", "--trajectory"], "--trajectory is a picture"),
        (["--out", "folder", "--shard", "0"], "size must be"),
    ],
)
def test_the_command_refuses(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sample", "--steps", "2", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
