"""What leads to the application and stands around it: Services, aliases, and policies on its pods."""

from typing import Any

from rayservice.documents import GRAPH_LABEL, KSERVE_LABEL
from rayservice.pods import DASHBOARD_PORT, GRPC_PORT, HTTP_PORT, INSTANCE, METRICS_PORT
from serve_app.catalog import Catalog


def serve_service(catalog: Catalog) -> str:
    """The Service that KubeRay keeps for the application."""
    return f"{catalog.name}-serve-svc"


def entrance(catalog: Catalog) -> str:
    """The Service that the aliases stand for: KubeRay's, which has port 8000 alone, or one of the project's own."""
    return serve_service(catalog) if catalog.cluster.alias_ports == {HTTP_PORT} else f"{catalog.name}-entrance"


def services(catalog: Catalog) -> list[dict[str, Any]]:
    """KubeRay's Service, made before KubeRay makes it, and where the aliases have further ports, one with them."""
    ports = {"serve": (HTTP_PORT, HTTP_PORT)}
    made = [_service(catalog, serve_service(catalog), ports)]
    if entrance(catalog) != serve_service(catalog):
        named = {80: ("http", HTTP_PORT), HTTP_PORT: ("serve", HTTP_PORT), GRPC_PORT: ("grpc", GRPC_PORT)}
        asked = {named[port][0]: (int(port), named[port][1]) for port in sorted(catalog.cluster.alias_ports)}
        made.append(_service(catalog, entrance(catalog), asked))
    return made


def _service(catalog: Catalog, name: str, ports: dict[str, tuple[int, int]]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(catalog, name),
        "spec": {
            # KubeRay labels every worker of a RayService so; which of them serve, their readiness says.
            "selector": {INSTANCE: catalog.name, "ray.io/serve": "true"},
            "ports": [
                {"name": key, "port": port, "targetPort": target, **({"appProtocol": "grpc"} if key == "grpc" else {})}
                for key, (port, target) in ports.items()
            ],
        },
    }


def aliases(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Every model's and graph's alias, by a name for its file, in each namespace that wants it."""
    hosts = [(model.name, model.predictor, KSERVE_LABEL) for model in catalog.models]
    hosts += [(graph.name, graph.name, GRAPH_LABEL) for graph in catalog.graphs]
    made = {host: _alias(name, host, label, catalog, catalog.namespace) for name, host, label in hosts}
    for name, host, label in hosts:
        for namespace in catalog.cluster.alias_namespaces.get(name, ()):
            if namespace != catalog.namespace:
                made[f"{host}.{namespace}"] = _alias(name, host, label, catalog, namespace)
    return made


def _alias(name: str, host: str, label: str, catalog: Catalog, namespace: str) -> dict[str, Any]:
    """The name under which KServe's clients find a model or a graph."""
    ports: list[dict[str, Any]] = [{"port": port, "targetPort": port} for port in sorted(catalog.cluster.alias_ports)]
    if len(ports) > 1:  # several ports must have names
        ports = [{"name": f"port-{port['port']}", **port} for port in ports]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": host, "namespace": namespace, "labels": {label: name}},
        "spec": {
            "type": "ExternalName",
            "externalName": f"{entrance(catalog)}.{catalog.namespace}.svc.cluster.local",
            "ports": ports,
        },
    }


def disruption_budget(catalog: Catalog) -> dict[str, Any]:
    """One pod at a time is taken from its node; one that is not ready is never held back."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(catalog, catalog.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {INSTANCE: catalog.name}},
        },
    }


def pod_monitor(catalog: Catalog) -> dict[str, Any]:
    """Ray's metrics and the models', for the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(catalog, catalog.name),
        "spec": {
            "selector": {"matchLabels": {INSTANCE: catalog.name}},
            "podMetricsEndpoints": [{"port": "metrics"}],
        },
    }


def http_route(catalog: Catalog) -> dict[str, Any]:
    """A way in from a Gateway. No timeout: a transcription may take hours."""
    asked = catalog.cluster.http_route
    assert asked is not None
    gateway = {"name": asked.gateway} | ({"namespace": asked.gateway_namespace} if asked.gateway_namespace else {})
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(catalog, catalog.name),
        "spec": {
            "parentRefs": [gateway],
            **({"hostnames": list(asked.hostnames)} if asked.hostnames else {}),
            "rules": [
                {
                    "backendRefs": [{"name": serve_service(catalog), "port": HTTP_PORT}],
                    "timeouts": {"request": "0s", "backendRequest": "0s"},
                }
            ],
        },
    }


def network_policy(catalog: Catalog) -> dict[str, Any]:
    """Who may open connections to the pods. What they open themselves (DNS, a model hub) is not restricted."""
    asked = catalog.cluster.network_policy
    assert asked is not None
    clients = [{"podSelector": {}}, *(_namespace(one) for one in asked.clients)]
    rules = [
        {"from": [{"podSelector": {"matchLabels": {INSTANCE: catalog.name}}}]},
        {"from": [_namespace(asked.operator)], "ports": _ports(DASHBOARD_PORT, HTTP_PORT)},
        {"from": clients, "ports": _ports(HTTP_PORT, GRPC_PORT)},
    ]
    if asked.monitoring:
        rules.append({"from": [_namespace(asked.monitoring)], "ports": _ports(METRICS_PORT)})
    if catalog.cluster.http_route and (gateway := catalog.cluster.http_route.gateway_namespace):
        rules.append({"from": [_namespace(gateway)], "ports": _ports(HTTP_PORT)})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(catalog, catalog.name),
        "spec": {
            "podSelector": {"matchLabels": {INSTANCE: catalog.name}},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    }


def metadata(catalog: Catalog, name: str) -> dict[str, Any]:
    """Of every object but the aliases."""
    return {"name": name, "namespace": catalog.namespace, "labels": {INSTANCE: catalog.name}}


def _namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _ports(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]
