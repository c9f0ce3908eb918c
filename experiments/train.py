"""Trains one model by one method from one seed.

python -m experiments.train --config=configs/digits.py --workdir=runs/try --config.method=l2rw
"""

import json

from experiments import cli
from l2rw_jax.training import train_and_evaluate


def main():
    """Trains, and prints the result."""
    result = train_and_evaluate(cli.CONFIG.value, str(cli.WORKDIR.value))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    cli.run(main)
