"""A head that reads the mean of all tokens: what it computes, how it is saved, what plain transformers says of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, set_seed

import make
import tiny
from hpsearch.data.tokens import collate, model_inputs
from hpsearch.errors import RequestError
from hpsearch.serving.inference import Inference
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import hardware, models, pooling
from hpsearch.training.trial import Warm

Models = Callable[[str], Path]
LABELS = ("negative", "positive")


def built(
    model: Path, csv: Path, pooled: str, precision: str = "float32"
) -> tuple[torch.nn.Module, Warm, dict[str, torch.Tensor]]:
    """A model in evaluation, and a padded batch for it."""
    settings = make.toy_settings(csv, model, "bert", f"model.pooling={pooled}", f"hardware.precision={precision}")
    warm = Warm(hardware.resolve(settings.hardware))
    ref = make.prepared(settings, csv.parent)
    tokens = warm.tokens(ref, settings, "train")
    set_seed(0)
    found = models.build(
        settings.model, KINDS[settings.task.kind], LABELS, warm.tokenizer(settings.model), warm.hardware
    )
    batch = collate([tokens[i] for i in range(8)], found.config.pad_token_id, True, {})
    assert int(batch["attention_mask"].sum(1).min()) < batch["attention_mask"].shape[1], "some padding"
    return found.eval(), warm, model_inputs(batch)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tiny.write_csv(tmp_path / "toy.csv", n=100)


def test_the_head_reads_the_mean_of_the_tokens_that_are_there(tiny_model: Models, csv: Path) -> None:
    model, _, batch = built(tiny_model("bert"), csv, "mean")
    plain = AutoModel.from_pretrained(tiny_model("bert"), attn_implementation="eager").eval()
    with torch.inference_mode():
        hidden = plain(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        wanted = model.classifier((hidden * mask).sum(1) / mask.sum(1))
        found = model(**batch).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    first, _, _ = built(tiny_model("bert"), csv, "first")
    with torch.inference_mode():
        assert not torch.allclose(found, first(**batch).logits, atol=1e-3)


def test_padding_changes_nothing(tiny_model: Models, csv: Path) -> None:
    model, _, batch = built(tiny_model("bert"), csv, "mean")
    with torch.inference_mode():
        together = model(**batch).logits
        for row, mask in enumerate(batch["attention_mask"]):
            alone = {name: values[row : row + 1, : int(mask.sum())] for name, values in batch.items()}
            torch.testing.assert_close(model(**alone).logits[0], together[row], atol=1e-5, rtol=1e-4)


def test_a_saved_model_is_served_as_it_was_trained(tiny_model: Models, csv: Path, tmp_path: Path) -> None:
    model, warm, batch = built(tiny_model("bert"), csv, "mean")
    model.save_pretrained(tmp_path / "model")
    warm.tokenizer(make.toy_settings(csv, tiny_model("bert"), "bert").model).save_pretrained(tmp_path / "model")
    inference = Inference(tmp_path / "model", "AutoModelForSequenceClassification")
    assert pooling.of_config(inference.model.config) == "mean"
    rows = [
        ids[: int(mask.sum())].numpy() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    served = np.stack(inference.run(rows, None, ["logits"]))
    with torch.inference_mode():
        np.testing.assert_allclose(served, model(**batch).logits.numpy(), atol=1e-5)


def test_plain_transformers_says_that_it_lacks_a_pooler(tiny_model: Models, csv: Path, tmp_path: Path) -> None:
    model, _, _ = built(tiny_model("bert"), csv, "mean")
    model.save_pretrained(tmp_path / "model")
    _, said = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} <= set(said["missing_keys"])


def test_other_families_have_no_mean(tiny_model: Models, csv: Path) -> None:
    settings = make.toy_settings(csv, tiny_model("roberta"), "roberta", "model.pooling=mean")
    with pytest.raises(RequestError, match=r"model\.pooling=mean: .*roberta.* set it to first"):
        models.check(settings.model, settings.task)
