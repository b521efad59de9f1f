"""How the commands reach a cluster: the options that say which, and the words for what cannot be reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli.exits import BadInput, Unavailable

if TYPE_CHECKING:
    from liveact_services.cluster.api import Kube

Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="By default that of the context, or the pod's own."),
]
Context = Annotated[
    str | None, typer.Option(metavar="NAME", help="A context of the kubeconfig; by default the active one.")
]
ServiceName = Annotated[
    str | None,
    typer.Option("--service", metavar="NAME", help="Which RayService; needed where the namespace has several."),
]


@contextmanager
def connected(namespace: str | None, context: str | None) -> Iterator[Kube]:
    from liveact_services.cluster.api import ClusterError, Kube, NotThere

    try:
        yield Kube.connect(namespace, context)
    except NotThere as error:
        raise BadInput(str(error)) from None
    except ClusterError as error:
        raise Unavailable(str(error)) from None
