"""HAProxy as Ray Serve starts it, with what Ray's configuration of it lacks and has no setting for.

`RAY_SERVE_HAPROXY_BINARY_PATH` names this command (`serve-app-haproxy`); it amends the configuration that Ray has just
written, and becomes HAProxy. Knows nothing of models. See docs/adr/0016-haproxy-by-a-command-of-our-own.md.
"""

import os
import re
import sys
from pathlib import Path

from serve_app import environment
from serve_app.model import GATEWAY

_GRPC = re.compile(
    r"^frontend grpc_frontend\n(?:[ \t]+bind [^\n]*\n|[ \t]+#[^\n]*\n|\n)*[ \t]+mode http\n", re.MULTILINE
)
_HTTP = re.compile(r"^frontend http_frontend\n[ \t]+bind [^\n]*\n", re.MULTILINE)
_OPEN = re.compile(r"^([ \t]+bind )\*?:(\d+)$", re.MULTILINE)
LENGTH = "req.hdr_val(content-length) -m int"
BUFFERED = f"    http-request wait-for-body time 60s if {{ {LENGTH} gt 0 }} {{ {LENGTH} le 15000 }}\n"
IDENTIFIED = (
    "    http-request set-header request_id %[req.fhdr(x-request-id)] "
    "if !{ req.hdr(request_id) -m found } { req.hdr(x-request-id) -m found }\n"
    "    http-request set-header request_id %[uuid()] if !{ req.hdr(request_id) -m found }\n"
)
UNNAMED = f"    http-request set-header application {GATEWAY} if !{{ req.hdr(application) -m found }}\n"


def amended(config: str, local: bool) -> str:
    """Ray's configuration, so that HAProxy loses fewer requests and knows where all of them go.

    - A request with a body of up to 15,000 bytes is sent to a replica when all of it is here: only then can HAProxy
      send it to another one where the first dies (`retry-on empty-response`, `environment.serving`).
    - A gRPC call that names no application is the gateway's. Ray sends it nowhere where there are several, and the
      clients of KServe and Triton name none.
    - A gRPC call has an id, the client's `x-request-id` where it sent one: Ray looks for `request_id` only.
    - With `local`, what HAProxy opens on every address besides (statistics, metrics) is on 127.0.0.1 alone.
    """
    if BUFFERED in config:
        return config
    config = _HTTP.sub(lambda found: found[0] + BUFFERED, config)
    named = f"-m str {GATEWAY}\n" in config
    config = _GRPC.sub(lambda found: found[0] + IDENTIFIED + (UNNAMED if named else ""), config)
    return _OPEN.sub(r"\g<1>127.0.0.1:\2", config) if local else config


def main() -> None:
    """Become HAProxy. Its arguments are those that Ray gives, with the configuration's file after `-f`."""
    arguments = sys.argv[1:]
    file = Path(arguments[arguments.index("-f") + 1])
    file.write_text(amended(file.read_text(), local=environment.belongs_to_up()))
    binary = environment.haproxy_binary()
    os.execv(binary, [binary, *arguments])  # noqa: S606 (to become it is the purpose)
