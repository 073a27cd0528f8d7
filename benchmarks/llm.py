"""A language model through the application beside vLLM's own server, one after the other, on the same cores.

The tests' tiny Llama on the installed vLLM, completions of 64 tokens as streams, from 1, 8 and 32 clients at
once. Prints the median time to the first token and the tokens per second of both. Asked for are at most
5 ms more to the first token at 1 stream, and 0.75 of the tokens per second at 32. Run by `make bench`.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.serving import served
from serve_app import machine
from tests.engines.llama_checkpoint import make_tiny_llama

TOKENS = 64
STREAMS = (1, 8, 32)
ARGUMENTS = {"dtype": "float32", "max_num_seqs": 64, "kv_cache_memory_bytes": 256 << 20}
CATALOG = """
name: bench
models:
  - name: llm
    engine: vllm
    source: "file://{folder}/llama"
    options: {{enforce_eager: true, dtype: float32, max_num_seqs: 64, kv_cache_memory_bytes: 268435456}}
    resources: {{cpu: 0.2}}
"""


class Figures(NamedTuple):
    """What one run shows: seconds to the first token (median), tokens per second of all streams together."""

    first_s: float
    tokens_per_s: float


async def measure(url: str, streams: int, requests: int) -> Figures:
    """So many streams at once, each asking again when it has ended, until `requests` are answered."""
    left, firsts = requests, list[float]()
    body = {"model": "llm", "prompt": "Once upon a", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}

    async def ask(http: aiohttp.ClientSession) -> float:
        began_s = time.perf_counter()
        async with http.post(f"{url}/v1/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            await answer.content.readany()
            first_s = time.perf_counter() - began_s
            async for _ in answer.content.iter_any():
                pass
        return first_s

    async def client(http: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            firsts.append(await ask(http))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await asyncio.gather(*(ask(http) for _ in range(streams)))
        began_s = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(streams)))
        took_s = time.perf_counter() - began_s
    return Figures(statistics.median(firsts), len(firsts) * TOKENS / took_s)


@contextlib.contextmanager
def vllms_own(folder: Path) -> Iterator[str]:
    """The URL of vLLM's own server on the same checkpoint, with the same arguments."""
    port = machine.free_port()
    options = [f"--{name.replace('_', '-')}={value}" for name, value in ARGUMENTS.items()]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "llama")]
    command += ["--served-model-name", "llm", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *options]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def show(direct: dict[int, Figures], through: dict[int, Figures], console: Console) -> None:
    """The figures side by side."""
    table = Table("Streams", "First token, vLLM, ms", "served, ms", "more, ms", "Tokens/s, vLLM", "served", "Ratio")
    for streams, bare in direct.items():
        ours = through[streams]
        table.add_row(
            str(streams),
            f"{bare.first_s * 1000:.1f}",
            f"{ours.first_s * 1000:.1f}",
            f"{(ours.first_s - bare.first_s) * 1000:+.1f}",
            f"{bare.tokens_per_s:.0f}",
            f"{ours.tokens_per_s:.0f}",
            f"{ours.tokens_per_s / bare.tokens_per_s:.2f}",
        )
    console.print(table)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="answers that each figure is of; a fifth at 1 stream")
    asked = parser.parse_args()
    console = Console()

    def figures(url: str) -> dict[int, Figures]:
        counts = {streams: asked.requests if streams > 1 else asked.requests // 5 for streams in STREAMS}
        return {streams: asyncio.run(measure(url, streams, count)) for streams, count in counts.items()}

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_tiny_llama(folder / "llama")
        (folder / "catalog.yaml").write_text(CATALOG.format(folder=folder))
        console.print("starting vLLM's own server, which takes about a minute")
        with vllms_own(folder) as url:
            direct = figures(url)
        console.print("starting the application")
        with served(str(folder / "catalog.yaml")) as url:
            show(direct, figures(url), console)


if __name__ == "__main__":
    main()
