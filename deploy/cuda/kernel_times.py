#!/usr/bin/env python3
"""Prints which kernels take the time of a phase, from what nsys (cuda_gpu_kern_sum) or ncu (gpu__time_duration.sum) wrote as CSV.

    kernel_times.py PHASE FILE.csv
"""

import csv
import sys
from collections import Counter
from pathlib import Path

SHOWN = 15
UNITS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}


def kernels(rows):
    """Yields (name, calls, microseconds) of each row."""
    unit = 1e-3
    for row in rows:
        if "Total Time (ns)" in row:
            yield row["Name"], int(row["Instances"]), float(row["Total Time (ns)"]) / 1e3
        elif not row.get("Kernel Name"):
            # ncu's second line has the units.
            unit = UNITS.get(row["gpu__time_duration.sum"], unit)
        else:
            yield row["Kernel Name"], 1, float(row["gpu__time_duration.sum"].replace(",", "")) * unit


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    phase, path = sys.argv[1:]
    # Both programs also write lines for people.
    lines = [line for line in Path(path).read_text().splitlines() if line and not line.startswith("==")]
    start = next((n for n, line in enumerate(lines) if "Kernel Name" in line or "Total Time (ns)" in line), None)
    if start is None:
        sys.exit(f"{path} names no kernel")
    calls, times = Counter(), Counter()
    for name, count, microseconds in kernels(csv.DictReader(lines[start:])):
        calls[name] += count
        times[name] += microseconds
    total = sum(times.values())
    print(f"{phase}: {sum(calls.values())} kernels, {total / 1e3:.3f} ms in all")
    for name, time in times.most_common(SHOWN):
        print(f"{100 * time / total:6.1f} % {time:10.1f} us {calls[name]:6} x {time / calls[name]:9.2f} us  {name[:100]}")
    print()


if __name__ == "__main__":
    main()
