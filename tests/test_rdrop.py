"""R-Drop: what two passes of a batch add to the loss, in every kind of task, and to a trial."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, kl_divergence

import make
import tiny
from hpsearch.coordinator.memory import KnownPace, MicroBatch
from hpsearch.errors import RequestError
from hpsearch.state.messages import Decision
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import hardware, models, parts, rdrop, trainer
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial

Model = Callable[[str], Path]
Outputs = dict[str, torch.Tensor]
SEEDED = st.integers(0, 2**31 - 1)
SILENT = Line(lambda _: None, lambda _: Decision.CONTINUE, lambda: None, lambda: None, lambda _: None)


def both(one: Any, other: Any) -> torch.Tensor:
    return kl_divergence(one, other) + kl_divergence(other, one)


def batch_of(kind: Kind, n: int, rng: torch.Generator) -> tuple[Outputs, list[Outputs], torch.Tensor]:
    """A batch, what two passes say of it, and the divergence of each of its items by torch."""
    a, b = torch.randn(2, n, 7, 4, generator=rng)
    if kind.name == "question_answering":
        candidates = torch.rand(n, 7, generator=rng) > 0.4
        candidates[:, 0] = True
        labels = torch.multinomial(candidates.float(), 2, replacement=True, generator=rng)
        said = [{"start_logits": each[..., 0], "end_logits": each[..., 1]} for each in (a, b)]
        apart = [
            both(*(Categorical(logits=given[name][row][candidates[row]]) for given in said))
            for row in range(n)
            for name in ("start_logits", "end_logits")
        ]
        return {"labels": labels, "candidates": candidates}, said, torch.stack(apart).view(n, 2)
    if kind.name == "token_classification":
        labels = torch.randint(-1, 4, (n, 7), generator=rng)
        labels[labels < 0] = -100
        divergence = both(Categorical(logits=a), Categorical(logits=b))
        return {"labels": labels}, [{"logits": a}, {"logits": b}], divergence * (labels >= 0)
    said = [{"logits": each[:, 0]} for each in (a, b)]
    if kind.name == "text_classification":
        divergence = both(*(Categorical(logits=given["logits"]) for given in said))
        return {"labels": torch.randint(4, (n,), generator=rng)}, said, divergence
    divergence = both(*(Bernoulli(logits=given["logits"]) for given in said))
    return {"labels": torch.randint(2, (n, 4), generator=rng).float()}, said, divergence


def parts_of(tensors: Outputs, sizes: list[int]) -> list[Outputs]:
    names = list(tensors)
    return [
        dict(zip(names, part, strict=True)) for part in zip(*(t.split(sizes) for t in tensors.values()), strict=True)
    ]


@pytest.mark.parametrize("name", list(KINDS))
@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), weight=st.sampled_from([0.5, 1.0, 4.0]), seed=SEEDED)
@hypothesis_settings(deadline=None, max_examples=25)
def test_the_loss_is_the_mean_of_both_passes_and_their_divergence(
    name: str, sizes: list[int], weight: float, seed: int
) -> None:
    kind, rng = KINDS[name], torch.manual_seed(seed)
    batch, said, divergence = batch_of(kind, sum(sizes), rng)
    items = (batch["labels"] != -100).sum().clamp(min=1)
    loss_of = partial(kind.loss, label_smoothing=0.0, class_weights=None)
    plain = [loss_of(given, batch, num_items_in_batch=items) for given in said]
    found = rdrop.loss(said, batch, items, weight, kind, loss_of)
    assert torch.isclose(found, (plain[0] + plain[1]) / 2 + weight / 4 * divergence.sum() / items, rtol=1e-4)
    assert torch.equal(rdrop.loss(said[:1], batch, items, weight, kind, loss_of), plain[0])
    same = rdrop.loss([said[0], said[0]], batch, items, weight, kind, loss_of)
    assert torch.isclose(same, plain[0]), "what agrees costs nothing"
    split = zip(parts_of(batch, sizes), *(parts_of(given, sizes) for given in said), strict=True)
    shares = [rdrop.loss(passes, part, items, weight, kind, loss_of) for part, *passes in split]
    assert torch.isclose(torch.stack(shares).sum(), found, rtol=1e-4), "micro-batches add up"


@pytest.mark.parametrize("name", list(KINDS))
def test_gradients_are_finite_however_sure_the_passes_are(name: str) -> None:
    kind = KINDS[name]
    batch, said, _ = batch_of(kind, 4, torch.manual_seed(0))
    said = [{key: (300 * logits).requires_grad_() for key, logits in given.items()} for given in said]
    rdrop.loss(said, batch, 4, 1.0, kind, partial(kind.loss, label_smoothing=0.0, class_weights=None)).backward()
    assert all(logits.grad is not None and logits.grad.isfinite().all() for given in said for logits in given.values())


def toy(tmp_path: Path, tiny_model: Model, *overrides: str) -> tuple[TrialSpec, Warm]:
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    settings = make.toy_settings(csv, tiny_model("bert"), "bert", "train.log_every=1", "search.rungs=[]", *overrides)
    ref = make.prepared(settings, tmp_path)
    return TrialSpec(0, settings, ref, tmp_path / "trial"), Warm(hardware.resolve(settings.hardware))


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.1, False)])
def test_a_trial_without_dropout_learns_what_one_pass_teaches(
    tmp_path: Path, tiny_model: Model, dropout: float, same: bool
) -> None:
    losses = []
    spec, warm = toy(tmp_path, tiny_model)
    for weight in (0.0, 1.0):
        points: list[Any] = []
        line = Line(points.append, SILENT.rung, SILENT.heard, SILENT.alive, SILENT.retimed)
        settings = spec.settings.model_copy(
            update={
                "train": spec.settings.train.model_copy(update={"rdrop": weight}),
                "model": spec.settings.model.model_copy(update={"dropout": dropout}),
            }
        )
        run_trial(replace(spec, settings=settings, folder=tmp_path / str(weight)), warm, line)
        losses.append([point.metrics["train_loss"] for point in points if "train_loss" in point.metrics])
    assert (losses[1] == pytest.approx(losses[0], rel=1e-4)) is same


def test_the_probe_takes_the_memory_of_two_passes(tmp_path: Path, tiny_model: Model) -> None:
    spec, warm = toy(tmp_path, tiny_model, "+search.space.train.rdrop.choices=[0.0,1.0]")
    found = hardware.resolve(spec.settings.hardware)
    micro = MicroBatch(spec.settings, spec.data, found, tmp_path)
    micro.keep(found)
    asked = micro.question().settings
    assert asked.train.rdrop == 1.0
    fixed = spec.settings.model_copy(update={"search": spec.settings.search.model_copy(update={"space": {}})})
    assert not MicroBatch(fixed, spec.data, found, tmp_path).known, "one pass takes less"
    kind = KINDS[spec.settings.task.kind]
    model = models.build(asked.model, kind, spec.data.labels, warm.tokenizer(asked.model), warm.hardware)
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    trainer.try_update(asked, kind, model, warm.tokens(spec.data, asked, "train"), warm.hardware, 4)
    assert len(passes) == 4, "two updates"


def test_the_pace_of_two_passes_is_another(tmp_path: Path, tiny_model: Model) -> None:
    spec, _ = toy(tmp_path, tiny_model)
    found = hardware.resolve(spec.settings.hardware)
    twice = spec.settings.model_copy(update={"train": spec.settings.train.model_copy(update={"rdrop": 0.5})})
    files = {KnownPace(given, spec.data, found, tmp_path)._file for given in (spec.settings, twice)}
    assert len(files) == 2
    assert [parts.passes_of_batch(given.train) for given in (spec.settings, twice)] == [1, 2]


@pytest.mark.parametrize("given", [("train.rdrop=1",), ("+search.space.train.rdrop.choices=[0.0,1.0]",)])
def test_two_passes_that_differ_in_nothing_are_refused(given: tuple[str, ...]) -> None:
    base = ("~search.space.train.rdrop", "model.dropout=0")
    settings = make.compose_settings(*base, *given)
    with pytest.raises(RequestError, match=r"train\.rdrop=1: .*model\.dropout and model\.attention_dropout are 0"):
        KINDS[settings.task.kind].check(settings)
    KINDS[settings.task.kind].check(make.compose_settings(*base))
    KINDS[settings.task.kind].check(make.compose_settings(*base, *given, "model.attention_dropout=0.1"))
    KINDS[settings.task.kind].check(make.compose_settings("model=modernbert-base"))
