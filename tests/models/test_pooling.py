import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from l2rw_jax.models.pooling import max_pool


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    window=st.integers(1, 4),
    stride=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_max_pool_equals_reduce_window(height, width, window, stride, seed):
    # A permutation has no ties; all values are negative, so padding with zeros would show.
    size = 2 * height * width * 2
    x = -1.0 - np.random.default_rng(seed).permutation(size).reshape(2, height, width, 2)
    x = jnp.asarray(x, jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_grad(pool, x):
        y, vjp = jax.vjp(pool, x)
        return y, vjp(1.0 + jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))

    want = value_and_grad(lambda x: nnx.max_pool(x, (window,) * 2, (stride,) * 2, "SAME"), x)
    got = value_and_grad(lambda x: max_pool(x, window, stride), x)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_max_pool_keeps_bfloat16():
    assert max_pool(jnp.ones((1, 5, 5, 1), jnp.bfloat16)).dtype == jnp.bfloat16
