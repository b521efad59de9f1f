"""What the commands say of a RayService, for people and for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_services.cluster.objects import Node, Pod, RayService, Sessions


def headline(service: RayService) -> str:
    cluster = f"cluster {service.active or '-'}" + (f", {service.pending} coming" if service.pending else "")
    return f"{service.name} is {service.state}; {cluster}; autoscaler {'on' if service.autoscaled else 'off'}"


def groups_table(service: RayService, pods: list[Pod], sessions: list[Sessions]) -> Table:
    from rich.table import Table

    table = Table(
        "group", "pool", "pods ready", "asked for", "from", "to", "sessions at Denoisers", title_justify="left"
    )
    for group in service.groups:
        members = {pod.name for pod in pods if pod.group == group.name}
        denoisers = [one for one in sessions if one.pod in members and one.deployment == "Denoiser"]
        held, capacity = sum(one.held for one in denoisers), sum(one.capacity for one in denoisers)
        ready = sum(pod.ready for pod in pods if pod.group == group.name)
        table.add_row(
            group.name, group.pool or "-", str(ready), str(group.replicas), str(group.minimum), str(group.maximum),
            f"{held} of about {capacity}" if capacity else "-",
        )  # fmt: skip
    return table


def pods_table(pods: list[Pod], nodes: dict[str, Node], sessions: list[Sessions]) -> Table:
    from rich.table import Table

    table = Table("node", "pod", "state", "sessions", title_justify="left")
    for pod in sorted(pods, key=lambda one: (one.node, not one.head, one.name)):
        going = nodes[pod.node].going() if pod.node in nodes else ""
        held = ", ".join(f"{one.deployment} {one.held}" for one in sessions if one.pod == pod.name)
        table.add_row(
            (pod.node or "-") + (f" ({going})" if going else ""),
            pod.name + (" (head)" if pod.head else ""),
            pod.state,
            held,
        )
    return table


def described(service: RayService, pods: list[Pod], nodes: dict[str, Node], sessions: list[Sessions]) -> dict[str, Any]:
    def count(pod: Pod) -> dict[str, int]:
        return {one.deployment: one.held for one in sessions if one.pod == pod.name}

    return {
        "service": service.name, "state": service.state, "active": service.active, "pending": service.pending,
        "autoscaled": service.autoscaled,
        "groups": [
            {"group": one.name, "pool": one.pool, "replicas": one.replicas, "min": one.minimum, "max": one.maximum,
             "ready": sum(pod.ready for pod in pods if pod.group == one.name)}
            for one in service.groups
        ],
        "pods": [
            {"pod": pod.name, "node": pod.node, "head": pod.head, "group": pod.group, "state": pod.state,
             "node_state": nodes[pod.node].going() if pod.node in nodes else "", "sessions": count(pod)}
            for pod in pods
        ],
    }  # fmt: skip
