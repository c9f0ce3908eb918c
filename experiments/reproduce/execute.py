"""Finds and trains what a plan still lacks."""

import sys

import jax

from experiments.reproduce.scales import SCALES
from experiments.reproduce.targets import TARGETS
from l2rw_jax._messages import reason
from l2rw_jax.training import ConfigError, RunError, train_seeds
from l2rw_jax.training.workdir import RESULT


def train(plan, workdir, groups):
    """Trains what is not done yet; returns ``{folder: message}`` of the runs that failed."""
    failed: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        folders = [workdir / folder for folder in group]
        try:
            results: list = train_seeds(plan.runs[group[0]], folders, together=len(group) > 1)
        except (RunError, ConfigError, jax.errors.JaxRuntimeError) as error:
            # Out of memory, or used by another process: the others may still work.
            results = [None if (folder / RESULT).exists() else error for folder in folders]
        for folder, result in zip(group, results, strict=True):
            told = "done"
            if isinstance(result, Exception):
                failed[folder] = reason(result)
                told = f"error: {failed[folder]}"
            elif result:
                told = f"test accuracy {result['test_accuracy']:.4f}"
            print(f"[{number}/{len(groups)}] {folder}: {told}")
        sys.stdout.flush()
    return failed


def describe(plan, workdir, finished):
    """The runs of a plan, which of them are done, and an estimate of the rest."""
    scale = SCALES[plan.scale][TARGETS[plan.target].family]
    lines, seconds = [], 0.0
    for folder, config in plan.runs.items():
        steps = config.steps + config.finetune_steps
        done = steps if folder in finished else steps_done(workdir / folder)
        if scale.seconds:
            kind = config.method if config.method in scale.seconds else "other"
            seconds += (steps - done) * scale.seconds[kind]
        lines.append(f"{folder}: {done:,} of {steps:,} steps done")
    time = "unknown" if scale.seconds is None else f"about {seconds / 60:.0f} minutes of one core"
    memory = "unknown" if scale.gigabytes is None else f"about {scale.gigabytes:g} GB a process"
    return "\n".join([*lines, f"{len(lines)} runs; time left: {time}; memory: {memory}"])


def steps_done(folder):
    """The step of the newest checkpoint of a run, or of the replicas that it is one of."""
    seed = int(folder.name.removeprefix("seed"))
    places = [folder]
    for path in folder.parent.glob("seeds*-*"):
        first, last = map(int, path.name.removeprefix("seeds").split("-"))
        places += [path] * (first <= seed <= last)
    names = [path.name for place in places for path in place.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)
