"""Trains one model by one method from one seed in PyTorch: the twin of ``experiments.train``.

python -m experiments.benchmark.torch_baseline.train --config=configs/digits.py --workdir=runs/torch

Data, split, initial parameters and what each step draws are those of the JAX side, so that both see
the very same batches; only dropout masks and the random method's weights are PyTorch's own.
"""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments import cli
from experiments.benchmark.torch_baseline import convert, models, steps
from experiments.benchmark.torch_baseline.prepare import set_precision, to_device
from l2rw_jax import data, training
from l2rw_jax.training import ConfigError, batches
from l2rw_jax.training import workdir as files
from l2rw_jax.training.metrics import classification_metrics, noise_auroc

# Of the reweighted forms the fastest on a CPU; all give the same weights.
FORMS = {"baseline": "plain", "random": "random", "l2rw": "forward_ad_separate"}
# The fields that this side honours. Any other must have its default: a field that only the JAX side
# knows, a new one among them, would make the two train by different algorithms.
HONOURED = {
    # By our data, split, draws and initial parameters.
    *("dataset", "data_dir", "classes", "clean_size", "clean_balanced", "clean_in_train"),
    *("val_size", "imbalance.kind", "imbalance.share", "imbalance.total"),
    *("noise.kind", "noise.ratio", "noise.background", "noise.column"),
    *("seed", "batch_size", "balanced", "clean_batch_size", "low", "high", "pad", "flip"),
    # By code of its own.
    *("method", "model", "dropout", "steps", "learning_rate", "boundaries"),
    *("weight_decay", "clip_norm", "log_every", "eval_every"),
    # They change no metric; this side has no checkpoints.
    *("checkpoint_every", "keep_checkpoints"),
}


def train_and_evaluate(config, workdir):
    """Trains, and leaves ``config.json``, ``metrics.jsonl`` and ``result.json`` in ``workdir``.

    Args:
      config: as for ``l2rw_jax.training.train_and_evaluate``.
      workdir: folder of the run; one that holds this run's result is left as it is.

    Returns:
      The result, a dict.

    Raises:
      ConfigError: the run cannot be as asked for; nothing was written.
    """
    config = training.validate(config)
    result = files.check_workdir(workdir, config)
    if result is not None:
        return result
    run, network = check(config)
    state = run.create()
    convert.to_torch(state.params, state.model_state, network)
    with files.locked(workdir):
        files.write_json(f"{workdir}/{files.CONFIG}", config.to_dict())
        files.keep_metrics(workdir, 0)  # there are no checkpoints to go on from
        result = _train(run, workdir, network)
        files.write_json(f"{workdir}/{files.RESULT}", result)
    return result


def _train(run, workdir, network):
    config, run_data = run.config, run.data
    device = "cuda" if torch.cuda.is_available() else "cpu"
    set_precision("float32")
    torch.manual_seed(config.seed)
    network = network.to(device, memory_format=torch.channels_last).train()
    optimizer = steps.make_optimizer(
        network, rate=config.learning_rate, weight_decay=config.weight_decay
    )
    step = steps.make_step(FORMS[config.method], network, optimizer, clip_norm=config.clip_norm)
    draw = make_draw(run)
    evaluate = make_evaluate(config, run_data, device)

    weight_sum = np.zeros(len(run_data.train.index))
    weight_count = np.zeros(len(run_data.train.index), int)
    evaluations: dict = {}
    losses: list = []
    seconds, started = 0.0, time.perf_counter()
    for number in range(1, config.steps + 1):
        set_rate(optimizer, config, number - 1)
        rows, *arrays = jax.device_get(draw(number - 1))
        weights, loss = step(*to_device(map(np.array, arrays), device))
        np.add.at(weight_sum, rows, weights.cpu().numpy())
        np.add.at(weight_count, rows, 1)
        losses.append(float(loss))
        if number % config.log_every == 0:
            seconds += time.perf_counter() - started
            line = {"step": number, "loss": np.mean(losses)}
            if number % config.eval_every == 0 or number == config.steps:
                evaluations[number] = evaluate(network)
                line |= evaluations[number]
            files.append_metrics(workdir, line)
            losses, started = [], time.perf_counter()

    mean_weights = weight_sum / np.maximum(weight_count, 1)
    return {
        "method": config.method,
        "form": FORMS[config.method],
        "dataset": config.dataset,
        "seed": config.seed,
        **evaluations[config.steps],
        "best_test_accuracy": max(e["test_accuracy"] for e in evaluations.values()),
        "noise_auroc": noise_auroc(mean_weights, weight_count, run_data.corrupted),
        "steps": config.steps,
        "steps_per_second": config.steps / seconds,
        **environment(device),
    }


def check(config):
    """Makes all that a run needs, without writing or training anything.

    Returns:
      ``(Run, network)``, the network not yet initialised.

    Raises:
      ConfigError: a mistake, or what only the JAX side can do.
    """
    run = training.resolve(config)
    config = run.config
    if config.method not in FORMS:
        raise ConfigError(
            f"config.method: got {config.method!r}; PyTorch's side takes one of {', '.join(FORMS)}."
        )
    check_fields(config)
    try:
        network = models.create_network(
            config.model,
            num_classes=len(run.data.confusion),
            image_shape=run.data.images.shape[1:],
            dropout=config.dropout,
        )
    except ValueError as error:
        raise ConfigError(f"config.model={config.model}: PyTorch's side: {error}") from error
    return run, network


def check_fields(config):
    """Refuses a field that PyTorch's side does not honour, unless it has its default."""
    defaults = files.flatten(training.default_config().to_dict())
    for field, got in files.flatten(config.to_dict()).items():
        if field not in HONOURED and got != defaults.get(field):
            raise ConfigError(
                f"config.{field}: got {got!r}; PyTorch's side takes only the default, "
                f"{defaults.get(field)!r}; leave it out."
            )


def make_draw(run):
    """What ``l2rw_jax.training``'s step draws, as ``draw(step)``.

    It returns rows ``[b]`` of the training part, images ``[b, h, w, c]`` and labels ``[b]``, clean
    images ``[m, h, w, c]`` and labels ``[m]``.
    """

    @jax.jit
    def draw(run_data, step):
        keys = batches.step_keys(run.key, step)
        rows = batches.draw(run.batches, run_data, keys[0])
        clean_rows = batches.draw_clean(run.batches, run_data, keys[1])
        train = batches.take(run.batches, run_data, run_data.train, rows, keys[2])
        clean = batches.take(run.batches, run_data, run_data.clean, clean_rows, keys[3])
        return rows, train["image"], train["label"], clean["image"], clean["label"]

    on_device = jax.tree.map(jnp.asarray, run.data)
    return lambda step: draw(on_device, step)


def set_rate(optimizer, config, step):
    """A tenth of the rate after each of the config's boundaries."""
    drops = sum(step >= boundary for boundary in config.boundaries)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * 0.1**drops


def make_evaluate(config, run_data, device):
    """``evaluate(network)``: metrics on the test set, by the running moments."""
    scaled = data.to_float(jnp.asarray(run_data.test_images), low=config.low, high=config.high)
    images = torch.from_numpy(np.array(scaled)).permute(0, 3, 1, 2)

    @torch.no_grad()
    def evaluate(network):
        network.eval()
        classes = [network(part.to(device)).argmax(1).cpu() for part in images.split(500)]
        network.train()
        return classification_metrics("test", run_data.test_labels, torch.cat(classes).numpy())

    return evaluate


def environment(device):
    """The device and the versions, PyTorch's included."""
    about = files.environment()
    about["versions"]["torch"] = torch.__version__
    return about | ({"device": torch.cuda.get_device_name()} if device == "cuda" else {})


def main():
    """Trains, and prints the result."""
    print(json.dumps(train_and_evaluate(cli.CONFIG.value, cli.WORKDIR.value), indent=2))


if __name__ == "__main__":
    cli.run(main)
