"""Where multistep solvers with momentum are stable: a picture, and how far each region reaches along the real axis.

    python -m experiments.stability_regions --out stability_regions.png

On the test equation ``dy / d rho = lambda y`` in ``y = x / alpha``, ``rho = sigma / alpha``, the network's noise is
``lambda y``, and with equal steps of ``rho`` a row of a table becomes a matrix that maps registers to registers and
depends only on ``z = lambda (rho' - rho)``. A solver is stable where no eigenvalue is larger than 1. A guided network
has eigenvalues far out on the negative axis: momentum reaches further there at the same order.

Source: Wizadwongsa et al. 2024, Diffusion sampling with momentum (arXiv 2307.11118).
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

import jaxsamplers as js

Solver = Callable[..., js.Tableau]
STEPS = 8  # enough for every solver to have all the values it combines
BETAS = (1.0, 0.8, 0.5, 0.2)


def spectral_radius(solver: Solver, z: np.ndarray) -> np.ndarray:
    """The largest eigenvalue of one step, in size, at every complex ``z``; the last row is the step."""
    times = np.arange(STEPS + 1.0, 0.0, -1.0)
    weights = np.asarray(jax.jit(lambda t: solver(js.processes.edm(), t))(times).rows.weights[-1], np.float64)
    registers = len(weights)
    estimate = 1 + times[-2] * np.asarray(z)[..., None]  # m = y - rho lambda y, and a step is -1
    step = weights[:, :registers] + np.zeros((*np.shape(z), 1, 1), complex)
    step[..., 0] += weights[:, registers] * estimate
    return np.abs(np.linalg.eigvals(step)).max(axis=-1)


def reach(solver: Solver, bound: float = 64.0) -> float:
    """The ``z`` where the stable part of the negative axis that touches 0 ends."""
    z = -np.linspace(1e-4, bound, 16384)
    unstable = spectral_radius(solver, z) > 1 + 1e-6
    return float(z[np.argmax(unstable)]) if unstable.any() else -bound


def families() -> dict[str, dict[str, Solver]]:
    """Panel and name to solver."""
    ghvb, heavy_ball, ipndm = js.solvers.ghvb, js.solvers.heavy_ball, js.solvers.ipndm

    def balls(order: int) -> dict[str, Solver]:
        plain = functools.partial(ipndm, order=order)
        return {f"beta = {beta}": functools.partial(heavy_ball, solver=plain, beta=beta) for beta in BETAS}

    def generalised(order: int) -> dict[str, Solver]:
        return {f"beta = {beta}": functools.partial(ghvb, order=order, beta=beta) for beta in BETAS}

    panels = {"heavy ball on Euler, GHVB-1": balls(1)}
    panels |= {f"heavy ball on iPNDM-{order}": balls(order) for order in (2, 3)}
    panels["iPNDM"] = {f"order {order}": functools.partial(ipndm, order=order) for order in (1, 2, 3, 4)}
    panels |= {f"GHVB-{order}": generalised(order) for order in (2, 3)}
    return panels


def draw(panels: Mapping[str, Mapping[str, Solver]], path: str, columns: int = 3) -> None:
    """The borders of the regions, a panel a family."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    real, imaginary = np.meshgrid(np.linspace(-6, 1, 281), np.linspace(-2.6, 2.6, 209))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, solvers) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for number, (name, solver) in enumerate(solvers.items()):
            radius = spectral_radius(solver, real + 1j * imaginary)
            axes.contour(real, imaginary, radius, levels=[1 + 1e-9], colors=[f"C{number}"])
            axes.plot([], [], color=f"C{number}", label=f"{name}, to {reach(solver):.2f}")
        axes.axhline(0, color="0.8", linewidth=0.8)
        axes.axvline(0, color="0.8", linewidth=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_aspect("equal")
        axes.legend(loc="upper left", fontsize=7, framealpha=0.6)
    figure.supxlabel("z = lambda (rho' - rho)")
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(description="stability regions of multistep solvers with momentum")
    parser.add_argument("--out", default="stability_regions.png", help="the picture to write")
    chosen = parser.parse_args(arguments)
    panels = families()
    for title, solvers in panels.items():
        print(f"{title:28}" + "".join(f"  {name}: {reach(solver):7.3f}" for name, solver in solvers.items()))
    draw(panels, chosen.out)
    print(f"wrote {chosen.out}")


if __name__ == "__main__":
    main()
