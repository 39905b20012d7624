"""The files in cluster/, by the tools' own validators as far as those install."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER = ["aws", "gcp", "on-premise"]
KUBERAY = ["kuberay-cluster", "kuberay-job"]


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launcher_takes_the_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private import util
    from ray.autoscaler._private.local import config as local

    (config,) = read(f"{name}.yaml")
    monkeypatch.setattr(local, "sync_state", lambda *_: None, raising=False)
    prepared = util.prepare_config(copy.deepcopy(config))
    util.validate_config(prepared)
    with pytest.raises(Exception, match="no_such_field"):
        util.validate_config({**prepared, "no_such_field": 1})
    assert prepared["max_workers"] >= 1
    started = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in started and "0.0.0.0" not in started
    assert "RAY_AUTH_MODE=token" in " ".join(config["setup_commands"])
    # A driver of another Ray than the nodes' is refused, so they are pinned to this one.
    assert f"ray[default,tune]=={version('ray')}" in " ".join(config["setup_commands"])


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_takes_the_pods(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    documents = read(f"{name}.yaml")
    for document in documents:
        spec = document["spec"]
        if not document["apiVersion"].startswith("ray.io/"):
            validate.validate(document, "1.31", strict=True)
            continue
        cluster = spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec
        assert cluster["rayVersion"] == version("ray")
        assert cluster["authOptions"] == {"mode": "token"}
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = {
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"},
                "spec": group["template"]["spec"],
            }  # fmt: skip
            validate.validate(pod, "1.31", strict=True)
            (container,) = pod["spec"]["containers"]
            assert container["securityContext"]["runAsNonRoot"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
            # The storage is where the claim of this file is mounted.
            assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
            with pytest.raises(Exception, match="contaners|Additional"):
                validate.validate({**pod, "spec": {**pod["spec"], "contaners": []}}, "1.31",
                                  strict=True)  # fmt: skip


def test_kuberay_fields_are_those_of_its_definition() -> None:
    """The custom resources have no schema in a registry: names against KubeRay's API, v1."""
    job = next(document for document in read("kuberay-job.yaml") if document["kind"] == "RayJob")
    assert set(job["spec"]) <= {
        "entrypoint", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "backoffLimit", "submissionMode", "rayClusterSpec", "activeDeadlineSeconds", "suspend",
    }  # fmt: skip
    for cluster in (read("kuberay-cluster.yaml")[0]["spec"], job["spec"]["rayClusterSpec"]):
        assert set(cluster) == {
            "rayVersion", "enableInTreeAutoscaling", "authOptions", "headGroupSpec",
            "workerGroupSpecs",
        }  # fmt: skip
        (group,) = cluster["workerGroupSpecs"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(v, str) for v in cluster["headGroupSpec"]["rayStartParams"].values())


def test_the_search_of_the_job_is_one_that_the_command_line_takes() -> None:
    job = next(document for document in read("kuberay-job.yaml") if document["kind"] == "RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["nas-theseus", "search"]
    told = (ROOT / "nas_theseus" / "cli" / "commands" / "search.py").read_text()
    for option in (word for word in words if word.startswith("--")):
        name = option.removeprefix("--").replace("-", "_")
        assert re.search(rf"^    {name}: ", told, re.MULTILINE), option


def test_the_slurm_script() -> None:
    script = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    subprocess.run([tool("shellcheck"), str(script)], check=True)


def test_the_container_file() -> None:
    subprocess.run([tool("hadolint"), str(CLUSTER / "Containerfile")], check=True)


def test_the_container_file_copies_what_is_there_and_pins_this_ray() -> None:
    text = (CLUSTER / "Containerfile").read_text()
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in line.split()[:-1])
    assert f"ray[default,tune]=={version('ray')}" in text


def test_compose_keeps_to_loopback_and_holds_no_secret() -> None:
    (compose,) = read("compose.yaml")
    services = compose["services"]
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert set(service.get("depends_on", [])) <= set(services)
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            known = (
                (CLUSTER / source).exists() if source[0] == "." else source in compose["volumes"]
            )
            assert known, volume
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key or "SECRET" in key:
                assert re.fullmatch(r"\$\{\w+(:\?.*)?\}", value), key
        # A command can be listed by every user of the machine.
        assert "PASSWORD" not in str(service.get("command")) and "$" not in str(
            service.get("command")
        )


def test_no_file_opens_a_server_to_everybody() -> None:
    """0.0.0.0 only inside containers, whose ports are published on loopback or not at all."""
    inside = {"compose.yaml", *(f"{name}.yaml" for name in KUBERAY)}
    for path in CLUSTER.iterdir():
        if path.name not in {*inside, "README.md"}:
            assert "0.0.0.0" not in path.read_text(), path
