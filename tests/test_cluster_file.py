"""ray_cluster.yaml is checked by the code that `ray up` checks it with, and for what CyclePref needs of a cluster."""

import copy
import json
import os
import re
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cyclepref.builder.engine.nodes import launcher_workers, waiting_told
from cyclepref.builder.engine.plan import Node

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "ray_cluster.yaml").read_text()
COMMANDS = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def config() -> dict:
    return yaml.safe_load(TEXT)


def check(config: dict) -> dict:
    """Ray's own preparation and validation: the config as `ray up` would use it."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_rays_own_schema_accepts_the_file_as_it_is_written(config):
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(config)


def test_ray_up_would_accept_the_file(config):
    assert check(config)["cluster_name"] == "cyclepref"


@pytest.mark.parametrize("place", [(), ("auth",), ("available_node_types", "gpu")], ids=["top", "auth", "node type"])
def test_a_misspelt_key_is_refused(config, place):
    section = config
    for step in place:
        section = section[step]
    section["max_wrokers"] = 1
    with pytest.raises(jsonschema.ValidationError, match="'max_wrokers' was unexpected"):
        check(config)


def test_a_head_type_that_does_not_exist_is_refused(config):
    with pytest.raises((KeyError, ValueError), match="head_node_type"):
        check(config | {"head_node_type": "haed"})


def test_workers_scale_from_none_to_a_limit_and_all_have_gpus(config):
    prepared = check(config)
    head = prepared["head_node_type"]
    workers = {name: node for name, node in prepared["available_node_types"].items() if name != head}
    assert workers
    assert prepared["available_node_types"][head]["resources"]["GPU"] == 0
    for name, node in workers.items():
        assert node["resources"]["GPU"] > 0, name
        assert 0 <= node["min_workers"] <= node["max_workers"] <= prepared["max_workers"], name
    assert any(node["max_workers"] > 0 for node in workers.values())


def test_a_build_on_the_head_plans_for_the_workers_that_may_come(config, tmp_path):
    # `ray up` leaves the prepared file on the head as JSON.
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"
    bootstrap.write_text(json.dumps(check(config)))
    gpu = config["available_node_types"]["gpu"]
    node = Node(gpu["resources"]["CPU"], gpu["resources"]["GPU"])
    assert launcher_workers(bootstrap) == [node] * gpu["max_workers"]
    assert launcher_workers(tmp_path / "no such file") == []


def test_a_build_plans_for_no_more_workers_than_the_file_allows_in_all(config, tmp_path):
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"
    types = config["available_node_types"]
    large = types["gpu_large"] | {"max_workers": 1}
    bootstrap.write_text(json.dumps(check(config | {"available_node_types": types | {"gpu_large": large}})))
    workers = launcher_workers(bootstrap)
    assert len(workers) == config["max_workers"]
    assert [node.gpus for node in workers] == [8, 1, 1, 1]


def test_what_no_node_has_is_told_while_a_build_waits_for_it(capsys):
    with waiting_told(lambda: "1 GPUs and 4 CPU cores for flux", every_s=0.01):
        time.sleep(0.2)
    with waiting_told(lambda: "", every_s=0.01):
        time.sleep(0.1)
    told = capsys.readouterr().err.splitlines()
    assert set(told) == {"waiting: no node that is up has 1 GPUs and 4 CPU cores for flux"}


def test_all_nodes_boot_the_same_image(config):
    images = {node["node_config"]["ImageId"] for node in config["available_node_types"].values()}
    assert len(images) == 1


def test_every_file_that_the_nodes_install_from_is_there(config):
    mounted = {remote: local for remote, local in config["file_mounts"].items() if not local.startswith("~")}
    assert all((ROOT / local).exists() for local in mounted.values())
    project = {Path(remote).relative_to("/home/ubuntu/cyclepref").as_posix() for remote in mounted}
    assert {"pyproject.toml", "schemas", "builder", "jobs"} <= project


@pytest.mark.parametrize("section", COMMANDS)
def test_every_command_is_valid_shell(config, section):
    for command in config[section]:
        assert subprocess.run(["bash", "-n", "-c", command], capture_output=True).stderr == b"", command


def test_every_node_starts_with_the_shared_token_and_all_its_threads(config, tmp_path):
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [c for section in COMMANDS[1:] for c in config[section] if "ray start" in c]
    assert len(starts) == 2
    assert all(command.startswith("source ~/ray_env.sh && ") for command in starts)

    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    write = next(c for c in config["setup_commands"] if c.endswith("> ~/ray_env.sh"))
    # The launcher runs every command with one OpenMP thread.
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    script = f"{write} && source ~/ray_env.sh && env"
    output = subprocess.run(["bash", "-c", script], env=home, capture_output=True, text=True, check=True).stdout
    assert "RAY_AUTH_MODE=token" in output.splitlines()
    assert "OMP_NUM_THREADS" not in output


def test_the_job_api_listens_on_the_heads_loopback_only(config):
    (start,) = (c for c in config["head_start_ray_commands"] if "ray start" in c)
    assert "--dashboard-host=127.0.0.1" in start


def test_the_file_holds_no_secret(config):
    assert not re.search(r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{40,}\b", TEXT)
    assert not re.search(r"(TOKEN|SECRET|PASSWORD|ACCESS_KEY)\w*\s*[=:]\s*['\"]?[A-Za-z0-9]", TEXT)
