"""Settings of every test, and the fixtures of the method's."""

import gc
import os
import shutil
from typing import Any

# Read when jax first asks for devices: eight virtual ones test the mapped axes anywhere.
# Both cores have a worker: an operation of one that takes both only waits for the other.
_flags = os.environ.get("XLA_FLAGS", "")
_flags += " --xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
os.environ["XLA_FLAGS"] = _flags.strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most tests, and the programs that they start, compile much and compute little: XLA hurries.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# Compiling takes longer than hypothesis's deadline, and a failure should come back on a second run.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Not a module of doctests: audit/ has a conftest that is loaded first, under the same name.
collect_ignore = ["conftest.py"]


def pytest_configure(config):
    """Keeps what was compiled: most tests mainly compile.

    Compiled programs lie in pytest's own cache, for both workers, for the programs they start, and
    for the next time; --cache-clear removes them.
    """
    quick: dict[str, Any] = {}
    if cache := getattr(config, "cache", None):
        folder = cache.mkdir("xla")
        size = sum(path.stat().st_size for path in folder.iterdir())
        if size > 1e9 and not hasattr(config, "workerinput"):
            shutil.rmtree(folder)
        quick["jax_compilation_cache_dir"] = str(folder)
        quick["jax_persistent_cache_min_compile_time_secs"] = 0.2
    for name, value in quick.items():
        if name.upper() not in os.environ:
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)


def pytest_collection_finish(session):
    """What is imported by now stays: the garbage collector need not go through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def optimized(request):
    """Tests that are marked `optimized` are compiled as users compile."""
    if request.node.get_closest_marker("optimized") is None:
        yield
        return
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")  # of programs that the test starts
        jax.config.update("jax_disable_most_optimizations", False)
        jax.clear_caches()  # of programs that were made in a hurry
        yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture
def strict():
    """Float64, so that tolerances are about the method, and no broadcasting between ranks."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield
