"""Real models and data, as small as they come, built without a network."""

import csv
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

GOOD = ["good", "great", "superb", "lovely", "moving", "funny"]
BAD = ["bad", "awful", "dull", "poor", "boring", "weak"]
OTHER = ["the", "film", "was", "a", "story", "of", "its", "actor", "scene", "and", "plot", "very", "this", "it"]

FAMILIES = ("bert", "roberta", "distilbert", "gpt2")


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


def write_model(family: str, folder: Path) -> Path:
    """A 2-layer, width-16 model of the family with random weights and a tokenizer that knows the toy words."""
    tokenizer = _tokenizer(family)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = len(tokenizer)
    if family == "bert":
        wide = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        model = BertForSequenceClassification(BertConfig(vocab_size=size, max_position_embeddings=64, **wide))
    elif family == "roberta":
        wide = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        model = RobertaForSequenceClassification(
            RobertaConfig(vocab_size=size, max_position_embeddings=66, type_vocab_size=1, **wide, **ids)
        )
    elif family == "distilbert":
        model = DistilBertForSequenceClassification(
            DistilBertConfig(vocab_size=size, max_position_embeddings=64, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
        )
    else:
        model = GPT2ForSequenceClassification(
            GPT2Config(
                vocab_size=size,
                n_positions=64,
                n_embd=16,
                n_layer=2,
                n_head=2,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    model.save_pretrained(folder)
    return folder


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    corpus = [" ".join(GOOD + BAD + OTHER)] * 9  # frequent enough to become whole tokens
    if family in ("bert", "distilbert"):
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=list(special.values()), show_progress=False)
        tokenizer.train_from_iterator(corpus, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
        )
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)
    if family == "roberta":
        special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        extra = {"cls_token": "<s>", "sep_token": "</s>"}
    else:
        special, extra = {"bos_token": "<|endoftext|>"}, {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    if family == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special, **extra)
