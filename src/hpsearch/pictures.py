"""Pictures of one trial, for its MLflow run."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from hpsearch.records import Progress


def confusion_matrix(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """A square for each (true class, predicted class); its colour is the share of the true class.

    `Figure` is used without pyplot: pyplot keeps every figure alive and wants a display.
    """
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    size = max(4.0, 0.6 * len(labels) + 2)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true")
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            color = "white" if shares[row][column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    return figure


def learning_curves(points: Iterable[Progress]) -> Figure | None:
    """A panel for each metric over the steps; None where there is no point."""
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for point in points:
        for name, value in point.metrics.items():
            curves[name][point.step] = value
    if not curves:
        return None
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (name, curve) in zip(panels, sorted(curves.items()), strict=False):
        steps = sorted(curve)
        panel.plot(steps, [curve[step] for step in steps], marker="." if len(steps) < 30 else "")
        panel.set(title=name, xlabel="step")
        panel.grid(alpha=0.3)
    for panel in panels:
        panel.set_visible(False)
    return figure
