"""Training against a plain loop as oracle; pausing; diverging."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    get_scheduler,
    set_seed,
)
from transformers.utils import ModelOutput

import make
import tiny
from hpsearch.config.settings import Settings
from hpsearch.data.tokens import collate, model_inputs
from hpsearch.errors import RequestError
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Decision, Progress, Retime, Retimed, RungReport, TrialResult
from hpsearch.state.records import Status
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import checkpoints, hardware, models, optimizers, parts, trainer
from hpsearch.training.order import LengthGroupedOrder
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial

Model = Callable[[str], Path]


def toy(tmp_path: Path, tiny_model: Model, family: str, *overrides: str) -> tuple[TrialSpec, Warm]:
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    settings = make.toy_settings(csv, tiny_model(family), family, *overrides)
    ref = make.prepared(settings, tmp_path)
    return TrialSpec(0, settings, ref, tmp_path / "trial"), Warm(hardware.resolve(settings.hardware))


class Recorder:
    """Answers rungs with what it is told to, says what it shall after some of the steps that are none, and remembers.

    `lengths` gives a step of the run another length of the schedule.
    """

    def __init__(
        self,
        decision: Decision = Decision.CONTINUE,
        pause_after: int | None = None,
        lengths: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.points: list[Progress] = []
        self.rungs: list[RungReport] = []
        self.retimed: list[Retimed] = []
        self.decision, self.pause_after, self.lengths, self.asked = decision, pause_after, lengths, 0

    def line(self) -> Line:
        return Line(
            point=self.points.append,
            rung=self._rung,
            heard=self._heard,
            alive=lambda: None,
            retimed=self.retimed.append,
        )

    def _rung(self, report: RungReport) -> Decision:
        self.rungs.append(report)
        return self.decision

    def _heard(self) -> Decision | Retime | None:
        self.asked += 1
        if self.asked in self.lengths:
            return Retime(self.lengths[self.asked])
        return Decision.PAUSE if self.asked == self.pause_after else None

    def losses(self) -> dict[int, float]:
        return {p.step: p.metrics["train_loss"] for p in self.points if "train_loss" in p.metrics}


def toy_questions(tmp_path: Path, tiny_model: Model, family: str, *overrides: str) -> tuple[TrialSpec, Warm]:
    rows = tiny.write_jsonl(tmp_path / "toy.jsonl", tiny.questions(190, 0))
    windows = ("task.max_length=32", "task.stride=8")
    settings = make.toy_settings(rows, tiny_model(family), family, *windows, *overrides, task="qa_files")
    ref = make.prepared(settings, tmp_path)
    return TrialSpec(0, settings, ref, tmp_path / "trial"), Warm(hardware.resolve(settings.hardware))


def class_loss(outputs: ModelOutput, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return functional.cross_entropy(outputs["logits"], batch["labels"])


def span_loss(outputs: ModelOutput, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean over questions, first and last token, of the cross-entropy among the tokens that may be answers."""
    losses = []
    for row, allowed in enumerate(batch["candidates"]):
        for end, name in enumerate(("start_logits", "end_logits")):
            gold = batch["labels"][row, end]
            losses.append(outputs[name][row][allowed].logsumexp(0) - outputs[name][row][gold])
    return torch.stack(losses).mean()


def reference_losses(
    settings: Settings,
    spec: TrialSpec,
    warm: Warm,
    head: type = AutoModelForSequenceClassification,
    loss_of: Callable[[ModelOutput, dict[str, torch.Tensor]], torch.Tensor] = class_loss,
) -> dict[int, float]:
    """A plain fine-tuning loop: no Trainer, no accumulation, the order of batches that the trial says it uses."""
    tokens = warm.tokens(spec.data, settings, "train")
    set_seed(settings.seed)
    model = head.from_pretrained(settings.model.path, num_labels=2, attn_implementation="eager", dtype=torch.float32)
    model.config.pad_token_id = warm.tokenizer(settings.model).pad_token_id
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    decay = [p for n, p in model.named_parameters() if not ("bias" in n or "norm" in n.lower() or "ln_" in n)]
    chosen = {id(p) for p in decay}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": decay, "weight_decay": settings.train.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.train.learning_rate, eps=1e-8)
    total = parts.total_steps(settings, len(tokens))
    schedule = get_scheduler("linear", optimizer, round(settings.train.warmup * total), total)
    order = LengthGroupedOrder(tokens.lengths, settings.train.batch_size, settings.seed)
    pad = warm.tokenizer(settings.model).pad_token_id
    types, padding = models.FAMILIES[settings.model.family].types, KINDS[settings.task.kind].padding
    losses, step = {}, 0
    for epoch in range(int(settings.train.epochs)):
        order.set_epoch(epoch)
        indices = list(order)
        for start in range(0, len(indices), settings.train.batch_size):
            items = [tokens[i] for i in indices[start : start + settings.train.batch_size]]
            batch = collate(items, pad, types, padding)
            loss = loss_of(model(**model_inputs(batch)), batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.train.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            losses[step] = loss.item()
    return losses


@pytest.mark.parametrize("micro", ["null", "4"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_losses_are_those_of_a_plain_loop(tmp_path: Path, tiny_model: Model, family: str, micro: str) -> None:
    spec, warm = toy(
        tmp_path, tiny_model, family, "model.dropout=0.0", "train.log_every=1", f"train.micro_batch_size={micro}"
    )
    recorder = Recorder()
    result = run_trial(spec, warm, recorder.line())
    assert result.status is Status.COMPLETE
    expected = reference_losses(spec.settings, spec, warm)
    assert recorder.losses().keys() == expected.keys()
    assert len(expected) == result.total_steps > 10
    assert max(abs(recorder.losses()[step] - expected[step]) for step in expected) < 1e-5


def test_parts_of_a_batch_add_up_to_its_gradient(tmp_path: Path, tiny_model: Model) -> None:
    """Plain gradient descent without clipping: there a gradient of another size would be another update."""
    how = ("model.dropout=0.0", "train.log_every=1", "train.max_grad_norm=1e9", "train.learning_rate=0.5")
    losses = []
    for micro in ("null", "4", "1"):
        spec, warm = toy(tmp_path, tiny_model, "bert", *how, f"train.micro_batch_size={micro}")
        sgd = spec.settings.optimizer.model_copy(update={"name": "SGD", "options": {}})
        spec = replace(spec, folder=tmp_path / micro, settings=spec.settings.model_copy(update={"optimizer": sgd}))
        recorder = Recorder()
        assert run_trial(spec, warm, recorder.line()).status is Status.COMPLETE
        losses.append(recorder.losses())
    whole, fours, ones = losses
    assert max(whole.values()) - min(whole.values()) > 0.05
    for smaller in (fours, ones):
        assert max(abs(smaller[step] - whole[step]) for step in whole) < 1e-5


def test_each_part_of_a_step_is_a_sign_of_life(tmp_path: Path, tiny_model: Model) -> None:
    signs = []
    for micro in ("null", "1"):
        spec, warm = toy(tmp_path, tiny_model, "bert", f"train.micro_batch_size={micro}")
        given: list[None] = []
        line = replace(Recorder().line(), alive=lambda given=given: given.append(None))
        result = run_trial(replace(spec, folder=tmp_path / micro), warm, line)
        signs.append(len(given))
    passes = spec.settings.train.epochs
    assert passes is not None
    assert (
        signs[1] - signs[0] == passes * spec.data.sizes["train"] - result.total_steps
    )  # the last part of a step is the step's


def test_the_probe_runs_on_top_of_moments_and_gradients(
    tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert")
    settings, kind = spec.settings, KINDS["text_classification"]
    model = models.build(settings.model, kind, spec.data.labels, warm.tokenizer(settings.model), warm.hardware)
    there: list[tuple[bool, bool]] = []
    stepped: list[object] = []
    monkeypatch.setattr(torch.optim.AdamW, "__init__", noting(torch.optim.AdamW.__init__, stepped))
    model.register_forward_pre_hook(
        lambda *_: there.append((bool(stepped[-1].state), any(p.grad is not None for p in model.parameters())))  # type: ignore[attr-defined]
    )
    trainer.try_update(settings, kind, model, warm.tokens(spec.data, settings, "train"), warm.hardware, 4)
    assert there == [(False, False), (True, True)]


def noting(made: Callable[..., None], seen: list[object]) -> Callable[..., None]:
    def init(self: object, *given: object, **options: object) -> None:
        made(self, *given, **options)
        seen.append(self)

    return init


@pytest.mark.parametrize("micro", ["null", "4"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_losses_of_questions_are_those_of_a_plain_loop(
    tmp_path: Path, tiny_model: Model, family: str, micro: str
) -> None:
    # At the rate of the other tests Adam makes 1e-4 of the rounding errors of GPT-2's attention within 20 steps.
    how = ("model.dropout=0.0", "train.log_every=1", "train.learning_rate=0.003", f"train.micro_batch_size={micro}")
    spec, warm = toy_questions(tmp_path, tiny_model, family, *how)
    recorder = Recorder()
    assert run_trial(spec, warm, recorder.line()).status is Status.COMPLETE
    expected = reference_losses(spec.settings, spec, warm, AutoModelForQuestionAnswering, span_loss)
    assert recorder.losses().keys() == expected.keys()
    assert len(expected) > 10
    assert max(abs(recorder.losses()[step] - expected[step]) for step in expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_compiled_model_has_few_shapes_and_the_same_losses(
    tmp_path: Path, tiny_model: Model, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, but that torch.compile's last step, which writes the GPU's code, is left out."""
    spec, warm = toy(tmp_path, tiny_model, family, "model.dropout=0.0", "train.log_every=1")
    warm = Warm(replace(warm.hardware, attention="sdpa", compile=True))
    lengths: list[int] = []

    def translate(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        lengths.append(next(t.shape[1] for t in inputs if t.dtype == torch.int64 and t.ndim == 2))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=translate))
    monkeypatch.setattr(trainer, "COMPILED_LENGTH", 8)
    torch.compiler.reset()
    recorder = Recorder()
    assert run_trial(spec, warm, recorder.line()).status is Status.COMPLETE
    longest = {int(warm.tokens(spec.data, spec.settings, split).lengths.max()) for split in ("train", "validation")}
    assert lengths, "nothing was compiled"
    assert {length for length in lengths if length % 8} <= longest
    assert max(lengths) == max(longest)
    expected = reference_losses(spec.settings, spec, warm)
    assert recorder.losses().keys() == expected.keys()
    assert max(abs(recorder.losses()[step] - expected[step]) for step in expected) < 1e-5


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_learns_saves_and_loads_again(tmp_path: Path, tiny_model: Model, family: str) -> None:
    spec, warm = toy(tmp_path, tiny_model, family, "train.epochs=12")
    result = run_trial(spec, warm, Recorder().line())
    assert result.score is not None
    assert result.score > 0.9
    assert result.confusion is not None
    assert sum(map(sum, result.confusion)) == spec.data.sizes["validation"]
    saved = spec.settings.model.model_copy(update={"path": str(TrialFolder(spec.folder).model)})
    kind = KINDS["text_classification"]
    model = models.build(saved, kind, spec.data.labels, warm.tokenizer(spec.settings.model), warm.hardware)
    tokens = warm.tokens(spec.data, spec.settings, "validation")
    how = trainer.Evaluation(kind, warm.hardware, types=False, batch_size=7, alive=lambda: None)
    logits = np.stack(trainer.predict(model, tokens, range(len(tokens)), how))
    assert (logits.argmax(1) == tokens.labels).mean() == result.metrics["validation_accuracy"]


def weights(spec: TrialSpec) -> dict[str, torch.Tensor]:
    return load_file(TrialFolder(spec.folder).weights)


def assert_same(a: tuple[TrialSpec, TrialResult], b: tuple[TrialSpec, TrialResult]) -> None:
    assert a[1].metrics == b[1].metrics
    first, second = weights(a[0]), weights(b[0])
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def slow(*cases: tuple[Any, ...]) -> list[Any]:
    """Cases for the slow suite."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("pause_after", "micro", "precision", "weight"),
    [
        *((7, "8", "bfloat16", 0), (3, "8", "float32", 1)),
        *slow((1, "8", "float32", 0), (3, "null", "float32", 0), (8, "8", "float32", 0), (8, "null", "float32", 0)),
    ],
)
def test_a_trial_paused_anywhere_ends_as_one_never_paused(
    tmp_path: Path, tiny_model: Model, pause_after: int, micro: str, precision: str, weight: int
) -> None:
    how = (f"train.micro_batch_size={micro}", f"hardware.precision={precision}", "train.log_every=1")
    how += (f"train.rdrop={weight}",)
    spec, warm = toy(tmp_path, tiny_model, "bert", *how)
    whole = replace(spec, folder=tmp_path / "whole")
    uninterrupted = Recorder()
    expected = run_trial(whole, warm, uninterrupted.line())
    first = Recorder(pause_after=pause_after)
    paused = run_trial(spec, warm, first.line())
    assert paused.status is Status.PAUSED
    assert 0 < paused.step < paused.total_steps
    second = Recorder()
    result = run_trial(spec, Warm(warm.hardware), second.line())
    assert first.losses() | second.losses() == uninterrupted.losses()
    assert not first.losses().keys() & second.losses().keys()
    assert_same((spec, result), (whole, expected))


RETIMED = ("train.log_every=1", "search.rungs=[]", "train.epochs=2", "train.warmup=0.25")


@pytest.mark.parametrize(("asked", "becomes"), [(30, 30), (9, 9), (1, 6), (1000, 64)])
def test_a_schedule_gets_another_length_while_it_runs(
    tmp_path: Path, tiny_model: Model, asked: int, becomes: int
) -> None:
    """Longer, shorter, to end at once, and no more than four times as long; the rate goes on from where it was."""
    spec, warm = toy(tmp_path, tiny_model, "bert", *RETIMED)
    as_planned, recorder = Recorder(), Recorder(lengths={6: asked})
    before = run_trial(replace(spec, folder=tmp_path / "whole"), warm, as_planned.line())
    result = run_trial(spec, warm, recorder.line())
    assert before.total_steps == 16
    assert recorder.retimed == [Retimed(0, 6, becomes, 16)]
    assert (result.status, result.step, result.total_steps) == (Status.COMPLETE, becomes, becomes)
    assert list(recorder.losses()) == list(range(1, becomes + 1))
    assert {step: recorder.losses()[step] for step in range(1, 7)} == {
        step: as_planned.losses()[step] for step in range(1, 7)
    }
    rates = [{p.step: p.metrics["learning_rate"] for p in one.points} for one in (as_planned, recorder)]
    top = spec.settings.train.learning_rate
    for step in range(7, becomes + 1):
        place = parts.place(step - 1, 16, ((6, becomes),))  # the rate of a step is that of those done before it
        assert rates[1][step] == pytest.approx(top * (16 - place) / 12, abs=1e-9)
    if becomes > 6:
        assert rates[1][becomes] < rates[1][6] / 3, "down to little"
        assert rates[1][7] == pytest.approx(rates[0][7])


@pytest.mark.parametrize(
    ("pause_after", "changes"), [(15, ((6, 24), (13, 19))), *slow((4, ()), (9, ((6, 24),)), (6, ((6, 24),)))]
)
def test_a_retimed_trial_paused_anywhere_ends_as_one_with_the_same_changes_never_paused(
    tmp_path: Path, tiny_model: Model, pause_after: int, changes: tuple[tuple[int, int], ...]
) -> None:
    """Where it goes on it is told of the changes that there were, and some come after that."""
    spec, warm = toy(tmp_path, tiny_model, "bert", *RETIMED)
    every = {6: 24, 13: 19}
    uninterrupted, whole = Recorder(lengths=every), replace(spec, folder=tmp_path / "whole")
    expected = run_trial(whole, warm, uninterrupted.line())
    assert expected.total_steps == 19
    first = Recorder(pause_after=pause_after, lengths=every)
    if pause_after in every:  # the pause is said with the step after it
        first.pause_after = pause_after + 1
    paused = run_trial(spec, warm, first.line())
    assert paused.status is Status.PAUSED
    assert tuple((one.step, one.total_steps) for one in first.retimed) == changes
    later = {step - paused.step: total for step, total in every.items() if step > paused.step}
    known = spec.settings.train.model_copy(update={"retimed": changes})
    going_on = replace(spec, settings=spec.settings.model_copy(update={"train": known}))
    second = Recorder(lengths=later)
    result = run_trial(going_on, Warm(warm.hardware), second.line())
    assert result.total_steps == 19
    assert first.losses() | second.losses() == uninterrupted.losses()
    assert_same((spec, result), (whole, expected))
    # And so does one that is told of all from the beginning, as `reproduce` tells it.
    known = spec.settings.train.model_copy(update={"retimed": tuple(every.items())})
    again = replace(spec, folder=tmp_path / "again", settings=spec.settings.model_copy(update={"train": known}))
    assert_same((again, run_trial(again, warm, Recorder().line())), (whole, expected))


def test_a_trial_that_passes_steps_again_may_be_retimed_there(tmp_path: Path, tiny_model: Model) -> None:
    """Its worker ended after a change that came after its last checkpoint."""
    spec, warm = toy(tmp_path, tiny_model, "bert", *RETIMED)
    assert run_trial(spec, warm, Recorder(pause_after=5).line()).step == 5
    known = spec.settings.train.model_copy(update={"retimed": ((10, 40),)})
    lost = replace(spec, settings=spec.settings.model_copy(update={"train": known}))
    recorder = Recorder(lengths={2: 20})
    result = run_trial(lost, warm, recorder.line())
    assert recorder.retimed == [Retimed(0, 7, 20, 40)]
    assert (result.step, result.total_steps) == (20, 20)
    whole, uninterrupted = replace(spec, folder=tmp_path / "whole"), Recorder(lengths={7: 20})
    assert_same((spec, result), (whole, run_trial(whole, warm, uninterrupted.line())))


def test_a_trial_paused_at_a_rung_goes_on_from_it(tmp_path: Path, tiny_model: Model) -> None:
    spec, warm = toy(tmp_path, tiny_model, "gpt2")
    whole = replace(spec, folder=tmp_path / "whole")
    expected = run_trial(whole, warm, Recorder().line())
    first = Recorder(Decision.PAUSE)
    paused = run_trial(spec, warm, first.line())
    assert paused.status is Status.PAUSED
    assert [report.step for report in first.rungs] == [paused.step] == [paused.total_steps // 2]
    checkpoint = checkpoints.newest(spec.folder)
    assert checkpoint is not None
    assert checkpoint.score == first.rungs[0].score
    second = Recorder()
    result = run_trial(spec, warm, second.line())
    assert second.rungs == []
    assert_same((spec, result), (whole, expected))


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path, tiny_model: Model) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert")
    whole = replace(spec, folder=tmp_path / "whole")
    expected = run_trial(whole, warm, Recorder().line())
    run_trial(spec, warm, Recorder(Decision.PAUSE).line())
    checkpoint = checkpoints.newest(spec.folder)
    assert checkpoint is not None
    optimizer = checkpoint.folder / "optimizer.pt"
    damaged = bytearray(optimizer.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    optimizer.write_bytes(bytes(damaged))
    again = Recorder()
    result = run_trial(spec, warm, again.line())  # from the start: nothing older is left
    assert len(again.rungs) == 1
    assert_same((spec, result), (whole, expected))


def test_stop_at_a_rung_saves_nothing(tmp_path: Path, tiny_model: Model) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert")
    result = run_trial(spec, warm, Recorder(Decision.STOP).line())
    assert result.status is Status.PAUSED
    assert not list(spec.folder.glob("checkpoint-*"))


def test_a_loss_that_is_not_finite_fails_the_trial(tmp_path: Path, tiny_model: Model) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert", "train.learning_rate=1e30", "train.max_grad_norm=1e30")
    result = run_trial(spec, warm, Recorder().line())
    assert result.status is Status.FAILED
    assert result.reason is not None
    assert "finite" in result.reason or "nan" in result.reason


def test_weights_of_the_rung_are_kept_where_they_are_better(tmp_path: Path, tiny_model: Model) -> None:
    """The weights are set to 0 after the last step."""
    spec, warm = toy(tmp_path, tiny_model, "bert", "train.epochs=8", "search.rungs=[0.5]")
    at_rung = Recorder(Decision.PAUSE)
    run_trial(spec, warm, at_rung.line())
    assert at_rung.rungs[0].score > 0.9
    kept = load_file(checkpoints.newest(spec.folder).folder / "model.safetensors")  # type: ignore[union-attr]
    original = trainer.run

    def ruined(one: trainer.SearchTrainer, resume: checkpoints.Checkpoint | None) -> int:
        step = original(one, resume)
        with torch.no_grad():
            for parameter in one.model.parameters():
                parameter.zero_()
        return step

    trainer.run = ruined
    try:
        result = run_trial(spec, warm, Recorder().line())
    finally:
        trainer.run = original
    assert result.score is not None
    assert result.score > 0.9
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(spec).items())


@pytest.mark.parametrize("name", ["adamw", "nadam", "radam"])
def test_every_shipped_optimizer_learns(tmp_path: Path, tiny_model: Model, name: str) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert", f"optimizer={name}", "train.epochs=16")
    result = run_trial(spec, warm, Recorder().line())
    assert result.score is not None
    assert result.score > 0.9


def test_every_optimizer_file_is_tested() -> None:
    assert {path.stem for path in (make.CONF / "optimizer").glob("*.yaml")} == {"adamw", "nadam", "radam"}


def test_label_smoothing_is_that_of_torch() -> None:
    logits, labels = torch.randn(6, 3, generator=torch.manual_seed(0)), torch.tensor([0, 1, 2, 2, 1, 0])
    parts = [
        KINDS["text_classification"].loss({"logits": logits[rows]}, {"labels": labels[rows]}, 6, 0.1, None)
        for rows in (slice(0, 4), slice(4, 6))
    ]
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.isclose(sum(parts), expected)  # type: ignore[arg-type]


def test_order_is_a_function_of_seed_and_epoch_and_covers_all() -> None:
    lengths = np.random.default_rng(0).integers(4, 40, size=333)

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthGroupedOrder(lengths, 16, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
    assert sorted(order(1, 2)) == list(range(333))
    spread = [np.ptp(lengths[order(1, 2)[i : i + 16]]) for i in range(0, 320, 16)]
    assert np.mean(spread) < 4  # at random: about 33


def test_evaluation_leaves_training_alone(tmp_path: Path, tiny_model: Model) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert")
    often = replace(spec, folder=tmp_path / "often")
    settings = spec.settings
    rungs = settings.search.model_copy(update={"rungs": (0.25, 0.5, 0.75)})
    often = replace(often, settings=settings.model_copy(update={"search": rungs}))
    first = run_trial(spec, warm, Recorder().line())
    second = run_trial(often, warm, Recorder().line())
    assert_same((spec, first), (often, second))


@pytest.mark.parametrize(("name", "options", "copies"), [
    ("AdamW", {}, 2), ("AdamW", {"amsgrad": True}, 3), ("SGD", {}, 0), ("SGD", {"momentum": 0.9}, 1)
])  # fmt: skip
def test_what_an_optimizer_keeps_is_counted(name: str, options: dict[str, object], copies: int) -> None:
    settings = make.compose_settings().optimizer.model_copy(update={"name": name, "options": options})
    assert optimizers.optimizer_copies(settings) == copies


def test_each_scheduler_is_another_curve(tmp_path: Path, tiny_model: Model) -> None:
    rates = {}
    for name in trainer.SCHEDULERS:
        spec, warm = toy(tmp_path, tiny_model, "bert", f"train.scheduler={name}", "train.warmup=0", "train.log_every=8")
        recorder = Recorder()
        run_trial(replace(spec, folder=tmp_path / name), warm, recorder.line())
        rates[name] = next(p.metrics["learning_rate"] for p in recorder.points if p.step == 8)
        left = 1 - (8 - 1) / parts.total_steps(spec.settings, spec.data.sizes["train"])
    full = spec.settings.train.learning_rate
    expected = {
        "linear": left,
        "polynomial": left**2,
        "cosine": (1 + math.cos(math.pi * (1 - left))) / 2,
        "constant": 1,
    }
    assert rates == {name: pytest.approx(full * share, abs=1e-6) for name, share in expected.items()}


def test_optimizer_options_are_tried_before_the_sweep() -> None:
    settings = make.compose_settings()
    wrong = settings.optimizer.model_copy(update={"options": {"momentum": 0.9}})
    with pytest.raises(RequestError, match="AdamW refuses"):
        optimizers.optimizer_class(wrong)
    with pytest.raises(RequestError, match=r"no such class in torch\.optim"):
        optimizers.optimizer_class(settings.optimizer.model_copy(update={"name": "Lion"}))
