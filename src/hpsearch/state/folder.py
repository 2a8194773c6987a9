"""The files of a study: their names, and who writes them. No other module joins these paths."""

from dataclasses import dataclass
from pathlib import Path

from hpsearch.errors import RequestError

SEARCHED_IN = "trials"  # name of the folder with the trials of the search


def phase_of(place: str) -> str:
    """Return the name of the phase whose folder is `place`, for people."""
    return "search" if place == SEARCHED_IN else place


@dataclass(frozen=True)
class TrialFolder:
    """The files of one trial, or of one run of a later phase."""

    path: Path

    @property
    def record(self) -> Path:
        """The trial's record, which is the truth about it. The coordinator writes it before it tells anything else."""
        return self.path / "trial.json"

    @property
    def points(self) -> Path:
        """The trial's curves, one line for each step. The coordinator appends to them."""
        return self.path / "points.jsonl"

    @property
    def model(self) -> Path:
        """Weights, config and tokenizer of a complete trial. The worker writes them, the coordinator deletes them."""
        return self.path / "model"

    @property
    def weights(self) -> Path:
        """The model's weights."""
        return self.model / "model.safetensors"

    @property
    def outputs(self) -> Path:
        """The model's outputs for the pieces of the validation examples. It exists where a blend may need them."""
        return self.model / "validation.npy"

    @property
    def unfinished_model(self) -> Path:
        """The folder that becomes `model` when it is whole."""
        return self.path / "model.tmp"

    @property
    def answers(self) -> Path:
        """Answers of a complete run's model to the validation examples. The coordinator writes them."""
        return self.path / "validation.json"

    @property
    def unsealed(self) -> Path:
        """The folder that becomes a checkpoint when it is whole. The worker writes it."""
        return self.path / "unsealed"

    @property
    def checkpoints_lock(self) -> Path:
        """The lock file, held by the process that seals, reads or deletes checkpoints."""
        return self.path / "checkpoints.lock"

    def checkpoint(self, step: int) -> Path:
        """Return the path of a step's sealed checkpoint, which the worker makes."""
        return self.path / f"checkpoint-{step}"

    def checkpoints(self) -> list[Path]:
        """Return the sealed checkpoints, newest first."""
        return sorted(self.path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)


@dataclass(frozen=True)
class StudyFolder:
    """The files of one study.

    The coordinator writes all of them, except commands and what `TrialFolder` leaves to workers.
    """

    path: Path

    @staticmethod
    def of(home: Path, study: str) -> "StudyFolder":
        """Return the folder of a study in a state folder. It need not exist."""
        return StudyFolder(home / "studies" / study)

    @staticmethod
    def begun(home: Path, study: str) -> "StudyFolder":
        """Return the folder of a study that was begun. Raises RequestError if there is none."""
        folder = StudyFolder.of(home, study)
        if not folder.settings.exists():
            there = ", ".join(one.name for one in StudyFolder.all(home)) or "none"
            raise RequestError(f"there is no study {study} in {home}; there are: {there}")
        return folder

    @staticmethod
    def all(home: Path) -> list["StudyFolder"]:
        """Return the folders of all studies in a state folder, by name."""
        return [StudyFolder(path) for path in sorted((home / "studies").glob("*")) if path.is_dir()]

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.path.name

    @property
    def lock(self) -> Path:
        """The lock file, held by the study's coordinator."""
        return self.path / "lock"

    @property
    def identity(self) -> Path:
        """What makes the study's trials comparable."""
        return self.path / "identity.json"

    @property
    def settings(self) -> Path:
        """Settings of the study."""
        return self.path / "settings.yaml"

    @property
    def given(self) -> Path:
        """Settings and options of the command that runs the study, a JSON list."""
        return self.path / "given.json"

    @property
    def seconds(self) -> Path:
        """Seconds spent, by phase."""
        return self.path / "seconds.json"

    @property
    def plans(self) -> Path:
        """Plans for the time that was left, as each phase began."""
        return self.path / "plans.json"

    @property
    def floors(self) -> Path:
        """Results of the floors on validation."""
        return self.path / "floors.json"

    @property
    def test(self) -> Path:
        """Scores on test."""
        return self.path / "test.json"

    @property
    def summary(self) -> Path:
        """Result of the study."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """Result of the study, as a page."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """Folder of Optuna's plots."""
        return self.path / "plots"

    @property
    def published(self) -> Path:
        """The file that exists once MLflow has the result."""
        return self.path / "published.json"

    def command(self, name: str) -> Path:
        """Return the path of a command, which a process in another terminal writes."""
        return self.path / "steering" / f"{name}.json"

    def reply(self, name: str) -> Path:
        """Return the path of the reply to a command, which the coordinator writes."""
        return self.path / "steering" / f"{name}.reply.json"

    def commands(self) -> list[str]:
        """Return the names of all commands, by time."""
        found = (path.name.split(".") for path in (self.path / "steering").glob("*.json"))
        return sorted(parts[0] for parts in found if parts[1:] == ["json"])

    @property
    def workers(self) -> Path:
        """Folder of the workers' other output. A worker process on this machine has `<index>.log` there."""
        return self.path / "workers"

    @property
    def roster(self) -> Path:
        """What each worker did from moment to moment, one line for each change. The coordinator appends to it."""
        return self.workers / "roster.jsonl"

    def trial(self, phase: str, number: int) -> TrialFolder:
        """Return the folder of one trial in the phase folder named `phase`. It need not exist."""
        return TrialFolder(self.path / phase / str(number))

    def places(self) -> list[str]:
        """Return the names of the phase folders that have a trial, the most recently written last."""
        written: dict[str, float] = {}
        for path in self.path.glob("*/[0-9]*/trial.json"):
            place = path.parents[1].name
            written[place] = max(written.get(place, 0.0), path.stat().st_mtime)
        return sorted(written, key=lambda place: written[place])

    def trials(self, phase: str) -> list[TrialFolder]:
        """Return the folders of a phase's trials that have a record, by number."""
        found = (TrialFolder(path.parent) for path in (self.path / phase).glob("[0-9]*/trial.json"))
        return sorted(found, key=lambda trial: int(trial.path.name))

    def floor(self, name: str) -> TrialFolder:
        """Return the folder of a floor, with its model and validation answers. The worker writes the model."""
        return TrialFolder(self.path / "floors" / name)

    def floor_folders(self) -> list[TrialFolder]:
        """Return the floor folders that exist, by name."""
        return [TrialFolder(path) for path in sorted((self.path / "floors").glob("*")) if path.is_dir()]

    def inside(self, trial: TrialFolder) -> str:
        """Return the path of a trial inside this folder, as results name it: `trials/3`."""
        return trial.path.relative_to(self.path).as_posix()

    def named(self, inside: str) -> TrialFolder:
        """Return the trial folder for a path that `inside` returned."""
        return TrialFolder(self.path / inside)

    def leftovers(self) -> list[Path]:
        """Return the unfinished files and folders that a crash left."""
        unsealed = [path for path in self.path.glob("*/*/unsealed") if any(path.iterdir())]
        return sorted([*self.path.rglob("*.tmp"), *unsealed])
