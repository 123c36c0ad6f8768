"""torchrun for tests: two processes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

# what torchrun's own meeting of the processes may say on a busy machine, before any code of ours runs
NO_MEETING = ("DistNetworkError", "DistStoreError", "RendezvousConnectionError", "RendezvousTimeoutError")


def torchrun(words: Sequence[object], environment: dict[str, str] | None = None) -> str:
    """All that ``torchrun --nproc_per_node 2 WORDS`` printed; it must end well.

    Only where the processes did not even meet, it is tried once more.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"} | (environment or {})
    for last in (False, True):
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
        )
        if last or not done.returncode or not any(name in done.stdout for name in NO_MEETING):
            break
    assert done.returncode == 0, done.stdout
    return done.stdout
