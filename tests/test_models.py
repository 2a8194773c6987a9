"""Model folders that cannot or must not be used are refused before anything is written, and nothing of them is run."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

import make
import tiny
import tracked
from hpsearch.coordinator import sweep
from hpsearch.errors import RequestError
from hpsearch.training import models


class Trap:
    """Runs code where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def hostile(folder: Path) -> None:
    """Pickles in all the names that transformers and torch give them, and no safetensors."""
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.bin", "model.pt", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Trap(folder / "trace")))


def hostile_code(folder: Path) -> None:
    """Python that the config asks to be run."""
    (folder / "evil.py").write_text(f"open({str(folder / 'trace')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def not_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(folder / "trace")))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def other_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))


def other_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 8}))


def one_layer_more(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    layers = config["num_hidden_layers"] + 1
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))


def relative_positions(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"position_embedding_type": "relative_key"}))


def a_token_more(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["greatest"])
    tokenizer.save_pretrained(folder)


def a_number_left_out(folder: Path) -> None:
    """As many tokens as rows, and the last has a number above them."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary[last] += 5
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


CASES: dict[Callable[[Path], None], str] = {
    hostile: "no model.safetensors there; other formats run code when they are loaded and are refused",
    hostile_code: "not a usable model folder",
    truncated: "model.safetensors is damaged or truncated",
    not_weights: "model.safetensors is damaged or truncated",
    no_config: "not a usable model folder",
    no_json: "not a usable model folder",
    no_tokenizer: "not a usable model folder",
    other_family: "says model_type gpt2; give MODEL=",
    other_vocabulary: "1 weights that config.json asks for are not in its files, or have another shape there "
    "(embeddings.word_embeddings.weight is the first)",
    one_layer_more: "16 weights that config.json asks for are not in its files",
    relative_positions: "position_embedding_type=relative_key, and only position_embedding_type=absolute is computed",
    a_token_more: "its tokenizer has tokens with numbers up to 93, and its embedding has 93 rows, "
    "numbered from 0; call model.resize_token_embeddings(94)",
    a_number_left_out: "its tokenizer has tokens with numbers up to 97, and its embedding has 93 rows",
    empty: "not a usable model folder",
}


@pytest.mark.parametrize("spoil", CASES, ids=lambda spoil: spoil.__name__)
def test_a_bad_folder_is_refused(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tiny.write_model("bert", tmp_path / "model")
    spoil(folder)
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv"), folder, "bert")
    with pytest.raises(RequestError) as caught:
        sweep.run_sweep(settings, tmp_path / "home")
    assert CASES[spoil] in str(caught.value)
    assert f"model.path={folder}" in str(caught.value) or f"config of {folder}" in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "home").exists()
    assert not (folder / "trace").exists(), "something of the folder was run"


def test_an_embedding_may_have_more_rows_than_there_are_tokens(tmp_path: Path) -> None:
    folder = tiny.write_model("bert", tmp_path / "model")
    a_token_more(folder)
    settings = make.toy_settings(tmp_path / "toy.csv", folder, "bert")
    with pytest.raises(RequestError, match="resize_token_embeddings"):
        models.check(settings.model, settings.task)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.resize_token_embeddings(128)  # the next multiple of 64, as some save them
    model.save_pretrained(folder)
    models.check(settings.model, settings.task)


def test_a_padding_token_that_was_added_without_a_row_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_model("gpt2", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    settings = make.toy_settings(tmp_path / "toy.csv", folder, "gpt2")
    with pytest.raises(RequestError, match=r"its tokenizer has tokens with numbers up to \d+, and its embedding has"):
        models.check(settings.model, settings.task)


def test_a_model_with_one_type_of_tokens_reads_no_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    config = BertConfig(vocab_size=93, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, type_vocab_size=1)
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny.write_model("bert", tmp_path / "other")).save_pretrained(folder)
    texts = make.toy_settings(tmp_path / "toy.csv", folder, "bert")
    models.check(texts.model, texts.task)
    pairs = make.toy_settings(tmp_path / "toy.jsonl", folder, "bert", task="qa_files")
    with pytest.raises(RequestError, match=r"type_vocab_size=1, and task\.kind=question_answering gives"):
        models.check(pairs.model, pairs.task)


def test_a_rate_that_the_settings_do_not_reach_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_model("deberta", tmp_path / "model")
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv"), folder, "deberta")
    models.check(settings.model, settings.task)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"cls_dropout": 0.3}))
    with pytest.raises(RequestError, match=r"cls_dropout=0\.3, and only cls_dropout=None is computed"):
        models.check(settings.model, settings.task)


def test_what_is_printed_and_kept_of_the_hardware_names_a_family_s_own_attention(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.write_model("deberta", tmp_path / "model")
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv", n=60), folder, "deberta")
    found = sweep.run_train(settings, tracked.new_home(tmp_path / "home"))
    assert found.hardware.attention == "eager"
    assert "float32, eager attention, 1 worker(s)" in capsys.readouterr().out


def test_a_tokenizer_that_is_a_sentencepiece_model_alone_is_read(tmp_path: Path) -> None:
    """As the hub has DeBERTa's: no tokenizer.json."""
    folder, texts = tiny.write_model("deberta", tmp_path / "model"), tmp_path / "texts.txt"
    for file in folder.glob("tokenizer*"):
        file.unlink()
    texts.write_text("\n".join(" ".join(tiny.WORDS) for _ in range(50)), encoding="utf-8")
    special = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
    options = {f"{name}_id": number for number, name in enumerate(special)}
    options |= {f"{name}_piece": piece for name, piece in special.items()}
    options |= {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(input=str(texts), model_prefix=str(folder / "spm"), **options)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv"), folder, "deberta")
    tokenizer = models.load_tokenizer(settings.model)
    reader = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    for text in ("the film was superb", " a story  of gold ", "unknown: \u4e2d"):
        assert tokenizer(text)["input_ids"] == [1, *reader.encode(text), 2]
    tokenizer.save_pretrained(tmp_path / "saved")  # as a served model has it
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("the film was superb")["input_ids"] == tokenizer("the film was superb")["input_ids"]


def test_a_padding_token_of_another_id_is_refused_where_positions_count_from_it(tmp_path: Path) -> None:
    folder = tiny.write_model("roberta", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": config["pad_token_id"] + 1}))
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv"), folder, "roberta")
    with pytest.raises(RequestError, match="positions count from the padding token's id"):
        models.check(settings.model, settings.task)


def test_weights_of_another_checksum_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_model("bert", tmp_path / "model")
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv"), folder, "bert", f"model.sha256={'0' * 64}")
    with pytest.raises(RequestError, match=r"model\.sha256: .* expected 0{64}"):
        sweep.run_sweep(settings, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_weights_of_the_hub_are_fetched_and_checked_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tiny.write_model("bert", tmp_path / "model"), tmp_path / "cache" / "models--someone--tiny"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv"), folder, "bert")
    model = settings.model.model_copy(update={"path": "someone/tiny"})
    with pytest.raises(RequestError, match="the Hugging Face hub does not give it"):
        models._fetched(model)
    shutil.copytree(folder, cache / "snapshots" / ("0" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    found = models._fetched(model)
    models._check_weights(model, found)
    truncated(found)
    with pytest.raises(RequestError, match=r"model\.path=someone/tiny: model\.safetensors is damaged or truncated"):
        models._check_weights(model, found)


def test_a_hub_that_does_not_answer_is_asked_once_and_its_cache_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    class Session:
        def head(self, address: str, timeout: float) -> None:
            asked.append(timeout)
            raise OSError("Name or service not known")

    def retried(*_: Any, **__: Any) -> None:
        raise AssertionError("the hub's own client, which tries again and again, must not be asked")

    folder, cache = tiny.write_model("bert", tmp_path / "model"), tmp_path / "cache" / "models--someone--tiny"
    shutil.copytree(folder, cache / "snapshots" / ("0" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv"), folder, "bert")
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.utils._http.get_session", retried)
    models._hub_is_away.cache_clear()
    try:
        there = settings.model.model_copy(update={"path": "someone/tiny"})
        models.check(there, settings.task)
        assert models.load_tokenizer(there).model_max_length > 0
        elsewhere = settings.model.model_copy(update={"path": "someone/else"})
        with pytest.raises(RequestError, match=r"model\.path=someone/else: .* the Hugging Face hub does not give it"):
            models.check(elsewhere, settings.task)
        assert 1 <= len(asked) <= 2, "a minute may have passed"
        assert asked[0] == models.HUB_TIMEOUT_SECONDS
    finally:
        models._hub_is_away.cache_clear()
