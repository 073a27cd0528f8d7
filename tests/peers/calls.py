"""Calls of a client that is in an environment of its own: `python -m tests.peers.<client> URL GRPC_URL`.

A module of calls has functions whose names begin with `call_`; each takes an `Address`, and raises where the call does
not work. Imports nothing that only our own environment has.
"""

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple


class Address(NamedTuple):
    """Where the application is: `http://host:port`, and `host:port` for gRPC."""

    http: str
    grpc: str


async def _told(call: Any, address: Address) -> str:
    """What went wrong; empty if nothing did."""
    try:
        done = call(address)
        if inspect.isawaitable(done):
            await asyncio.wait_for(done, 60)
    except Exception:
        return traceback.format_exc(limit=-2)
    return ""


def main(module: Mapping[str, Any]) -> None:
    """Make the module's calls one after another, and print what went wrong with each as JSON."""
    address = Address(*sys.argv[1:3])

    async def run() -> dict[str, str]:
        return {name: await _told(call, address) for name, call in module.items() if name.startswith("call_")}

    print(json.dumps(asyncio.run(run())))
