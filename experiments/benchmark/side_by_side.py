"""Trains methods x seeds here and in PyTorch, on the same batches from the same parameters.

python -m experiments.benchmark.side_by_side --config=configs/mnist_imbalance.py --workdir=runs/both

Writes a table, a JSON file and a figure; needs the extra ``torch``. Runs that are done already are
not run again.
"""

from pathlib import Path

from absl import flags

from experiments import cli, programs
from l2rw_jax import reports
from l2rw_jax.training import ConfigError, train_and_evaluate, validate
from l2rw_jax.training import workdir as files

METHODS = flags.DEFINE_list("methods", ["baseline", "random", "l2rw"], "Methods.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds, from config.seed on.", lower_bound=1)
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; WORKDIR/side-by-side by default."
)
KEYS = ["framework", "method"]


def main():
    """Runs what is missing, then reports on everything."""
    try:
        from experiments.benchmark.torch_baseline import train as theirs
    except ImportError as error:
        raise ConfigError(f"PyTorch's side needs the extra `torch`: {error}") from None
    workdir = Path(str(cli.WORKDIR.value))
    output = f"{workdir}/side-by-side" if OUTPUT.value is None else OUTPUT.value
    methods = programs.choose("--methods", METHODS.value, theirs.FORMS)
    runs = programs.expand(cli.CONFIG.value, methods, SEEDS.value, None, [None])
    frameworks = {"ours": train_and_evaluate, "torch": theirs.train_and_evaluate}
    for config, folder in runs:  # mistakes come to light before any work starts
        for framework in frameworks:
            files.check_workdir(workdir / framework / folder, validate(config))
        theirs.check(config)
    cli.create_folder(workdir, "--workdir")
    programs.prepare_output("benchmark.side_by_side", output, ".png")
    results: list = []
    curves: dict = {}
    for framework, train in frameworks.items():
        for config, name in runs:
            folder = workdir / framework / name
            result = {"framework": framework} | train(config, folder)
            balanced = f"balanced accuracy {result['test_balanced_accuracy']:.1%}"
            print(f"{folder}: {balanced}", flush=True)
            results.append(result)
            curve = curves.setdefault(f"{framework}, {config.method}", [])
            curve.append(files.read_metrics(folder))
    print("\n" + report(results, curves, output))


def report(results, curves, output):
    """Writes the table, the JSON file and the figure; returns the table."""
    config = cli.CONFIG.value
    summary = reports.summarize(results, KEYS)
    table = reports.to_markdown(*reports.table(summary, KEYS))
    files.write_text(f"{output}.md", table + "\n")
    about = programs.about("benchmark.side_by_side") | {
        "config": config.to_dict(),
        "device": results[-1]["device"],
        "versions": results[-1]["versions"],
    }
    found = {"keys": KEYS, "differences": differences(results), "summary": summary}
    runs = [programs.differences(result, about) for result in results]
    files.write_json(f"{output}.json", about | found | {"runs": runs})
    reports.plot_curves(curves, f"{output}.png", title=f"{config.dataset}, {config.model}")
    return table


def differences(results):
    """Balanced accuracy, ours minus PyTorch's at the same seed: mean and interval by method."""
    balanced = {
        (result["framework"], result["method"], result["seed"]): result["test_balanced_accuracy"]
        for result in results
    }
    found: dict = {}
    for (framework, method, seed), value in balanced.items():
        if framework == "ours":
            found.setdefault(method, []).append(value - balanced["torch", method, seed])
    intervals = {method: reports.mean_interval(values) for method, values in found.items()}
    return {method: {"mean": mean, "ci95": ci95} for method, (mean, ci95) in intervals.items()}


if __name__ == "__main__":
    programs.run(main, takes=("config", "workdir"))
