"""Settings of every test, and the fixtures of the method's."""

import os

# Read when jax first asks for devices: eight virtual ones test the mapped axes anywhere.
_flags = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# Compiling takes longer than hypothesis's deadline, and a failure should come back on a second run.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture
def strict():
    """Float64, so that tolerances are about the method, and no broadcasting between ranks."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield
