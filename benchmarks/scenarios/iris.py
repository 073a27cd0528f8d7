"""V1 and V2 requests in JSON to an iris classifier."""

from functools import partial

from benchmarks import ray_apps
from benchmarks.ceiling import ceiling
from benchmarks.classic import V1, V2, ask, bentoml, case, kserve, litserve, mlserver, prepare
from benchmarks.scenario import OURS, Scenario, Side, Target
from benchmarks.serving import served

BOTH = {"V1": V1, "V2": V2}
PLAIN = "plain Ray Serve"
LEAST = {
    ("V1", 32): {"KServe": 1.3, "BentoML": 2.0, PLAIN: 5.0},
    ("V2", 32): {"KServe": 1.7, "MLServer": 1.3, "BentoML": 2.0, PLAIN: 5.0},
    ("V1", 1): {"KServe": 1.0, "BentoML": 2.0, PLAIN: 5.0},
    ("V2", 1): {"KServe": 1.3, "MLServer": 1.1, "BentoML": 2.0, PLAIN: 5.0},
}

SCENARIO = Scenario(
    name="iris",
    about=(
        "A scikit-learn classifier, two rows a request, V1 and V2 in JSON. Ours is inside the gateway "
        "(`inline: true`). Plain Ray Serve is a FastAPI ingress and a child with the classifier, all settings as "
        "Ray has them."
    ),
    sides=(
        Side(OURS, served, partial(ask, BOTH)),
        Side("KServe", kserve, partial(ask, BOTH)),
        Side("MLServer", mlserver, partial(ask, {"V2": V2})),
        Side("BentoML", bentoml, partial(ask, BOTH)),
        Side("LitServe", litserve, partial(ask, {"V1": V1})),
        Side(PLAIN, ray_apps.plain("iris"), partial(ask, BOTH)),
        ceiling(partial(ask, BOTH), answer_bytes=120),
    ),
    targets=tuple(
        Target(case(kind, clients), "requests/s", peer, least=least)
        for (kind, clients), peers in LEAST.items()
        for peer, least in peers.items()
    ),
    prepare=prepare,
)
