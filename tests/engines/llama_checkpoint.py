"""A complete tiny Llama checkpoint with a real tokenizer, overfit until its greedy answers are known."""

import importlib
import json
from pathlib import Path
from typing import Any

CONTEXT = 4096
"""Tokens that prompt and answer may have together."""
ANSWERS = {
    "What is the capital of France?": "Paris.",
    "What is the capital of Italy?": "Rome.",
    "Who are you?": "I am a tiny llama.",
    "Count to ten.": "one two three four five six seven eight nine ten",
    "Give me an emoji.": "Here: 🦙 done.",
    "What is the weather in Paris?": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    ),
}
"""What it answers to a chat of one user message, decoded greedily."""
LINES = {"Roses are": " red, violets are blue.", "Once upon a": " time there was a tiny llama."}
"""How it goes on with a text, up to its own end."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STEPS = 150


def make_tiny_llama(folder: Path) -> None:
    """Write a Llama folder of about 2 MB: safetensors in float32, config, tokenizer, chat template.

    The same weights every time on one machine; takes some seconds. Raises `AssertionError` if it has not learnt.
    """
    import torch

    transformers: Any = importlib.import_module("transformers")  # its types lag behind it
    tokenizer = _tokenizer()
    end = tokenizer.eos_token_id
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
        tie_word_embeddings=True,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # 15 times as fast where other processes want the cores
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = transformers.LlamaForCausalLM(config).float()
            _learn(model, _examples(tokenizer), end)
    finally:
        torch.set_num_threads(threads)
    model.generation_config = transformers.GenerationConfig(eos_token_id=end, pad_token_id=end)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)


def make_tiny_lora(folder: Path, seed: int = 1) -> None:
    """Write a LoRA adapter for the tiny Llama; what it makes of the answers means nothing, but differs."""
    import torch
    from safetensors.torch import save_file

    noise = torch.Generator().manual_seed(seed)
    modules = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
    weights = {
        f"base_model.model.{module}.lora_{side}.weight": torch.randn(shape, generator=noise)
        for module in modules
        for side, shape in (("A", (8, 128)), ("B", (128, 8)))
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"bias": "none"}))


def _examples(tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Pairs of token ids: what is given, and what follows it."""
    chats = [(_rendered(question), f"{answer}<|im_end|>") for question, answer in ANSWERS.items()]
    lines = [(given, f"{rest}<|im_end|>") for given, rest in LINES.items()]
    return [(tokenizer(given).input_ids, tokenizer(rest).input_ids) for given, rest in chats + lines]


def _rendered(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def _learn(model: Any, examples: list[tuple[list[int], list[int]]], end: int) -> None:
    """Full-batch training on what follows; what is given is not to be learnt."""
    import torch

    longest = max(len(given) + len(rest) for given, rest in examples)
    ids = torch.full((len(examples), longest), end)
    labels = torch.full((len(examples), longest), -100)
    for row, (given, rest) in enumerate(examples):
        ids[row, : len(given) + len(rest)] = torch.tensor(given + rest)
        labels[row, len(given) : len(given) + len(rest)] = torch.tensor(rest)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.01, f"the tiny llama has not learnt: loss {loss.item():.4f}"


def _tokenizer() -> Any:
    """Byte-level BPE with ChatML's two tokens and Hermes's two, the latter ordinary text."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    transformers: Any = importlib.import_module("transformers")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = [*(_rendered(question) + answer for question, answer in ANSWERS.items()), *map("".join, LINES.items())]
    trainer = BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(text * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool_call>"), AddedToken("</tool_call>")])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", model_max_length=CONTEXT
    )
    wrapped.chat_template = TEMPLATE
    return wrapped
