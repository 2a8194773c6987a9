"""What the page of a finished study says of its workers."""

from hpsearch import formats
from hpsearch.state.roster import Carried, Staff


def worth_saying(staff: Staff) -> bool:
    """Return whether there is more to say of the workers than that there was one, on this machine."""
    return staff.workers > 1 or staff.carried is not None


def said(staff: Staff) -> str:
    """Return how busy the workers were, and what waiting cost."""
    everything = staff.working + staff.waiting + staff.starting
    where = f" on {len(staff.nodes)} nodes" if len(staff.nodes) > 1 else ""
    nodes = ", ".join(f"{node} {count}" for node, count in staff.nodes.items())
    one = staff.workers == 1
    who, were, they = ("One worker", "it was", "It") if one else (f"{staff.workers} workers", "they were", "They")
    return (
        f"{who}{where} worked {staff.working / everything:.0%} of the time that {were} there. "
        f"{they} waited for work {staff.waiting / everything:.0%} of it, which is {formats.duration(staff.waiting)} of "
        f"one worker, and took {staff.starting / everything:.0%} to start."
        + (f" By node: {nodes}." if where else "")
        + (f" {_travelled(staff.carried)}" if staff.carried is not None else "")
    )


def _travelled(carried: Carried) -> str:
    sent, fetched = (f"{number / 1e6:,.1f} MB" for number in (carried.sent, carried.fetched))
    return f"{sent} were sent to nodes, and {fetched} came back."
