"""Streams of a language model through the gateway and reached directly, beside vLLM's own server."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.ceiling import listens
from benchmarks.processes import answers, running
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target, Unavailable
from benchmarks.serving import served
from serve_app import catalog, machine

TOKENS = 64
STREAMS = {1: 20, 8: 80, 32: 160}
"""Answers that each figure is of, by the streams at once."""
VLLM = "vLLM's server"
VLLM_ONE = "vLLM's server, worker in its engine's process"
DIRECT = "serve_app, replica directly"
ARGUMENTS = {"dtype": "float32", "max_num_seqs": 64, "kv_cache_memory_bytes": 256 << 20}
EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
CATALOG = """
name: bench
layout: {layout}
models:
  - name: llm
    engine: vllm
    source: "file://{folder}/llama"
    options: {{enforce_eager: true, dtype: float32, max_num_seqs: 64, kv_cache_memory_bytes: 268435456}}
    resources: {{cpu: 0.2}}
"""


def prepare(folder: Path) -> None:
    """The tests' tiny Llama, and a catalog for each layout."""
    from tests.engines.llama_checkpoint import make_tiny_llama

    make_tiny_llama(folder / "llama")
    for layout in ("single", "per-model"):
        (folder / f"{layout}.yaml").write_text(CATALOG.format(folder=folder, layout=layout))


@contextmanager
def start(layout: str, folder: Path) -> Iterator[Server]:
    """The application in that layout: `single` reaches the model through the gateway, `per-model` directly."""
    try:
        catalog.load(str(folder / f"{layout}.yaml"))
    except catalog.CatalogError as error:
        raise Unavailable(str(error)) from None
    with served(folder, f"{layout}.yaml") as server:
        yield server


@contextmanager
def vllm(folder: Path, *options: str) -> Iterator[Server]:
    """VLLM's own server with the same arguments."""
    server = Server(folder, machine.free_port())
    given = [f"--{name.replace('_', '-')}={value}" for name, value in ARGUMENTS.items()]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "llama")]
    command += ["--served-model-name", "llm", "--host", "127.0.0.1", "--port", str(server.http), "--enforce-eager"]
    ready = answers(f"http://127.0.0.1:{server.http}/health")
    variables = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with running(
        [*command, *given, *options], lambda: listens(server.http) and ready(), folder / "vllm.log", variables
    ):
        yield server


@contextmanager
def vllm_in_one(folder: Path) -> Iterator[Server]:
    """The same, told to keep its worker in the engine's process, as ours is."""
    with vllm(folder, f"--distributed-executor-backend={EXECUTOR}") as server:
        yield server


def case(streams: int) -> str:
    """The name of a case: "8 streams"."""
    return f"{streams} stream{'s' if streams > 1 else ''}"


def measure(path: str, server: Server) -> Figures:
    """Median time to the first token, and tokens per second of all streams together."""
    body = b'{"model": "llm", "prompt": "Once upon a", "max_tokens": %d, "ignore_eos": true, "stream": true}' % TOKENS
    request = load.Request(path, body)
    found: Figures = {}
    for streams, count in STREAMS.items():
        load.run(load.streams(server.http, request, streams, streams))
        answered, took_s = load.run(load.streams(server.http, request, streams, count))
        firsts = sorted(one.first_s for one in answered)
        found[case(streams)] = {
            "first token ms": firsts[len(firsts) // 2] * 1000,
            "tokens/s": len(answered) * TOKENS / took_s,
        }
    return found


SCENARIO = Scenario(
    name="llm",
    about=(
        f"Completions of {TOKENS} tokens as streams by a tiny Llama on vLLM, where nearly all of the time is the "
        "servers' own: through the gateway, at its replica directly (`layout: per-model`), and by vLLM's own server, "
        "as it comes and told to keep its worker in its engine's process, as ours does."
    ),
    sides=(
        Side(OURS, partial(start, "single"), partial(measure, "/llm/v1/completions")),
        Side(DIRECT, partial(start, "per-model"), partial(measure, "/llm/v1/completions")),
        Side(VLLM, vllm, partial(measure, "/v1/completions")),
        Side(VLLM_ONE, vllm_in_one, partial(measure, "/v1/completions")),
    ),
    targets=(
        Target(case(1), "first token ms", VLLM, most=5.0, kind="difference"),
        Target(case(32), "tokens/s", VLLM, least=0.75),
        Target(case(32), "tokens/s", VLLM, least=0.95, of=DIRECT),
    ),
    prepare=prepare,
    rounds=2,
)
