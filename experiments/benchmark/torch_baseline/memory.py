"""Prints by how many bytes three steps raise this process's peak resident memory; Linux only.

python -m experiments.benchmark.torch_baseline.memory SETTING FORM

SETTING is a ``Setting`` as a JSON list.
"""

import json
import re
import sys
from pathlib import Path

from experiments.benchmark.setting import Setting, examples
from experiments.benchmark.torch_baseline import prepare


def peak_growth(setting, form):
    """Bytes by which the peak after three steps is above what was resident before them."""
    prepare.set_precision(setting.precision)
    step = prepare.create_step(setting, "cpu", form)
    batch = prepare.to_device(examples(setting), "cpu")
    before = status("VmRSS")
    for _ in range(3):
        step(*batch)
    return max(status("VmHWM") - before, 0)


def status(field):
    """A size in bytes from what Linux says of this process."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(match[1]) if match else 0


if __name__ == "__main__":
    print(peak_growth(Setting(*json.loads(sys.argv[1])), sys.argv[2]))
