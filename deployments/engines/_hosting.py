"""What it takes to host another server's app and its processes: told of clients that go, started alone, never orphaned.

Knows nothing of vLLM's interfaces, though vLLM is why each of these is here.
"""

import asyncio
import contextlib
import fcntl
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOTICE_S = 1.0
"""How long an app may take to notice that a client has gone."""


async def until_cancelled(app: "ASGIApp", scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Run an app; when this is cancelled, the app hears that its client has gone before it is cancelled itself.

    vLLM's handlers listen for a disconnect in tasks of their own (`with_cancellation`), so that cancelling
    them before they answer would leave the generation running.
    """
    client = _Client(receive, send)
    answering = asyncio.ensure_future(app(scope, client.receive, client.send))
    try:
        await asyncio.shield(answering)
    except asyncio.CancelledError:
        client.leave()
        if not client.answered:
            await asyncio.wait([answering], timeout=NOTICE_S)
        raise
    finally:
        answering.cancel()
        client.leave()


class _Client:
    """The client that an app knows, which can leave."""

    def __init__(self, receive: "Receive", send: "Send") -> None:
        self.answered = False
        """Whether the answer has begun."""
        self._receive, self._send = receive, send
        self._gone = False
        self._hearing: asyncio.Future[Message] | None = None

    def leave(self) -> None:
        """From now on there is nobody: what is heard is a disconnect, what is said is lost."""
        self._gone = True
        if self._hearing:
            self._hearing.cancel()

    async def receive(self) -> "Message":
        if not self._gone:
            self._hearing = asyncio.ensure_future(self._receive())
            try:
                return await self._hearing
            except asyncio.CancelledError:
                self._hearing.cancel()
                if not self._gone:
                    raise
        return {"type": "http.disconnect"}

    async def send(self, message: "Message") -> None:
        self.answered = True
        if not self._gone:
            await self._send(message)


@contextlib.contextmanager
def alone_on(devices: Sequence[str], progress: Callable[[str], None]) -> Iterator[None]:
    """No other engine starts on these GPUs until the end of the block: vLLM would count the other's memory as its own.

    A lock file per device, shared by all processes of this user on this machine.
    """
    folder = Path(tempfile.gettempdir()) / f"serve-app-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for device in sorted(devices):
            file = stack.enter_context((folder / f"{device}.lock").open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting until another model has started on this GPU")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def end_with_parent() -> None:
    """Have this process of `multiprocessing`, and what it has started, killed once its parent has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a process that multiprocessing started"

    def wait() -> None:
        parent.join()
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
