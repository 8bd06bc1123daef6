"""Eight virtual devices for the sharding tests; everything else runs on the first."""

import os

# LLVM's optimisations, after XLA's own, are a third of the suite's time; set for the programs that tests start, too
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run on one worker, and share what they compile and set up, unless another way is asked for."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)
