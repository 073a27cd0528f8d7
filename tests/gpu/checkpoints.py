"""Checkpoints of the sizes that people serve, made here of random weights, so that nothing is downloaded.

Each is always the same one. Their tokenizers know the words w0, w1, ... and no others, one token each. What such
models answer means nothing, but differs from input to input. Knows nothing of engines.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = 30_000
TINY_WORDS = 500
LLM_CONTEXT = 2048


def words(tiny: bool) -> int:
    """How many words the tokenizers know."""
    return TINY_WORDS if tiny else WORDS


def make_embedder(folder: Path, tiny: bool) -> None:
    """A BERT as large as bge-large: 335 million weights, 1024 numbers, 512 tokens."""
    transformers = _library()
    sizes = _sizes(tiny, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    tokenizer = _tokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
        words(tiny),
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        limit=512,
    )
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
    _save(folder, transformers.BertModel, config, tokenizer)


def make_reranker(folder: Path, tiny: bool) -> None:
    """An XLM-RoBERTa cross-encoder as large as bge-reranker-base: 278 million weights, 512 tokens, one label."""
    transformers = _library()
    sizes = _sizes(tiny, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
    tokenizer = _tokenizer(
        ["<s>", "<pad>", "</s>", "<unk>"],
        {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"},
        words(tiny),
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        limit=512,
    )
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer) if tiny else 250_002,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=1,
        initializer_range=0.3 if tiny else 0.06,  # scores of the usual 0.02 hardly differ
        **sizes,
    )
    _save(folder, transformers.XLMRobertaForSequenceClassification, config, tokenizer)


def make_llm(folder: Path, tiny: bool) -> None:
    """A Llama as large as TinyLlama: 1.1 billion weights in bfloat16, 2048 tokens. It never ends by itself."""
    import torch

    transformers = _library()
    sizes = _sizes(tiny, hidden_size=2048, num_hidden_layers=22, num_attention_heads=32, intermediate_size=5632)
    special = ["[UNK]", "[PAD]", "[EOS]"]
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[EOS]"}
    tokenizer = _tokenizer(special, roles, words(tiny), single="$A", pair="$A $B", limit=LLM_CONTEXT)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2 if tiny else 4,
        max_position_embeddings=LLM_CONTEXT,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=1,
        tie_word_embeddings=False,
        initializer_range=0.12 if tiny else 0.02,  # so that logits have a standard deviation of about 1
        **sizes,
    )

    def silence(model: Any) -> None:
        with torch.no_grad():
            model.lm_head.weight[: len(special)] = 0  # never the likeliest of thousands

    _save(folder, transformers.LlamaForCausalLM, config, tokenizer, dtype=torch.bfloat16, change=silence)


def _library() -> Any:
    return importlib.import_module("transformers")  # its types lag behind it


def _sizes(tiny: bool, **sizes: int) -> dict[str, int]:
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    return small if tiny else sizes


def _tokenizer(special: Sequence[str], roles: dict[str, str], count: int, *, single: str, pair: str, limit: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: at for at, word in enumerate([*special, *(f"w{i}" for i in range(count))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=roles["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(one, vocabulary[one]) for one in special]
    )
    return _library().PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **roles)


def _save(folder: Path, kind: Any, config: Any, tokenizer: Any, dtype: Any = None, change: Any = None) -> None:
    import torch

    torch.manual_seed(11)
    model = kind(config).eval()
    if change:
        change(model)
    model.to(dtype or torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
