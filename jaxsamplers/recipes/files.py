"""A sampler as a file: JSON of plain numbers, with the process, the times and the names that belong to it.

Nothing in the file is executed; everything is checked when it is read. The format, version 1, is an object with

    format, version       "jaxsamplers recipe", 1
    sampler               time, weights, noise, extra, constant, pattern, origin of the table; or, of a sampler of
                          tokens, what ``tokens.py`` says, the process included
    process, times, start, prediction, sigma_data, clip, solver, provenance      as in ``Recipe``; null where absent
    written_by            versions of what wrote it

An array is ``{"dtype", "shape", "values"}``, a process ``{"kind", and its fields}``.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxsamplers import processes
from jaxsamplers.denoisers import predictions
from jaxsamplers.discrete.table import TokenTable
from jaxsamplers.discrete.tempered import Tempered
from jaxsamplers.recipes.plain import array_from_plain, array_to_plain, fields, finite, from_plain, json_only, to_plain
from jaxsamplers.recipes.recipe import Clip, Recipe
from jaxsamplers.recipes.tokens import tokens_from_plain, tokens_to_plain
from jaxsamplers.records.files import writing
from jaxsamplers.tableau import Rows, Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

FORMAT, VERSION = "jaxsamplers recipe", 1
LARGEST = 2**28  # bytes
MEMBERS = ("process", "times", "start", "prediction", "sigma_data", "clip", "solver", "provenance")


def save(
    path: str | Path,
    sampler: Tableau | TokenTable | Tempered | Recipe,
    *,
    process: Process | None = None,
    times: Float[Array, " n+1"] | None = None,
    solver: str | None = None,
    options: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a sampler to a file, all at once: an interrupted write leaves the old file.

    Args:
        path: where; conventionally ``*.json``.
        sampler: a table, learned or not, of numbers or of tokens (tempered or not), or a whole recipe.
        process: what its times belong to; a sampler of tokens has its own.
        times: what its solver was given.
        solver: the solver's name.
        options: the solver's keyword options.
        provenance: whatever should be remembered of it, as plain JSON: how it was trained, a score, a date.

    Raises:
        ValueError: a sampler that is no table, a number that is not finite, anything that plain JSON cannot hold.
        OSError: it could not be written; a file that was there before is as it was.
    """
    recipe = sampler if isinstance(sampler, Recipe) else Recipe(sampler)
    named = None if solver is None else {"name": solver, "options": dict(options or {})}
    if options is not None and solver is None:
        raise ValueError("options belong to a solver: give its name too")
    given: dict[str, Any] = {"process": process, "times": times, "solver": named, "provenance": provenance}
    recipe = recipe._replace(**{key: value for key, value in given.items() if value is not None})
    if process is not None and isinstance(recipe.sampler, TokenTable | Tempered):
        raise ValueError("a sampler of tokens has its process in itself: leave process out")
    text = json.dumps(_plain(recipe), allow_nan=False, separators=(",", ":"))
    path = Path(path)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with writing(path), draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def load(path: str | Path) -> Recipe:
    """What ``save`` wrote.

    Args:
        path: of a file that may come from anywhere: it is read, checked, and never executed.

    Raises:
        ValueError: not a recipe, one of a newer version, or one with anything missing, unknown, of a wrong type or
            size, or not finite; the message says what and where.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > LARGEST:
        raise ValueError(f"{path}: larger than {LARGEST} bytes, which no recipe needs")
    content = path.read_bytes()
    try:
        found = json.loads(content.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a recipe: {str(error) or type(error).__name__:.200}") from None
    try:
        return _recipe(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _plain(recipe: Recipe) -> dict[str, Any]:
    from jaxsamplers import __version__

    sampler = recipe.sampler
    plain = tokens_to_plain(sampler) if isinstance(sampler, TokenTable | Tempered) else _plain_tableau(sampler)
    return {
        "format": FORMAT,
        "version": VERSION,
        "sampler": plain,
        "process": to_plain("process", recipe.process),
        "times": None if recipe.times is None else array_to_plain("times", recipe.times),
        "start": None if recipe.start is None else float(recipe.start),
        "prediction": recipe.prediction,
        "sigma_data": None if recipe.sigma_data is None else float(recipe.sigma_data),
        "clip": None if recipe.clip is None else {"high": recipe.clip.high, "quantile": recipe.clip.quantile},
        "solver": json_only("solver", recipe.solver),
        "provenance": json_only("provenance", recipe.provenance),
        "written_by": {"jaxsamplers": __version__, "jax": jax.__version__, "python": platform.python_version()},
    }


def _plain_tableau(tableau: Any) -> dict[str, Any]:
    if not isinstance(tableau, Tableau):
        raise ValueError(f"only tables can be saved as recipes, got a {type(tableau).__name__}")
    rows = tableau.rows
    return {
        **{name: array_to_plain(name, getattr(rows, name)) for name in ("time", "weights", "noise")},
        "extra": {name: array_to_plain(f"extra {name}", value) for name, value in rows.extra.items()},
        "constant": None if rows.constant is None else array_to_plain("constant", rows.constant),
        "pattern": [list(row) for row in tableau.pattern],
        "origin": to_plain("origin", tableau.origin),
    }


def _recipe(found: Any) -> Recipe:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError("not a recipe: its format is not " + repr(FORMAT))
    if type(found.get("version")) is not int or found["version"] != VERSION:
        raise ValueError(f"version {found.get('version')!r:.40} of the format is not known, only {VERSION}")
    fields("recipe", found, ("format", "version", "sampler", *MEMBERS, "written_by"))
    json_only("written_by", found["written_by"])
    process = from_plain("process", found["process"])
    if process is not None:
        _check_process(process)
    clip, solver, provenance = found["clip"], found["solver"], found["provenance"]
    if clip is not None:
        fields("clip", clip, ("high", "quantile"))
        clip = Clip(finite("clip", clip["high"]), _optional("clip", clip["quantile"]))
    if solver is not None:
        fields("solver", solver, ("name", "options"))
        if not isinstance(solver["name"], str) or not isinstance(solver["options"], dict):
            raise ValueError("solver: its name must be a string and its options an object")
    if provenance is not None and not isinstance(provenance, dict):
        raise ValueError("provenance: expected an object")
    prediction = found["prediction"]
    if prediction not in (None, "-v", *predictions):
        raise ValueError(f"prediction: unknown: {prediction!r:.40}")
    times = None if found["times"] is None else array_from_plain("times", found["times"])
    if times is not None and times.ndim != 1:
        raise ValueError(f"times: expected a vector, got shape {times.shape}")
    of_tokens = isinstance(found["sampler"], dict) and found["sampler"].get("kind") == "tokens"
    return Recipe(
        tokens_from_plain(found["sampler"]) if of_tokens else _tableau(found["sampler"]),
        process,
        times,
        _optional("start", found["start"]),
        prediction,
        _optional("sigma_data", found["sigma_data"]),
        clip,
        json_only("solver", solver),
        json_only("provenance", provenance),
    )


def _tableau(found: Any) -> Tableau:
    names = ("time", "weights", "noise")
    fields("sampler", found, (*names, "extra", "constant", "pattern", "origin"))
    time, weights, noise = (array_from_plain(name, found[name]) for name in names)
    constant = None if found["constant"] is None else array_from_plain("constant", found["constant"])
    if not isinstance(found["extra"], dict):
        raise ValueError("extra: expected an object")
    extra = {name: array_from_plain(f"extra {name!r:.40}", value) for name, value in found["extra"].items()}
    pattern = found["pattern"]
    if not isinstance(pattern, list) or not pattern or not all(isinstance(row, list) for row in pattern):
        raise ValueError("pattern: expected a list of lists")
    count = len(pattern)
    if not all(len(row) == count + 2 and all(type(flag) is int and 0 <= flag <= 2 for flag in row) for row in pattern):
        raise ValueError(f"pattern: {count} registers need rows of {count + 2} flags 0, 1 or 2")
    if time.ndim != 1 or not len(time):
        raise ValueError(f"time: expected one number a row, got shape {time.shape}")
    n, trailing = len(time), weights.shape[3:]
    for name, value, shape in (
        ("weights", weights, (n, count, count + 1, *trailing)),
        ("noise", noise, (n, count, *trailing)),
        ("constant", noise if constant is None else constant, (n, count, *trailing)),
    ):
        if value.shape != shape or not np.issubdtype(value.dtype, np.floating):
            raise ValueError(f"{name}: {n} rows of {count} registers need floats of shape {shape}, got {value.shape}")
    if not np.issubdtype(time.dtype, np.floating):
        raise ValueError("time: expected floats")
    for name, value in extra.items():
        if not name.isidentifier() or value.ndim < 1 or len(value) != n:
            raise ValueError(f"extra {name!r:.40}: expected a keyword's name and one value a row")
    rows = Rows(time, weights, noise, extra, constant)
    return Tableau(rows, tuple(tuple(row) for row in pattern), from_plain("origin", found["origin"]))


def _check_process(process: Any) -> None:
    """A file could put any kind where a law should be."""
    if not isinstance(process, processes.Process):
        raise ValueError(f"process: expected a Process, got a {type(process).__name__}")
    try:
        ends = [float(process.t_min), float(process.t_max)]
        levels = [jax.eval_shape(f, 0.5) for f in (process.alpha, process.half_log_snr, process.time)]
    except Exception as error:
        raise ValueError(f"process: its parts do not make one ({type(error).__name__})") from None
    if not 0 <= ends[0] < ends[1] or any(level.shape != () for level in levels):
        raise ValueError("process: needs numbers 0 <= t_min < t_max, and one level for one time")


def _optional(where: str, value: Any) -> float | None:
    return None if value is None else finite(where, value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is given twice")
    return made
