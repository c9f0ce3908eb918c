#!/usr/bin/env bash
# One call of experiments.accelerator on a machine without a network, from the root of a checkout:
#   bash experiments/accelerator/bare.sh CARRIED OUT [--parts=... --minutes=... --smoke]
#
# CARRIED holds what was brought along:
#   wheels/   Python packages that are not installed there
#   tfds/     data sets as TFDS prepares them: mnist for Figure 3, cifar10 for the tables
#   state.*   what an earlier call left in OUT, to go on from there
# OUT gets summary.md and the state in pieces of 15 MB: tables, logs, figures and checkpoints.
#
# A machine with jax[cuda], torch, flax, optax, chex, absl-py, orbax-checkpoint, scikit-learn,
# matplotlib, tqdm and pytest still needs the wheels that this makes (11 MB; promise, simple_parsing,
# docstring_parser and higher come as source or for any Python):
#   pip download --no-deps --only-binary=:all: --python-version=3.12 --platform=manylinux_2_28_x86_64 \
#     --platform=manylinux2014_x86_64 -d wheels array-record dm-tree docstring-parser grain graphviz \
#     immutabledict ml-collections portpicker simple-parsing tensorflow-datasets tensorflow-metadata \
#     googleapis-common-protos termcolor toml torchopt
#   pip wheel --no-deps -w wheels promise higher
set -euo pipefail
carried=$(realpath "$1") out=$(realpath "$2")
shift 2
site=$(mktemp -d) state=runs/accelerator
python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$carried"/wheels/*.whl
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" L2RW_DATA_DIR="$carried/tfds" PYTHONUNBUFFERED=1
mkdir -p "$state"
if compgen -G "$carried/state.*" >/dev/null; then cat "$carried"/state.* | tar -xzf - -C "$state"; fi
status=0
python3 -m experiments.accelerator --output="$state" "$@" || status=$?
cp "$state/summary.md" "$out" || true
rm -f "$out"/state.*
tar -czf - -C "$state" . | split -b 15000000 - "$out/state."
exit "$status"
