"""A complete tiny XTTS checkpoint: the real architecture and files, random weights. It babbles, every text differently.

The decoder's and the speaker encoder's sizes are fixed in coqui's code, 20 million weights; they are
windows on one small random tensor, so that the file stays small.
"""

import json
from pathlib import Path
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyzäöüßéèçñąłőű0123456789.,!?'-"
LANGUAGES = ["en", "es", "fr", "de", "it", "pt", "pl", "tr", "ru", "nl", "cs", "ar", "zh-cn", "hu", "ko", "ja", "hi"]
BUILT_IN = "Ada Lovelace"
BROKEN = "Broken Voice"
"""A built-in speaker that no audio can be made with: its numbers are not numbers."""
DIM = 64
SHARED_FROM = 20_000
"""Tensors of at least so many weights are windows on the shared one."""


def make_tiny_xtts(folder: Path) -> None:
    """Write config.json, model.pth, vocab.json and speakers_xtts.pth, the same at every run.

    A piece of text becomes at most 12 tokens, 278 samples each; streams need chunks of 5 tokens or more.
    """
    import torch
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
    from TTS.tts.models.xtts import Xtts

    folder.mkdir(parents=True, exist_ok=True)
    _write_vocabulary(folder / "vocab.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = _config()
        model = Xtts(config)
        model.tokenizer = VoiceBpeTokenizer(vocab_file=folder / "vocab.json")
        model.init_models()
        torch.save({"model": _weights(model.state_dict())}, folder / "model.pth")
        speakers = {BUILT_IN: _speaker(), BROKEN: {key: value * float("nan") for key, value in _speaker().items()}}
        torch.save(speakers, folder / "speakers_xtts.pth")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1))


def _config() -> Any:
    from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig

    arguments = XttsArgs(
        gpt_layers=1,
        gpt_n_model_channels=DIM,
        gpt_n_heads=2,
        gpt_max_audio_tokens=15,
        gpt_max_text_tokens=150,
        gpt_max_prompt_tokens=40,
        gpt_num_audio_tokens=66,
        gpt_start_audio_token=64,
        gpt_stop_audio_token=65,
        gpt_use_perceiver_resampler=True,
        output_hop_length=1024,
        decoder_input_dim=DIM,
    )
    return XttsConfig(model_args=arguments, gpt_cond_len=3, gpt_cond_chunk_len=2, max_ref_len=3)


def _write_vocabulary(file: Path) -> None:
    """A tokens file as XTTS's own, whose tokens are single characters."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]", *(f"[{language}]" for language in LANGUAGES)]
    vocabulary = {token: at for at, token in enumerate([*special, *LETTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.save(str(file))


def _weights(fresh: dict[str, Any]) -> dict[str, Any]:
    """A new model's weights, made so strong that texts and voices sound different, and small on disk."""
    import torch

    pool = torch.randn(300_000) * 0.1
    stronger = {"text_embedding": 50, "mel_head": 5, ".attn.c_proj": 10, "decoder.ups": 3}
    made = {}
    for name, value in fresh.items():
        if value.is_floating_point() and value.numel() >= SHARED_FROM:
            made[name] = _window(pool, value.shape)
        else:
            made[name] = value * next((by for part, by in stronger.items() if part in name), 1)
    return made


def _window(pool: Any, shape: tuple[int, ...]) -> Any:
    """Overlapping rows of the pool, in that shape."""
    strides, left = [1], pool.numel() - shape[-1]
    for size in reversed(shape[:-1]):
        strides.insert(0, shape[-1] if len(strides) == 1 and size * shape[-1] < left // 2 else left // (2 * size))
        left -= strides[0] * (size - 1)
    return pool.as_strided(shape, strides)


def _speaker() -> dict[str, Any]:
    """Latents as XTTS-v2 keeps its speakers."""
    import torch

    return {
        "gpt_cond_latent": torch.randn(1, 32, DIM),
        "speaker_embedding": torch.nn.functional.normalize(torch.randn(1, 512, 1), dim=1),
    }
