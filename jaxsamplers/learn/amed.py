"""AMED: a small network says where inside each step to ask again, and how far to go along the answer.

In the coordinates of ``straight`` a step from ``tau`` to ``tau'`` makes two network calls, the second at

    AMED-Solver   mid = tau^(1-r) tau'^r   ("flow": tau + r (tau' - tau))
                  y_mid = y + (mid - tau) d(y, tau)          y' = y + c (tau' - tau) d(y_mid, a mid)

where ``d`` is the slope, shown the network's own time ``a mid``. The predictor gives ``r`` in (0, 1), ``c`` and ``a``
close to 1 for every sample, from what the first call found: the mean value theorem says that there is a point whose
slope is the chord's. At ``r = 1/2``, ``c = a = 1`` it is DPM-Solver-2, or the midpoint method. AMED-Plugin puts the
point in as a node of another solver instead, DDIM or iPNDM, which steps to it and from it, ``c`` in the second step.

The predictor has a body of random weights, and heads that are zero: learning starts at the base solver. As published,
it sees the bottleneck of the network, if the model returns ``Answer(estimate, feature)``, and the two times; without
one, a function of the sample and the answer. Each step is taught by the teacher's place after it, on the student's own
samples, without derivatives from step to step (``amed_loss``); ``endpoint`` teaches them all by where they end.

Source: Zhou, Chen, Wang & Chen 2024, Fast ODE-based sampling for diffusion models in around 5 steps (arXiv 2312.00094),
eq. 8 - 12, algorithm 1, and their program, whose predictor this is but for its times (half-log-SNR here, ``sigma``
there) and its heads' first weights (random there). Their program teaches single-step solvers on the teacher's samples,
and takes an optimiser's step after each solver step; here one gradient is the mean over the steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import Model, SolverState, as_key, new_state, run, sample, take_rows
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.objectives import squared
from jaxsamplers.learn.pairs import Pairs
from jaxsamplers.learn.parameters import Parameters, parameters
from jaxsamplers.learn.straight import chosen, straight, time_of
from jaxsamplers.processes import Process, centre, expand, uncentre
from jaxsamplers.solvers.deis import ADAMS_BASHFORTH
from jaxsamplers.tableau import conform

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key, PyTree

    from jaxsamplers.learn.objectives import Distance, PerSample

    Feature = Callable[[PyTree, PyTree], Float[Array, "batch features"]]


class Answer(NamedTuple):
    """What a model may return to show more than its estimate.

    Attributes:
        estimate: of the clean data.
        feature: a few numbers a sample, ``[batch, features]``: a pooled bottleneck.
    """

    estimate: Any
    feature: Float[Array, "batch features"]


def statistics(x: PyTree, m: PyTree) -> Float[Array, "batch 3"]:
    """What is known without a bottleneck: the sizes of sample and answer, and the cosine between them."""
    x, m = _flat(x), _flat(m)
    size = lambda v: jnp.sqrt(jnp.mean(v**2, axis=1) + 1e-12)
    return jnp.stack([size(x), size(m), jnp.mean(x * m, axis=1) / (size(x) * size(m))], axis=1)


def entries(x: PyTree, m: PyTree) -> Float[Array, "batch features"]:
    """The answer itself, all of it: for samples of few numbers."""
    return _flat(m)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Two rows a step.

    Attributes:
        inside: whether it is the step's second row.
        time: both ends of the step, as ``process``, ...
        tau: ... as ``straight`` ...
        scale: ... (its scale),
        level: ... and as the predictor sees them.
        weights: of the newest slope and of those remembered.
    """

    inside: Bool[Array, " n"]
    time: Float[Array, "n 2"]
    tau: Float[Array, "n 2"]
    scale: Float[Array, "n 2"]
    level: Float[Array, "n 2"]
    weights: Float[Array, "n order"]


class Memory(NamedTuple):
    """Between the two rows of a step, each sample's own.

    Attributes:
        y: where the step began.
        slopes: of earlier rows, the newest first.
        tau: where the sample is.
        scale: of ``y`` there.
        time: what the network is shown there.
        length: ``c``.
    """

    y: PyTree
    slopes: tuple[PyTree, ...]
    tau: Float[Array, " batch"]
    scale: Float[Array, " batch"]
    time: Float[Array, " batch"]
    length: Float[Array, " batch"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "process", "predictor", "feature"],
    meta_fields=["settings", "local"],
)
@dataclasses.dataclass(frozen=True)
class AmedSampler:
    """The sampler.

    Attributes:
        rows: two a step.
        process: the noise process.
        predictor: its weights.
        feature: ``(x, m) -> [batch, features]``, or ``None`` where the model returns an ``Answer``.
        settings: those of ``Amed``.
        local: no derivative passes from one step to the next.
    """

    rows: Rows
    process: Process
    predictor: PyTree
    feature: Feature | None
    settings: Settings
    local: bool = False

    def __len__(self) -> int:
        return self.rows.inside.shape[0]

    def __getitem__(self, rows: slice) -> AmedSampler:
        return take_rows(self, rows)

    def init(self, x: PyTree, key: Key[Array, ...] | None) -> SolverState:
        """Nothing is remembered yet."""
        none, number = jax.tree.map(jnp.zeros_like, x), jnp.ones(jax.tree.leaves(x)[0].shape[0], self.rows.tau.dtype)
        older = self.rows.weights.shape[1] - 1
        return new_state(x, Memory(none, (none,) * older, number, number, number, number), key)

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """One network call: to the point inside the step, or to the step's end."""
        x, memory = state.x, state.memory
        if self.local:
            x, memory = jax.tree.map(lambda leaf: jnp.where(row.inside, leaf, jax.lax.stop_gradient(leaf)), (x, memory))
        at = lambda own, known: jnp.where(row.inside, own, known)
        tau, scale, time = at(memory.tau, row.tau[0]), at(memory.scale, row.scale[0]), at(memory.time, row.time[0])
        answer = model(x, time)
        estimate = conform(answer.estimate if isinstance(answer, Answer) else answer, x)
        m, centred = (centre(leaf, self.process.origin) for leaf in (estimate, x))
        y = _times(1 / scale, centred)
        slope = jax.tree.map(lambda y, m: (y - m) / expand(tau, y).astype(y.dtype), y, m)
        slopes = (slope, *memory.slopes)
        direction = jax.tree.map(
            lambda *values: sum(w.astype(v.dtype) * v for w, v in zip(row.weights, values, strict=True)), *slopes
        )
        unit = _times(1 / jnp.hypot(self.process.alpha(time), self.process.sigma(time)), centred)
        seen = answer.feature if isinstance(answer, Answer) else self._seen(unit, m)
        inner, length, shown = self.predict(seen, row)

        whole = self.settings.plugin is None
        begin = at(row.tau[0], tau) if whole else tau
        base = jax.tree.map(lambda a, b: at(a, b), memory.y, y) if whole else y
        move = at(memory.length * (row.tau[1] - begin), inner - tau)
        y_next = jax.tree.map(lambda a, b: a + b, base, _times(move, direction))
        t = time_of(self.process, inner, self.settings.coordinate)
        inner_scale = straight(self.process, t, self.settings.coordinate)[0]
        shown = jnp.clip(time_of(self.process, shown * inner, self.settings.coordinate), 0.0, self.process.t_max)
        x = uncentre(_times(at(row.scale[1], inner_scale), y_next), self.process.origin)
        kept = Memory(y, slopes[: len(memory.slopes)], inner, inner_scale, shown, length)
        return SolverState(x, kept, state.key, state.step + 1)

    def predict(self, feature: Float[Array, "batch features"], row: Rows) -> tuple[Array, Array, Array]:
        """``mid``, ``c`` and ``a`` of a step, one a sample."""
        module = _module(self.settings.hidden)
        out = module.apply(self.predictor, feature, row.level).astype(row.tau.dtype)
        r = jax.nn.sigmoid(out[:, 0])
        if self.settings.coordinate == "edm":
            inner = jnp.exp(jnp.log(row.tau[0]) + r * (jnp.log(row.tau[1]) - jnp.log(row.tau[0])))
        else:
            inner = row.tau[0] + r * (row.tau[1] - row.tau[0])
        around = lambda reach, logit: 1 + reach * jnp.tanh(logit / 2)
        return inner, around(self.settings.direction, out[:, 1]), around(self.settings.time, out[:, 2])

    def _seen(self, x: PyTree, m: PyTree) -> Float[Array, "batch features"]:
        if self.feature is None:
            raise ValueError("the predictor was made for a model that returns js.learn.Answer(estimate, feature)")
        return self.feature(x, m)


class Settings(NamedTuple):
    """What is fixed.

    Attributes:
        coordinate: "edm" or "flow".
        plugin: the order of iPNDM, or ``None`` for AMED-Solver.
        hidden: width of the predictor.
        direction: how far ``c`` goes from 1.
        time: how far ``a`` does.
    """

    coordinate: str
    plugin: int | None
    hidden: int
    direction: float
    time: float


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["process", "feature"], meta_fields=["settings", "local"]
)
@dataclasses.dataclass(frozen=True)
class Amed:
    """``parameters -> AmedSampler``, made by ``amed``; used like a ``Builder``."""

    process: Process
    feature: Feature | None
    settings: Settings
    local: bool = False

    def __call__(self, parameters: Parameters) -> AmedSampler:
        """The sampler."""
        times = parameters.times(self.process)
        scale, tau = straight(self.process, times, self.settings.coordinate)
        level = jnp.clip(self.process.half_log_snr(times), -10.0, 10.0)
        both = lambda values: jnp.repeat(jnp.stack([values[:-1], values[1:]], axis=1), 2, axis=0)
        calls, order = 2 * len(times) - 2, self.settings.plugin or 1
        used = [ADAMS_BASHFORTH[min(order, i + 1) - 1] for i in range(calls)]
        weights = jnp.asarray(np.array([[*w, *[0.0] * (order - len(w))] for w in used]), times.dtype)
        rows = Rows(jnp.arange(calls) % 2 == 1, both(times), both(tau), both(scale), both(level), weights)
        base = jax.lax.stop_gradient(parameters.start["predictor"])
        predictor = jax.tree.map(jnp.add, base, parameters.learned["predictor"])
        return AmedSampler(rows, self.process, predictor, self.feature, self.settings, self.local)

    def sample(self, parameters: Parameters, model: Model, x: PyTree, key: Key[Array, ...] | None = None) -> PyTree:
        """The sample of the built sampler."""
        return sample(self(parameters), model, x, key)


def amed(
    process: Process,
    steps: int,
    like: PyTree,
    key: Key[Array, ""],
    *,
    schedule: Float[Array, " n+1"] | None = None,
    plugin: int | None = None,
    coordinate: str | None = None,
    feature: Feature | int = statistics,
    hidden: int = 128,
    scale_direction: float = 0.01,
    scale_time: float = 0.2,
) -> tuple[Amed, Parameters]:
    """What makes AMED samplers, two network calls a step, and parameters at the base solver.

    Args:
        process: the noise process.
        steps: of the schedule.
        like: a batch of samples, of which only shapes are looked at.
        key: of the predictor's random weights.
        schedule: ``steps + 1`` times; equal in half-log-SNR (in time, where that is infinite) by default.
        plugin: ``None`` for AMED-Solver, or the order from 1 (DDIM) to 4 of the iPNDM that AMED-Plugin is put into.
        coordinate: "edm", the paper's, or "flow", which exists for pure noise and the clean end; by default the first,
            unless one of them is there.
        feature: ``(x, m) -> [batch, features]`` of the sample (of unit scale) and the answer, as ``entries`` or
            ``statistics``; or how many numbers the model adds to its answers, see ``Answer``.
        hidden: width of the predictor.
        scale_direction: how far ``c`` may be from 1; 0 or 0.01 in the paper.
        scale_time: how far ``a`` may be from 1; 0 or 0.2 in the paper.

    Raises:
        ValueError: an argument that is not allowed, a schedule of another length or one that ends clean in "edm".
    """
    if plugin is not None:
        checks.integer("plugin", plugin, low=1, high=4)
    checks.integer("hidden", hidden, low=1)
    checks.within("scale_direction", scale_direction, 0.0, 1.0)
    checks.within("scale_time", scale_time, 0.0, 1.0)
    base = parameters(process, steps, times=False, schedule=schedule)
    times = base.start["schedule"]
    clean = checks.is_zero(process.sigma(times[-1]))
    coordinate = chosen(process, times, "flow" if clean and coordinate is None else coordinate)
    if clean and coordinate == "edm":
        raise ValueError('the schedule ends clean, where no point lies half-way in "edm": use coordinate="flow"')
    look: Feature | None = None
    if callable(feature):
        look = as_pytree(feature)
        width = jax.eval_shape(look, like, like).shape[-1]
    else:
        width = checks.integer("feature", feature, low=1)
    weights = jax.tree.map(lambda leaf: leaf.astype(times.dtype), _weights(as_key(key), hidden, width))
    settings = Settings(coordinate, plugin, hidden, float(scale_direction), float(scale_time))
    learned = {"predictor": jax.tree.map(jnp.zeros_like, weights)}
    start = base.start | {"predictor": weights}
    return Amed(process, look, settings), dataclasses.replace(base, learned=learned, start=start)


def amed_loss(build: Amed, model: Model, *, distance: Distance = squared) -> AmedLoss:
    """The distance from the teacher after each step, mean over steps and a batch of ``Pairs``; each step by itself.

    ``goal`` is ``[batch, steps, ...]``: where the teacher is after each step, about the process's origin, as
    ``js.learn.along`` finds it. Distances are of samples of unit scale, ``x / sqrt(alpha^2 + sigma^2)``.
    """
    return AmedLoss(dataclasses.replace(build, local=True), as_pytree(model), as_pytree(distance))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AmedLoss:
    """See ``amed_loss``."""

    build: Amed
    model: Model
    distance: Distance

    def __call__(self, parameters: Parameters, batch: Pairs, key: Key[Array, ""] | None) -> Float[Array, ""]:
        """The loss."""
        process, times = self.build.process, parameters.times(self.build.process)[1:]
        _, path = run(self.build(parameters), self.model, batch.x, key, record=lambda state: state.x)
        shrink = 1 / jnp.hypot(process.alpha(times), process.sigma(times))

        def one(shrink: Array, x: PyTree, goal: PyTree) -> PerSample:
            return self.distance(_times(shrink, centre(x, process.origin)), _times(shrink, goal))

        ends = jax.tree.map(lambda leaf: leaf[1::2], path)
        return jax.vmap(one)(shrink, ends, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), batch.goal)).mean()


@functools.cache
def _module(hidden: int) -> Any:
    """The predictor: ``(feature [batch, F], level [2]) -> [batch, 3]``, zero in the beginning."""
    from flax import linen as nn

    class Predictor(nn.Module):
        """One, made when it is first needed, so that flax is."""

        @nn.compact
        def __call__(self, feature: Array, level: Array) -> Array:
            angle = level[:, None] / 2.0 ** jnp.arange(4)
            waves = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)
            when = nn.silu(nn.Dense(8)(waves)).reshape(-1)
            what = nn.Dense(4)(nn.silu(nn.Dense(hidden)(feature)))
            both = jnp.concatenate([what, jnp.broadcast_to(when, (len(what), len(when)))], axis=1)
            return nn.Dense(3, kernel_init=nn.initializers.zeros)(both)

    return Predictor()


@functools.partial(jax.jit, static_argnames=("hidden", "width"))
def _weights(key: Key[Array, ""], hidden: int, width: int) -> PyTree:
    return _module(hidden).init(key, jnp.zeros((1, width)), jnp.zeros(2))


def _times(factor: Array, x: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: expand(factor, leaf).astype(leaf.dtype) * leaf, x)


def _flat(x: PyTree) -> Float[Array, "batch D"]:
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(x)], axis=1)
