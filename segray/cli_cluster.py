"""What `segray doctor --cluster` prints: the nodes, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from segray.cli_display import console
from segray.cli_doctor import GRADE_STYLES
from segray.doctor.findings import counts, grouped

if TYPE_CHECKING:
    from segray.pipelines.cluster_doctor import ClusterDiagnosis
    from segray.pipelines.cluster_facts import NodeFacts

GIB = 1024**3


def print_cluster(diagnosis: ClusterDiagnosis) -> None:
    """A row a node, the findings by their grade, and a closing sentence."""
    console.print(node_table(diagnosis.facts.nodes))
    console.print()
    console.print(_finding_table(diagnosis))
    number = counts(diagnosis.findings)
    told = ", ".join(f"{count} {grade}{'s' * (count != 1)}" for grade, count in number.items())
    console.print(f"{told}; {diagnosis.seconds:.0f} s")
    console.print(f"[bold]{verdict(number)}[/bold]", soft_wrap=True)


def verdict(number: dict[str, int]) -> str:
    """One sentence: may jobs be sent to it? ``number`` counts findings by their grade."""
    if number["error"]:
        return "Jobs would fail or lose their outcome; mend the errors first."
    return "Jobs can run; look at the warnings." if number["warning"] else "Nothing is wrong."


def node_table(nodes: Sequence[NodeFacts]) -> Table:
    """What each node has."""
    table = Table(box=None, pad_edge=False)
    for name in ("node", "CPUs", "GPUs", "store GiB", "disk GiB", "shm GiB", "clock s", "MiB/s"):
        table.add_column(name, justify="left" if name == "node" else "right", overflow="fold")
    for node in nodes:
        speed = "-" if node.received_mib_s is None else f"{node.received_mib_s:.0f}"
        skew = "-" if node.skew_s is None else f"{node.skew_s:+.3f}"
        sizes = [f"{size / GIB:.1f}" for size in (node.object_store, node.tmp_free, node.shm_free)]
        table.add_row(escape(node.name), f"{node.cpus:g}", f"{node.gpus:g}", *sizes, skew, speed)
    return table


def _finding_table(diagnosis: ClusterDiagnosis) -> Table:
    table = Table(show_lines=True)
    for name in ("grade", "nodes", "what", "mend"):
        table.add_column(name, overflow="fold")
    for group in grouped(diagnosis.findings):
        style = GRADE_STYLES[group.grade]
        more = f" (and {len(group.sentences) - 1} more like it)" if len(group.sentences) > 1 else ""
        what = escape(f"{group.code}: {group.sentences[0]}{more}")
        table.add_row(f"[{style}]{group.grade}[/{style}]", escape(group.named or "all"), what, escape(group.mend))
    return table
