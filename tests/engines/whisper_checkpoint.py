"""Complete Whisper checkpoints: real architecture, real token layout, random weights, converted by CTranslate2.

What it hears means nothing, but it differs from sound to sound.
"""

import importlib
import itertools
import random
import string
from pathlib import Path
from typing import Any

WORDS = 50257
"""Text tokens of the multilingual Whisper models, which come before the special ones."""


def make_tiny_whisper(folder: Path) -> None:
    """Write a CTranslate2 Whisper folder of some megabytes. Always the same one."""
    sizes: dict[str, float] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "init_std": 1.5}
    sizes |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
    make_whisper(folder, seed=4, **sizes)  # hears something in speech, whether the language is given or detected


def make_whisper(folder: Path, seed: int, **sizes: float) -> None:
    """Write a CTranslate2 Whisper folder of these sizes, by the names of transformers' WhisperConfig."""
    import torch

    transformers: Any = importlib.import_module("transformers")  # its types lag behind it
    from ctranslate2.converters import TransformersConverter

    source = folder.with_name(folder.name + "-source")
    tokenizer = _tokenizer()
    special = tokenizer.get_vocab()
    config = transformers.WhisperConfig(
        vocab_size=51865,
        decoder_start_token_id=special["<|startoftranscript|>"],
        bos_token_id=special["<|endoftext|>"],
        eos_token_id=special["<|endoftext|>"],
        pad_token_id=special["<|endoftext|>"],
        **sizes,
    )
    torch.manual_seed(seed)
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        suppress_tokens=[], begin_suppress_tokens=[special["<|endoftext|>"]], alignment_heads=[[0, 0], [1, 1]]
    )
    model.generation_config.lang_to_id = {f"<|{code}|>": special[f"<|{code}|>"] for code in _languages()}
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(source)
    TransformersConverter(str(source), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(str(folder))


def _languages() -> list[str]:
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    return list(_LANGUAGE_CODES)[:99]


def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    transformers: Any = importlib.import_module("transformers")

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    chance = random.Random(3)
    made = {
        "Ġ" + "".join(chance.choices(string.ascii_lowercase, k=chance.choice([3, 4, 5]))): None
        for _ in range(2 * WORDS)
    }
    # The empty token, last of the text ones, is how CTranslate2 knows the multilingual models.
    vocabulary = [*letters, *itertools.islice(made, WORDS - len(letters) - 1), ""]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in _languages())]
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    tokenizer.add_special_tokens(
        [AddedToken(one, special=True) for one in [*special, "<|nocaptions|>", "<|notimestamps|>"]]
    )
    return transformers.WhisperTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
