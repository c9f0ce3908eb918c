"""Every test here compiles for longer than it computes, so the compiler is told to hurry."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compile_in_a_hurry():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()  # or a test elsewhere would get a program that was made in a hurry
