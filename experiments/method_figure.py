"""The picture of the method page: which examples get weight, in a model with two parameters.

Logistic regression on two Gaussian blobs in the plane, 30 % of the labels wrong. The library scores
the examples at parameters that have just begun to learn.
"""

import jax
import jax.numpy as jnp
import numpy as np

from l2rw_jax import example_scores, example_weights
from l2rw_jax.reports import figures
from l2rw_jax.reports.style import COLORS, set_titles, styled

EXAMPLES, CLEAN = 40, 10


def example():
    """Descent directions and weights of noisy examples, by the library.

    Returns:
      ``(directions [b, 2], weights [b], is_wrong [b], clean direction [2])``.

    >>> directions, weights, is_wrong, clean = example()
    >>> bool(weights[is_wrong].sum() < 0.05)
    True
    """
    rng = np.random.default_rng(1)

    def draw(n):
        y = np.arange(n) % 2
        return (2 * y - 1)[:, None] * [1.0, 0.5] + rng.normal(size=(n, 2)), y

    (x, y), (clean_x, clean_y) = draw(EXAMPLES), draw(CLEAN)
    is_wrong = np.arange(EXAMPLES) % 10 < 3
    y = np.where(is_wrong, 1 - y, y)

    def losses(theta, x, y):
        return jax.nn.softplus(-(2 * y - 1) * (x @ theta))

    def clean_loss(theta):
        return losses(theta, clean_x, clean_y).mean()

    theta = jnp.array([0.3, -0.2])
    weights = example_weights(example_scores(lambda t: losses(t, x, y), clean_loss, theta))
    directions = -jax.jacrev(losses)(theta, x, y)
    clean = -jax.grad(clean_loss)(theta)
    return np.asarray(directions), np.asarray(weights), is_wrong, np.asarray(clean)


@styled
def draw(path):
    """Writes the picture: a dot an example, its size its weight, and the clean set's direction."""
    directions, weights, is_wrong, clean = example()
    figure, axes = figures.new_axes()
    clean = clean / np.linalg.norm(clean)
    across = 9 * np.array([-clean[1], clean[0]])
    corners = np.array([across, across + 9 * clean, 9 * clean - across, -across])
    axes.fill(*corners.T, color=COLORS[2], alpha=0.1, label="score above zero")
    for chosen, color, name in (
        (~is_wrong, COLORS[0], "right label"),
        (is_wrong, COLORS[3], "wrong label"),
    ):
        x, y = directions[chosen].T
        size = 25 + 2500 * weights[chosen]
        face = np.where(weights[chosen] > 0, color, "white")
        axes.scatter(x, y, size, face, edgecolors=color, alpha=0.85, zorder=2)
        axes.scatter([], [], 60, color=color, label=name)
    axes.scatter([], [], 25, "white", edgecolors="#555555", label="weight zero")
    axes.annotate("", 1.4 * clean, (0, 0), arrowprops={"arrowstyle": "-|>", "linewidth": 2.5})
    x, y = 1.45 * clean
    axes.text(x, y, "clean examples", va="center", weight="bold")
    axes.set(xlim=(-2.6, 2.9), ylim=(-1.7, 1.5), aspect="equal")
    axes.set(xlabel="step in the first parameter", ylabel="in the second")
    share = weights[is_wrong].sum()
    about = "A dot is the step that one example asks for; its size is its weight.\n"
    about += f"Of 40 labels 12 are wrong; they get {100 * share:.0f} % of the weight."
    set_titles(axes, "Examples that pull with the clean ones get the weight", about)
    figures.save(figure, axes, path)
