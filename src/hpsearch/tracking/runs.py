"""A study in MLflow: its parent run, a child run for each trial, and the model of the winner."""

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpsearch.serving import mlflow_process  # noqa: F401  # first, for MLflow's warnings

# isort: split
import mlflow
from mlflow.entities import Metric
from omegaconf import OmegaConf

from hpsearch import formats
from hpsearch.config.settings import Settings
from hpsearch.errors import OutOfReachError, RequestError, redact
from hpsearch.state import addresses, codec, identity
from hpsearch.state.facts import Facts
from hpsearch.state.folder import StudyFolder
from hpsearch.state.identity import comparable
from hpsearch.state.measured import Answers
from hpsearch.state.messages import Progress
from hpsearch.state.origin import Origin
from hpsearch.state.outcome import Summary
from hpsearch.state.records import DataRef, Points, Status, TrialRecord
from hpsearch.tracking.artifacts import Artifacts, digest, reached
from hpsearch.tracking.client import Run, Runs, shown, where
from hpsearch.tracking.forms import Kept, KeptTrial, KeptTrials, dataset, figures, flat, leaderboard, without_labels
from hpsearch.tracking.lineage import lineage
from hpsearch.tracking.parts import BLEND, PARTS, SHA256, Words
from hpsearch.tracking.stores import UNANSWERED, answered, knock, open_database, served

STUDY, STUDY_ID = "hpsearch.study", "hpsearch.study_id"  # its name, and an id that differs between state folders
FORCED, STEERING = "hpsearch.forced", "hpsearch.steering"  # of a study: forced changes, and requests while it ran
STATUS, REASON = "hpsearch.status", "hpsearch.reason"
PARENT = "mlflow.parentRunId"
# Tells the UI which files to show as tables. `log_table` would add the rows again each time a study continues.
TABLES = "mlflow.loggedArtifacts"
CARD, ORIGIN = "model_card.md", "origin.json"
SETTINGS, SUMMARY, TRIALS = "settings.yaml", "summary.json", "trials.json"  # of a study: what its report is made from
ANSWERS = "{split}_answers.json"
TEST_DIGEST, READINGS = "hpsearch.test.digest", "hpsearch.test.readings"  # of a study: how often it scored which data
ENDED = {Status.COMPLETE: "FINISHED", Status.PRUNED: "FINISHED", Status.FAILED: "FAILED"}


class Tracking:
    """A study's client of MLflow. Raises OutOfReachError within seconds if the store does not answer."""

    def __init__(self, settings: Settings, home: Path) -> None:
        """Reach the store: `settings.tracking.uri`, or SQLite under `home`. This creates no experiment and no run.

        The store becomes the process's MLflow store, so that `models:/` addresses work.
        """
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns at each attempt
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs in full what it then raises
        home = home.resolve()
        self.uri = settings.tracking.uri or addresses.of_file(home / "mlflow.db")
        self.experiment_name = f"hpsearch-{settings.task.name}"
        if served(self.uri):
            self.artifacts = None  # the server decides where artifacts lie
            self.reach()
        else:
            self.artifacts = (home / "artifacts").as_uri()
            self.uri = open_database(self.uri)
        mlflow.set_tracking_uri(self.uri)
        self._client = mlflow.MlflowClient(self.uri)
        self.files = Artifacts(self._client, self.uri)
        self._runs = Runs(self._client, self.files)

    def reach(self) -> None:
        """Check within seconds that the store's server, if it is one, answers. Raises OutOfReachError."""
        if served(self.uri):
            knock(self.uri)

    @property
    @answered
    def experiment_id(self) -> str | None:
        """Id of the task's experiment; None before the task's first study. Raises RequestError if it is deleted."""
        found = self._client.get_experiment_by_name(self.experiment_name)
        if found is not None and found.lifecycle_stage != "active":
            raise RequestError(
                f"the MLflow experiment {self.experiment_name} is deleted; restore it with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or take another task.name"
            )
        return found.experiment_id if found is not None else None

    @answered
    def check_owner(self, study: str, study_id: str | None) -> None:
        """Check that no other state folder has begun the study. Raises RequestError."""
        self._own_study(study, study_id)

    def _own_study(self, study: str, study_id: str | None) -> Any:
        run = self._study(study)
        if run is not None and run.data.tags.get(STUDY_ID) != study_id:
            raise RequestError(
                f"study={study}: MLflow ({redact(self.uri)}) holds a study of that name which was begun in another "
                f"state folder (run {run.info.run_id}); give STUDY=<another name>, or HPSEARCH_HOME=<that folder>"
            )
        return run

    @answered
    def open_study(
        self,
        study: str,
        study_id: str,
        settings: Settings,
        ref: DataRef,
        facts: Facts,
        forced: Sequence[str] = (),
        steered: Sequence[str] = (),
    ) -> str:
        """Create or continue the study's parent run and return its run id.

        MLflow never changes a parameter. So tags hold what may change when a study continues: budget, hardware,
        facts, forced changes, and requests from another terminal.

        Raises:
            RequestError: Another state folder has begun a study of that name.
        """
        run, experiment = self._own_study(study, study_id), self.experiment_id
        if experiment is None:
            experiment = self._client.create_experiment(self.experiment_name, artifact_location=self.artifacts)
        if run is None:
            run = self._client.create_run(experiment, run_name=study, tags={STUDY: study, STUDY_ID: study_id})
        run_id: str = run.info.run_id
        self._client.update_run(run_id, status="RUNNING")
        try:
            self._describe(run, settings, ref, facts, {FORCED: forced, STEERING: steered})
        except Exception:  # after any error, no process works on the run
            with contextlib.suppress(*UNANSWERED):
                self._client.set_terminated(run_id, "KILLED")
            raise
        return run_id

    def _describe(
        self, run: Any, settings: Settings, ref: DataRef, facts: Facts, changes: Mapping[str, Sequence[str]]
    ) -> None:
        """Log what the study is.

        Its settings are logged as a file. If MLflow can't keep files, this shows before any trial is trained.
        """
        run_id, dump = run.info.run_id, settings.model_dump(mode="json")
        changing = {section: dump[section] for section in ("budget", "hardware", "sampler")}
        tags = dict(flat(changing, "hpsearch.")) | dict(flat(without_labels(facts), "hpsearch.data.")) | lineage()
        tags |= {name: "; ".join(said) for name, said in changes.items() if said}
        self._runs.log(run, dict(flat(comparable(settings))), tags)
        inputs = [dataset(settings, split, ref) for split in ref.digests]
        self._client.log_inputs(run_id, inputs)
        for section in ("tracking", "storage"):
            dump[section] = {key: redact(value) if value else value for key, value in dump[section].items()}
        self.files.write(run_id, SETTINGS, OmegaConf.to_yaml(OmegaConf.create(dump)))
        if SETTINGS not in self.files.names(run_id):
            raise OutOfReachError(
                f"tracking.uri={redact(self.uri)}: MLflow takes a file of a run and does not show it; see where the "
                "server keeps its artifacts, and correct that"
            )

    @answered
    def open_trial(self, parent: str, record: TrialRecord, settings: Settings, tag: str) -> str:
        """Create or continue the child run of a trial as RUNNING, and return its run id. `tag` holds its number.

        A run whose id was lost is found by its number. A run that was deleted in the meantime is created anew.
        """
        run = self._runs.get(record.run_id) if record.run_id else None
        if run is None:
            experiment = self._client.get_run(parent).info.experiment_id
            run = self._runs.find(experiment, f"tags.`{PARENT}` = '{parent}' and tags.`{tag}` = '{record.number}'")
        if run is None:
            word = tag.removeprefix("hpsearch.")
            tags, name = {PARENT: parent, tag: str(record.number)}, f"{word}-{record.number}"
            if record.entrant is not None:
                tags |= {"hpsearch.entrant": record.entrant, "hpsearch.seed": str(record.seed)}
                name = f"{word}-{record.entrant.replace(' ', '-')}-seed-{record.seed}"
            run = self._client.create_run(experiment, run_name=name, tags=tags)
        run_id: str = run.info.run_id
        self._client.update_run(run_id, status="RUNNING")
        dump = settings.model_dump(mode="json", include={"train", "model", "optimizer"})
        self._runs.log(run, dict(flat(dump)) | record.params, {STATUS: str(Status.RUNNING)} | where(record))
        return run_id

    @answered
    def points(self, run_id: str, points: Sequence[Progress]) -> None:
        """Add points to a run's curves. MLflow stores a step twice if it is logged twice: see `steps`."""
        now = time.time_ns() // 1_000_000
        self._runs.add(
            run_id, [Metric(key, value, now, point.step) for point in points for key, value in point.metrics.items()]
        )

    @answered
    def steps(self, run_id: str) -> dict[str, list[int]]:
        """Return the steps at which the run has each of its metrics."""
        keys = self._client.get_run(run_id).data.metrics
        return {key: [metric.step for metric in self._client.get_metric_history(run_id, key)] for key in keys}

    @answered
    def pause_trial(self, run_id: str) -> None:
        """Show a trial that waits at its rung as SCHEDULED, until it is continued or finished."""
        self._runs.tag(run_id, {STATUS: str(Status.PAUSED)})
        self._client.update_run(run_id, status="SCHEDULED")

    @answered
    def finish_trial(
        self,
        record: TrialRecord,
        settings: Settings,
        labels: tuple[str, ...],
        curves: Sequence[Progress],
        origin: Origin | None,
    ) -> None:
        """Log a trial's result, pictures and origin, and end its run. Harmless when repeated."""
        run_id = record.run_id
        assert run_id is not None
        final = dict(record.metrics)
        final |= {f"seconds_{key}": value for key, value in record.seconds.items()}
        if training := record.seconds.get("training"):
            size = record.params.get("train.batch_size", settings.train.batch_size)
            final["throughput"] = record.step * size / training  # examples a second, over the whole trial
        self._runs.last(run_id, final, record.step)
        from hpsearch.tracking import pictures  # imports matplotlib

        if record.confusion is not None and len(labels) <= formats.MOST_CLASSES:
            self.files.draw(run_id, "confusion_matrix.png", pictures.confusion_matrix(record.confusion, labels))
        if (figure := pictures.learning_curves(curves)) is not None:
            self.files.draw(run_id, "learning_curves.png", figure)
        if origin is not None:
            self.log_result(run_id, ORIGIN, origin)
        self._runs.tag(run_id, {STATUS: str(record.status), REASON: record.reason} | where(record))
        self._client.set_terminated(run_id, ENDED[record.status])

    @answered
    def origin(self, run_id: str) -> Origin | None:
        """Return the origin that `finish_trial` logged; None if there is no such run or it logged no origin."""
        return self._runs.read(Origin, run_id, ORIGIN)

    @answered
    def log_winner(
        self,
        trial: TrialRecord,
        model_folder: Path,
        settings: Settings,
        ref: DataRef,
        examples: dict[str, list[str]],
        card: str,
        words: Words | None = None,
    ) -> str:
        """Log the weights in `model_folder` as a model of the trial's run that takes raw input; return its URI.

        Args:
            trial: The trial that trained the model.
            model_folder: The model's folder, as `save_pretrained` wrote it.
            settings: Settings with the trial's parameters applied.
            ref: The data.
            examples: Some values of each input role.
            card: The model card, in Markdown.
            words: The model of words that it is blended with; None means no blend.
        """
        assert trial.run_id is not None, "a complete trial has its run"
        from hpsearch.serving import packaging  # these import torch, which no other call to MLflow needs
        from hpsearch.tasks.kinds import KINDS
        from hpsearch.tracking.logged import log_model

        described, parts = packaging.describe(settings, ref.labels, trial.fitted), {"model": model_folder}
        blended: dict[str, str] = {}
        if words is not None:
            described |= {"fitted": words.fitted, "blend": list(words.weights)}
            parts["words"] = words.folder
            of_both = " ".join(f"{weight:.4g}" for weight in words.weights)
            blended = {BLEND: of_both, PARTS["words"]: digest(words.folder / "model.safetensors")}
        script = KINDS[settings.task.kind].product.script
        with reached(self.uri):
            uri = log_model(trial.run_id, parts, script, described, examples, card)
        weights = digest(model_folder / "model.safetensors")
        self._runs.tag(trial.run_id, {"hpsearch.model": uri, SHA256: weights} | blended)
        self.files.write(trial.run_id, CARD, card)
        return uri

    @answered
    def weights(self, run_id: str, part: str = "model") -> str | None:
        """Return the SHA-256 of the logged weights of a part of a winner's model; None if none were logged."""
        digest: str | None = self._client.get_run(run_id).data.tags.get(PARTS[part])
        return digest

    @answered
    def card(self, run_id: str) -> str:
        """Return the model card of a winner's run; an empty text if it has none."""
        return self.files.read(f"runs:/{run_id}/{CARD}") if CARD in self.files.names(run_id) else ""

    @answered
    def log_result(self, run_id: str, name: str, result: object) -> None:
        """Log a dataclass as a JSON file of a run."""
        self.files.write_json(run_id, name, codec.plain(result))

    @answered
    def log_answers(self, run_id: str, tables: Mapping[str, Answers]) -> None:
        """Log the answers of a run's model to each example of some splits, as tables that the UI shows."""
        names = {ANSWERS.format(split=split): table for split, table in tables.items()}
        for name, table in names.items():
            self.log_result(run_id, name, table)
        self._runs.tag(run_id, {TABLES: json.dumps([{"path": name, "type": "table"} for name in names])})

    @answered
    def answers(self, run_id: str, split: str) -> Answers | None:
        """Return the table that `log_answers` logged; None if there is no such run or table."""
        return self._runs.read(Answers, run_id, ANSWERS.format(split=split))

    @answered
    def looks(self, digest: str) -> int:
        """Return how often all studies of the task scored the test split of this digest, whole or in part."""
        scored = self._runs.all(self.experiment_id, f"tags.`{TEST_DIGEST}` = '{digest}'")
        return sum(int(run.data.tags[READINGS]) for run in scored)

    @answered
    def finish_study(
        self, summary: Summary, folder: StudyFolder, trials: Sequence[tuple[TrialRecord, Points]], said: str = ""
    ) -> None:
        """Log the study's figures, leaderboard, description and files, and end the parent run.

        Args:
            summary: Summary of the study.
            folder: Folder of the study.
            trials: Trials of the search, with their curves.
            said: Description of the study's result, in Markdown.
        """
        run_id, test = summary.mlflow.run_id, summary.test
        self._runs.last(run_id, dict(figures(summary)), len(trials))
        self.files.write_json(run_id, "leaderboard.json", leaderboard([record for record, _ in trials]))
        kept = KeptTrials(tuple(KeptTrial(record, tuple(points)) for record, points in trials))
        self.log_result(run_id, TRIALS, kept)
        tags = {TABLES: json.dumps([{"path": "leaderboard.json", "type": "table"}])}
        tags |= {"mlflow.note.content": said, TEST_DIGEST: test.split_digest, READINGS: str(test.readings)}
        tags |= {STEERING: "; ".join(one.said for one in summary.steering)} if summary.steering else {}
        self._runs.tag(run_id, tags)
        for path in (folder.report, folder.summary, folder.plots):
            if path.exists():
                self.files.copy(run_id, path)
        self._client.set_terminated(run_id, "FINISHED")

    @answered
    def kept(self, study: str) -> Kept | None:
        """Return what `finish_study` logged of the study; None if it has no result.

        Raises:
            RequestError: Another version of hpsearch logged it, or it is damaged.
        """
        run = self._study(study)
        if run is None or not {SUMMARY, TRIALS} <= self.files.names(run.info.run_id):
            return None
        place = run.info.artifact_uri
        identity.check_format(study, self.files.read_json(f"{place}/{SUMMARY}"))
        found = self.files.result(KeptTrials, f"{place}/{TRIALS}")
        trials = [(one.record, list(one.points)) for one in found.trials]
        return Kept(self.files.read(f"{place}/{SETTINGS}"), self.files.result(Summary, f"{place}/{SUMMARY}"), trials)

    @answered
    def interrupt_study(self, run_id: str) -> None:
        """End the study's run and the open runs of its trials as KILLED. Continuing the study opens them again."""
        for run in self.children(run_id):
            if run.status in ("RUNNING", "SCHEDULED"):
                self._client.set_terminated(run.run_id, "KILLED")
        self._client.set_terminated(run_id, "KILLED")

    @answered
    def find_study(self, study: str) -> Run | None:
        """Return the study's parent run; None if it has none."""
        run = self._study(study)
        return shown(run) if run is not None else None

    def _study(self, study: str) -> Any:
        experiment = self.experiment_id
        return self._runs.find(experiment, f"tags.`{STUDY}` = '{study}'") if experiment is not None else None

    @answered
    def children(self, run_id: str) -> list[Run]:
        """Return the child runs of a study's run: trials, confirmation runs, floors."""
        experiment = self._client.get_run(run_id).info.experiment_id
        return [shown(run) for run in self._runs.all(experiment, f"tags.`{PARENT}` = '{run_id}'")]

    @answered
    def end(self, run_id: str, status: str) -> None:
        """End a run with one of MLflow's statuses."""
        self._client.set_terminated(run_id, status)

    @answered
    def model_of(self, run_id: str) -> str:
        """Return the id of the newest model that was logged whole in the run. Raises RequestError if it holds none."""
        run = self._runs.get(run_id)
        model = self._runs.whole_model(run) if run is not None else None
        if model is None:
            raise RequestError(f"the MLflow run {run_id} holds no model; give the sweep's command again to finish it")
        return model
