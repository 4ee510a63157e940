"""Cores are counted as affinity and control groups leave them to a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from odmt.cores import _quota, num_cores

NO_LIMIT = 2**31


def write(folder: Path, files: dict[str, str]):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity():
    here = sorted(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{here[-1]}}}); from odmt.cores import num_cores; print(num_cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"
    assert 1 <= num_cores() <= len(here)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "250000 100000\n", "a/cpu.max": "max 100000\n"}, 2.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 50000\n"}, 3),  # of the group above
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),  # as a container sees its own
        ("0::/elsewhere\n", {"cpu.max": "200000 100000\n"}, 2),  # a container whose group is named as outside
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, NO_LIMIT),
        ("0::/a\n", {"a/cpu.max": "damaged\n"}, NO_LIMIT),
        ("3:cpu,cpuacct:/a\n2:memory:/b\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "100000"}, 4),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, NO_LIMIT),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "1000", "cpu/a/cpu.cfs_period_us": "0"}, NO_LIMIT),
        ("2:memory:/a\n", {"a/cpu.max": "100000 100000\n"}, NO_LIMIT),  # the group of another controller
    ],
)
def test_quotas_of_control_groups(tmp_path, membership, files, expected):
    write(tmp_path / "cgroup", files)
    write(tmp_path, {"membership": membership})
    assert _quota(tmp_path / "cgroup", tmp_path / "membership") == expected


def test_a_system_without_control_groups(tmp_path):
    assert _quota(tmp_path, tmp_path / "none") == NO_LIMIT


def test_a_share_of_a_core_counts_as_one(monkeypatch):
    monkeypatch.setattr("odmt.cores._quota", lambda *_: 0.5)
    assert num_cores() == 1
