"""Users' own classes as models, written to files as users write them."""

import asyncio
import gc
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from pydantic import ValidationError

from deployments.asgi import Head, run_unary
from deployments.engines import LoadContext, PredictEngine
from deployments.engines._modules import Folder
from deployments.engines.python import Engine, Options
from deployments.errors import BadRequest, EngineError, LoadError, QueueFull
from deployments.specs import Array, TensorSpec

Write = Callable[..., Path]
ECHO = """
    class Model:
        def predict(self, tensors):
            return tensors
"""
RUNNING: list[str] = []


class Installed:
    """A class in a module that is importable without the model's folder."""

    def predict(self, tensors: dict[str, Array]) -> Array:
        return tensors["x"] * 2


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes a folder of the sources that are given by name: `write("a", model="...")`."""

    def make(name: str = "model", **sources: str) -> Path:
        folder = tmp_path / name
        for module, source in sources.items():
            file = folder / f"{module.replace('__', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(source))
        return folder

    return make


@asynccontextmanager
async def serving(path: Path, max_queue: int = 100, **options: Any) -> AsyncIterator[Engine]:
    engine, loop = Engine(), asyncio.get_running_loop()
    context = LoadContext("test", 1, 0, lambda: max_queue, lambda _: None, loop)
    await asyncio.to_thread(engine.load, path, Options.model_validate(options), context)
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


async def refused(path: Path, **options: Any) -> str:
    before = set(sys.modules)
    with pytest.raises(LoadError) as error:
        async with serving(path, **options):
            pass
    assert not {name for name in set(sys.modules) - before if "serve_app_python" in name}
    assert "\n" not in error.value.message
    return error.value.message


async def predict(engine: PredictEngine, *outputs: str, **tensors: Any) -> dict[str, Array]:
    given = {name: np.asarray(one) for name, one in tensors.items()}
    return await engine.predict(given, outputs, {"temperature": 0.5})


async def answer(app: Any, path: str) -> Any:
    found = await run_unary(app, Head("GET", path, "", b"", [], None, 10.0), b"")
    return json.loads(found.body) if found.status == 200 else found.status


async def test_arrays_go_in_and_come_out(write: Write) -> None:
    async with serving(write(model=ECHO)) as engine:
        assert (engine.inputs, engine.outputs, engine.columns, engine.named) == ((), (), (), False)
        assert engine.app is None
        found = await predict(engine, x=[[1.0, 2.0]], y=np.array([b"a"], np.object_))
        assert list(found) == ["x", "y"]
        np.testing.assert_array_equal(found["x"], [[1.0, 2.0]])
        assert list(await predict(engine, "y", x=[1], y=[2])) == ["y"]
        with pytest.raises(BadRequest, match="unknown output 'z'; have: x"):
            await predict(engine, "z", x=[1])


async def test_predict_runs_in_a_thread_of_the_engine_or_as_a_coroutine_on_the_loop(write: Write) -> None:
    where = """
        import threading
        class Model:
            {}def predict(self, tensors):
                return [threading.current_thread().name]
    """
    async with serving(write("a", model=where.format(""))) as engine:
        assert (await predict(engine))["output-0"].tolist() == [b"engine-test-0"]
    async with serving(write("b", model=where.format("async "))) as engine:
        assert (await predict(engine))["output-0"].tolist() == [threading.current_thread().name.encode()]


async def test_coroutines_run_side_by_side(write: Write) -> None:
    source = """
        import asyncio
        class Model:
            async def load(self, path):
                self.both = asyncio.Barrier(2)
            async def predict(self, tensors):
                await self.both.wait()
                return tensors["x"]
            async def close(self):
                await self.both.abort()
    """
    async with serving(write(model=source)) as engine:
        found = await asyncio.gather(predict(engine, x=1), predict(engine, x=2))
        assert [int(one["output-0"]) for one in found] == [1, 2]


async def test_rows_of_requests_that_wait_are_given_together_where_it_is_asked_for(write: Write) -> None:
    source = """
        from deployments.errors import BadRequest
        class Model:
            calls = []
            def predict(self, tensors):
                self.calls.append(len(tensors["x"]))
                if (tensors["x"] < 0).any():
                    raise BadRequest("less than nothing")
                return tensors["x"].sum(axis=1)
    """
    async with serving(write(model=source), batch_rows=64) as engine:
        requests = [np.full((1 + at % 2, 3), at - 3 if at == 2 else at) for at in range(32)]
        found = await asyncio.gather(*(predict(engine, x=one) for one in requests), return_exceptions=True)
        wrong = found.pop(2)
        assert (type(wrong), str(wrong)) == (BadRequest, "less than nothing")
        for request, one in zip(requests[:2] + requests[3:], found, strict=True):
            assert isinstance(one, dict)
            np.testing.assert_array_equal(one["output-0"], request.sum(axis=1))
        assert max(engine._model.calls) > 8
        assert engine.alive()
    for method in ("async def predict(self, tensors)", "def predict(self, tensors, parameters)"):
        said = await refused(write("b", model=f"class Model:\n    {method}: return tensors"), batch_rows=2)
        assert said == "options.batch_rows is for a predict in one thread, no coroutine, without parameters"


async def test_as_many_requests_at_once_as_threads(write: Write) -> None:
    source = """
        class Model:
            def __init__(self, barrier):
                self.barrier = barrier
            def predict(self, tensors):
                self.barrier.wait(10)
                return tensors["x"]
    """
    async with serving(write(model=source), threads=3, arguments={"barrier": threading.Barrier(3)}) as engine:
        await asyncio.gather(*(predict(engine, x=at) for at in range(3)))


BLOCKING = """
    class Model:
        def __init__(self, gate, began, seen):
            self.gate, self.began, self.seen = gate, began, seen
        def predict(self, tensors):
            self.seen.append(int(tensors["x"]))
            self.began.set()
            assert self.gate.wait(10)
            return tensors["x"]
"""


async def test_a_blocking_predict_leaves_the_loop_free_and_dropped_requests_are_not_begun(write: Write) -> None:
    gate, began, seen = threading.Event(), threading.Event(), list[int]()
    arguments = {"gate": gate, "began": began, "seen": seen}
    async with serving(write(model=BLOCKING), max_queue=2, arguments=arguments) as engine:
        first = asyncio.create_task(predict(engine, x=1))
        assert await asyncio.to_thread(began.wait, 10)
        second, third = (asyncio.create_task(predict(engine, x=at)) for at in (2, 3))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await predict(engine, x=4)
        second.cancel()
        await asyncio.wait([second])
        gate.set()
        assert [int((await one)["output-0"]) for one in (first, third)] == [1, 3]
    assert seen == [1, 3]


async def test_coroutines_are_bounded_too(write: Write) -> None:
    source = """
        class Model:
            def __init__(self, gate):
                self.gate = gate
            async def predict(self, tensors):
                await self.gate.wait()
                return tensors["x"]
    """
    gate = asyncio.Event()
    async with serving(write(model=source), max_queue=1, arguments={"gate": gate}) as engine:
        first = asyncio.create_task(predict(engine, x=1))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await predict(engine, x=2)
        gate.set()
        await first
        assert int((await predict(engine, x=3))["output-0"]) == 3


async def test_parameters_are_given_to_who_asks_for_them(write: Write) -> None:
    source = """
        class Model:
            def predict(self, tensors, parameters):
                return tensors["x"] * parameters["temperature"]
    """
    async with serving(write(model=source)) as engine:
        assert (await predict(engine, x=[4.0]))["output-0"].tolist() == [2.0]


DECLARING = """
    import numpy as np
    class Spec:
        name, datatype, shape = "y", "{datatype}", (-1, 2)
    class Model:
        inputs = [{{"name": "x", "datatype": "FP32", "shape": [-1, 2]}}]
        outputs = [Spec()]
        def predict(self, tensors):
            return {made}
"""


async def test_what_a_class_declares_is_declared(write: Write) -> None:
    source = DECLARING.format(datatype="FP32", made="tensors['x'] / 2")
    async with serving(write(model=source)) as engine:
        assert engine.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),)
        assert engine.outputs == (TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),)
        assert engine.named
        assert list(await predict(engine, x=[[1.0, 2.0]])) == ["y"]
        with pytest.raises(BadRequest, match="unknown output 'z'; have: y"):
            await predict(engine, "z", x=[[1.0, 2.0]])
    other = [{"name": "w", "datatype": "FP64", "shape": [-1, 2]}]
    async with serving(write(model=source), inputs=other, outputs=other) as engine:
        assert engine.inputs == engine.outputs == (TensorSpec(name="w", datatype="FP64", shape=(-1, 2)),)
        assert (await predict(engine, x=[[1.0, 2.0]]))["w"].dtype == np.float64


@pytest.mark.parametrize(
    ("datatype", "made"),
    [
        ("FP32", "[[1, 2]]"),
        ("FP32", "np.ones((1, 2))"),
        ("FP16", "{'y': np.ones((3, 2))}"),
        ("BF16", "np.ones((3, 2), np.float32)"),
        ("UINT8", "[[0, 255]]"),
        ("INT64", "np.ones((1, 2), bool)"),
        ("BOOL", "np.ones((1, 2), bool)"),
        ("BYTES", "[['ä', b'a\\0']]"),
        ("BYTES", "np.array([['a', 'b']])"),
    ],
)
async def test_an_answer_becomes_what_is_declared(write: Write, datatype: Any, made: str) -> None:
    async with serving(write(model=DECLARING.format(datatype=datatype, made=made))) as engine:
        found = (await predict(engine))["y"]
        if datatype == "BYTES":
            assert {type(one) for one in found.reshape(-1)} == {bytes}
            assert found[0].tolist() in ([b"\xc3\xa4", b"a\0"], [b"a", b"b"])
        else:
            kinds = {"FP32": np.float32, "FP16": np.float16, "BF16": ml_dtypes.bfloat16, "UINT8": np.uint8}
            assert found.dtype == kinds.get(datatype, np.int64 if datatype == "INT64" else np.bool_)


@pytest.mark.parametrize(
    ("datatype", "made", "wrong"),
    [
        ("FP32", "{'z': 1, 'y': [[1, 2]]}", "answered 'z', 'y'; the model declares 'y'"),
        ("FP32", "{}", "answered nothing; the model declares 'y'"),
        ("FP32", "np.ones((2, 3))", r"'y' has shape \[2, 3\]; the model declares \[-1, 2\]"),
        ("FP32", "1.0", r"'y' has shape \[\]"),
        ("INT64", "[[1.5, 2]]", "'y' is FP64; the model declares INT64"),
        ("UINT8", "[[-1, 2]]", "'y' is INT64; the model declares UINT8"),
        ("BYTES", "[[1, 2]]", "'y' is INT64; the model declares BYTES"),
        ("FP32", "[['a', 'b']]", "'y' is BYTES; the model declares FP32"),
        ("FP32", "[[1, 2], [3]]", "'y' is no array"),
        ("FP32", "[[None, 1]]", "'y' is or has a NoneType"),
        ("FP32", "None", "'y' is or has a NoneType"),
        ("FP32", "[[1j, 1]]", "'y' is of dtype complex128"),
    ],
)
async def test_a_wrong_answer_is_the_models_fault(write: Write, datatype: str, made: str, wrong: str) -> None:
    async with serving(write(model=DECLARING.format(datatype=datatype, made=made))) as engine:
        with pytest.raises(EngineError, match=wrong):
            await predict(engine)


FAILING = """
    import asyncio, sys
    from deployments.errors import BadRequest
    class Model:
        {}def predict(self, tensors):
            what = str(tensors["x"])
            if what == "client": raise BadRequest("not this one", param="x")
            if what == "value": raise ValueError("a bug\\nof two lines")
            if what == "exit": sys.exit("enough")
            if what == "cancel": raise asyncio.CancelledError
            return [1]
"""


@pytest.mark.parametrize("kind", ["", "async "], ids=["function", "coroutine"])
async def test_only_what_says_so_is_the_clients_fault(write: Write, kind: str) -> None:
    async with serving(write(model=FAILING.format(kind))) as engine:
        with pytest.raises(BadRequest, match="not this one") as error:
            await predict(engine, x="client")
        assert error.value.param == "x"
        with pytest.raises(EngineError, match=r"the model failed: ValueError: a bug \(model.py, line 8\)"):
            await predict(engine, x="value")
        with pytest.raises(EngineError, match="SystemExit: enough"):
            await predict(engine, x="exit")
        if kind:
            with pytest.raises(EngineError, match="cancelled by something of its own"):
                await predict(engine, x="cancel")
        assert engine.alive()
        assert list(await predict(engine, x="fine")) == ["output-0"]


async def test_a_request_for_a_coroutine_can_be_cancelled(write: Write) -> None:
    source = """
        import asyncio
        class Model:
            def __init__(self, ended):
                self.ended = ended
            async def predict(self, tensors):
                try:
                    await asyncio.Event().wait()
                finally:
                    self.ended.set()
    """
    ended = asyncio.Event()
    async with serving(write(model=source), arguments={"ended": ended}) as engine:
        task = asyncio.create_task(predict(engine))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()


APP = """
    from contextlib import asynccontextmanager
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    class Model:
        def __init__(self, told, fail=False):
            self.told, self.fail = told, fail
        def app(self):
            @asynccontextmanager
            async def lifespan(app):
                self.told.append("started")
                if self.fail:
                    raise RuntimeError("no database")
                yield {"rows": 3}
                self.told.append("ended")
            async def rows(request):
                return JSONResponse(request.state.rows)
            return Starlette(routes=[Route("/rows", rows)], lifespan=lifespan)
        def close(self):
            self.told.append("closed")
"""


async def test_an_app_is_started_asked_and_ended(write: Write) -> None:
    told: list[str] = []
    async with serving(write(model=APP), arguments={"told": told}) as engine:
        assert told == ["started"]
        assert await answer(engine.app, "/rows") == 3
        assert await answer(engine.app, "/columns") == 404
        with pytest.raises(BadRequest, match="no predict"):
            await predict(engine, x=1)
    assert told == ["started", "ended", "closed"]


async def test_an_app_that_cannot_start_says_why(write: Write) -> None:
    told: list[str] = []
    found = await refused(write(model=APP), arguments={"told": told, "fail": True})
    assert found == "the app cannot start: RuntimeError: no database"
    assert told == ["started", "closed"]


async def test_an_app_beside_predict_that_knows_no_lifespan(write: Write) -> None:
    source = """
        class Model:
            async def app(self, scope, receive, send):
                assert scope["type"] == "http"
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"7"})
            def predict(self, tensors):
                return tensors
    """
    async with serving(write(model=source)) as engine:
        assert await answer(engine.app, "/") == 7
        assert list(await predict(engine, x=1)) == ["x"]
    assert "its app is a str" in await refused(write("b", model=ECHO + "        app = 'yes'\n"))


async def test_what_cannot_be_found_is_said_with_what_there_is(write: Write) -> None:
    folder = write(model="class Ranker: pass\nclass Reader: pass", other="")
    assert "no class 'Model'; have: Ranker, Reader" in await refused(folder)
    assert "did you mean 'Ranker'? Have: Ranker, Reader" in await refused(folder, **{"class": "model:Rankr"})
    assert "no module 'modle' in " in (said := await refused(folder, **{"class": "modle:Ranker"}))
    assert "did you mean 'model'? Have: model, other" in said
    assert "no module 'json.nothing'" in await refused(folder, **{"class": "json.nothing:Ranker"})
    for wrong in ("Ranker", "model:", ":Ranker", "nomodule.Thing"):
        with pytest.raises(ValidationError, match="write it as module:Name"):
            await refused(folder, **{"class": wrong})
    assert "Ranker has neither predict nor app; it has: nothing" in await refused(folder, **{"class": "model:Ranker"})


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import nonesuch", "module model cannot be imported: ModuleNotFoundError: No module named 'nonesuch'"),
        ("import parts.no", "ModuleNotFoundError: No module named 'parts.no' (model.py, line 1)"),
        ("import helpers", "ZeroDivisionError: division by zero (helpers.py, line 2)"),
        ("class Model", "SyntaxError: expected ':' (model.py, line 1)"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("class Model:\n  def __init__(self, a): pass", "with the arguments {}: TypeError: Model.__init__() missing"),
        ("class Model:\n  def load(self, path): path.foo", "model:Model.load failed: AttributeError: "),
        ("class Model:\n  async def load(self, path): path.foo", "model:Model.load failed: AttributeError: "),
        ("class Model:\n  def app(self): return 1 / 0", "its method app failed: ZeroDivisionError"),
        (
            "class Model:\n  inputs = [{'name': 'x'}]",
            "the class's inputs are not a name, a datatype and a shape each: ",
        ),
        ("class Model:\n  outputs = 3", "the class's outputs are no list: 'int' object is not iterable"),
    ],
)
async def test_what_cannot_be_loaded_says_why(write: Write, source: str, why: str) -> None:
    folder = write(helpers="x = 1\ny = 1 / 0\n", parts____init__="", model=source)
    assert why in await refused(folder)


async def test_a_class_loads_from_its_folder_and_is_closed(write: Write) -> None:
    source = """
        class Model:
            def __init__(self, told):
                self.told = told
            def load(self, path):
                self.factor = int((path / "factor.txt").read_text())
            def predict(self, tensors):
                return tensors["x"] * self.factor
            def alive(self):
                if self.factor == 3: raise RuntimeError("how should I know")
                return self.factor < 3
            def close(self):
                self.told.append("closed")
                raise RuntimeError("not so soon")
    """
    folder, told = write(model=source), list[str]()
    (folder / "factor.txt").write_text("2")
    async with serving(folder, arguments={"told": told}) as engine:
        assert (await predict(engine, x=[4]))["output-0"].tolist() == [8]
        assert engine.alive()
        for dead in (3, 4):
            engine._model.factor = dead
            assert not engine.alive()
    assert told == ["closed"]
    assert not any("serve_app_python" in name for name in sys.modules)


async def test_installed_classes_and_single_files(write: Write) -> None:
    folder = write(ranker=ECHO)
    async with serving(folder, **dict[str, Any]({"class": f"{__name__}:Installed"})) as engine:
        assert (await predict(engine, x=[4]))["output-0"].tolist() == [8]
        assert type(engine._model) is Installed
    async with serving(folder / "ranker.py", **dict[str, Any]({"class": "ranker:Model"})) as engine:
        assert list(await predict(engine, x=1)) == ["x"]


async def test_modules_of_a_folder_find_each_other(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(
        model="""
            import json
            import helpers
            import parts.deep.below as below
            import parts.deep
            from parts import one
            from . import helpers as same
            from dataclasses import dataclass
            from loose.words import HELLO

            @dataclass
            class Model:
                number: "int" = 1
                def predict(self, tensors):
                    import late, yaml
                    from helpers import NAME
                    assert same is helpers and parts.deep.below is below and hasattr(yaml, "safe_load")
                    return [NAME, late.NAME, one.NAME, below.NAME, HELLO, json.NAME]
        """,
        helpers="NAME = 'helpers'",
        late="from helpers import NAME as N; NAME = 'late ' + N",
        json="NAME = 'a sibling of that name'",
        parts____init__="",
        parts__one="from .deep import below; NAME = 'one ' + below.NAME",
        parts__deep____init__="",
        parts__deep__below="import helpers; NAME = 'below ' + helpers.NAME",
        loose__words="HELLO = 'hello'",
        yaml__data="",
    )
    async with serving(folder) as engine:
        found = (await predict(engine))["output-0"].tolist()
    one = b"below helpers"
    assert found == [b"helpers", b"late helpers", b"one " + one, one, b"hello", b"a sibling of that name"]
    assert json.loads("1") == 1
    assert not {"helpers", "model", "late"} & set(sys.modules)


async def test_two_models_with_modules_of_the_same_names(write: Write) -> None:
    model = """
        class Model:
            def predict(self, tensors):
                import helpers
                return [helpers.NAME]
    """
    first, second = (
        write("first", model=model, helpers="NAME = 'one'"),
        write("second", model=model, helpers="NAME = 2"),
    )
    async with serving(first) as one, serving(second) as two:
        assert (await predict(one))["output-0"].tolist() == [b"one"]
        assert (await predict(two))["output-0"].tolist() == [2]


async def test_a_changed_source_is_read_afresh_while_the_old_version_answers(write: Write) -> None:
    model = "import helpers\nclass Model:\n  def predict(self, tensors): return [helpers.NAME]"
    async with serving(write(model=model, helpers="NAME = 1")) as old:
        async with serving(write(model=model, helpers="NAME = 2")) as new:
            assert (await predict(new))["output-0"].tolist() == [2]
            assert (await predict(old))["output-0"].tolist() == [1]
        assert (await predict(old))["output-0"].tolist() == [1]
    assert not list(write().rglob("*.pyc"))


async def test_pickles_name_the_folders_classes(write: Write) -> None:
    source = """
        import joblib
        from helpers import Double

        class Model:
            def load(self, path):
                self.double = joblib.load(path / "double.joblib")
                assert type(self.double) is Double
            def predict(self, tensors):
                return self.double(tensors["x"])
    """
    helpers = "class Double:\n  def __call__(self, x): return {}"
    folders = [write(name, model=source, helpers=helpers.format(name)) for name in ("x+x", "x*2")]
    for folder in folders:
        (folder / "double.joblib").write_bytes(b"\x80\x04\x8c\x07helpers\x8c\x06Double\x93)\x81.")
    async with serving(folders[0]) as one, serving(folders[1]) as two:
        for engine in (one, two):
            assert (await predict(engine, x=[4]))["output-0"].tolist() == [8]


def test_modules_are_listed_while_others_are_imported(tmp_path: Path) -> None:
    """What the collector finalizes may import: a list of `sys.modules` made item by item was seen to fail so."""

    class Importing:
        def __init__(self, name: str) -> None:
            self.itself, self.name = self, name

        def __del__(self) -> None:
            sys.modules[self.name] = ModuleType(self.name)

    (tmp_path / "model.py").write_text("")
    folder, threshold = Folder(tmp_path), gc.get_threshold()
    made = [f"imported_when_collected_{n}" for n in range(200)]
    try:
        loaded = folder.load("model")
        gc.set_threshold(50)
        for name in made:
            Importing(name)
            assert list(folder._loaded().values()) == [loaded]
    finally:
        gc.set_threshold(*threshold)
        folder.close()
        for name in made:
            sys.modules.pop(name, None)
