"""The embedding engine against the library called directly."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from deployments.engines import LoadContext
from deployments.engines.sentence_transformers import Engine, Options
from deployments.errors import BadRequest, EngineError, LoadError, QueueFull
from tests.engines.loading import loaded


@pytest.fixture(scope="module")
def reference(minilm: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm), device="cpu")


@pytest.fixture(scope="module")
def engine(minilm: Path):  # type: ignore[no-untyped-def]
    with loaded(Engine(), minilm, Options(truncate="end", token_ids="model")) as engine:
        yield engine


async def test_vectors_equal_the_librarys(engine: Engine, reference: SentenceTransformer, sentences: list[str]) -> None:
    done = await engine.embed(sentences)
    assert done.vectors.dtype == np.float32
    np.testing.assert_allclose(done.vectors, reference.encode(sentences), atol=1e-5)


async def test_concurrent_requests_get_their_own_vectors_in_order(
    engine: Engine, reference: SentenceTransformer, sentences: list[str]
) -> None:
    parts = [sentences[i : i + 3] for i in range(0, len(sentences), 3)]
    answers = await asyncio.gather(*(engine.embed(part) for part in parts))
    np.testing.assert_allclose(np.concatenate([a.vectors for a in answers]), reference.encode(sentences), atol=1e-5)


async def test_a_texts_own_token_ids_give_its_vector(engine: Engine, reference: SentenceTransformer) -> None:
    text = "an iron sea of blue lamps"
    with_special = reference.tokenizer(text).input_ids
    without = reference.tokenizer(text, add_special_tokens=False).input_ids
    done = await engine.embed([engine.decode_ids(with_special), engine.decode_ids(without), text])
    np.testing.assert_allclose(done.vectors, np.repeat(reference.encode([text]), 3, axis=0), atol=1e-5)
    assert done.tokens == 3 * len(with_special)


def test_an_id_outside_the_vocabulary_is_refused(engine: Engine) -> None:
    with pytest.raises(BadRequest, match="30522"):
        engine.decode_ids([5, 30522])


async def test_dimensions_keep_the_first_and_scale_to_length_one(
    engine: Engine, reference: SentenceTransformer
) -> None:
    whole = reference.encode(["seven ships"])[:, :100]
    done = await engine.embed(["seven ships"], dimensions=100)
    np.testing.assert_allclose(done.vectors, whole / np.linalg.norm(whole), atol=1e-5)


@pytest.mark.parametrize("dimensions", [0, 385])
async def test_dimensions_out_of_range_are_refused(engine: Engine, dimensions: int) -> None:
    with pytest.raises(BadRequest, match="1 to 384"):
        await engine.embed(["x"], dimensions=dimensions)


async def test_truncate_end_reads_what_the_library_reads(engine: Engine, reference: SentenceTransformer) -> None:
    long = "lamp " * 400
    done = await engine.embed([long])
    np.testing.assert_allclose(done.vectors, reference.encode([long]), atol=1e-5)
    assert done.tokens == 256


async def test_truncate_error_refuses_the_long_input_and_names_it(engine: Engine) -> None:
    with pytest.raises(BadRequest, match="302 tokens") as refused:
        await engine.embed(["short", "lamp " * 300], truncate="error")
    assert refused.value.param == "input[1]"


async def test_a_text_of_two_million_characters_is_refused_quickly(engine: Engine) -> None:
    with pytest.raises(BadRequest, match="2000000 characters"):
        await engine.embed(["x" * 2_000_000])


async def test_prompts_are_put_before_the_text(minilm: Path, reference: SentenceTransformer) -> None:
    with loaded(Engine(), minilm, Options(prompts={"query": "find: "})) as engine:
        done = await engine.embed(["ships"], prompt="query")
        np.testing.assert_allclose(done.vectors, reference.encode(["ships"], prompt="find: "), atol=1e-5)
        with pytest.raises(BadRequest, match="query"):
            await engine.embed(["ships"], prompt="nope")


async def test_a_prompt_goes_before_token_ids_too(minilm: Path, reference: SentenceTransformer) -> None:
    options = Options(prompts={"query": "find: "}, token_ids="model", default_prompt="query")
    with loaded(Engine(), minilm, options) as engine:
        ids = reference.tokenizer("seven ships").input_ids
        done = await engine.embed([engine.decode_ids(ids), "seven ships"])
    np.testing.assert_allclose(done.vectors[0], done.vectors[1], atol=1e-5)


async def test_a_full_queue_refuses_further_requests(minilm: Path) -> None:
    with loaded(Engine(), minilm, Options(), max_queue=8) as engine:
        first = asyncio.create_task(engine.embed(["lamp " * 200] * 8))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await engine.embed(["x"] * 8)
        await first


async def test_a_closed_engine_fails_what_waits(minilm: Path) -> None:
    with loaded(Engine(), minilm, Options()) as engine:
        pass
    with pytest.raises(EngineError, match="stopped"):
        await engine.embed(["x"])


def test_a_device_that_is_not_there_is_named(minilm: Path, context: LoadContext) -> None:
    with pytest.raises(LoadError, match="cuda:7"):
        Engine().load(minilm, Options(device="cuda:7"), context)


def test_a_limit_beyond_the_models_positions_is_refused(minilm: Path, context: LoadContext) -> None:
    with pytest.raises(LoadError, match="512"):
        Engine().load(minilm, Options(max_length=4096), context)
