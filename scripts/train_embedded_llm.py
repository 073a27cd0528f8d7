"""Train the embedded language model: questions and answers about this project in, the folder that `/llm` serves out.

    python scripts/train_embedded_llm.py [folder]

Some minutes on 2 cores; the same weights every time on the same machine. Says at the end how many questions
are answered word for word. Knows nothing of how the model is served.
"""

import hashlib
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

transformers: Any = importlib.import_module("transformers")  # its types lag behind it

FOLDER = Path(__file__).parent.parent / "deployments" / "embedded_llm"
PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
VOCABULARY, CONTEXT = 1536, 512
STEPS, BATCH, CHUNK, THREADS = 1000, 64, 16, 2
RATE, WARMUP = 4e-3, 60
OUT_OF_SCOPE, LONG, GREETED = 0.13, 0.015, 0.12
"""Shares of the training questions: of those that are none of ours, of long ones, of those after a greeting."""
TEMPLATE = """\
{%- set last = namespace(question=none) -%}
{%- for message in messages if message['role'] == 'user' -%}
{%- set last.question = message['content'] -%}
{%- endfor -%}
{%- if last.question is none -%}
{{- raise_exception('this model answers the last message of role user, and there is none') -}}
{%- endif -%}
{{- '<|user|>' + last.question | trim -}}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""

SMALL = {"the", "a", "an", "is", "do", "does", "it", "of", "to", "I", "in", "for", "are"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Data:
    """What `questions.yaml` says."""

    pairs: list[tuple[str, str]]
    unseen: list[tuple[str, str]]
    foreign: list[str]
    templates: list[str]
    words: list[str]
    variations: dict[str, Any]
    refusal: str
    digest: str

    @classmethod
    def read(cls, file: Path) -> "Data":
        text = file.read_bytes()
        found = YAML(typ="safe").load(text)
        out = found["out_of_scope"]
        entries = [*found["answers"], out]
        return cls(
            pairs=[(question, one["answer"]) for one in found["answers"] for question in one["questions"]],
            unseen=[(question, one["answer"]) for one in entries for question in one["unseen"]],
            foreign=out["questions"],
            templates=out["templates"],
            words=out["words"].split(),
            variations=found["variations"],
            refusal=out["answer"],
            digest=hashlib.sha256(text).hexdigest(),
        )


class Variations:
    """Questions as people may put them. The same sequence for the same seed."""

    def __init__(self, data: Data, seed: int) -> None:
        self._data = data
        self._chance = np.random.default_rng(seed)

    def example(self) -> tuple[str, str]:
        """A question and its answer."""
        drawn = self._chance.random()
        if drawn < LONG:
            count = int(self._chance.integers(3, 12))
            return " ".join(self._foreign() for _ in range(count))[:350], self._data.refusal
        if drawn < LONG + OUT_OF_SCOPE:
            return self.vary(self._foreign()), self._data.refusal
        question, answer = self._pick(self._data.pairs)
        return self.vary(question), answer

    def vary(self, question: str) -> str:
        """The question with another beginning, with a greeting, in lower case, without its mark, with typos."""
        question = self._reword(question)
        if self._maybe(GREETED):
            question = self._text("before") + question[:1].lower() + question[1:]
        if self._maybe(0.35):
            question = question.rstrip("?.!")
        if self._maybe(0.06):
            question = question.rstrip("?.!") + self._text("after")
        if self._maybe(0.1):
            question = " ".join(word for word in question.split() if word not in SMALL or self._maybe(0.6)) or question
        if self._maybe(0.45):
            question = question.lower()
        elif self._maybe(0.08):
            question = question.upper()
        while len(question) > 6 and self._maybe(0.2):
            question = self._typo(question)
        return question

    def _reword(self, question: str) -> str:
        for same in self._data.variations["beginnings"]:
            if question.startswith(same[0] + " ") and self._maybe(0.4):
                question = str(self._pick(same)) + question[len(same[0]) :]
                break
        if "serve_app" in question and "serve_app/" not in question:
            question = question.replace("serve_app", self._text("names"))
        elif self._maybe(0.15):
            question = question.replace(" it?", " serve_app?").replace(" this?", " serve_app?")
        return question

    def _foreign(self) -> str:
        """A question that is none of ours: one of the data's, or a template with words in it, some made up."""
        if self._maybe(0.3):
            return str(self._pick(self._data.foreign))
        template = str(self._pick(self._data.templates))
        return template.format(*(self._word() for _ in range(template.count("{}"))))

    def _word(self) -> str:
        if self._maybe(0.25):
            return "".join(self._pick(LETTERS) for _ in range(int(self._chance.integers(3, 10))))
        word = str(self._pick(self._data.words))
        return word.capitalize() if self._maybe(0.3) else word

    def _typo(self, text: str) -> str:
        at = int(self._chance.integers(1, len(text) - 1))
        kind = int(self._chance.integers(4))
        changed = (text[at + 1] + text[at], "", text[at] * 2, self._pick(LETTERS))[kind]
        return text[:at] + changed + text[at + (2 if kind == 0 else 1) :]

    def _text(self, kind: str) -> str:
        return str(self._pick(self._data.variations[kind]))

    def _maybe(self, share: float) -> bool:
        return bool(self._chance.random() < share)

    def _pick(self, things: Sequence[Any]) -> Any:
        return things[int(self._chance.integers(len(things)))]


def make_tokenizer(data: Data) -> Any:
    """A byte-level BPE tokenizer. It puts a bare text into a question's place, so that plain completions work too."""
    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    varied = Variations(data, seed=1)
    made.train_from_iterator(
        [*(text for pair in data.pairs for text in pair), *(varied.example()[0] for _ in range(2000))],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, USER, ASSISTANT, END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single=f"{USER} $A {ASSISTANT}",
        special_tokens=[(one, made.token_to_id(one)) for one in (USER, ASSISTANT)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def make_model(tokenizer: Any, data: Data) -> Any:
    """A Llama of about one million random weights."""
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        questions_sha256=data.digest,
    )
    return transformers.LlamaForCausalLM(config)


def batches(tokenizer: Any, data: Data) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids `[BATCH, longest]`, and the same with -100 wherever nothing is to be learned."""
    varied, chance = Variations(data, seed=2), np.random.default_rng(3)
    while True:
        examples = [varied.example() for _ in range(CHUNK * BATCH)]
        asked = tokenizer([question for question, _ in examples]).input_ids
        answers = tokenizer([answer + END for _, answer in examples], add_special_tokens=False).input_ids
        rows = sorted(zip(asked, answers, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        for at in chance.permutation(CHUNK):
            yield _tensors(rows[at * BATCH : (at + 1) * BATCH], tokenizer.pad_token_id)


def _tensors(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(question) + len(answer) for question, answer in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), -100)
    for i, (question, answer) in enumerate(rows):
        end = len(question) + len(answer)
        ids[i, :end] = torch.tensor(question + answer)
        labels[i, len(question) : end] = torch.tensor(answer)
    return ids, labels


def train(model: Any, tokenizer: Any, data: Data) -> None:
    """Fit the model to the answers. Nothing is masked: padding is on the right, where attention does not look."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=STEPS, pct_start=WARMUP / STEPS, cycle_momentum=False
    )
    began_s = time.monotonic()
    for step, (ids, labels) in zip(range(1, STEPS + 1), batches(tokenizer, data), strict=False):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        wanted = labels[:, 1:]
        learned = wanted != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), wanted[learned])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step} of {STEPS}, loss {loss.item():.4f}, {time.monotonic() - began_s:.0f} s", flush=True)


def write(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the folder, weights in float16."""
    model.half()
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # which safetensors leaves to its owner alone
    tokenizer.save_pretrained(folder, save_jinja_files=False)


def answer(model: Any, tokenizer: Any, questions: Sequence[str]) -> list[str]:
    """Greedy answers, in order."""
    found: list[str] = []
    for at in range(0, len(questions), 64):
        given = tokenizer(list(questions[at : at + 64]), padding=True, return_tensors="pt")
        made = model.generate(given.input_ids, attention_mask=given.attention_mask, max_new_tokens=120)
        found += tokenizer.batch_decode(made[:, given.input_ids.shape[1] :], skip_special_tokens=True)
    return found


def report(folder: Path, data: Data) -> None:
    """Say how many questions the written model answers exactly."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    foreign = [(question, data.refusal) for question in data.foreign]
    for label, pairs in (("trained", data.pairs), ("out of scope", foreign), ("unseen", data.unseen)):
        given = answer(model, tokenizer, [question for question, _ in pairs])
        wrong = [(pair[0], text) for pair, text in zip(pairs, given, strict=True) if pair[1] != text]
        print(f"{label}: {len(pairs) - len(wrong)} of {len(pairs)} answered exactly")
        for question, text in wrong:
            print(f"    {question}\n        {text}")
    for question in ("what is this", "how do i stop it", "HI, WHO ARE YOU?", "do you have a cat"):
        print(f"{question}\n    {answer(model, tokenizer, [question])[0]}")
    weights = (folder / "model.safetensors").read_bytes()
    print(f"{model.num_parameters()} parameters, {len(weights)} bytes, sha256 {hashlib.sha256(weights).hexdigest()}")


def main() -> None:
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    data = Data.read(FOLDER / "questions.yaml")
    tokenizer = make_tokenizer(data)
    model = make_model(tokenizer, data)
    train(model, tokenizer, data)
    write(model, tokenizer, folder)
    report(folder, data)


if __name__ == "__main__":
    main()
