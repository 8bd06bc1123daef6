"""The one table of all solvers that drives the property tests, and the problems they run on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js

PROCESSES = {
    "vp_linear": js.processes.vp_linear(),
    "vp_cosine": js.processes.vp_cosine(),
    "edm": js.processes.edm(),
    "rectified_flow": js.processes.rectified_flow(t_min=1e-3, t_max=0.999),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One solver with its options and what is known of it.

    ``order``: of convergence to the probability flow on a half-log-SNR grid; ``calls(steps)``: network calls;
    ``affine``: exact at every row when the denoiser is constant; ``from_noise``: may start where there is no signal;
    ``stochastic``: draws noise; ``rounding``: of what is exact, more where coefficients are quadratures.
    """

    name: str
    solver: Callable[..., js.Tableau]
    options: dict
    order: float = 1.0
    calls: Callable[[int], int] = lambda steps: steps
    affine: bool = True
    from_noise: bool = True
    stochastic: bool = False
    rounding: float = 1e-8

    def __call__(self, process, times):
        return self.solver(process, times, **self.options)


def _case(name, order=1.0, *, options=None, label=None, **known):
    return Case(label or name, js.solvers.registry[name], options or {}, order, **known)


def statistics():
    """Of no network; under such ones a constant denoiser is solved exactly."""
    u = np.linspace(-12, 12, 4801)
    linear = 1 / (1 + 0.5 * np.exp(u))
    return js.statistics.Statistics(u, linear, linear - 1, 0 * linear)


CASES = [
    _case("ddim"),
    _case("ddim", options={"eta": 0.5}, label="ddim-eta", stochastic=True),
    _case("ddpm", stochastic=True),
    _case("euler", affine=False),
    _case("heun", 2.0, affine=False, calls=lambda steps: 2 * steps - 1),
    _case(
        "heun",
        2.0,
        options={"lower_order_final": False},
        label="heun-full",
        affine=False,
        calls=lambda steps: 2 * steps,
    ),
    _case("midpoint", 2.0, affine=False, calls=lambda steps: 2 * steps),
    _case("pseudo_corrector", 2.0, affine=False),
    _case("dpm_solver_pp", options={"order": 1}, label="dpm_solver_pp-1"),
    _case("dpm_solver_pp", 2.0, options={"order": 2}, label="dpm_solver_pp-2"),
    _case("dpm_solver_pp", 2.0, options={"order": 2, "variant": "exact"}, label="dpm_solver_pp-2-exact"),
    _case("dpm_solver_pp", 3.0, options={"order": 3}, label="dpm_solver_pp-3"),
    _case(
        "dpm_solver_pp",
        2.0,
        options={"order": 3, "curvature": 0.5, "lower_order_final": False},
        label="dpm_solver_pp-3-published",
    ),
    _case("sde_dpm_solver_pp", options={"order": 2}, label="sde_dpm_solver_pp-2", stochastic=True),
    _case("sde_dpm_solver_pp", options={"order": 3, "eta": 0.5}, label="sde_dpm_solver_pp-3", stochastic=True),
    _case("dpm_solver", 2.0, options={"order": 2}, label="dpm_solver-2", from_noise=False),
    _case("dpm_solver", 3.0, options={"order": 3}, label="dpm_solver-3", from_noise=False),
    _case("unipc", 2.0, options={"order": 1, "variant": "bh1"}, label="unipc-1-bh1"),
    _case("unipc", 3.0, options={"order": 2}, label="unipc-2"),
    _case("unipc", 3.0, options={"order": 2, "variant": "exact"}, label="unipc-2-exact"),
    _case("unipc", 4.0, options={"order": 3}, label="unipc-3"),
    _case(
        "unipc",
        3.0,
        options={"order": 2, "prediction": "epsilon", "variant": "bh1"},
        label="unipc-2-epsilon",
        from_noise=False,
    ),
    _case("unic", 3.0, options={"solver": functools.partial(js.solvers.dpm_solver_pp, variant="exact")}),
    Case("dpm_solver_v3-2", js.solvers.dpm_solver_v3, {"statistics": statistics(), "order": 2}, 2.0, rounding=1e-5),
    _case(
        "deis_rk",
        3.0,
        options={"lower_order_final": False},
        label="deis_rk-full",
        calls=lambda steps: 3 * steps,
        from_noise=False,
    ),
    _case("deis", 2.0, options={"order": 1}, label="deis-1", from_noise=False),
    _case("deis", 3.0, options={"order": 2, "variable": "rho"}, label="deis-2-rho", from_noise=False),
    _case("lms", 4.0, from_noise=False),
    _case("ipndm", 2.0, options={"order": 3}, label="ipndm-3", from_noise=False),
    _case("euler_ancestral", options={"eta": 0.7}, stochastic=True),
    _case("resshift", stochastic=True),
    _case(
        "dpm_solver_singlestep",
        2.0,
        options={"order": 2},
        label="dpm_solver_singlestep-2",
        calls=lambda steps: 2 * steps - 1,
        from_noise=False,
    ),
    _case(
        "dpm_solver_pp_singlestep",
        2.0,
        options={"order": 2},
        label="dpm_solver_pp_singlestep-2",
        calls=lambda steps: 2 * steps - 1,
        from_noise=False,
    ),
    _case(
        "dpm_solver_pp_singlestep",
        3.0,
        options={"order": 3, "lower_order_final": False},
        label="dpm_solver_pp_singlestep-3",
        calls=lambda steps: 3 * steps,
        from_noise=False,
    ),
    _case("sa_solver", options={"order": 3, "corrector_order": 4}, label="sa_solver-3-4", stochastic=True),
    _case("sa_solver", options={"eta": 0.3, "variant": "bh1"}, label="sa_solver-2-2-bh1", stochastic=True),
    _case("er_sde", stochastic=True),
    _case(
        "seeds",
        options={"order": 2},
        label="seeds-2",
        calls=lambda steps: 2 * steps - 1,
        from_noise=False,
        stochastic=True,
    ),
    _case("seeds", label="seeds-3", calls=lambda steps: 3 * steps - 2, from_noise=False, stochastic=True),
    _case(
        "heun", 2.0, options={"variable": "rho"}, label="heun-rho", calls=lambda steps: 2 * steps - 1, from_noise=False
    ),
    _case("edm_stochastic", calls=lambda steps: 2 * steps - 1, from_noise=False, stochastic=True),
    _case("restart", calls=lambda steps: 2 * steps + 3, from_noise=False, stochastic=True),
    _case(
        "dpm_solver_pp_singlestep_ancestral",
        options={"eta": 0.7},
        calls=lambda steps: 2 * steps - 1,
        from_noise=False,
        stochastic=True,
    ),
    _case("sde_dpm_solver_pp_singlestep", calls=lambda steps: 2 * steps - 1, from_noise=False, stochastic=True),
    _case("plms", 2.0, calls=lambda steps: steps + 1, from_noise=False),
    _case("pndm", 2.0, calls=lambda steps: steps + 3 * min(steps, 3), from_noise=False),
    _case("ghvb", 2.0, from_noise=False),
    _case("heavy_ball", from_noise=False),
    _case("gradient_estimation", from_noise=False),
    _case("accelerated_ddim", 2.0, from_noise=False),
    _case(
        "successive_refinement",
        3.0,
        options={"order": 3, "rounds": 1, "lower_order_final": False},
        calls=lambda steps: 5 * steps,
        from_noise=False,
    ),
]
DETERMINISTIC = [case for case in CASES if not case.stochastic]
STOCHASTIC = [case for case in CASES if case.stochastic]


def on_processes(quick: str, *, slow: str = ""):
    """Parametrise by the process's name: on some always, on the others in the slow run."""
    names = [*quick.split(), *[pytest.param(name, marks=pytest.mark.slow) for name in slow.split()]]
    return pytest.mark.parametrize("name", names)


def name_of(case: Case) -> str:
    return case.name


def mixture(process, dimensions=2, components=3, spread=0.3) -> js.analytic.GaussianMixture:
    """A Gaussian mixture with full covariances, the same every time."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(components, dimensions))
    roots = rng.normal(size=(components, dimensions, dimensions)) * spread
    covariances = roots @ roots.transpose(0, 2, 1) + 0.05 * np.eye(dimensions)
    return js.analytic.gaussian_mixture(process, means, covariances, np.arange(1, components + 1))


def like(shape, dtype=jnp.float64):
    return jax.ShapeDtypeStruct(shape, dtype)
