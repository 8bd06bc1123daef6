"""Adams-Bashforth on the noise prediction: DEIS, and the methods that PNDM's successors and k-diffusion call it.

With ``rho = sigma / alpha`` the probability flow is ``d(x / alpha) = e d rho``, so one step is

    x' = (alpha' / alpha) x + alpha' int_rho^rho' e d rho

and the noise ``e`` is extrapolated by the polynomial through its last values, in the variable

    t      DEIS-tAB      alpha' int e(s) (d rho / ds) ds, the moments by quadrature
    rho    DEIS-rhoAB    an ordinary variable-step Adams-Bashforth method: k-diffusion's LMS, the true iPNDM-v

In ``rho`` a step to the clean end is one like any other, of full order as in k-diffusion; in ``t`` it is of first.
iPNDM uses the weights of equal steps on any grid.

Source: Zhang & Chen 2023, DEIS (arXiv 2204.13902), eq. 15 - 16 and proposition 4; Liu et al. 2022 (arXiv 2202.09778),
eq. 12; Zhang et al. 2023, iPNDM in appendix H.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.solvers.grid import interpolate, multistep, past, select, steps
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
NODES = 24  # Gauss-Legendre points for the moments in t


def deis(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 3,
    variable: str = "t",
    lower_order_final: bool = False,
) -> Tableau:
    """DEIS, Adams-Bashforth form; one network call a step, converging at ``order + 1``.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times.
        order: how many past values are remembered besides the newest, 1 to 4 (the paper's ``r``).
        variable: the polynomial's variable, "t" or "rho".
        lower_order_final: fall back to fewer values in the last steps.

    Raises:
        ValueError: an order, a variable or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=4)
    checks.one_of("variable", variable, ("t", "rho"))
    return _adams_bashforth("deis", process, times, order + 1, variable, lower_order_final)


def _adams_bashforth(
    name: str, process: Process, times: Float[Array, " n+1"], values: int, variable: str, lower_order_final: bool
) -> Tableau:
    """The method through the last ``values`` noises; ``name`` is what a refusal says."""
    g = steps(process, times)
    g.needs_signal(name)
    gain = g.sigma_next - g.sigma * g.alpha_next / g.alpha  # alpha' (rho' - rho)
    if variable == "rho":
        span = g.sigma_next / g.alpha_next - g.sigma / g.alpha
        moments = [gain / (p + 1) for p in range(values)]
    else:
        span = g.t_next - g.t
        moments = [gain, *[g.alpha_next * _moment(process, g.t, g.t_next, p) for p in range(1, values)]]

    def weights(k: int, here: Array) -> list[Array]:
        return interpolate(past(span, k, here), moments)

    used = _counted(len(g.t), values, lower_order_final) if variable == "rho" else g.orders(values, lower_order_final)
    return multistep(process, g, g.alpha_next / g.alpha, select(used, values, weights), "epsilon")


def _counted(n: int, values: int, lower_order_final: bool) -> Int[Array, " n"]:
    """How many values each step may use where the clean end, ``rho = 0``, is a point like any other."""
    step = np.arange(n)
    return jnp.asarray(np.minimum(np.minimum(step + 1, values), n - step if lower_order_final else values))


def lms(process: Process, times: Float[Array, " n+1"], *, order: int = 4, lower_order_final: bool = False) -> Tableau:
    """k-diffusion's linear multistep method: Adams-Bashforth in ``sigma / alpha`` through ``order`` values, 1 to 4.

    Arguments and errors as ``deis``; ``order`` counts all values here, so that ``order=1`` is Euler's method (DDIM).
    """
    checks.integer("order", order, low=1, high=4)
    return _adams_bashforth("lms", process, times, order, "rho", lower_order_final)


def ipndm_v(
    process: Process, times: Float[Array, " n+1"], *, order: int = 4, lower_order_final: bool = False
) -> Tableau:
    """iPNDM with the weights of the real, unequal steps: the same method as ``lms``.

    (The authors' table departs from it beyond order 2 by a slip in a bracket.) Arguments and errors as ``lms``.
    """
    checks.integer("order", order, low=1, high=4)
    return _adams_bashforth("ipndm_v", process, times, order, "rho", lower_order_final)


def ipndm(process: Process, times: Float[Array, " n+1"], *, order: int = 4, lower_order_final: bool = False) -> Tableau:
    """iPNDM: the Adams-Bashforth weights of equal steps, whatever the grid; one network call a step.

    Second order or more only where the steps in ``sigma / alpha`` are equal.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times.
        order: how many values are combined, 1 to 4; the first steps use those there are.
        lower_order_final: fall back to fewer values in the last steps.

    Raises:
        ValueError: an order or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=4)
    g = steps(process, times)
    g.needs_signal("ipndm")
    x = g.alpha_next / g.alpha
    gain = g.sigma_next - g.sigma * x
    e = select(
        g.orders(order, lower_order_final), order, lambda k, here: [gain * weight for weight in ADAMS_BASHFORTH[k - 1]]
    )
    return multistep(process, g, x, e, "epsilon")


def _moment(process: Process, t: PerStep, t_next: PerStep, p: int) -> PerStep:
    """``int u^p d rho`` over the step with ``u`` from 0 to 1, by parts: ``rho' - p int u^{p-1} rho du``."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    u = jnp.asarray((nodes + 1) / 2, t.dtype)
    inside = t[:, None] + u * (t_next - t)[:, None]
    rho = process.sigma(inside) / process.alpha(inside)
    end = process.sigma(t_next) / process.alpha(t_next)
    return jnp.sum(jnp.asarray(weights / 2, t.dtype) * p * u ** (p - 1) * (end[:, None] - rho), axis=1)
