"""Runs one command and prints its time and its peak of host memory, as JSON.

    python scripts/bench_child.py COMMAND [ARGUMENT ...]

A small process between the benchmark and the command: a peak counts from what the process that
starts the command holds. Knows nothing of llmzip.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time


def main(command: list[str]) -> int:
    """The command's exit status. What it prints to stdout is dropped."""
    began = time.monotonic()
    status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else 1024 * peak
    if not status:
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes}))
    return abs(status)  # below 0: ended by a signal


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
