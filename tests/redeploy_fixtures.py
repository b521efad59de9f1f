"""A service deployed as operators deploy one: by Serve's configuration, which is changed while it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray import serve

from liveact_services.config import load_config
from liveact_services.service import APPLICATION, _start_ray, _wait_until_serving, free_port
from liveact_services.sessions.embedded import EmbeddedValkey


def application(args: dict[str, Any]) -> serve.Application:
    """What Serve imports and builds."""
    from liveact_services.graph import build

    return build(load_config(**args["config"]), args["redis"])


class Deployed:
    """A running service whose deployments' options can be changed."""

    def __init__(self, data_dir: Path, **config: Any) -> None:
        self.values = {"checkpoint": "untrained", "data_dir": str(data_dir), **config}
        loaded = load_config(port=free_port(), http_port=free_port(), **self.values)
        self.address = f"{loaded.host}:{loaded.port}"
        self.options: dict[str, dict[str, Any]] = {}
        self.valkey = EmbeddedValkey(data_dir / "valkey").start()
        _start_ray(loaded, lambda line: None)

    def deploy(self, **options: dict[str, Any]) -> None:
        """Have these options hold of deployments, by their names, as `serve deploy` has; returns before they do.

        Those given before stay: what a configuration leaves out is changed back.
        """
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        for name, values in options.items():
            self.options[name] = {**self.options.get(name, {}), **values}
        one = {
            "name": APPLICATION, "route_prefix": "/", "import_path": "redeploy_fixtures:application",
            "args": {"config": self.values, "redis": self.valkey.url},
            "deployments": [{"name": name, **values} for name, values in self.options.items()],
        }  # fmt: skip
        client: Any = _get_global_client()
        client.deploy_apps(ServeDeploySchema.parse_obj({"applications": [one]}))

    def wait(self, within_s: float = 120.0) -> float:
        """Wait until all is as was asked, and gives how long that took, in seconds."""
        began = time.monotonic()
        time.sleep(1.0)
        while True:
            state = serve.status().applications.get(APPLICATION)
            if state is not None and state.status == "RUNNING":
                return time.monotonic() - began
            if state is not None and state.status == "DEPLOY_FAILED":
                raise AssertionError(state.message)
            assert time.monotonic() - began < within_s, state
            time.sleep(0.2)

    def serving(self) -> None:
        """Wait for the warm-up."""
        _wait_until_serving(self.address, lambda line: None, time.monotonic() + 120)

    def stop(self) -> None:
        import ray

        serve.shutdown()
        ray.shutdown()
        self.valkey.stop()
