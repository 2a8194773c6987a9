"""Real models and data, as small as they come, built without a network."""

import csv
import json
import random
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DebertaV2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

GOOD = ["good", "great", "superb", "lovely", "moving", "funny"]
BAD = ["bad", "awful", "dull", "poor", "boring", "weak"]
OTHER = ["the", "film", "was", "a", "story", "of", "its", "actor", "scene", "and", "plot", "very", "this", "it"]

METALS = ["gold", "silver", "copper", "iron"]
COLOURS = ["red", "blue", "green", "black"]
ASKED = {"which metal is it": METALS, "which colour is it": COLOURS}
WORDS = [*GOOD, *BAD, *OTHER, *METALS, *COLOURS, *" ".join(ASKED).split()]

_WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_WIDE, "max_position_embeddings": 64},
    "roberta": {**_WIDE, "max_position_embeddings": 66, "type_vocab_size": 1},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    "electra": {**_WIDE, "embedding_size": 16, "max_position_embeddings": 64},
    # One layer sees everything, the other 8 tokens to the left and to the right.
    "modernbert": {
        **_WIDE,
        "max_position_embeddings": 64,
        "global_attn_every_n_layers": 2,
        "local_attention": 16,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    # As DeBERTa v3 is; distances of 4 tokens and more share buckets.
    "deberta": {
        **_WIDE,
        "max_position_embeddings": 64,
        "position_biased_input": False,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
}
_MODEL_TYPES = {"deberta": "deberta-v2"}  # where it is not the family's name
FAMILIES = tuple(_CONFIGS)
_SPECIAL = {
    "roberta": {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
    },
    "modernbert": {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    "gpt2": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
}


def sentences(n: int, seed: int, shortest: int = 4, longest: int = 20) -> list[tuple[str, str]]:
    """Separable toy reviews: (text, "positive" or "negative"), balanced, all different."""
    rng = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < n:
        label, words = [("positive", GOOD), ("negative", BAD)][len(rows) % 2]
        text = [rng.choice(OTHER) for _ in range(rng.randint(shortest, longest))]
        for _ in range(2):
            text.insert(rng.randrange(len(text)), rng.choice(words))
        rows.setdefault(" ".join(text), label)
    return list(rows.items())


def write_csv(path: Path, n: int = 200, seed: int = 0, columns: tuple[str, str] = ("text", "label")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(sentences(n, seed))
    return path


def labelled(n: int, seed: int) -> list[dict[str, Any]]:
    """Separable toy texts with their labels: praise, blame and metal, each of them in every other text."""
    rng = random.Random(seed)
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < n:
        text, labels = [rng.choice(OTHER) for _ in range(rng.randint(4, 16))], []
        for label, words in (("praise", GOOD), ("blame", BAD), ("metal", METALS)):
            if rng.random() < 0.5:
                labels.append(label)
                for _ in range(2):
                    text.insert(rng.randrange(len(text)), rng.choice(words))
        rows.setdefault(" ".join(text), {"text": " ".join(text), "labels": labels})
    return list(rows.values())


def questions(n: int, seed: int, longest: int = 30) -> list[dict[str, Any]]:
    """Toy questions on contexts of up to `longest` words, in the columns of SQuAD.

    A context names a metal and a colour; a fifth of the questions ask for the one that their context leaves out.
    """
    rng = random.Random(seed)
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < n:
        question, other = rng.sample(sorted(ASKED), 2)
        answer = rng.choice(ASKED[question]) if len(rows) % 5 else None
        words = [rng.choice(OTHER) for _ in range(rng.randint(6, longest - 2))]
        for word in filter(None, (answer, rng.choice(ASKED[other]))):
            words.insert(rng.randrange(len(words) + 1), word)
        context = " ".join(words)
        answers = [{"text": answer, "answer_start": f" {context} ".index(f" {answer} ")}] if answer else []
        rows.setdefault(context, {"question": question, "context": context, "answers": answers})
    return list(rows.values())


def tagged(n: int, seed: int, longest: int = 24) -> list[dict[str, Any]]:
    """Toy sentences with entities: a metal ("gold", or "gold metal"), a colour, or both; a fifth have neither."""
    rng = random.Random(seed)
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    while len(rows) < n:
        words: list[tuple[str, str]] = [(rng.choice(OTHER), "O") for _ in range(rng.randint(4, longest - 4))]
        for label, names in (("metal", METALS), ("colour", COLOURS)) if len(rows) % 5 else ():
            if rng.random() < 0.7:
                chosen = [rng.choice(names), label][: rng.randint(1, 2) if label == "metal" else 1]
                places = [i for i in range(len(words) + 1) if i == len(words) or not words[i][1].startswith("I")]
                tags = [f"B-{label}", f"I-{label}"]
                at = rng.choice(places)
                words[at:at] = zip(chosen, tags, strict=False)
        tokens, tags = (list(each) for each in zip(*words, strict=True))
        rows.setdefault(tuple(tokens), {"tokens": tokens, "tags": tags})
    return list(rows.values())


def write_conll(path: Path, rows: list[dict[str, Any]]) -> Path:
    sentences = ["".join(f"{t} {tag}\n" for t, tag in zip(row["tokens"], row["tags"], strict=True)) for row in rows]
    path.write_text("-DOCSTART- O\n\n" + "\n".join(sentences), encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_model(family: str, folder: Path, spread: float = 0.02) -> Path:
    """A 2-layer, width-16 model of the family and a tokenizer that knows the toy words.

    `spread` is the standard deviation of its random weights; 0.02, as wide models have it, lets one so narrow learn
    texts with one label; to learn questions it needs about 0.14.
    """
    tokenizer = _tokenizer(family)
    tokenizer.save_pretrained(folder)
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")
    }
    options = _CONFIGS[family] | special | {"vocab_size": len(tokenizer), "initializer_range": spread}
    config = AutoConfig.for_model(_MODEL_TYPES.get(family, family), **options)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    return folder


def _tokenizer(family: str) -> PreTrainedTokenizerBase:
    names = ["input_ids", "attention_mask"]
    if family == "deberta":
        special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        pieces = dict.fromkeys([*(f"▁{word}" for word in WORDS), "▁", *ascii_lowercase])
        # Whole words are likelier than their letters.
        scores = [
            *((token, 0.0) for token in special.values()),
            *((piece, -float(len(pieces) / len(piece))) for piece in pieces),
        ]
        return DebertaV2Tokenizer(vocab=scores, model_max_length=64, **special)
    if family in ("bert", "distilbert", "electra"):
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        pieces = [*special.values(), *ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase), *WORDS]
        # Not trained: the trainer numbers its pieces anew each time.
        vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        _add_template(tokenizer, "[CLS] $A [SEP] $B:1 [SEP]:1")
        extra: dict[str, Any] = {"model_input_names": names if family == "distilbert" else [*names, "token_type_ids"]}
    else:
        special, extra = _SPECIAL[family], {"model_input_names": names}
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(dict.fromkeys(special.values())),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([" ".join(WORDS)] * 9, trainer)  # often enough to become whole tokens
        if family == "roberta":
            tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        elif family == "modernbert":
            _add_template(tokenizer, "[CLS] $A [SEP] $B [SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special, **extra)


def _add_template(tokenizer: Tokenizer, pair: str) -> None:
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, special)
