"""Recipes as files: every bit comes back, and nothing damaged or hostile gets in."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js

TIMES = np.linspace(0.98, 0.02, 5)


def same(a, b):
    """Equal in structure, types and every bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        assert np.asarray(x).dtype == np.asarray(y).dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def noisy(tableau):
    """A table whose numbers have no short decimals, as a learned one's."""
    return jax.tree.map(
        lambda leaf: leaf * jnp.asarray(np.random.default_rng(0).normal(size=leaf.shape), leaf.dtype), tableau
    )


@pytest.mark.parametrize("name", sorted(js.processes.registry))
def test_every_process_and_its_table_come_back_bit_by_bit(name, tmp_path):
    process = (
        js.processes.registry[name]()
        if name != "from_betas"
        else js.processes.from_betas(jnp.linspace(1e-4, 0.02, 100))
    )
    times = jnp.asarray(process.t_min + (process.t_max - process.t_min) * TIMES)
    sampler = noisy(js.solvers.ddim(process, times, eta=0.7))
    js.recipes.save(tmp_path / "a.json", sampler, process=process, times=times, solver="ddim", options={"eta": 0.7})
    recipe = js.recipes.load(tmp_path / "a.json")
    same((recipe.sampler, recipe.process, recipe.times), (sampler, process, times))
    assert recipe.solver == {"name": "ddim", "options": {"eta": 0.7}}
    assert (recipe.start, recipe.prediction, recipe.clip, recipe.provenance) == (None, None, None, None)


@pytest.mark.parametrize("double", [False, True])
def test_everything_comes_back(double, tmp_path):
    with jax.enable_x64(double):
        origin = {"a": jnp.arange(3.0), "b": [jnp.ones(()), (jnp.zeros((2, 1)),)]}
        process = js.processes.shifted(js.processes.vp_linear(), origin)
        sampler = noisy(js.solvers.unipc(process, jnp.asarray(TIMES), order=3))
        rows = sampler.rows
        rows = type(rows)(
            rows.time,
            rows.weights[..., None] * jnp.ones(4),
            rows.noise[..., None] * jnp.ones(4),
            {"scale": jnp.arange(4)},
        )
        sampler = type(sampler)(rows, sampler.pattern, origin)
        clip = js.recipes.Clip(1.5, 0.995)
        recipe = js.recipes.Recipe(
            sampler, process, rows.time, 1.25, "-v", 0.5, clip, {"name": "x", "options": {}}, {"loss": 0.1, "note": "é"}
        )
        js.recipes.save(tmp_path / "b.json", recipe)
        back = js.recipes.load(tmp_path / "b.json")
        same(back[:3], recipe[:3])
        assert back[3:] == recipe[3:]
        assert rows.weights.dtype == (jnp.float64 if double else jnp.float32)


def test_a_loaded_sampler_runs_the_program_compiled_for_the_saved_one(tmp_path):
    process = js.processes.vp_linear()
    sampler = js.solvers.dpm_solver_pp(process, TIMES)
    js.recipes.save(tmp_path / "a.json", sampler)
    compiled = []

    @jax.jit
    def run(s, x):
        compiled.append(1)
        return js.sample(s, lambda x, t: 0.3 * x, x)

    x = jnp.ones((2, 3))
    assert (run(js.recipes.load(tmp_path / "a.json").sampler, x) == run(sampler, x)).all()
    assert len(compiled) == 1


def test_a_recipe_of_diffusers_comes_back(tmp_path):
    config = {"_class_name": "EDMDPMSolverMultistepScheduler", "thresholding": True}
    recipe = js.recipes.from_diffusers(config, 6)
    js.recipes.save(tmp_path / "a.json", recipe)
    back = js.recipes.load(tmp_path / "a.json")
    same(back[:3], recipe[:3])
    assert back[3:] == recipe[3:]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    process = js.processes.vp_linear()
    good, bad = js.solvers.ddim(process, TIMES), js.solvers.ddim(process, TIMES)
    js.recipes.save(tmp_path / "a.json", good)
    bad = jax.tree.map(lambda leaf: leaf * jnp.inf, bad)
    with pytest.raises(ValueError, match="time must be finite"):
        js.recipes.save(tmp_path / "a.json", bad)
    with pytest.raises(ValueError, match="plain JSON"):
        js.recipes.save(tmp_path / "a.json", good, provenance={"model": object()})
    with pytest.raises(ValueError, match="only tables"):
        js.recipes.save(tmp_path / "a.json", lambda: None)
    same(js.recipes.load(tmp_path / "a.json").sampler, good)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "a.json"
    process = js.processes.vp_linear()
    sampler = js.with_extra(js.solvers.dpm_solver_pp(process, TIMES), scale=jnp.ones(4))
    js.recipes.save(path, sampler, process=process, times=TIMES, solver="dpm_solver_pp", provenance={"by": "hand"})
    return json.loads(path.read_text())


def _set(*path_and_value):
    *path, last, value = path_and_value

    def damage(found):
        for key in path:
            found = found[key]
        found[last] = value

    return damage


def _drop(*path):
    def damage(found):
        for key in path[:-1]:
            found = found[key]
        del found[path[-1]]

    return damage


NESTED = {"kind": "VariancePreserving", "clock": None}
for _ in range(40):
    NESTED = {"kind": "VariancePreserving", "clock": NESTED}

DAMAGE = [
    (_set("format", "pickle"), "not a recipe"),
    (_set("version", 2), "version 2"),
    (_set("version", True), "version True"),
    (_set("version", "1"), "version '1'"),
    (_drop("sampler"), "sampler missing"),
    (_drop("written_by"), "written_by missing"),
    (_set("code", "import os"), "code unknown"),
    (_set("sampler", []), "sampler: expected an object"),
    (_drop("sampler", "noise"), "noise missing"),
    (_drop("sampler", "time", "dtype"), "time: dtype missing"),
    (_set("sampler", "time", "dtype", "object"), "dtype must be one of"),
    (_set("sampler", "time", "dtype", ["float32"]), "dtype must be one of"),
    (_set("sampler", "time", "dtype", "int32"), "numbers of type int32"),
    (_set("sampler", "time", "shape", [10**12]), "as many values"),
    (_set("sampler", "time", "shape", [-1]), "list of at most 16 sizes"),
    (_set("sampler", "time", "shape", [4.0]), "list of at most 16 sizes"),
    (_set("sampler", "time", "shape", [True] * 4), "list of at most 16 sizes"),
    (_set("sampler", "time", "shape", [1] * 99), "list of at most 16 sizes"),
    (_set("sampler", "time", "shape", [4, 1]), "one number a row"),
    (_set("sampler", "time", "values", [1, 2, 3]), "got 3 of them"),
    (_set("sampler", "time", "values", "1234"), "as many values"),
    (_set("sampler", "time", "values", 0, "1"), "must all be numbers"),
    (_set("sampler", "time", "values", 0, None), "must all be numbers"),
    (_set("sampler", "time", "values", 0, True), "must all be numbers"),
    (_set("sampler", "time", "values", 0, [1.0]), "must all be numbers"),
    (_set("sampler", "time", "values", 0, 1e300), "must be finite"),
    (_set("sampler", "time", "values", 0, 10**400), "does not fit|not a recipe"),
    (_set("sampler", "time", {"dtype": "float32", "shape": [0], "values": []}), "one number a row"),
    (_set("sampler", "weights", "shape", [4, 3, 2]), "weights: 4 rows of 2 registers"),
    (_set("sampler", "noise", {"dtype": "float32", "shape": [1, 2], "values": [0, 0]}), "noise: 4 rows"),
    (_set("sampler", "noise", "dtype", "int32"), "numbers of type int32"),
    (_set("sampler", "constant", {"dtype": "float32", "shape": [1], "values": [0]}), "constant: 4 rows"),
    (_set("sampler", "pattern", [[2, 2, 2, 2]] * 3), "3 registers need rows of 5"),
    (_set("sampler", "pattern", 0, 0, 3), "flags 0, 1 or 2"),
    (_set("sampler", "pattern", 0, 0, 1.0), "flags 0, 1 or 2"),
    (_set("sampler", "pattern", "2222"), "list of lists"),
    (_set("sampler", "pattern", []), "list of lists"),
    (_set("sampler", "extra", [1]), "extra: expected an object"),
    (_set("sampler", "extra", "scale", "shape", []), "as many values"),
    (_set("sampler", "extra", "scale", {"dtype": "float32", "shape": [], "values": [1]}), "one value a row"),
    (_set("sampler", "extra", "a b", {"dtype": "float32", "shape": [4], "values": [1] * 4}), "keyword's name"),
    (_set("sampler", "origin", "here"), "origin: expected a number"),
    (_set("process", "kind", "os.system"), "unknown kind 'os.system'"),
    (_set("process", "kind", "LinearBeta"), "LinearBeta"),
    (_set("process", 3.0), "expected a Process"),
    (_set("process", "law", 3.0), "do not make one"),
    (_set("process", "law", "clock", "beta_max", {"kind": "tuple", "items": []}), "do not make one"),
    (_set("process", "t_min", 2.0), "t_min < t_max"),
    (_set("process", "t_max", None), "do not make one"),
    (_drop("process", "law", "clock", "beta_min"), "beta_min missing"),
    (_set("process", "law", NESTED), "deep"),
    (_set("times", "shape", [5, 1]), "expected a vector"),
    (_set("start", "1"), "start: expected a finite number"),
    (_set("start", True), "start: expected a finite number"),
    (_set("prediction", "eps"), "prediction: unknown"),
    (_set("prediction", ["v"]), "prediction: unknown"),
    (_set("clip", {"high": 1.0}), "quantile missing"),
    (_set("clip", {"high": None, "quantile": None}), "clip: expected a finite number"),
    (_set("solver", "ddim"), "solver: expected an object"),
    (_set("solver", "name", 3), "name must be a string"),
    (_set("provenance", "me"), "provenance: expected an object"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGE)
def test_a_damaged_file_is_refused_and_says_where(plain, tmp_path, damage, says):
    found = copy.deepcopy(plain)
    damage(found)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=says) as error:
        js.recipes.load(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 600


def test_what_is_no_json_is_refused(plain, tmp_path):
    good = json.dumps(plain).encode()
    path = tmp_path / "a.json"
    cut = [good[:n] for n in range(0, len(good) - 1, len(good) // 40)]
    twice = good.replace(b'"version": 1', b'"version": 1, "version": 1')
    numbers = [good.replace(b'"version": 1', b'"version": 1, "start2": ' + word) for word in (b"NaN", b"Infinity")]
    others = [b"\x80\x04K\x01.", b"\xff\xfe", b"[" * 100000, b'{"a":' * 100000, b"null", b"[]", b"9" * 5000]
    for content in [*cut, twice, *numbers, *others]:
        assert content != good
        path.write_bytes(content)
        with pytest.raises(ValueError, match="recipe"):
            js.recipes.load(path)


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(ValueError, match="larger than"):
        js.recipes.load(path)
