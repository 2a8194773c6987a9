"""Makes studies.tar.xz: what commit cfb92cd, the last that had its modules in one folder, leaves in a state folder.

It was run once, by a Python that has what `requirements.txt` of that commit pins:

    <that Python> tests/stored/make.py

All of it, the code of that commit included, is under ROOT meanwhile, so that no path of a machine is in the archive;
`test_stored` puts its own in ROOT's place.
Three studies of one task on a tiny model, in one state folder with its MLflow store:

- `first`: finished, with a confirmation; made champion by the gate;
- `second`: the same with another seed; made champion by force, so that there is a `previous` one;
- `interrupted`: SIGINT in the middle of the search, when one trial waited at its rung and another was training.

Left out are files that are made anew or that nothing reads: the cache, pictures, the workers' logs, locks, and the
`report.html` that MLflow keeps.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

COMMIT = "cfb92cd"
ROOT = Path("/stored")
HOME, DATA, MODEL = ROOT / "home", ROOT / "reviews.csv", ROOT / "model"
ARCHIVE = Path(__file__).with_name("studies.tar.xz")
CHECKOUT = ROOT / "checkout"
TASK = (
    *("task=csv", "task.name=stored", f"task.files.train={DATA}", "task.max_length=48", "task.truncation=head"),
    *("task.split.validation=0.2", "task.split.test=0.2", f"model.path={MODEL}", "model.sha256=null"),
    *("model.family=bert", "model.name=tiny"),
)
SWEEP = (
    *("train.log_every=2", "search.rungs=[0.5]", "search.rungs_after=1", "search.keep=0.34"),
    *("search.space.train.learning_rate.low=0.005", "search.space.train.learning_rate.high=0.03"),
    *("search.space.train.batch_size.choices=[16]", "model.reference.learning_rate=0.002"),
    *("hardware.device=cpu", "hardware.precision=float32", "hardware.threads=1"),
    *("budget.train_examples=null", "budget.validation_examples=null", "budget.test_examples=null"),
    *("budget.rung_examples=20", "budget.confirmation.finalists=1", "budget.confirmation.seeds=2"),
)
SHORT = ("budget.max_trials=4", "search.space.train.epochs.choices=[4,8]", "model.reference.epochs=4")
LONG = ("budget.max_trials=3", "search.space.train.epochs.choices=[40]", "model.reference.epochs=40")
UNREAD = (
    *("home/cache", "home/promotion.lock", "home/artifacts/**/*.png", "home/artifacts/**/plots"),
    *("home/artifacts/**/report.html", "home/studies/*/plots", "home/studies/*/report.html", "home/studies/*/workers"),
    *("home/studies/*/lock", "home/studies/**/checkpoints.lock"),
)


def main() -> None:
    ROOT.mkdir()  # it must be nobody else's
    try:
        subprocess.run(["git", "clone", "--quiet", Path(__file__).parents[2], CHECKOUT], check=True)
        subprocess.run(["git", "-C", CHECKOUT, "checkout", "--quiet", COMMIT], check=True)
        sys.path.insert(0, str(CHECKOUT / "tests"))
        import tiny

        tiny.write_model("bert", MODEL, spread=0.14)
        tiny.write_csv(DATA, n=400)
        hpsearch("sweep", *TASK, *SWEEP, *SHORT, "study=first")
        hpsearch("promote", *TASK, "study=first")
        hpsearch("sweep", *TASK, *SWEEP, *SHORT, "study=second", "seed=7")
        hpsearch("promote", *TASK, "study=second", "--force", "another seed is to be tried")
        interrupt("sweep", *TASK, *SWEEP, *LONG, "study=interrupted")
        for pattern in UNREAD:
            for path in ROOT.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            for path in (HOME, MODEL, DATA):
                archive.add(path, path.name, filter=anonymous)
    finally:
        shutil.rmtree(ROOT)


def hpsearch(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "hpsearch", *words], cwd=ROOT, env=environment(), check=True)


def interrupt(*words: str) -> None:
    """Ctrl-C as soon as one trial is paused and another is training that MLflow knows of."""
    folder = HOME / "studies" / "interrupted" / "trials"
    with subprocess.Popen([sys.executable, "-m", "hpsearch", *words], cwd=ROOT, env=environment()) as process:
        while True:
            time.sleep(0.05)
            assert process.poll() is None, "it ended before it could be interrupted"
            records = [json.loads(path.read_text()) for path in folder.glob("*/trial.json")]
            waiting = [one for one in records if one["status"] == "paused"]
            training = [one for one in records if one["status"] == "running" and one["run_id"]]
            if waiting and training:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


def environment() -> dict[str, str]:
    (ROOT / "tmp").mkdir(exist_ok=True)
    ours = {"HPSEARCH_HOME": HOME, "PYTHONPATH": CHECKOUT / "src", "TMPDIR": ROOT / "tmp", "HF_HUB_OFFLINE": 1}
    return os.environ | {name: str(value) for name, value in ours.items()}


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
