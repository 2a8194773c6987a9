"""A worker process of a Ray seat, which ends at once when its seat has ended.

A worker usually learns of the end at its next message. By then its trial may have begun on another node, and two
workers would write to one folder.
"""

import os
import select
import sys
import threading

from hpsearch.training import checkpoints, worker


def _watch(fd: int) -> None:
    """End this process when the other end of the connection is closed, once its checkpoints are sealed."""
    poll = select.poll()
    poll.register(fd, 0)  # a closed connection is always reported
    poll.poll()
    checkpoints.close()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_watch, args=(int(sys.argv[1]),), daemon=True).start()
    worker.main(int(sys.argv[1]))
