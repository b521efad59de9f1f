"""The chart's values, typed: values.yaml, values.schema.json and the reference in the README are made of this."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from liveact_services import __version__
from liveact_services.cluster.pods import (
    Group,
    Head,
    Image,
    Labels,
    Name,
    Placement,
    Quantity,
    SecretKey,
    Strict,
    Verbatim,
    WorkerGroup,
)

PATH = r"^[^/].*$|^$"


class ObjectStore(Strict):
    """Weights in an object store, fetched by an init container of the service's own image."""

    url: Annotated[str, Field(pattern=r"^(https|s3|gs)://.+$")] | None = None
    """The folder: https://..., s3://bucket/path or gs://bucket/path. In it lies SHA256SUMS, as sha256sum writes it."""
    sums_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that SHA256SUMS: it fixes every byte of every file."""
    credentials_secret: Name | None = None
    """A Secret whose keys become the init container's environment, as AWS_ACCESS_KEY_ID or WEIGHTS_AUTHORIZATION."""


class Weights(Strict):
    """Where the model's weights come from."""

    source: Literal["shipped", "untrained", "claim", "image", "objectStore"] = "shipped"
    """The small model in the image; random ones; a volume; an image that holds them; an object store."""
    path: Annotated[str, Field(pattern=PATH)] = ""
    """The checkpoint's folder in the volume, image or object store."""
    claim: Name | None = None
    """A PersistentVolumeClaim that many pods can read: ReadOnlyMany or ReadWriteMany."""
    image: Image | None = None
    """An image that holds weights, and cp."""
    image_path: Annotated[str, Field(pattern=r"^/.+$")] = "/weights"
    """Where in that image."""
    object_store: ObjectStore = ObjectStore()
    size: Quantity = "100Gi"
    """Room on each node for what an image or object store gives."""


class Tenants(Strict):
    """Who may call (docs/tenants.md)."""

    mode: Literal["everybody", "directory", "existingSecret"] = "everybody"
    """Everybody who reaches the port, without quotas; or the tenants of `directory` or of a Secret. Behind `gateway` or `ingress`
    everybody is refused."""
    directory: str | None = None
    """The YAML of docs/tenants.md; the chart makes a Secret of it. Keys stand in it as hashes."""
    existing_secret: Name | None = None
    """A Secret whose keys end in .yaml; the service takes over changes by itself."""


class BundledValkey(Strict):
    """One Valkey for trials: no replica, no backup."""

    enabled: bool = True
    image: Image = Image(repository="docker.io/valkey/valkey", tag="9.1-alpine")
    cpu: Quantity = "500m"
    memory: Quantity = "1Gi"
    """Limit. Valkey is told to use three quarters of it; `memory` needs a unit of Mi or Gi."""
    storage: Quantity = "8Gi"
    storage_class_name: str | None = None
    """Null: the cluster's default."""


class ExternalRedis(Strict):
    """The sessions' Redis, 6.2 or newer, where it is not the bundled one."""

    url: Annotated[str, Field(pattern=r"^(redis|rediss)(\+sentinel)?://.+$")] | None = None
    """redis://user:password@host:6379/0, rediss:// for TLS, redis+sentinel://user:password@s1:26379,s2:26379/master/0 and
    rediss+sentinel://. The chart makes a Secret of it."""
    existing_secret: SecretKey = SecretKey(key="url")
    """Instead of `url`: a Secret that holds it."""
    ca_secret: SecretKey = SecretKey(key="ca.crt")
    """The authority of its certificate, mounted; the URL names it as ?ssl_ca_certs=/etc/liveact/redis-ca/ca.crt."""


class GcsRedis(Strict):
    """Ray's own Redis, for `ray.gcsFaultTolerance`, where it is not the bundled one."""

    address: Annotated[str, Field(pattern=r"^(redis://|rediss://)?[^/@]+:[0-9]+$")] | None = None
    """host:6379, or rediss://host:6379 for TLS; no user, no password, no database."""
    username: str | None = None
    existing_secret: SecretKey = SecretKey(key="password")
    """The password."""


class Redis(Strict):
    """Session records, and what Ray's head would forget."""

    bundled: BundledValkey = BundledValkey()
    external: ExternalRedis = ExternalRedis()
    gcs: GcsRedis = GcsRedis()


class Ray(Strict):
    """The Ray cluster as a whole."""

    auth_secret: Name | None = None
    """A Secret whose auth_token every call inside the cluster carries; null: the chart makes one and keeps it."""
    gcs_fault_tolerance: bool = True
    """A head that dies comes back with what it knew; running streams go on meanwhile."""


class Autoscaler(Strict):
    """Ray's autoscaler, version 2: pods for replicas that have no room. How many replicas: `config.*.autoscaling`."""

    enabled: bool = False
    idle_timeout_seconds: Annotated[int, Field(ge=1)] = 300
    """After how long an empty pod goes."""
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"] = "Default"
    cpu: Quantity = "500m"
    memory: Quantity = "1Gi"


class Upgrade(Strict):
    """What happens when the cluster's shape or image changes."""

    strategy: Literal["NewCluster", "None"] = "NewCluster"
    """A new cluster beside the old, and traffic to it once it serves; or nothing until the old is deleted."""
    deletion_delay_seconds: Annotated[int, Field(ge=60)] | None = None
    """How long the old cluster stays for its sessions; null: `config.sessions.max_duration_s`. Less would cut sessions, and is
    refused."""


class Drain(Strict):
    """A pod that is told to go."""

    wait_seconds: Annotated[int, Field(ge=0, le=86400)] = 3600
    """Its preStop has sessions and streams leave it, and waits so long at most until none is left."""


class Service(Strict):
    """The Service that KubeRay makes: ports serve (HTTP, health) and serve-grpc."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    annotations: Labels = {}


class ParentRef(Strict):
    """A Gateway that exists."""

    name: Name
    namespace: Name | None = None
    section_name: Name | None = None


class Gateway(Strict):
    """Gateway API: a GRPCRoute, and a Gateway that ends TLS where none exists."""

    enabled: bool = False
    hostnames: list[Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]] = []
    """Names clients call."""
    parent_refs: list[ParentRef] = []
    """Gateways that exist and end TLS; none: `className` and `tlsSecret` make one."""
    class_name: str | None = None
    """The GatewayClass of a Gateway of this release's own."""
    tls_secret: Name | None = None
    """Its certificate, a Secret of type kubernetes.io/tls."""
    annotations: Labels = {}


class Ingress(Strict):
    """An Ingress that ends TLS; the controller must speak HTTP/2 to its backends, which `annotations` tell it."""

    enabled: bool = False
    class_name: str | None = None
    host: Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] | None = None
    tls_secret: Name | None = None
    """The certificate, a Secret of type kubernetes.io/tls."""
    annotations: Labels = {"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"}


class NetworkPolicy(Strict):
    """Who reaches what: Ray's own ports are for Ray and KubeRay, Valkey is for Ray."""

    enabled: bool = True
    operator_namespace: Name = "kuberay-system"
    """Where KubeRay runs: it asks the head."""
    clients: list[Verbatim] = [{"podSelector": {}}]
    """NetworkPolicyPeers that may stream: your Gateway's or ingress controller's pods. By default all of this namespace."""
    monitoring: list[Verbatim] = []
    """NetworkPolicyPeers that may read metrics."""
    restrict_egress: bool = False
    """Ray's pods reach one another, DNS, Redis and what `egress` names, and nothing else."""
    egress: list[Verbatim] = []
    """NetworkPolicyEgressRules beside those: an external Redis, the Kubernetes API for the autoscaler, an object store,
    issuers."""


class PriorityClasses(Strict):
    """Two PriorityClasses of this release's own. They are cluster-wide objects."""

    create: bool = False
    head: Annotated[int, Field(le=1000000000)] = 100000
    worker: Annotated[int, Field(le=1000000000)] = 90000


class Monitoring(Strict):
    """A PodMonitor for Ray's metrics port, alerts and a dashboard; the first two need the Prometheus operator."""

    enabled: bool = False
    interval: Annotated[str, Field(pattern=r"^[0-9]+(ms|s|m)$")] = "15s"
    labels: Labels = {}
    """What your Prometheus selects by, on PodMonitor and PrometheusRule."""
    alerts: bool = True
    """With `enabled`: a PrometheusRule of the alerts in docs/runbook.md."""
    dashboards: bool = False
    """A ConfigMap with the dashboard, for Grafana's sidecar; does not need `enabled`."""
    dashboard_labels: Labels = {"grafana_dashboard": "1"}
    """What the sidecar selects by."""


class Watcher(Placement):
    """A pod that has sessions leave nodes which are cordoned, tainted for deletion or reclaimed: it evicts their workers."""

    enabled: bool = True
    """Needs a ClusterRole that may list and watch nodes; without it only `liveact cluster drain` does this."""
    taints: list[Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+(/[-._a-zA-Z0-9]*)?$")]] = []
    """Taints beside the known ones that say a node is about to go; one that ends in a slash stands for all that begin so."""


class Security(Strict):
    """Pods run without privileges, on a read-only root, as this user."""

    run_as_user: Annotated[int, Field(ge=1)] = 10001
    run_as_group: Annotated[int, Field(ge=1)] = 10001
    fs_group: Annotated[int, Field(ge=1)] = 10001


class Test(Placement):
    """`helm test`: a pod that streams the clip of the image through the service."""

    token_secret: SecretKey = SecretKey(key="token")
    """An API key of docs/tenants.md; needed unless everybody may call."""
    pacing: Literal["realtime", "fastest"] = "realtime"
    timeout_seconds: Annotated[int, Field(ge=10)] = 300


class Values(Strict):
    """Everything that can be set."""

    name_override: Annotated[str, Field(max_length=30)] | None = None
    """Instead of the chart's name in the names of objects."""
    fullname_override: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")] | None = None
    """The whole name; at most 40 characters, since KubeRay appends to it."""
    common_labels: Labels = {}
    """On every object."""
    image: Image = Image(repository="ghcr.io/example/liveact-serve-cpu", tag=__version__)
    """For the head and groups without GPUs (docker/cpu.Dockerfile). No registry publishes it: name yours."""
    gpu_image: Image = Image(repository="ghcr.io/example/liveact-serve-gpu", tag=__version__)
    """For groups with GPUs (docker/gpu.Dockerfile)."""
    image_pull_secrets: list[Name] = []
    extra_env: list[Verbatim] = []
    """Environment of every Ray container, as Kubernetes writes it. LIVEACT_... fields lie under `config`."""
    config: dict[str, Any] = {}
    """The service's own configuration, the fields of `liveact config show`. Not here: `checkpoint` (see `weights`), `tenants`,
    `redis_url`, `data_dir`, `cluster`, `host` and the ports, which the chart sets."""
    weights: Weights = Weights()
    tenants: Tenants = Tenants()
    redis: Redis = Redis()
    ray: Ray = Ray()
    head: Head = Head()
    worker_defaults: WorkerGroup = WorkerGroup()
    """What a group of `workers` does not say."""
    workers: dict[Group, WorkerGroup] = {"cpu": WorkerGroup()}
    """Groups by name, each with the fields of `workerDefaults`. A group set to null is removed."""
    autoscaler: Autoscaler = Autoscaler()
    upgrade: Upgrade = Upgrade()
    drain: Drain = Drain()
    service: Service = Service()
    gateway: Gateway = Gateway()
    ingress: Ingress = Ingress()
    network_policy: NetworkPolicy = NetworkPolicy()
    priority_classes: PriorityClasses = PriorityClasses()
    monitoring: Monitoring = Monitoring()
    watcher: Watcher = Watcher()
    security: Security = Security()
    service_account_annotations: Labels = {}
    """On the accounts of head and workers, for clouds that give roles so."""
    test: Test = Test()
