"""Sampling as a file: StableHLO for CPU, CUDA and TPU, run where there is neither the network's code nor ours.

    made = js.export(draw, x, key, shapes=("batch, ...", None))  # one program for every batch
    js.exports.save("draw.jaxexport", made, gradients=True)

    draw = jax.export.deserialize(bytearray(open("draw.jaxexport", "rb").read())).call  # needs jax and flatbuffers
    images = draw(x, jax.random.key(0))

What a function closes over (a network's weights, a sampler's numbers) is inside; what it takes as arguments is not. A
sampler among the arguments may have a symbolic number of rows, and then the file runs any table of its pattern; whoever
calls it needs jaxsamplers to make one.

A file is no archive: JAX reads what releases of the last six months wrote, and what releases a few weeks newer than
itself did ("Compatibility guarantees" in its guide to exporting). Keep the recipe and the weights, and export anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export as stablehlo
from jax.extend.mlir.dialects.stablehlo import get_current_version

from jaxsamplers import checks
from jaxsamplers.core import SolverState
from jaxsamplers.parallel import Picard
from jaxsamplers.records.files import write_bytes
from jaxsamplers.tableau import Rows, Tableau

PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN = (*PLATFORMS, "rocm")


def export(
    function: Callable[..., Any],
    *examples: Any,
    shapes: Sequence[Any] | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> stablehlo.Exported:
    """Compile ``function`` to a portable program, as far as that goes without its devices.

    Args:
        function: a pure function of arrays, keys, containers of them and tables, such as
            ``lambda x, key: js.sample(sampler, model, x, key)``.
        *examples: arguments as they will be, or ``jax.ShapeDtypeStruct``s.
        shapes: an entry for each argument that says which sizes are open, ``"batch, ..."`` for the leading one,
            ``"batch, length"``, ``"steps, ..."`` for every array of a table; ``None`` keeps the example's. All sizes
            are kept by default.
        platforms: among "cpu", "cuda", "tpu" and "rocm"; one program holds them all.

    Returns:
        ``jax.export``'s object: ``.call(...)`` runs it, ``exports.save`` writes it.

    Raises:
        ValueError: an unknown platform, none, as many shapes as arguments are wanted, a function that calls back to the
            host.
    """
    for platform in platforms:
        checks.one_of("platform", platform, KNOWN)
    if not platforms:
        raise ValueError(f"platforms must name at least one of {', '.join(KNOWN)}")
    if shapes is not None and len(shapes) != len(examples):
        raise ValueError(f"shapes must have an entry for each of the {len(examples)} arguments, got {len(shapes)}")
    arguments = examples if shapes is None else stablehlo.symbolic_args_specs(examples, tuple(shapes))
    compiled = jax.jit(function)
    callbacks = sorted({name for name in _primitives(compiled.trace(*arguments).jaxpr) if _calls_back(name)})
    if callbacks:
        raise ValueError(
            f"a program for other machines cannot call back to Python, but this function does ({', '.join(callbacks)}):"
            " take jax.debug.print, io_callback and pure_callback out of the model"
        )
    return stablehlo.export(compiled, platforms=tuple(platforms))(*arguments)


def save(path: str | Path, exported: stablehlo.Exported, *, gradients: bool = False) -> None:
    """Write what ``export`` returned; whoever reads the file finds all of it or an older one.

    Args:
        path: the file.
        exported: the program.
        gradients: include its derivative, so that ``jax.grad`` and ``jax.vjp`` go through the loaded function.

    Raises:
        ModuleNotFoundError: flatbuffers is not installed.
        ValueError: an argument or a result of a type that only this process knows.
    """
    try:
        data = exported.serialize(vjp_order=int(gradients))
    except ImportError as error:
        raise ModuleNotFoundError(
            "artefacts need flatbuffers, which is not installed: pip install 'jaxsamplers[export]'", name="flatbuffers"
        ) from error
    except ValueError as error:
        if "Cannot serialize PyTreeDef" not in str(error):
            raise
        raise ValueError(
            "arguments and results of an artefact must be arrays, keys, tables, states, tuples, lists or dicts of "
            f"strings; close over everything else: {error}"
        ) from error
    write_bytes(path, bytes(data))


def load(path: str | Path) -> stablehlo.Exported:
    """What ``save`` wrote; ``load(path).call`` is the function.

    ``jax.export.deserialize`` reads the same file without this package, unless tables are among the arguments.

    Raises:
        FileNotFoundError: no such file.
        ModuleNotFoundError: flatbuffers is not installed.
        ValueError: the file is something else, not complete, or of another time than this JAX.
    """
    data = bytearray(Path(path).read_bytes())
    try:
        exported = stablehlo.deserialize(data)
    except ImportError as error:
        raise ModuleNotFoundError(
            "artefacts need flatbuffers, which is not installed: pip install 'jaxsamplers[export]'", name="flatbuffers"
        ) from error
    except Exception as error:  # whatever flatbuffers meets in bytes that are not its own
        raise ValueError(
            f"{path} is no artefact of js.exports.save, or was written by a JAX that is too old or too new for this "
            f"one, {jax.__version__}: {error or type(error).__name__}"
        ) from error
    written = re.search(rb"StableHLO_v(\d+)\.(\d+)\.(\d+)", exported.mlir_module_serialized[:64])
    if written and [int(number) for number in written.groups()] > [int(n) for n in get_current_version().split(".")]:
        try:
            exported.mlir_module()  # which is otherwise left to the first call; newer programs may well be readable
        except Exception as error:
            raise ValueError(
                f"{path} was written by a JAX that is too new for this one, {jax.__version__}: it holds "
                f"{written[0].decode()}, of which StableHLO_v{get_current_version()} cannot read everything"
            ) from error
    return exported


def _calls_back(primitive: str) -> bool:
    return "callback" in primitive or primitive == "debug_print"


def _primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives, in loops and branches, too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _primitives(inner)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


for _type in (Tableau, Rows, SolverState):
    stablehlo.register_pytree_node_serialization(
        _type,
        serialized_name=f"jaxsamplers.{_type.__name__}",
        serialize_auxdata=lambda static: json.dumps(static).encode(),
        deserialize_auxdata=lambda data: _tuples(json.loads(bytes(data).decode())),
    )
stablehlo.register_namedtuple_serialization(Picard, serialized_name="jaxsamplers.Picard")
