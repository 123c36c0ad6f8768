"""Judging on a Dask cluster: its machines get a submission's bytes, and return verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from autograde_tests.judge.court import NoWorker

RETRIES = 5  # a task whose machine goes away starts again on another


@contextmanager
def cluster(address: str) -> Iterator[tuple[Callable[..., Future], int]]:
    """How to submit work to the cluster at ``address`` ("tcp://..."), and how much of it at a time.

    Raises ``NoWorker`` where Dask is not installed, no scheduler answers, or it has no workers.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise NoWorker("--scheduler needs Dask: run `pip install -e '.[cluster]'`.") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as why:
        raise NoWorker(f"No Dask scheduler answers at {address}: {why}") from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise NoWorker(f"The Dask cluster at {address} has no workers: start some with `dask worker`.")
        with client.get_executor(pure=False, retries=RETRIES) as executor:
            yield executor.submit, 2 * threads
