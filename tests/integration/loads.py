"""Clients that ask again and again, while something happens."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

CLIENTS = 16


@contextmanager
def load(
    ask: Callable[[httpx.Client, str], httpx.Response],
    check: Callable[[httpx.Response], object] = lambda answer: answer.status_code,
    clients: int = CLIENTS,
    pause_s: float = 0.0,
) -> Iterator[Counter[object]]:
    """Clients that `ask` with a text of their own each time; what `check` made of each answer, counted.

    Without a pause each has a request under way at any time, and what starts meanwhile has little of two cores.
    """
    seen: Counter[object] = Counter()
    stop = threading.Event()

    def run(number: int) -> None:
        with httpx.Client(timeout=120) as client:
            n = 0
            while not stop.wait(pause_s):
                n += 1
                try:
                    seen[check(ask(client, f"client {number} request {n}"))] += 1
                except httpx.HTTPError as error:
                    seen[repr(error)] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def enough(seen: Counter[object], more: int) -> None:
    """Wait until so many more answers were seen."""
    target = seen.total() + more
    give_up_s = time.monotonic() + 120
    while seen.total() < target:
        assert time.monotonic() < give_up_s, seen
        time.sleep(0.05)
