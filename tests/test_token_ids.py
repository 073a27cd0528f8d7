"""Token ids made by tiktoken."""

from pathlib import Path

import pytest

from deployments import token_ids
from deployments.errors import BadRequest


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_ids, "_attempts", {})


def test_ids_are_decoded_where_the_table_is(monkeypatch: pytest.MonkeyPatch, tiktoken_cache: Path) -> None:
    import tiktoken

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))
    text = "Größe: 7 ships 🚢"
    assert token_ids.decode("cl100k_base", tiktoken.get_encoding("cl100k_base").encode(text)) == text
    with pytest.raises(BadRequest, match="no text in 'cl100k_base'"):
        token_ids.decode("cl100k_base", [10**6])


def test_without_the_table_the_clients_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_name: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr("tiktoken.get_encoding", offline)
    with pytest.raises(BadRequest, match="check_embedding_ctx_length=False"):
        token_ids.decode("cl100k_base", [1, 2])
