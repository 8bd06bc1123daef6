"""One loop for everything that is learned by gradient.

The loop goes in compiled chunks of ``every`` steps. A chunk ends with a validation, inside the same program: better
parameters are kept; ``patience`` validations without any bring the best ones back at a smaller rate, and after
``drops`` of those the run is over. A loss or a gradient that is not finite changes nothing and ends the run. All of
that is decided by numbers on the device, so that all hosts of a cluster decide alike.

Whatever a run depends on is in one pytree, ``State``. The batch of step ``k`` comes from ``k`` and the key: there is no
position in the data to be saved, and a run that was killed goes on to the same numbers. Nothing compiles again for
other parameters, noises, networks or rates of the same shapes; keep the optimiser object, since optax's are equal by
identity only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxsamplers import checks, distributed
from jaxsamplers.core import as_key
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.parameters import Parameters

if TYPE_CHECKING:
    import optax
    from jaxtyping import Array, Bool, Float, Int, Key, PyTree

    from jaxsamplers.learn.objectives import Objective
    from jaxsamplers.learn.pairs import Batches

    Scalar = Float[Array, ""]
    Validation = Callable[[Any], Scalar]
    Report = Callable[..., None]


class NotFinite(FloatingPointError):
    """Learning broke down.

    Attributes:
        parameters: the last good ones.
    """

    def __init__(self, message: str, parameters: Any) -> None:
        super().__init__(message)
        self.parameters = parameters


class Result(NamedTuple):
    """What came of it.

    Attributes:
        parameters: the best ones, by validation.
        value: their validation.
        last: the last ones.
        history: a row a chunk: step, loss (mean over the chunk), validation, best, rate.
        stopped: "steps", "patience": why it ended.
    """

    parameters: Any
    value: float
    last: Any
    history: list[dict[str, float]]
    stopped: str


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything a run depends on.

    Attributes:
        parameters: what is learned.
        optimizer: optax's state.
        carried: what the objective remembers from batch to batch; ``()`` as a rule.
        best: the best parameters so far.
        value: their validation.
        bad: validations since.
        drops: how often the rate fell.
        rate: what updates are multiplied by.
        step: gradient steps taken.
        broken: whether a loss or a gradient was not finite.
    """

    parameters: PyTree
    optimizer: PyTree
    carried: PyTree
    best: PyTree
    value: Scalar
    bad: Int[Array, ""]
    drops: Int[Array, ""]
    rate: Scalar
    step: Int[Array, ""]
    broken: Bool[Array, ""]


class Remembering(Protocol):
    """An objective that remembers something of its samples from batch to batch."""

    def carried(self) -> Any:
        """What it remembers in the beginning, a pytree of arrays."""

    def value_and_grad(self, parameters: Any, batch: Any, key: Any, carried: Any) -> tuple[Any, Any, Any]:
        """Loss, gradient, and what is remembered from now on."""


class Plateau(NamedTuple):
    """What to do when validation gets no better.

    Attributes:
        patience: validations without a better one until the best parameters come back at a smaller rate.
        factor: what the rate is multiplied by.
        drops: after how many of those the run ends.
    """

    patience: int
    factor: float = 0.8
    drops: int = 5


def fit(
    objective: Objective | Remembering,
    parameters: Any,
    *,
    optimizer: optax.GradientTransformation,
    batches: Batches,
    steps: int,
    key: Key[Array, ""] | None = None,
    validate: Validation | None = None,
    every: int = 50,
    plateau: Plateau | None = None,
    accumulate: int = 1,
    out: str | Path | None = None,
    checkpoint: int = 1,
    sharding: jax.sharding.NamedSharding | None = None,
    trace: tuple[int, int] | None = None,
    report: Report | None = None,
    label: str = "learning",
) -> Result:
    """Minimise an objective.

    Args:
        objective: ``(parameters, batch, key) -> loss``, a pytree or a plain function. If it remembers something of its
            samples, it has ``carried()`` and ``value_and_grad(parameters, batch, key, carried)`` instead, see ``ld3``.
        parameters: ``Parameters``, of which what is ``learned`` is, or any pytree of arrays.
        optimizer: of optax.
        batches: ``(step, key) -> batch``: ``js.learn.batches(pairs, size)`` or ``js.learn.draws(...)``.
        steps: gradient steps in all; a finished run given more goes on.
        key: of everything random; ``jax.random.key(0)`` by default.
        validate: ``parameters -> value``, of one and the same samples each time, the first time before anything is
            learned; the chunk's mean loss by default.
        every: steps between validations, which are compiled together; ``steps`` must be a multiple.
        plateau: the rule for a validation that gets no better; none by default.
        accumulate: batches whose gradients are averaged in one step.
        out: a directory for checkpoints and ``history.jsonl``. If there is a run in it, it goes on. With it, SIGTERM
            (the notice of preemption, to any of the processes) ends the run after the chunk in progress.
        checkpoint: validations between checkpoints.
        sharding: of the leading axis of a batch over a mesh, ``js.distributed.over_data(mesh)``; the parameters are
            replicated. All processes of the mesh must call ``fit`` alike, with ``out`` on storage that they share;
            process 0 writes the history and reports.
        trace: ``(first, steps)`` writes a trace for xprof of so many steps after the first ones, each process into its
            own directory in ``out/trace``.
        report: called after each validation with ``(done, total, **numbers)``; a progress bar on a terminal, or a plain
            line now and then, by default. ``lambda *_, **__: None`` for silence.
        label: what the bar calls it.

    Raises:
        ValueError: numbers that do not fit, or an ``out`` whose run is of other shapes or further already.
        NotFinite: a loss or a gradient was not finite. The exception has the last good parameters, and so has ``out``.
        Preempted: SIGTERM came, and the run is saved. The same call, of any number of processes, ends in the result of
            an uninterrupted one. ``js.records.preemption`` says which processes hear it.
        CheckpointError: the last checkpoint cannot be read, or the next not be written; nothing is lost.
        OSError: the history cannot be written.
    """
    checks.integer("every", every, low=1)
    checks.integer("accumulate", accumulate, low=1)
    checks.integer("checkpoint", checkpoint, low=1)
    if checks.integer("steps", steps, low=1) % every:
        raise ValueError(f"steps must be a multiple of every={every}, got {steps}")
    if plateau is not None:
        checks.integer("plateau.patience", plateau.patience, low=1)
        checks.within("plateau.factor", plateau.factor, 0.0, 1.0)
    if trace is not None and out is None:
        raise ValueError(f"trace={trace} needs out, a directory to write to")
    full: Any = objective if hasattr(objective, "value_and_grad") else Plain(as_pytree(objective))
    validate = None if validate is None else as_pytree(validate)
    key = as_key(jax.random.key(0) if key is None else key)
    state = _start(full, parameters, optimizer)
    if sharding is not None:
        _divides(jax.eval_shape(batches, state.step, key), sharding)
        state, key = distributed.replicate((state, key), sharding.mesh)
    log = _Log(out)
    state = log.resume(state, steps)
    if validate is not None and not int(state.step):
        state = dataclasses.replace(state, value=_value(validate, state.parameters, state.value))
    rows = list(log.rows)
    task = Task(full, batches, validate, key)
    rule = None if plateau is None else (plateau.patience, jnp.asarray(plateau.factor), plateau.drops)
    with (
        _reporting(report, label, steps, int(state.step)) as advance,
        _tracing(trace, out) as watch,
        log.told() as told,
    ):
        while int(state.step) < steps and not _over(state, plateau):
            watch(int(state.step))
            state, loss, value = _chunk(state, task, rule, optimizer, every, accumulate, sharding)
            done = int(state.step)
            numbers = {"loss": float(loss), "validation": float(value), "best": float(state.value)}
            if bool(state.broken) or not all(map(math.isfinite, numbers.values())):
                raise NotFinite(_breakdown(done, numbers, out), jax.device_get(state.best))
            rows.append({"step": done, **numbers, "rate": float(state.rate)})
            log.write(state, rows[-1], last=done >= steps or _over(state, plateau), every=checkpoint * every)
            advance(done, **numbers)
            if told(done):
                log.save(state)
                raise distributed.Preempted(_leaving(done, steps, out), done)
    stopped = "patience" if int(state.step) < steps else "steps"
    best, last = distributed.local((state.best, state.parameters))
    return Result(best, float(state.value), last, rows, stopped)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Plain:
    """An objective that is a function of parameters and batch alone."""

    loss: Objective

    def carried(self) -> tuple[()]:
        """Nothing."""
        return ()

    def value_and_grad(
        self, parameters: Any, batch: Any, key: Key[Array, ""], carried: tuple[()]
    ) -> tuple[Scalar, Any, tuple[()]]:
        """Loss and gradient."""
        return *jax.value_and_grad(self.loss)(parameters, batch, key), carried


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
    """What a chunk is given beside the state."""

    objective: Any
    batches: Batches
    validate: Validation | None
    key: Key[Array, ""]


def _start(objective: Any, parameters: Any, optimizer: optax.GradientTransformation) -> State:
    own = jax.tree.map(jnp.array, parameters)  # copies: a chunk gives its input's memory away
    count = lambda: jnp.zeros((), jnp.int32)
    return State(
        own,
        jax.tree.map(jnp.array, optimizer.init(_learned(own))),  # some hold one array twice
        jax.tree.map(jnp.array, objective.carried()),
        jax.tree.map(jnp.array, parameters),
        jnp.asarray(jnp.inf, jnp.result_type(float)),
        count(),
        count(),
        jnp.ones((), jnp.result_type(float)),
        count(),
        jnp.zeros((), bool),
    )


def _divides(batch: Any, sharding: jax.sharding.NamedSharding) -> None:
    axes = sharding.spec[0] if len(sharding.spec) else None
    shares = math.prod(sharding.mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))
    for leaf in jax.tree.leaves(batch):
        if leaf.ndim and leaf.shape[0] % shares:
            raise ValueError(
                f"batches of {leaf.shape[0]} do not divide over the {shares} shares of sharding: take a multiple of "
                f"{shares}, or a mesh with a smaller axis {axes}"
            )


def _learned(parameters: Any) -> Any:
    return parameters.learned if isinstance(parameters, Parameters) else parameters


def _with_learned(parameters: Any, learned: Any) -> Any:
    return dataclasses.replace(parameters, learned=learned) if isinstance(parameters, Parameters) else learned


@functools.partial(
    jax.jit, static_argnames=("optimizer", "every", "accumulate", "sharding"), donate_argnames=("state",)
)
def _chunk(
    state: State,
    task: Task,
    rule: tuple[int, Array, int] | None,
    optimizer: optax.GradientTransformation,
    every: int,
    accumulate: int,
    sharding: jax.sharding.NamedSharding | None,
) -> tuple[State, Scalar, Scalar]:
    """``every`` gradient steps and a validation."""

    def gradient(state: State, part: Array) -> tuple[State, tuple[Scalar, Any]]:
        number = state.step * accumulate + part
        batch = task.batches(number, jax.random.fold_in(task.key, 0))
        if sharding is not None:
            batch = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), batch)
        own = jax.random.fold_in(jax.random.fold_in(task.key, 1), number)
        loss, gradient, carried = task.objective.value_and_grad(state.parameters, batch, own, state.carried)
        return dataclasses.replace(state, carried=carried), (loss, _learned(gradient))

    def step(state: State, _: None) -> tuple[State, Scalar]:
        after, found = jax.lax.scan(gradient, state, jnp.arange(accumulate))
        loss, slope = jax.tree.map(lambda leaf: leaf.mean(axis=0), found)
        learned = _learned(state.parameters)
        change, memory = optimizer.update(slope, state.optimizer, learned)
        moved = jax.tree.map(lambda p, u: p + (state.rate * u).astype(p.dtype), learned, change)
        good = ~state.broken
        for leaf in jax.tree.leaves((loss, slope, moved)):
            good &= jnp.isfinite(leaf).all()
        after = dataclasses.replace(after, parameters=_with_learned(state.parameters, moved), optimizer=memory)
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
        return dataclasses.replace(kept, step=state.step + 1, broken=~good), loss

    state, losses = jax.lax.scan(step, state, length=every)
    loss = losses.mean()
    value = (loss if task.validate is None else task.validate(state.parameters)).astype(state.value.dtype)
    return _judge(state, value, rule), loss, value


def _judge(state: State, value: Scalar, rule: tuple[int, Array, int] | None) -> State:
    """Keep what is better; bring it back at a smaller rate when nothing has been for a while."""
    better = value < state.value
    pick = functools.partial(jax.tree.map, lambda new, old: jnp.where(better, new, old))
    best, bad = pick(state.parameters, state.best), jnp.where(better, 0, state.bad + 1)
    state = dataclasses.replace(state, best=best, value=pick(value, state.value), bad=bad)
    if rule is None:
        return state
    patience, factor, _ = rule
    back = bad >= patience
    return dataclasses.replace(
        state,
        parameters=jax.tree.map(lambda new, old: jnp.where(back, new, old), best, state.parameters),
        bad=jnp.where(back, 0, bad),
        drops=state.drops + back,
        rate=jnp.where(back, state.rate * factor.astype(state.rate.dtype), state.rate),
    )


@jax.jit
def _value(validate: Validation, parameters: Any, otherwise: Scalar) -> Scalar:
    """The validation, where it is finite: what is learned must be better than this to be kept."""
    value = validate(parameters).astype(otherwise.dtype)
    return jnp.where(jnp.isfinite(value), value, otherwise)


def _over(state: State, plateau: Plateau | None) -> bool:
    return plateau is not None and int(state.drops) >= plateau.drops


def _breakdown(done: int, numbers: dict[str, float], out: str | Path | None) -> str:
    values = ", ".join(f"{name} {value}" for name, value in numbers.items())
    kept = "" if out is None else f"; the last good checkpoint is kept in {out}"
    return (
        f"learning broke down by step {done} ({values}): a loss or a gradient was not finite. The last good parameters "
        f"are the exception's .parameters{kept}. A smaller learning rate or clipped gradients usually help."
    )


def _leaving(done: int, steps: int, out: str | Path | None) -> str:
    return f"told to leave (SIGTERM): the run is saved in {out} at step {done} of {steps}, where the same call goes on"


class _Log:
    """Checkpoints and history of a run, or of none."""

    def __init__(self, out: str | Path | None) -> None:
        self.out = None if out is None else Path(out)
        self.rows: list[dict[str, float]] = []
        self.saved = 0

    def resume(self, state: State, steps: int) -> State:
        if self.out is None:
            return state
        from jaxsamplers.records import checkpoints, history

        self.out.mkdir(parents=True, exist_ok=True)
        last = checkpoints.last(self.out / "checkpoints")
        if last > steps:
            raise ValueError(f"{self.out} is already at step {last}, beyond steps={steps}")
        if last:
            state = checkpoints.restore(self.out / "checkpoints", state)
        if distributed.is_main():
            history.cut(self.out / "history.jsonl", last)
        distributed.wait("history")
        self.rows = history.read(self.out / "history.jsonl")
        return state

    def write(self, state: State, row: dict[str, float], *, last: bool, every: int) -> None:
        if self.out is None:
            return
        from jaxsamplers.records import history

        if distributed.is_main():
            history.append(self.out / "history.jsonl", row)
        if last or int(state.step) % every == 0:
            self.save(state)

    def save(self, state: State) -> None:
        """A checkpoint of this step, unless it is there."""
        from jaxsamplers.records import checkpoints

        if self.out is not None and int(state.step) != self.saved:
            checkpoints.save(self.out / "checkpoints", int(state.step), state)
            self.saved = int(state.step)

    def told(self) -> contextlib.AbstractContextManager[Callable[[int], bool]]:
        """Whether to leave after a step; never without a place to be saved to."""
        if self.out is None:
            return contextlib.nullcontext(lambda step: False)
        from jaxsamplers.records.preemption import preemption

        return preemption()


@contextlib.contextmanager
def _reporting(report: Report | None, label: str, total: int, done: int) -> Iterator[Callable[..., None]]:
    if not distributed.is_main():
        report = lambda *_, **__: None
    if report is not None:
        yield lambda done, **numbers: report(done, total, **numbers)
        return
    from jaxsamplers.records.progress import progress

    with progress(label, total, done) as advance:
        yield advance


@contextlib.contextmanager
def _tracing(trace: tuple[int, int] | None, out: str | Path | None) -> Iterator[Callable[[int], None]]:
    if trace is None or out is None:
        yield lambda done: None
        return
    from jaxsamplers.records.tracing import tracing

    with tracing(Path(out) / "trace" / str(jax.process_index()), *trace) as watch:
        yield watch
