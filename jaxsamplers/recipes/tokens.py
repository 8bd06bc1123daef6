"""Samplers of tokens as plain JSON: tables, tempered or not, with the process that they move on.

    {"kind": "tokens", "rows": {"time", "clean", "noise", "refresh", "survival", "noisiness", "exact", "greedy"},
     "rule", "exponent" (null if not tempered), "process"}

Flags are 0 and 1. Which positions are active belongs to what is sampled and is not kept.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers.discrete.leaps import rules
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.routing import Coefficients
from jaxsamplers.discrete.table import Rows, TokenTable
from jaxsamplers.discrete.tempered import Tempered
from jaxsamplers.recipes.plain import array_from_plain, array_to_plain, fields, from_plain, to_plain

NUMBERS = ("clean", "noise", "refresh", "survival", "noisiness")
FLAGS = ("exact", "greedy")


def tokens_to_plain(sampler: TokenTable | Tempered) -> dict[str, Any]:
    """What is written.

    Raises:
        ValueError: active positions, a sampler that is tempered but no table, or numbers that are not finite.
    """
    table = sampler.sampler if isinstance(sampler, Tempered) else sampler
    if not isinstance(table, TokenTable):
        raise ValueError(f"of samplers of tokens only tables can be saved, tempered or not, got {type(table).__name__}")
    if table.active is not None:
        raise ValueError("active positions belong to what is sampled: save the sampler before js.discrete.only")
    rows = {"time": table.rows.time} | {name: getattr(table.rows.step, name) for name in NUMBERS}
    rows |= {name: np.asarray(getattr(table.rows, name)).astype(np.int32) for name in FLAGS}
    return {
        "kind": "tokens",
        "rows": {name: array_to_plain(name, value) for name, value in rows.items()},
        "rule": table.rule,
        "exponent": array_to_plain("exponent", sampler.exponent) if isinstance(sampler, Tempered) else None,
        "process": to_plain("process", table.process),
    }


def tokens_from_plain(found: dict[str, Any]) -> TokenTable | Tempered:
    """The inverse.

    Raises:
        ValueError: not what ``tokens_to_plain`` writes.
    """
    fields("sampler", found, ("kind", "rows", "rule", "exponent", "process"))
    fields("rows", found["rows"], ("time", *NUMBERS, *FLAGS))
    rows = {name: array_from_plain(name, value) for name, value in found["rows"].items()}
    exponent = None if found["exponent"] is None else array_from_plain("exponent", found["exponent"])
    count = rows["time"].size
    for name, value in (rows | ({} if exponent is None else {"exponent": exponent})).items():
        kind = jnp.integer if name in FLAGS else jnp.floating
        if value.shape != (count,) or not count or not jnp.issubdtype(value.dtype, kind):
            raise ValueError(f"{name}: expected a number for each of {count} rows, got {value.dtype} of {value.shape}")
    if any(((rows[name] != 0) & (rows[name] != 1)).any() for name in FLAGS):
        raise ValueError(f"{' and '.join(FLAGS)} must be 0 or 1")
    if exponent is not None and not (exponent > 0).all():
        raise ValueError("exponent: numbers must be above 0")
    if not isinstance(found["rule"], str) or found["rule"] not in rules:
        raise ValueError(f"rule: unknown: {found['rule']!r:.40}; known: {', '.join(rules)}")
    process = from_plain("process", found["process"])
    _check_process(process)
    exact, greedy = (rows[name] == 1 for name in FLAGS)
    step = Coefficients(*(rows[name] for name in NUMBERS))
    table = TokenTable(Rows(rows["time"], step, exact, greedy), process, None, found["rule"], bool(greedy.any()))
    return table if exponent is None else Tempered(table, exponent)


def _check_process(process: Any) -> None:
    """A file could put any kind where a law or a noise should be."""
    if not isinstance(process, Replacement):
        raise ValueError(f"process: expected a Replacement, got a {type(process).__name__}")
    vocab, states = process.vocab, process.states
    if type(vocab) is not int or type(states) is not int or not 1 <= vocab <= states:
        raise ValueError(f"process: needs numbers 1 <= vocab <= states, got {vocab!r:.20} and {states!r:.20}")
    try:
        ends = [float(process.t_min), float(process.t_max)]
        levels = [jax.eval_shape(f, jnp.float32(0.5)) for f in (process.survival, process.log_survival, process.time)]
        levels.append(jax.eval_shape(process.noise.probability, jnp.int32(0)))
        assert isinstance(process.noise.absorbing, bool)
    except Exception as error:
        raise ValueError(f"process: its parts do not make one ({type(error).__name__})") from None
    if not 0 <= ends[0] < ends[1] or any(level.shape != () for level in levels):
        raise ValueError("process: needs numbers 0 <= t_min < t_max, and one level for one time")
