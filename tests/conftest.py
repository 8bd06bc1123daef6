"""Eight virtual devices for the sharding tests; everything else runs on the first."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)  # LLVM's, after XLA's: a third of the suite's time


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """A worker would otherwise keep every program of every module it ran."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield
