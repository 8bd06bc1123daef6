"""Sampling in stages: one sampler's rows under several networks, or several resolutions one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model, Remat, Sampler, SolverState, network_calls, run, sample
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

    from jaxsamplers.processes import Process


def stitch(
    parts: Sequence[tuple[Sampler, Model]],
    x: PyTree,
    key: Key[Array, ...] | None = None,
    *,
    remat: Remat = True,
    unroll: int = 1,
) -> PyTree:
    """The sample of parts run one after another, each with its own model; registers and keys pass on.

    ``[(sampler[:k], small), (sampler[k:], large)]`` is T-Stitch: a small network for the early steps, where all
    networks agree. With one model throughout it is the whole run, whatever the solver remembers.

    Args:
        parts: slices of one sampler (or samplers of the same registers) with their models; empty ones cost nothing.
        x: the sample to start from.
        key: as in ``js.sample``.
        remat: as in ``js.run``.
        unroll: as in ``js.run``.

    Raises:
        ValueError: no parts, or a part that remembers other things than the one before it.
    Source: Pan et al. 2024, T-Stitch (arXiv 2402.14167).
    """
    if not parts:
        raise ValueError("stitch needs at least one part (sampler, model)")
    state = parts[0][0].init(x, key)
    for index, (sampler, model) in enumerate(parts):
        _same_memory(sampler, state, index)
        if network_calls(sampler):
            state = run(sampler, model, state, remat=remat, unroll=unroll)
    return state.x


def _same_memory(sampler: Sampler, state: SolverState, index: int) -> None:
    own = jax.eval_shape(lambda: sampler.init(state.x, state.key))
    if jax.tree.structure(own.memory) != jax.tree.structure(state.memory):  # type: ignore[operator]
        raise ValueError(
            f"part {index} remembers other registers than the part before it: stitch slices of one sampler, or "
            "js.align(...) the samplers first"
        )


def cascade(
    process: Process,
    stages: Sequence[tuple[Tableau, Model]],
    resize: Sequence[Callable[[PyTree], PyTree]],
    x: PyTree,
    key: Key[Array, ""],
    *,
    remat: Remat = True,
) -> PyTree:
    """The sample of stages at different resolutions; between two, the sample is resized and noised again.

    A schedule that ends at the clean end, ``jnp.append(times[:k], 0.0)``, makes a stage return its last estimate. Cut
    early, that is a mean, with less variance than the data, which the next stage's noise has to make up for.
    Noise is not resized (interpolation would correlate it) but drawn afresh, at the level of the next stage's first
    time; see ``matched_time`` for the times of another resolution. High, low and high again is Bottleneck Sampling;
    low, then high from the middle of the schedule is the frame of DiffuseHigh.

    Args:
        process: the noise process, the same for all stages.
        stages: samplers and models, each for its own resolution.
        resize: one function between each two stages, from one resolution's clean samples to the next's.
        x: the noise that the first stage starts from.
        key: PRNG key.
        remat: as in ``js.run``.

    Raises:
        ValueError: not one ``resize`` between each two stages.
    Source: Tian et al. 2025, Bottleneck Sampling (arXiv 2503.18940), sec. 3; Kim et al. 2025, DiffuseHigh
        (arXiv 2406.18459), sec. 4.
    """
    if len(resize) != len(stages) - 1:
        raise ValueError(f"{len(stages)} stages need {len(stages) - 1} functions between them, got {len(resize)}")
    for index, (sampler, model) in enumerate(stages):
        if index:
            clean = resize[index - 1](x)
            x = process.forward(jax.random.fold_in(key, 2 * index - 1), clean, sampler.rows.time[0])
        x = sample(sampler, model, x, jax.random.fold_in(key, 2 * index), remat=remat)
    return x


def matched_time(process: Process, t: Float[Array, "..."], ratio: float) -> Float[Array, "..."]:
    """The time at which a finer image is as noisy as a coarser one is at ``t``.

    Averaging ``ratio`` values into one divides the noise by ``sqrt(ratio)`` and hardly touches the signal, so
    ``half_log_snr(t') = half_log_snr(t) - log(ratio) / 2``. For ``rectified_flow`` it is the timestep shift
    ``t' = s t / (1 + (s - 1) t)`` with ``s = sqrt(ratio)``.

    Args:
        process: the noise process.
        t: times, without the clean end.
        ratio: how many values the finer image has for one of the coarser; below 1 for the way back.

    Raises:
        ValueError: a ratio that is not positive.
    Source: Hoogeboom et al. 2023, Simple diffusion (arXiv 2301.11093), sec. 3.1; Esser et al. 2024, Stable Diffusion 3
        (arXiv 2403.03206), eq. 23.
    """
    checks.within("ratio", ratio, 0.0, above=True)
    return process.time(process.half_log_snr(t) - 0.5 * jnp.log(ratio))
