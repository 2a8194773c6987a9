"""What travels between the coordinator and the nodes of a cluster that share no disk with it."""

import threading
from collections import defaultdict
from pathlib import Path

from hpsearch.state.roster import Carried
from hpsearch.workers.parcels import Content

NOT_READ = (".bin", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".gguf", ".tflite")  # other forms of weights


class Sent:
    """Shared by all couriers of a command."""

    def __init__(self) -> None:
        self._lock, self._listing = threading.Lock(), threading.Lock()
        self._nodes: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._contents: dict[Path, Content] = {}
        self.carried = Carried()
        """Bytes so far."""

    def count(self, carried: Carried) -> None:
        """Add these bytes to those so far."""
        with self._lock:
            self.carried += carried

    def of_node(self, node: str) -> threading.Lock:
        """Return the lock of a node, so that its workers are not sent the same at once."""
        with self._lock:
            return self._nodes[node]

    def content(self, folder: Path) -> Content:
        """Return the content of a folder of data or of a pretrained model, as it was when first asked for."""
        with self._listing:
            if folder not in self._contents:
                self._contents[folder] = Content.of(folder, NOT_READ)
            return self._contents[folder]
