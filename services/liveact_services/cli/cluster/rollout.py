"""`liveact cluster rollout`: another version, without cutting a call, and back where it does not serve."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli import options
from liveact_services.cli.cluster.connection import Context, Namespace, ServiceName, connected
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note

if TYPE_CHECKING:
    from typing import Any

    from liveact_services.cluster.api import Kube
    from liveact_services.cluster.objects import RayService


def rollout(
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="For the head and the groups without GPUs, with its tag or digest."),
    ] = None,
    gpu_image: Annotated[str | None, typer.Option(metavar="IMAGE", help="For the groups with GPUs.")] = None,
    serving: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long the new cluster may take until it serves.")
    ] = 1800.0,
    failing: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long what fails may take to recover.")
    ] = 120.0,
    settled: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long the new cluster is watched once it serves.")
    ] = 60.0,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long sessions may take to leave the old cluster.")
    ] = 600.0,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.05, help="How often it is looked.")] = 2.0,
    rollback: Annotated[bool, typer.Option(help="Whether a new cluster that fails is taken back.")] = True,
    service: ServiceName = None,
    namespace: Namespace = None,
    context: Context = None,
    json: options.Json = False,
) -> None:
    """Exchange the service's cluster for one of other images, or watch an exchange that `helm upgrade` has begun.

    KubeRay makes the new cluster beside the old one. When it serves, the watcher has the old one's sessions follow: clients are
    told GOING_AWAY and resume. A new cluster whose application or pods fail, or that does not serve in time, is taken back. Exits
    with 1 when it was, and when sessions are left in the end. Interrupting ends the watching and nothing else.
    """
    from liveact_services.cluster.rollout import NothingChanges, Patience, Rollout, with_images

    began = time.monotonic()
    with connected(namespace, context) as kube:
        found = kube.ray_service(service)
        before = _before(kube, found, given=image is not None or gpu_image is not None)
        rolling = Rollout(
            kube, found, Patience(serving, failing, settled, wait, every), told=lambda text: _told(began, text)
        )
        held, left = rolling.sessions(), 0
        try:
            if not found.pending:
                rolling.begin(with_images(before, image, gpu_image))
            new = rolling.coming()
            why = rolling.serves(new)
            if not why:
                why, left = rolling.settles(new)
        except NothingChanges as nothing:
            raise BadInput(str(nothing)) from None
        except KeyboardInterrupt:
            note(
                "not watched any more; the rollout goes on, and `liveact cluster rollout` without an image watches it again"
            )
            raise
        if why and rollback:
            rolling.back(before)
    took = time.monotonic() - began
    output = Output(json)
    done = f"{found.name} went from {found.active or 'nothing'} to {new} in {took:.0f} s; {left} of {held} sessions are left"
    output.show(f"{new} was taken back: {why}" if why and rollback else why or done)
    output.result(
        {
            "service": found.name, "from": found.active, "to": new, "failed": why, "rolled_back": bool(why and rollback),
            "sessions_before": held, "sessions_left": left, "took_s": round(took, 1),
        }
    )  # fmt: skip
    if why or left:
        raise CheckFailed(why or f"{left} sessions are left at {found.active} after {wait:g} s")


def _before(kube: Kube, found: RayService, *, given: bool) -> dict[str, Any]:
    """The configuration of the cluster that serves, to which a rollout that fails goes back. Raises `BadInput`."""
    if given and found.pending:
        raise BadInput(f"{found.pending} is coming already: accepted is no image, to watch it, or one when it is there")
    if given:
        return kube.cluster_config(found)
    if not found.pending:
        raise BadInput(
            f"{found.name} is not being exchanged: accepted are --image and --gpu-image, or a `helm upgrade` that is under way"
        )
    clusters = kube.ray_clusters(found)
    if found.active not in clusters:
        raise BadInput(
            f"{found.name} has served nothing yet that it could go back to: wait until {found.pending} serves"
        )
    return dict(clusters[found.active]["spec"])


def _told(began: float, text: str) -> None:
    note(f"{time.monotonic() - began:6.1f} s  {text}")
