"""A second interpreter of tables, in NumPy, with the noise given: for numbers that other programs made."""

from __future__ import annotations

import numpy as np


def replay(sampler, model, x, noise=None):
    """The sample that ``sampler`` ends with; ``model(x, t, **extra)`` in NumPy, ``noise[i]`` is row ``i``'s."""
    rows = sampler.rows
    weights, fresh, times = np.asarray(rows.weights), np.asarray(rows.noise), np.asarray(rows.time)
    registers = [np.asarray(x, np.float64), *[np.zeros_like(x, np.float64)] * (sampler.registers - 1)]
    for i, time in enumerate(times):
        extra = {name: np.asarray(values[i]) for name, values in rows.extra.items()}
        sources = [*registers, model(registers[0], time, **extra)]
        registers = [sum(w * s for w, s in zip(row, sources, strict=True)) for row in weights[i]]
        if sampler.stochastic:
            registers = [r + c * noise[i] for r, c in zip(registers, fresh[i], strict=True)]
        if rows.constant is not None:
            registers = [r + c for r, c in zip(registers, np.asarray(rows.constant[i]), strict=True)]
    return registers[0]
