"""A process that helps a worker to train its trials; see `training.team`.

The worker starts it as `python -m hpsearch.training.helper <fd> <rank>`. It ends when its worker has ended.
"""

import gc
import os
import select
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection

from transformers import set_seed

from hpsearch.state.messages import MEMORY_RAN_OUT
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import hardware, models, trainer
from hpsearch.training.team import After, Place, Task, join
from hpsearch.training.trial import Warm, tokens_of

GRACE_SECONDS = 5.0  # for the worker to meet the same error, and to say so


class AbandonedError(Exception):
    """The worker has given up the trial."""


def main(fd: int, rank: int) -> None:
    """Train what the worker says until it has ended. Any error ends this process, and then the worker."""
    threading.Thread(target=_watch, args=(fd,), daemon=True).start()
    leader = Connection(fd)
    try:
        place: Place = leader.recv()
        join(rank, place.hardware, place.meeting)
        hardware.apply(place.hardware)
        gc.freeze()
        warm = Warm(place.hardware)
        while True:
            task: Task = leader.recv()
            train(task, warm, leader)
            gc.collect()  # Trainer and its callbacks refer to each other
    except EOFError:
        os._exit(0)
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        time.sleep(GRACE_SECONDS)
        os._exit(MEMORY_RAN_OUT if hardware.out_of_memory(error) else 1)


def train(task: Task, warm: Warm, leader: Connection) -> None:
    """Train with the worker until it stops. A loss that is not finite ends the trial in all processes alike."""
    settings, kind = task.settings, KINDS[task.settings.task.kind]
    tokens, _ = tokens_of(settings, task.data, warm)
    set_seed(settings.seed)  # for the new head
    model = models.build(settings.model, kind, task.data.labels, warm.tokenizer(settings.model), warm.hardware)
    made = trainer.make_trainer(settings, kind, model, tokens, warm.hardware, task.folder)

    def on_step(_: int) -> tuple[bool, bool]:
        after: After | None = leader.recv()
        if after is None:
            raise AbandonedError
        made.retimed = after.retimed
        return after.save, after.stop

    made.add_callback(trainer.Watcher(lambda: None, on_step, lambda *_: None))
    try:
        trainer.run(made, task.resume)
    except (AbandonedError, trainer.NotFiniteError):
        pass
    finally:
        made.accelerator.free_memory()


def _watch(fd: int) -> None:
    """End this process when its worker has ended, whatever it waits for."""
    poll = select.poll()
    poll.register(fd, 0)  # a closed connection is always reported
    poll.poll()
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
