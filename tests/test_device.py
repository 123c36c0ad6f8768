"""Memory that a process frees stays its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from mtlkit.device import keep_freed_memory

def faults():  # of four blocks of 40 MB, written and freed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(10_000_000) for _ in range(4)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without = min(faults() for _ in range(5))
keep_freed_memory()
print(without, min(faults() for _ in range(10)))  # the first rounds let the heap grow
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc hands freed memory back")
def test_freed_memory_is_kept_for_the_next_step():
    """In a process of its own: what is set stays set."""
    out = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    without, kept = map(int, out.split())
    assert without > 50 and kept < without / 10
