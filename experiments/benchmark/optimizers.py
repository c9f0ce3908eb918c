"""Tries all of Optax with `reweight`: the table of docs/reference/optimizers.md.

python -m experiments.benchmark.optimizers    # prints it; with --write, puts it into the page

The names are those in `dir(optax)` and `dir(optax.contrib)`: functions that return a gradient
transformation and take a learning rate, another optimizer, or the loss's value. Each is tried on a
small regression in which a bias is zero, as biases are at the start.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from absl import flags

import l2rw_jax
from experiments import programs
from l2rw_jax._files import write_whole
from l2rw_jax.reports import to_markdown

WRITE = flags.DEFINE_bool("write", False, "Whether to put the table into the page.")

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "optimizers.md"
START, END = "<!-- the table: make optimizers -->", "<!-- end of the table -->"

RATE = {"learning_rate": 0.05, "max_learning_rate": 0.05}
SGD = optax.sgd(0.05)
# Arguments that take another optimizer. What is not here has a default, or is in OTHERS.
OPTIMIZER = {
    **dict.fromkeys(("inner", "optimizer", "base_optimizer", "fast_optimizer", "tx"), SGD),
    "inner_factory": optax.sgd,
    "transforms": {"sgd": SGD},
    "opt": SGD,
}
OTHERS = {
    "adv_optimizer": optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
    "should_transform_fn": lambda step, **extra_args: True,
    "max_consecutive_errors": 3,
    "sync_period": 2,
    "slow_step_size": 0.5,
    "param_labels": "sgd",
    "mask": True,
    "freeze_mask": False,
    "every_k_schedule": 2,
    "key": 0,
    "l2_norm_clip": 1.0,
    "noise_multiplier": 0.0,
    "min_dim_size_to_factor": 2,
}
NOT_ONE = {  # of what the rule below finds
    "scale_by_learning_rate": "a factor",
    "dpsgd": "takes a gradient for each example, not one for the batch",
}
# Of some the rate is a factor of one that they find by themselves.
RATES = {
    **dict.fromkeys(("adadelta", "dadapt_adamw", "dog", "dowg", "prodigy"), 1.0),
    "lars": 100.0,
    "simplified_ademamix": 0.001,
}
# Around `reweight`, these get a part of the parameters only, which is what they are for.
PARTIAL = {"mask": {"w": True, "b": False}, "param_labels": {"w": "sgd", "b": "rest"}}


class Row(NamedTuple):
    """What became of one of Optax's functions."""

    name: str
    after: str
    around: str
    inner: str


class Problem(NamedTuple):
    """A regression of three outputs, half of whose examples are the clean ones."""

    params: Any
    losses: Callable[[Any], jax.Array]
    clean_loss: Callable[[Any], jax.Array]


def problem() -> Problem:
    """The regression that everything is tried on."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4)).astype(np.float32)
    y = (x @ rng.normal(size=(4, 3)) + 0.3).astype(np.float32)
    params = {"w": jnp.float32(0.5 * rng.normal(size=(4, 3))), "b": jnp.zeros((1, 3))}

    def losses(params: Any) -> jax.Array:
        return jnp.mean((x @ params["w"] + params["b"] - y) ** 2, axis=1)

    return Problem(params, losses, lambda params: losses(params)[:4].mean())


def functions() -> dict[str, Callable[..., Any]]:
    """Optax's optimizers and wrappers by name, ``contrib.`` before those in optax.contrib."""
    found: dict[str, Callable[..., Any]] = {}
    for module, prefix in ((optax, ""), (optax.contrib, "contrib.")):
        for name in sorted(set(dir(module)) - {n for n in dir(module) if n.startswith("_")}):
            function = getattr(module, name)
            if not inspect.isfunction(function) or name.startswith(("scale_by_", "tree_")):
                continue
            takes = set(inspect.signature(function).parameters)
            kind = str(inspect.signature(function).return_annotation)
            gives = "GradientTransformation" in kind or kind == str(inspect.Signature.empty)
            if gives and (takes & {*RATE, *OPTIMIZER} or name == "reduce_on_plateau"):
                found[prefix + name] = function
    found["MultiSteps"] = lambda opt, every_k_schedule: optax.MultiSteps(
        opt, every_k_schedule
    ).gradient_transformation()
    return {name: found[name] for name in found if name.split(".")[-1] not in NOT_ONE}


def build(
    name: str, optimizer: optax.GradientTransformation = SGD, *, partial: bool = False
) -> Any:
    """The function's transformation, around ``optimizer`` where it takes one."""
    others = {**OTHERS, **PARTIAL} if partial else OTHERS
    function = functions()[name]
    signature = inspect.signature(function)
    arguments: dict[str, Any] = {}
    for key, parameter in signature.parameters.items():
        needed = parameter.default is inspect.Parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if key in OPTIMIZER and (needed or key != "inner"):
            chosen: Any = OPTIMIZER[key]
            if key == "transforms":
                chosen = {"sgd": optimizer, "rest": optax.set_to_zero()}
            elif key != "inner_factory":
                chosen = optimizer
            if needed:
                arguments[key] = chosen
        elif key in RATE and (needed or not name.endswith(("lbfgs", "cocob"))):
            arguments[key] = RATES.get(name.split(".")[-1], RATE[key])
        elif needed or key in ("min_dim_size_to_factor", "key"):
            arguments[key] = others[key]
    made = function(**arguments)
    if "inner_factory" in arguments:
        return made(learning_rate=0.05)
    return optax.chain(made, SGD) if name.endswith("reduce_on_plateau") else made


def takes_optimizer(name: str) -> bool:
    """Whether the function wraps another optimizer."""
    parameters = inspect.signature(functions()[name]).parameters.values()
    return any(
        p.name in OPTIMIZER and p.name != "inner_factory" and p.default is p.empty
        for p in parameters
    )


def descends(tx: Any, steps: int = 100) -> str:
    """``"yes"`` if 100 steps lower the clean loss, else why not."""
    params, losses, clean_loss = problem()

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(
            jax.tree.map(jnp.zeros_like, params),
            state,
            params,
            per_example_loss_fn=losses,
            clean_loss_fn=clean_loss,
        )
        return (optax.apply_updates(params, updates), state), None

    try:
        carry = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])(
            (params, tx.init(params))
        )
    except Exception as error:
        return f"no: {reason(error)}"
    after = float(clean_loss(carry[0]))
    if not np.isfinite(after):
        return "no: NaN"
    return "yes" if after < 0.97 * float(clean_loss(params)) else "no: does not train"


def reason(error: Exception) -> str:
    """The error in a few words."""
    text = str(error)
    missing = re.findall(r"'(\w+)'", text.split("missing")[-1]) if "missing" in text else []
    if missing:
        return f"needs `{'=`, `'.join(missing)}=`"
    for pattern, words in REASONS.items():
        if re.search(pattern, text):
            return words
    return re.sub(r"\s+", " ", text).replace("|", "/")[:80]


REASONS = {
    "Unexpected keyword arguments": "its line search refuses the losses",
    "grad_fn": "needs `grad_fn=`",
    "obj_fn|object is not callable": "needs `obj_fn=`",
    "no attribute 'fast'": "keeps pairs of parameters, and passes no losses on",
    "got nothing": "does not pass the losses on",
    "unexpected keyword argument": "does not take the losses",
    "is not finite": "NaN",
    "vanishes": "zero",
    "cannot be taken": "needs extra arguments",
    "MaskedNode": "hides parameters from the losses",
    "string indexing": "flattens the parameters of the losses",
}


def row(name: str) -> Row:
    """Tries one of the functions after, around and inside `reweight`."""
    tx = build(name)
    after = descends(optax.chain(l2rw_jax.reweight(), tx))
    if after != "yes" and descends(l2rw_jax.chain(l2rw_jax.reweight(), tx)) == "yes":
        after = "yes, in `l2rw_jax.chain`"
    around = "-"
    if takes_optimizer(name):
        around = descends(build(name, optax.chain(l2rw_jax.reweight(), SGD), partial=True))
    try:
        l2rw_jax.reweight(l2rw_jax.l2rw(tx)).init(problem().params)
        inner = "yes"
    except Exception as error:
        inner = f"no: {reason(error)}"
    return Row(name, after, around, inner)


def table(rows: Iterator[Row]) -> str:
    """The rows in Markdown."""
    header = ["`optax.`", "after `reweight`", "around it", "as `lookahead`"]
    return to_markdown(header, [(f"`{r.name}`", r.after, r.around, r.inner) for r in rows])


def main() -> None:
    """Makes the table."""
    made = table(row(name) for name in functions())
    if WRITE.value:
        text = PAGE.read_text()
        head, tail = text.split(START)[0], text.split(END)[1]
        write_whole(PAGE, f"{head}{START}\n{made}\n{END}{tail}".encode())
    print(made)


if __name__ == "__main__":
    programs.run(main)
