"""A process's place: the cores it may use, which on a shared machine are fewer than there are, and its number among others."""

import os
from pathlib import Path


def num_cores() -> int:
    """Count the cores that affinity and the control group leave to this process, 1 at least."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))))


def rank_and_size() -> tuple[int, int]:
    """The number of this process, from 0, and how many were started together, as torchrun tells them."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _quota(root: Path, membership: Path) -> float:
    """The smallest quota in cores of this process's control groups and those above them; infinite where there is none."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return float(2**31)
    found = [float(2**31)]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        group = base / path.strip("/")
        while True:
            found.append(_of_group(group))
            if group == base or base not in group.parents:
                break
            group = group.parent
    return min(found)


def _of_group(group: Path) -> float:
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else float(2**31)
    except (OSError, ValueError, ZeroDivisionError):
        return float(2**31)
