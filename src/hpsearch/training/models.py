"""A table of what fine-tuning must know of each model family; checking and loading of models."""

import functools
import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import logging as transformers_logging

from hpsearch.config.settings import ModelSettings
from hpsearch.config.task import TaskSettings
from hpsearch.errors import RequestError, first_line
from hpsearch.state.messages import Hardware
from hpsearch.state.records import StudyHardware
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import pooling
from hpsearch.training.encoders import BERT, DISTILBERT, Layout, install
from hpsearch.training.folders import local_folder
from hpsearch.training.hardware import DTYPES
from hpsearch.training.kernels import Dropout

HUB_TIMEOUT_SECONDS = 5.0  # for the hub to answer

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Family:
    """Facts about a model family. The learning rate's range and the recipe are in `conf/model`."""

    model_types: tuple[str, ...]  # values of `model_type` in config.json
    dropout: tuple[str, ...]  # fields of the config that `model.dropout` sets
    attention_dropout: tuple[str, ...]  # fields of the config that `model.attention_dropout` sets
    positions: str  # field of the config that holds the largest number of positions
    offset: int  # positions of these that no token can use
    pad: str | None  # the tokenizer's token that serves as padding where it has no pad token
    types: bool  # whether it takes token types: 0 for the first of two texts, 1 for the second
    layout: Layout | None  # layout of its encoder; None where `encoders` can't compute it
    attention: str | None  # its own attention, where the hardware's can't be used; else None
    pooler: bool = False  # whether its base model has a pooler, which the mean can replace


FAMILIES: dict[str, Family] = {
    "bert": Family(
        model_types=("bert",),
        dropout=("hidden_dropout_prob", "classifier_dropout"),
        attention_dropout=("attention_probs_dropout_prob",),
        positions="max_position_embeddings",
        offset=0,
        pad=None,
        types=True,
        layout=BERT,
        attention=None,
        pooler=True,
    ),
    "roberta": Family(
        model_types=("roberta", "xlm-roberta", "camembert"),
        dropout=("hidden_dropout_prob", "classifier_dropout"),
        attention_dropout=("attention_probs_dropout_prob",),
        positions="max_position_embeddings",
        offset=2,  # positions count from padding_idx + 1
        pad=None,
        types=False,  # it has one type only
        layout=replace(BERT, positions_after_padding=True),
        attention=None,
    ),
    "distilbert": Family(
        model_types=("distilbert",),
        dropout=("dropout", "seq_classif_dropout", "qa_dropout"),
        attention_dropout=("attention_dropout",),
        positions="max_position_embeddings",
        offset=0,
        pad=None,
        types=False,
        layout=DISTILBERT,
        attention=None,
    ),
    "electra": Family(
        model_types=("electra",),
        dropout=("hidden_dropout_prob", "classifier_dropout"),
        attention_dropout=("attention_probs_dropout_prob",),
        positions="max_position_embeddings",
        offset=0,
        pad=None,
        types=True,
        layout=BERT,
        attention=None,
    ),
    "modernbert": Family(
        model_types=("modernbert",),
        dropout=("embedding_dropout", "mlp_dropout", "classifier_dropout"),
        attention_dropout=("attention_dropout",),
        positions="max_position_embeddings",
        offset=0,
        pad=None,
        types=False,
        layout=None,
        attention=None,
    ),
    "gpt2": Family(
        model_types=("gpt2",),
        dropout=("resid_pdrop", "embd_pdrop"),
        attention_dropout=("attn_pdrop",),
        positions="n_positions",
        offset=0,
        pad="eos_token",  # the head reads the last token that is not padding, so the pad id must be known
        types=False,  # GPT-2 embeds token types as words
        layout=None,
        attention=None,
    ),
    "deberta": Family(
        model_types=("deberta-v2",),  # DeBERTa-v3 has this type too
        dropout=("hidden_dropout_prob", "pooler_dropout"),
        attention_dropout=("attention_probs_dropout_prob",),
        positions="max_position_embeddings",
        offset=0,
        pad=None,
        types=False,  # the published models have none
        layout=None,
        attention="eager",  # its scores have terms of relative positions, which no fused kernel adds
    ),
}


TYPES = 2  # token types that a task with two texts needs: of the question and of the context
# Fields of a config that would change the computation, and the only value of each that is computed. Transformers
# 5 itself no longer computes some of the other values, and `kernels` does not compute others.
COMPUTED = {
    "position_embedding_type": "absolute",
    "reorder_and_upcast_attn": False,
    "is_decoder": False,
    "add_cross_attention": False,
    "cls_dropout": None,  # of DeBERTa: a dropout rate of the head that `model.dropout` would not set
}


def check(model: ModelSettings, task: TaskSettings) -> None:
    """Check everything about the model that can be checked without training it.

    Raises:
        RequestError: unknown family, missing or truncated folder, hub out of reach, wrong checksum, task too long, or
            unsuitable config or tokenizer.
    """
    if model.family not in FAMILIES:
        raise RequestError(f"model.family={model.family}: there is no such family; known: {', '.join(FAMILIES)}")
    family = FAMILIES[model.family]
    if model.pooling == pooling.MEAN and not family.pooler:
        raise RequestError(
            f"model.pooling=mean: the heads of model.family={model.family} pool otherwise; set it to first"
        )
    config = _from_pretrained(AutoConfig, model)
    if config.model_type not in family.model_types:
        raise RequestError(
            f"model.family={model.family}, but the config of {model.path} says model_type {config.model_type}; "
            f"give MODEL=<one of that family> or model.family=<{' | '.join(FAMILIES)}>"
        )
    for name, value in COMPUTED.items():
        if (found := getattr(config, name, value)) != value:
            raise RequestError(
                f"model.path={model.path}: its config says {name}={found}, and only {name}={value} is computed; "
                "take another model"
            )
    longest = getattr(config, family.positions) - family.offset
    if task.max_length > longest:
        raise RequestError(
            f"task.max_length={task.max_length}, but {model.name} takes at most {longest} tokens; lower task.max_length"
        )
    _check_weights(model, local_folder(model) or _fetched(model))
    tokenizer = load_tokenizer(model)
    tokens = max(tokenizer.get_vocab().values()) + 1  # not the number of tokens: ids may be left out
    if tokens > config.vocab_size:
        raise RequestError(
            f"model.path={model.path}: its tokenizer has tokens with numbers up to {tokens - 1}, and its embedding has "
            f"{config.vocab_size} rows, numbered from 0; call model.resize_token_embeddings({tokens}) and save it"
        )
    two_texts = len(KINDS[task.kind].inputs) > 1
    if family.types and two_texts and config.type_vocab_size < TYPES:
        raise RequestError(
            f"model.path={model.path}: its config says type_vocab_size={config.type_vocab_size}, and "
            f"task.kind={task.kind} gives a model {TYPES} texts, told apart by their type; take another model"
        )
    after_padding = family.layout is not None and family.layout.positions_after_padding
    if after_padding and tokenizer.pad_token_id != config.pad_token_id:
        raise RequestError(
            f"model.path={model.path}: positions count from the padding token's id, which is {config.pad_token_id} in "
            f"config.json and {tokenizer.pad_token_id} in the tokenizer; take the model with its own tokenizer"
        )


def with_attention(hardware: StudyHardware, model: ModelSettings) -> StudyHardware:
    """Return the hardware, with the attention of the model's family where that has its own."""
    own = FAMILIES[model.family].attention
    return replace(hardware, attention=own) if own is not None else hardware


def parameters(model: ModelSettings) -> int:
    """Return the number of the body's parameters, from its config and without loading weights."""
    config = _from_pretrained(AutoConfig, model)
    with torch.device("meta"):
        return int(AutoModel.from_config(config).num_parameters())


def load_tokenizer(model: ModelSettings) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, with a pad token."""
    tokenizer = _from_pretrained(AutoTokenizer, model)
    names = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    folder = local_folder(model)
    if folder and not any((folder / name).is_file() for name in names):  # transformers would make one without words
        raise RequestError(
            f"model.path={model.path}: not a usable model folder: it has no tokenizer; save one with the model"
        )
    pad = FAMILIES[model.family].pad
    if tokenizer.pad_token is None and pad is not None:
        tokenizer.pad_token = getattr(tokenizer, pad)
    if tokenizer.pad_token is None:
        raise RequestError(f"the tokenizer of {model.path} has no pad token; save one with the model")
    return tokenizer


def build(
    model: ModelSettings, kind: Kind, labels: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, hardware: Hardware
) -> PreTrainedModel:
    """Return the pretrained model in float32, with a head.

    Weights of the head that the files lack are drawn from the global torch generator.

    Args:
        model: settings of the model to load.
        kind: task kind, which decides the head.
        labels: class names, in order; empty for a kind without classes.
        tokenizer: tokenizer of the model, which decides the padding token.
        hardware: decides how the model is computed, not what it computes.
    """
    family = FAMILIES[model.family]
    overrides: dict[str, Any] = dict.fromkeys(family.dropout, model.dropout)
    overrides |= dict.fromkeys(family.attention_dropout, model.attention_dropout)
    head = getattr(transformers, kind.head)
    loaded = _from_pretrained(
        head,
        model,
        dtype=torch.float32,  # "auto" would take a checkpoint's fp16
        use_safetensors=True,
        attn_implementation=family.attention or hardware.attention,
        ignore_mismatched_sizes=True,  # a head of another task is replaced, like a missing one
        **overrides,
        **kind.head_config(labels),
    )
    for child in loaded.children():
        if type(child) is torch.nn.Dropout:  # the head's dropout, for which not every config has a field
            child.p = model.dropout
    loaded.config.pad_token_id = tokenizer.pad_token_id
    mean = kind.reads_first_token and model.pooling == pooling.MEAN
    if hardware.attention == "blocked" or (family.attention is not None and hardware.device == "cpu"):
        _use_kernels(loaded, family, kind.reads_first_token and not mean, DTYPES[hardware.precision])
    if mean:
        pooling.install(loaded)
    if hardware.compile:
        loaded.compile(dynamic=False)
    return loaded


def _use_kernels(model: PreTrainedModel, family: Family, first_token: bool, dtype: torch.dtype) -> None:
    """Use the dropout of `kernels` in the model and, where the family has a layout, the encoder of `encoders`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(parent, name, Dropout(child.p))
    if family.layout is not None:
        install(model, family.layout, dtype, first_token)


def _from_pretrained(auto: Any, model: ModelSettings, **options: Any) -> Any:
    folder = local_folder(model)
    try:
        if folder:
            return auto.from_pretrained(folder, local_files_only=True, **options)
        away = _hub_is_away(int(time.monotonic() // 60))
        return auto.from_pretrained(model.path, revision=model.revision, local_files_only=away, **options)
    except (OSError, ValueError, SafetensorError) as error:
        if folder:
            raise RequestError(f"model.path={model.path}: not a usable model folder: {first_line(error)}") from None
        raise _not_given(model, error) from None


@functools.lru_cache(maxsize=1)
def _hub_is_away(minute: int) -> bool:
    """Return whether the hub does not answer, so that only its cache counts. It is asked once in each minute.

    For each file, its own client tries for half a minute, even if the file is in the cache.
    """
    if huggingface_hub.is_offline_mode():
        return True
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_TIMEOUT_SECONDS)
    except Exception:  # the HTTP client raises many unrelated types
        return True
    return False


def _not_given(model: ModelSettings, error: Exception) -> RequestError:
    return RequestError(
        f"model.path={model.path}: no such folder here, and the Hugging Face hub does not give it: "
        f"{first_line(error)} Check the id and the network, give a local folder (model.path=./folder), "
        "or take MODEL=minilm, which needs no network"
    )


def _fetched(model: ModelSettings) -> Path:
    """Return the folder of the hub's cache with the model's weights. Fetch them if they are missing."""
    try:
        away = _hub_is_away(int(time.monotonic() // 60))
        files = ["model*.safetensors*"]
        found = huggingface_hub.snapshot_download(
            model.path, revision=model.revision, allow_patterns=files, local_files_only=away
        )
        return Path(found)
    except Exception as error:  # the hub and its HTTP client raise many unrelated types
        raise _not_given(model, error) from None


def _check_weights(model: ModelSettings, folder: Path) -> None:
    shards = sorted(folder.glob("model*.safetensors"))
    if not shards:
        raise RequestError(
            f"model.path={model.path}: no model.safetensors there; other formats run code when they are loaded "
            "and are refused: save the model with save_pretrained"
        )
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as file:
                file.keys()
        except SafetensorError as error:
            raise RequestError(f"model.path={model.path}: {shard.name} is damaged or truncated: {error}") from None
    # On the meta device only names and shapes are compared, and no weight is read.
    _, info = _from_pretrained(
        AutoModel, model, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
    )
    unlike = [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]
    if body := sorted(name for name in unlike if "pooler" not in name):  # some pretraining has no pooler
        raise RequestError(
            f"model.path={model.path}: {len(body)} weights that config.json asks for are not in its files, or have "
            f"another shape there ({body[0]} is the first): they would start at random; save model and config together"
        )
    if model.sha256 is not None:
        with open(folder / "model.safetensors", "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != model.sha256:
            raise RequestError(
                f"model.sha256: model.safetensors of {model.path} has sha256 {found}, expected {model.sha256}; "
                "reinstall the package, or set model.sha256 if you trust the new file"
            )
