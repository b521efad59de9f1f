"""`liveact cluster`: the service on Kubernetes: what there is, more or fewer pods, a node emptied, its logs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.cluster.connection import Context, Namespace, ServiceName, connected
from liveact_services.cli.cluster.rollout import rollout
from liveact_services.cli.cluster.tables import described, groups_table, headline, pods_table
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note

if TYPE_CHECKING:
    from liveact_services.cluster.api import Kube
    from liveact_services.cluster.objects import Group, Node, Pod, RayService

app = typer.Typer(help="The service on Kubernetes: status, rollout, scale, drain, logs.", no_args_is_help=True)
app.command()(rollout)
POLL_S = 2.0


@app.command()
def status(
    service: ServiceName = None, namespace: Namespace = None, context: Context = None, json: options.Json = False
) -> None:
    """The RayService with its groups, pods, nodes and sessions."""
    with connected(namespace, context) as kube:
        found = kube.ray_service(service)
        pods, nodes = kube.pods(found), {node.name: node for node in kube.nodes()}
        sessions = [one for pod in pods if pod.ready for one in kube.sessions(pod)]
    output = Output(json)
    output.show(headline(found), groups_table(found, pods, sessions), pods_table(pods, nodes, sessions))
    output.result(described(found, pods, nodes, sessions))


@app.command()
def scale(
    group: Annotated[
        str, typer.Argument(metavar="GROUP", help="A worker group, as `liveact cluster status` lists them.")
    ],
    replicas: Annotated[int | None, typer.Option(min=0, help="Pods from now on; without the autoscaler.")] = None,
    minimum: Annotated[int | None, typer.Option("--min", min=0, help="Fewest pods.")] = None,
    maximum: Annotated[int | None, typer.Option("--max", min=1, help="Most pods.")] = None,
    service: ServiceName = None,
    namespace: Namespace = None,
    context: Context = None,
    json: options.Json = False,
) -> None:
    """Change how many pods a worker group has. `helm upgrade` puts back what the values say: change them too.

    Pods that become too many go once their sessions have moved. With the autoscaler on, counts are its own business, within --min
    and --max.
    """
    if replicas is minimum is maximum is None:
        raise BadInput("nothing to change is named: accepted are --replicas, --min and --max")
    with connected(namespace, context) as kube:
        found = kube.ray_service(service)
        chosen = _group(found, group)
        counts = _counts(found, chosen, replicas, minimum, maximum)
        kube.scale(found, chosen, counts)
        changed = _group(kube.ray_service(found.name), group)
    output = Output(json)
    output.show(f"{group}: {changed.replicas} pods, {changed.minimum} to {changed.maximum}")
    output.result(
        {
            "group": group,
            "replicas": changed.replicas,
            "min": changed.minimum,
            "max": changed.maximum,
            "service": found.name,
        }
    )


@app.command()
def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node of Kubernetes.")],
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for its pods to be gone.", min=0)
    ] = 900.0,
    undo: Annotated[bool, typer.Option("--undo", help="Let pods be placed on it again.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    json: options.Json = False,
) -> None:
    """Cordon a node and have the service's worker pods leave it: their sessions move first.

    A disruption budget may keep a pod until another is ready elsewhere; it is asked again until then. Ray's head is left, since
    it holds no session: it goes with whatever drains the rest of the node. Exits with 1 when --wait is over and some are left.
    """
    from liveact_services.cluster.watch import Watcher

    with connected(namespace, context) as kube:
        found = kube.node(node)
        kube.cordon(found.name, not undo)
        note(f"node {node} is {'placed on again' if undo else 'cordoned'}")
        left = [] if undo else _emptied(kube, Watcher(kube, told=note), found, wait)
    output = Output(json)
    output.show(
        f"{len(left)} worker pods are on node {node}" if left else f"node {node} is " + ("back" if undo else "empty")
    )
    output.result({"node": node, "cordoned": not undo, "left": [pod.name for pod in left]})
    if left:
        raise CheckFailed(f"{', '.join(pod.name for pod in left)} did not leave node {node} in {wait:g} s")


@app.command()
def logs(
    deployment: Annotated[
        str | None, typer.Argument(metavar="DEPLOYMENT", help="As Denoiser or Gateway; without it, all of Serve.")
    ] = None,
    contains: Annotated[
        str, typer.Option(metavar="TEXT", help="Only lines with it, as a session's or trace's id.")
    ] = "",
    lines: Annotated[int, typer.Option(min=1, help="From the end of each file.")] = 200,
    secret: Annotated[
        str | None, typer.Option(metavar="NAME/KEY", help="The Secret with Ray's token; by default the service's own.")
    ] = None,
    service: ServiceName = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """The service's own logs, of every replica, through the dashboard of Ray's head; pods themselves log only Ray's start."""
    from liveact_services.cluster.logs import read_logs

    name, _, key = (secret or "").partition("/")
    with connected(namespace, context) as kube:
        found = kube.ray_service(service)
        token = kube.secret(name or f"{found.name}-ray-auth", key or "auth_token")
        shown = 0
        for source, line in read_logs(kube, found, token, deployment, lines):
            if contains in line:
                shown += 1
                typer.echo(f"{source}: {line}")
    if not shown:
        note("no such line is there" if contains else "nothing has been logged")


def _group(service: RayService, name: str) -> Group:
    for group in service.groups:
        if group.name == name:
            return group
    raise BadInput(f"no worker group {name!r}: there are {', '.join(group.name for group in service.groups) or 'none'}")


def _counts(
    service: RayService, group: Group, replicas: int | None, minimum: int | None, maximum: int | None
) -> dict[str, int]:
    """What to write. Raises `BadInput` for counts that contradict one another."""
    if replicas is not None and service.autoscaled:
        raise BadInput("--replicas: the autoscaler decides between --min and --max, which are accepted")
    fewest, most = group.minimum if minimum is None else minimum, group.maximum if maximum is None else maximum
    if replicas is not None and minimum is None and maximum is None:
        # Without an autoscaler the bounds only stand in the way.
        fewest, most = min(fewest, replicas), max(most, replicas)
    if fewest > most:
        raise BadInput(f"--min {fewest} is more than --max {most}")
    pods = min(max(group.replicas if replicas is None else replicas, fewest), most)
    if replicas is not None and pods != replicas:
        raise BadInput(f"--replicas {replicas}: accepted are {fewest} to {most}, or other --min and --max")
    return {"replicas": pods, "minReplicas": fewest, "maxReplicas": most}


def _emptied(kube: Kube, watcher: Any, node: Node, wait: float) -> list[Pod]:
    """Have the workers of the node leave, for so long; gives those that are left."""
    until = time.monotonic() + wait
    while True:
        watcher.look(only=node.name)
        left = kube.workers([node.name])
        if not left or time.monotonic() >= until:
            return left
        time.sleep(min(POLL_S, max(0.0, until - time.monotonic())))
