#!/usr/bin/env bash
# Runs experiments.accelerator on a machine that has JAX but no package index and no network, such as
# a node of a cluster. Copy this checkout and a folder CARRIED there, then, from the checkout's root:
#   bash experiments/accelerator/bare.sh CARRIED OUT [--parts=... --minutes=... --smoke]
#
# CARRIED has what the machine lacks; each of the three may be missing:
#   wheels/   Python packages
#   tfds/     data sets as TFDS prepares them: mnist for Figure 3, cifar10 for the tables
#   state.*   from an earlier call's OUT: what is done then is not run again
# OUT gets summary.md and state.*: tables, logs, figures and checkpoints, as one archive in pieces of
# 15 MB; `cat OUT/state.* | tar -xzf -` unpacks it. Pieces of an earlier call are replaced; any other
# state.* is moved into a new folder, OUT/other.*, for it would not belong to the archive.
#
# The machine needs jax[cuda], torch, flax, optax, chex, absl-py, orbax-checkpoint, scikit-learn,
# matplotlib, tqdm and pytest. On one with a network, this makes the wheels of the rest, 11 MB:
#   pip download --no-deps --only-binary=:all: --python-version=3.12 --platform=manylinux_2_28_x86_64 \
#     --platform=manylinux2014_x86_64 -d wheels array-record dm-tree docstring-parser grain graphviz \
#     immutabledict ml-collections portpicker simple-parsing tensorflow-datasets tensorflow-metadata \
#     googleapis-common-protos termcolor toml torchopt
#   pip wheel --no-deps -w wheels promise higher  # these two come as source
set -euo pipefail
mkdir -p "$2"
carried=$(realpath "$1") out=$(realpath "$2")
shift 2
site=$(mktemp -d) new=$(mktemp -d "$out/.unfinished.XXXXXX") state=runs/accelerator
trap 'rm -rf "$site" "$new"' EXIT  # both made here
if compgen -G "$carried/wheels/*.whl" >/dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$carried"/wheels/*.whl
fi
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -d "$carried/tfds" ]; then export L2RW_DATA_DIR="$carried/tfds"; fi
mkdir -p "$state"
# What is there already is newer.
if [ ! -e "$state/parts.json" ] && compgen -G "$carried/state.*" >/dev/null; then cat "$carried"/state.* | tar -xzf - -C "$state"; fi
status=0
python3 -m experiments.accelerator --output="$state" "$@" || status=$?
cp "$state/summary.md" "$out" || true
# Elsewhere until it is whole: an earlier state is worth more than half of a new one.
tar -czf - -C "$state" . | split -b 15000000 - "$new/state."
for piece in "$out"/state.*; do
  if [ -e "$piece" ] && [ ! -e "$new/${piece##*/}" ]; then
    other=${other:-$(mktemp -d "$out/other.XXXXXX")}
    mv "$piece" "$other"
  fi
done
mv "$new"/state.* "$out"
exit "$status"
