"""What a catalog may say to vLLM: vLLM's own arguments, by their own names, known without importing it.

Importing vLLM takes many seconds and checking a catalog must not, so the names are read out of its source
files. Values are checked when the model loads, by vLLM's own parser. Knows nothing of models.
"""

import argparse
import ast
import difflib
import functools
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, model_validator

from deployments.engines import LoadContext
from deployments.errors import LoadError
from deployments.settings import Frozen

DECLARED_IN = {
    "engine/arg_utils.py": ("EngineArgs", "AsyncEngineArgs"),
    "entrypoints/launchers/cli_args.py": ("BaseFrontendArgs", "FrontendArgs"),
}
"""Classes of vLLM whose fields are its arguments, by the files they are in."""
CPU_CACHE_BYTES = 1 << 30
WAYS = ("tensor_parallel_size", "pipeline_parallel_size")
IN_ENGINE_CORE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""What computes in EngineCore itself. For CPUs vLLM turns `uni` into `mp`, whose worker and EngineCore wait for each
other by spinning on `sched_yield`: on two cores every other process was seen to wait for seconds. A class named whole
it leaves as it is."""
_DECIDED = {
    "the model is the catalog's `source:`": "model",
    "a model's names are its `name:` and `aliases:`": "served_model_name",
    "the gateway decides who may ask": "api_key allow_credentials allowed_origins allowed_methods allowed_headers",
    "vLLM opens no port here; requests come through the gateway": """
        host port uds grpc_port root_path uvicorn_log_level disable_uvicorn_access_log disable_access_log_for_endpoints
        h11_max_incomplete_event_size h11_max_header_count ssl_keyfile ssl_certfile ssl_ca_certs ssl_cert_reqs
        ssl_ciphers enable_ssl_refresh""",
    "copies of a model are replicas: see `scaling:`": """
        data_parallel_size data_parallel_size_local data_parallel_rank data_parallel_start_rank data_parallel_address
        data_parallel_rpc_port data_parallel_backend data_parallel_external_lb data_parallel_hybrid_lb
        data_parallel_multi_port_external_lb data_parallel_supervisor_port dp_supervisor_probe_interval_s
        dp_supervisor_probe_timeout_s dp_supervisor_probe_failure_threshold enable_elastic_ep elastic_ep_max_dp_size""",
    "a replica is on one machine": "nnodes node_rank master_addr master_port distributed_executor_backend",
}
REFUSED = {name: reason for reason, names in _DECIDED.items() for name in names.split()}
"""Arguments that are decided elsewhere, each with where."""


@functools.cache
def known() -> frozenset[str]:
    """The names of vLLM's arguments; none where vLLM is not installed, or its source is not as expected."""
    found: set[str] = set()
    spec = importlib.util.find_spec("vllm")
    for file, classes in DECLARED_IN.items() if spec and spec.origin else ():
        try:
            tree = ast.parse((Path(str(spec and spec.origin)).parent / file).read_text())
        except OSError:
            return frozenset()
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in classes:
                found |= {one.target.id for one in node.body if _is_field(one)}  # type: ignore[attr-defined]
    return frozenset(found)


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_"


class Options(Frozen):
    """vLLM's engine and server arguments by their own names: `max_model_len`, `tool_call_parser`, `lora_modules`..."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="after")
    def _check_names(self) -> "Options":
        names = known()
        for name in self.arguments():
            if name in REFUSED:
                raise ValueError(f"{name!r} cannot be set: {REFUSED[name]}")
            if names and name not in names:
                near = difflib.get_close_matches(name.replace("-", "_"), sorted(names - REFUSED.keys()), 3)
                meant = f"did you mean {', '.join(near)}?" if near else "see vLLM's engine arguments"
                raise ValueError(f"vLLM has no argument {name!r}; {meant}")
        return self

    def arguments(self) -> dict[str, Any]:
        """What was said, by name."""
        return dict(self.model_extra or {})


def for_hardware(arguments: Mapping[str, Any], context: LoadContext, on_cpu: bool) -> dict[str, Any]:
    """The arguments with what follows from the replica's share of the hardware; what was said wins.

    Raises `LoadError` where the vLLM that is installed computes on something else than was reserved.
    """
    if on_cpu and context.gpus > 0:
        raise LoadError(f"the model reserves {context.gpus:g} of a GPU, but the vLLM installed here is for CPUs only")
    if not on_cpu and not context.gpus:
        raise LoadError("the vLLM installed here computes on GPUs: give the model some (`resources: {gpu: 0.5}`)")
    follows: dict[str, Any] = {}
    if on_cpu and "gpu_memory_utilization" not in arguments:
        follows["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    if on_cpu and not any(int(arguments.get(name) or 1) > 1 for name in WAYS):
        follows["distributed_executor_backend"] = IN_ENGINE_CORE
    if 0 < context.gpus < 1:
        follows["gpu_memory_utilization"] = context.gpus
    if context.gpus > 1:
        ways = int(arguments.get("pipeline_parallel_size") or 1)
        follows |= {"tensor_parallel_size": int(context.gpus) // ways, "distributed_executor_backend": "mp"}
    return {**follows, **arguments}


def command_line(arguments: Mapping[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """The arguments as vLLM's parser takes them. Whether the values are right is for the parser to say."""
    flags = {option: action for action in parser._actions for option in action.option_strings}
    line: list[str] = []
    for name, value in arguments.items():
        option, negated = (f"--{prefix}{name.replace('_', '-')}" for prefix in ("", "no-"))
        takes_none = option in flags and (flags[option].nargs == 0 or negated in flags)
        if value is None or (value is False and takes_none and negated not in flags):
            continue
        if isinstance(value, bool) and takes_none:
            line.append(option if value else negated)
        elif isinstance(value, list):
            line += [option, *map(_text, value)] if value else []
        else:
            line.append(f"{option}={_text(value)}")
    return line


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
