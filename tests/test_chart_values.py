"""Wrong values are refused before anything is installed, by a message that names the value."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from chart_fixtures import HelmError, render

GPU = {"workers": {"cpu": {}, "gpu": {"gpus": 2}}}
UNTRAINED = {"weights": {"source": "untrained"}}
TENANTS = {"mode": "existingSecret", "existingSecret": "tenants"}
ELSEWHERE = {
    "bundled": {"enabled": False},
    "external": {"existingSecret": {"name": "redis"}},
    "gcs": {"address": "r:6379"},
}

WRONG = """
# what a mistyped or misplaced field does
- [imagee: {tag: x}, "imagee"]
- [image: {tags: x}, "/image", "tags"]
- [image: {digest: "sha256:abc"}, "/image/digest"]
- [image: {pullPolicy: Sometimes}, "/image/pullPolicy"]
- [fullnameOverride: Upper, "/fullnameOverride"]
- [imagePullSecrets: registry, "/imagePullSecrets"]
# the service's own configuration
- [config: {presett: tiny}, "/config", "presett"]
- [config: {preset: huge}, "/config/preset"]
- [config: {port: 9001}, "/config", "port"]
- [config: {redis_url: "redis://a"}, "/config", "redis_url"]
- [config: {checkpoint: /x}, "/config", "checkpoint"]
- [config: {denoiser: {replicas: 0}}, "/config/denoiser/replicas"]
- [config: {denoiser: {gpus: 1}}, "/config/denoiser", "gpus"]
- [config: {sessions: {max_sessions: many}}, "/config/sessions/max_sessions"]
- [config: {gateway: {autoscaling: {min_replicas: 2}}}, "/config/gateway/autoscaling"]
- [config: {pools: {Gold: {}}}, "/config/pools", "Gold"]
- [config: {denoiser: {num_gpus: 1}}, "config.denoiser.num_gpus"]
- [config: {conditioner: {num_gpus: 0.5}}, "config.conditioner"]
- [config: {sessions: {export_blocks: 1}}, "config.sessions.export_blocks"]
- [config: {sessions: {park_after_s: 0}}, "/config/sessions/park_after_s"]
- [config: {health_check_timeout_s: soon}, "/config/health_check_timeout_s"]
- [config: {pools: {default: {}}}, "config.pools.default"]
- [config: {denoiser: {ranks: 4}}, "/config/denoiser/ranks"]
- [config: {pools: {gold: {ranks: 4}}}, "/config/pools/gold/ranks"]
- [config: {denoiser: {exchange: int4}}, "/config/denoiser/exchange"]
- [config: {denoiser: {ranks: 2, num_gpus: 0.5}}, "config.denoiser.num_gpus"]
- [config: {gateway: {ranks: 2}}, "/config/gateway", "ranks"]
- [{config: {denoiser: {ranks: 2, num_gpus: 1}}, workers: {cpu: {}, gpu: {gpus: 1}}}, "config.denoiser", "ranks"]
- [config: {vault: {autoscaling: {max_replicas: 2}}}, "config.vault.autoscaling.sessions_per_replica"]
- [config: {denoiser: {autoscaling: {min_replicas: 3, max_replicas: 2}}}, "config.denoiser.autoscaling.max_replicas"]
- [config: {vae_decoder: {replicas: 5, autoscaling: {max_replicas: 2}}}, "config.vae_decoder.replicas"]
- [config: {preset: soulx-liveact-18b}, "weights.source", "config.preset"]
# weights
- [weights: {source: floppy}, "/weights/source"]
- [weights: {source: claim}, "weights.claim"]
- [weights: {source: image}, "weights.image"]
- [weights: {source: objectStore}, "weights.objectStore.url"]
- [weights: {source: objectStore, objectStore: {url: "s3://a/b"}}, "weights.objectStore.sumsSha256"]
- [weights: {objectStore: {url: "ftp://a/b"}}, "/weights/objectStore/url"]
- [weights: {path: /absolute}, "/weights/path"]
# who may call
- [tenants: {mode: nobody}, "/tenants/mode"]
- [tenants: {mode: directory}, "tenants.directory"]
- [tenants: {mode: existingSecret}, "tenants.existingSecret"]
- [ingress: {enabled: true, host: a.example.com, tlsSecret: t}, "tenants.mode"]
# Redis
- [redis: {bundled: {enabled: false}}, "redis.external.url"]
- [redis: {external: {url: "http://a"}}, "/redis/external/url"]
- [redis: {external: {url: "redis://a"}}, "redis.external", "redis.bundled.enabled"]
- [redis: {bundled: {enabled: false}, external: {url: "redis://a"}}, "redis.gcs.address"]
- [redis: {gcs: {address: "redis://user:pw@a:6379"}}, "/redis/gcs/address"]
- [redis: {bundled: {memory: "1"}}, "redis.bundled.memory"]
# workers
- [workers: {cpu: null}, "workers"]
- [workers: {CPU: {}}, "/workers", "CPU"]
- [workers: {cpu: {gpu: 1}}, "/workers/cpu", "gpu"]
- [workers: {cpu: {memory: lots}}, "/workers/cpu/memory"]
- [workers: {cpu: {maxReplicas: 3}}, "workers.cpu.maxReplicas"]
- [workers: {cpu: {minReplicas: 3, maxReplicas: 2}}, "workers.cpu.maxReplicas"]
- [workers: {cpu: {replicas: 5}}, "workers.cpu.replicas"]
- [workers: {cpu: {minAvailable: 2}}, "workers.cpu.minAvailable"]
- [workers: {cpu: {}, gpu: {gpus: 2, pool: gold}}, "workers.gpu.pool"]
- [workers: {cpu: null, gpu: {gpus: 2}}, "config."]
- [workers: {cpu: {topologySpread: [{maxSkew: 0}]}}, "/workers/cpu/topologySpread/0/maxSkew"]
# the rest
- [upgrade: {strategy: Recreate}, "/upgrade/strategy"]
- [upgrade: {deletionDelaySeconds: 60}, "upgrade.deletionDelaySeconds", "config.sessions.max_duration_s"]
- [drain: {waitSeconds: -1}, "/drain/waitSeconds"]
- [head: {cpu: 2}, "/head/cpu"]
- [security: {runAsUser: 0}, "/security/runAsUser"]
- [gateway: {enabled: true}, "gateway.hostnames"]
- [gateway: {enabled: true, hostnames: [a.example.com]}, "gateway.parentRefs"]
- [ingress: {enabled: true, tlsSecret: t}, "ingress.host"]
- [ingress: {enabled: true, host: a.example.com}, "ingress.tlsSecret"]
- [monitoring: {interval: often}, "/monitoring/interval"]
"""
"""One mapping of values and the words that the refusal holds, a line."""


@pytest.mark.parametrize("case", yaml.safe_load(WRONG), ids=lambda case: "-".join(case[1:]))
def test_a_wrong_value_is_refused_by_name(case: list[Any]) -> None:
    values, *words = case
    if {"gateway", "ingress"} & values.keys() and "tenants.mode" not in words:
        values = {**values, "tenants": TENANTS}
    with pytest.raises(HelmError) as refused:
        render(values)
    message = str(refused.value).replace("'", "")
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    "values",
    [
        {"workers": {"cpu": {"minReplicas": 3}}},
        {"config": {"denoiser": {"num_gpus": 1}}, **GPU},
        {"config": {"pools": {"gold": {"num_gpus": 1}}}, "workers": {"cpu": {}, "gold": {"gpus": 1, "pool": "gold"}}},
        {"config": {"preset": "soulx-liveact-18b", "denoiser": {"num_gpus": 1, "ranks": 2}}, **GPU, **UNTRAINED},
        {"config": {"denoiser": {"ranks": 3}}},
        {"config": {"denoiser": {"num_gpus": 1, "node_labels": {"rack": "7"}}}},
        {"config": {"sessions": {"max_duration_s": 600}}, "upgrade": {"deletionDelaySeconds": 600}},
        {"redis": ELSEWHERE},
        {
            "redis": {"bundled": {"enabled": False}, "external": {"url": "redis://a"}},
            "ray": {"gcsFaultTolerance": False},
        },
        {"tenants": TENANTS, "ingress": {"enabled": True, "host": "a.example.com", "tlsSecret": "t"}},
        {"global": {"anything": 1}},
    ],
)
def test_right_values_beside_them_are_accepted(values: dict[str, Any]) -> None:
    render(values)


def test_there_are_enough_of_them_and_none_twice() -> None:
    cases = [repr(case[0]) for case in yaml.safe_load(WRONG)]
    assert len(cases) == len(set(cases)) >= 30
