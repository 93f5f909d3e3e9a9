"""jobs/: scripts and manifests for clusters that are not here, linted, and run against stand-ins that record their calls."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curate.cli import main
from curate.commands import options
from curate.planning import loader as recipes

ROOT = Path(__file__).parents[1]
JOBS = ROOT / "jobs"
SCRIPTS = sorted(path for ending in ("*.sh", "*.sbatch") for path in JOBS.rglob(ending))
RAYJOB = JOBS / "kuberay" / "rayjob.yaml"
RUNTIME_ENV = JOBS / "ray" / "runtime_env.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed: pip install -c constraints.txt -e '.[dev]'"
    return found


def parsed(line: list[str]) -> options.Run:
    """Parse `curate run ...` as the command line does, with the recipe and its settings. Raises what a user would be told."""
    assert line[:2] == ["curate", "run"]
    given = options.Run(**main.commands["run"].make_context("run", line[2:]).params)
    recipes.load(given.recipe, given.overrides, given.models)
    return given


# Every file ----------------------------------------------------------------------------------------------------------


def test_the_readme_has_a_row_for_every_file_and_no_other() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (JOBS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    files = {path.relative_to(JOBS).as_posix() for path in JOBS.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert sorted(rows) == sorted(files - {"README.md"})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_nothing_that_shellcheck_would_say(script: Path) -> None:
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    assert subprocess.run([tool("shellcheck"), "--severity=style", script], capture_output=True, text=True).stdout == ""


# The scripts at work -------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A folder with stand-ins for the programs of a cluster; each call leaves a file NAME.PID with its arguments."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "calls").mkdir()
        (self.folder / "bin").mkdir()

    def stand_in(self, name: str, does: str = "") -> None:
        path = self.folder / "bin" / name
        path.write_text(f"""#!/usr/bin/env bash
env > "$CALLS/env.$$"
printf '%s\\n' "$@" > "$CALLS/{name}.$$.new" && mv "$CALLS/{name}.$$.new" "$CALLS/{name}.$$"
{does}
""")
        path.chmod(0o755)

    def run(self, script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        found = {"PATH": path, "HOME": str(self.folder), "CALLS": str(self.folder / "calls"), **variables}
        line: list[str | Path] = ["bash", script, *arguments]
        return subprocess.run(line, env=found, cwd=self.folder, capture_output=True, text=True, timeout=60)

    def calls(self, name: str) -> list[list[str]]:
        return [path.read_text().splitlines() for path in sorted((self.folder / "calls").glob(f"{name}.*"))]

    def processes(self, name: str) -> list[int]:
        return [int(path.suffix[1:]) for path in (self.folder / "calls").glob(f"{name}.*")]

    def seen(self, variable: str) -> set[str | None]:
        texts = [path.read_text() for path in (self.folder / "calls").glob("env.*")]
        return {dict(line.partition("=")[::2] for line in text.splitlines()).get(variable) for text in texts}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    found = Stage(tmp_path)
    for name in ("ray", "spark-submit", "curate"):
        found.stand_in(name)
    return found


FILLED = {
    "RECIPE": "align",
    "INPUT": "s3://bucket/crawl",
    "OUT": "s3://bucket/curated",
    "RAY_API_SERVER_ADDRESS": "http://head:8265",
    "MASTER": "spark://head:7077",
    "ENVIRONMENT": "/packed/curate.tar.gz",
    "EVENT_LOG": "s3a://bucket/events",
    "IMAGE": "registry.example/spark",
    "UPLOAD": "s3a://bucket/spark",
    "VENV": "/shared/venv",
}
MORE = ("--set", "min_side.larger_than=256")
ASKED = ["run", "align", "s3://bucket/crawl", "--out", "s3://bucket/curated"]
NEEDED = [(script, name) for script in SCRIPTS for name in re.findall(r'^: "\$\{(\w+):\?', script.read_text(), re.MULTILINE)]


@pytest.mark.parametrize(("script", "name"), NEEDED, ids=lambda value: getattr(value, "name", value))
def test_a_variable_that_is_not_filled_in_is_asked_for_and_nothing_is_started(script: Path, name: str, stage: Stage) -> None:
    done = stage.run(script, **{other: value for other, value in FILLED.items() if other != name})
    assert done.returncode != 0
    assert f"{name}: " in done.stderr
    assert [*(stage.folder / "calls").iterdir()] == []


@pytest.mark.parametrize("environment", [None, ""])
def test_ray_is_given_the_command_as_a_job(environment: str | None, stage: Stage) -> None:
    variables = FILLED if environment is None else {**FILLED, "RUNTIME_ENV": environment}
    assert stage.run(JOBS / "ray" / "submit.sh", *MORE, **variables).returncode == 0
    [call] = stage.calls("ray")
    before, line = call[: call.index("--")], call[call.index("--") + 1 :]
    assert before == ["job", "submit", *(["--runtime-env", "jobs/ray/runtime_env.yaml"] if environment is None else [])]
    assert line == ["curate", *ASKED, "--runner", "ray", *MORE]
    assert parsed(line).runner == "ray"
    assert stage.seen("RAY_AUTH_MODE") == {"token"}
    assert stage.seen("PWD") == {str(ROOT)}  # where the paths of the runtime environment begin


def submitted(script: str, stage: Stage, **variables: str) -> tuple[dict[str, list[str]], list[str]]:
    """Run a script of Spark; return spark-submit's options, and what comes after them."""
    assert stage.run(JOBS / "spark" / script, *MORE, **FILLED, **variables).returncode == 0
    [call] = stage.calls("spark-submit")
    file = call.index(str(JOBS / "spark" / "main.py"))
    found: dict[str, list[str]] = {}
    for name, value in zip(call[:file:2], call[1:file:2], strict=True):
        found.setdefault(name, []).append(value)
    assert found["--properties-file"] == [str(JOBS / "spark" / "spark.conf")]
    assert stage.seen("PWD") == {str(stage.folder)}  # where the paths that were filled in begin
    return found, call[file + 1 :]


@pytest.mark.parametrize("script", ["standalone.sh", "kubernetes.sh"])
def test_spark_is_given_the_command_and_the_packed_environment(script: str, stage: Stage) -> None:
    given, line = submitted(script, stage)
    assert line == [*ASKED, "--runner", "spark", *MORE]
    assert given["--master"] == ["spark://head:7077"]
    assert given["--archives"] == ["/packed/curate.tar.gz#environment"]
    assert "spark.pyspark.python=./environment/bin/python" in given["--conf"]
    assert "spark.eventLog.dir=s3a://bucket/events" in given["--conf"]
    assert ("--deploy-mode" in given) == (script == "kubernetes.sh")  # a standalone cluster takes no Python driver
    assert ("spark.pyspark.driver.python=python3" in given["--conf"]) == (script == "standalone.sh")


@pytest.mark.parametrize(
    ("script", "where"), [("standalone.sh", ["executorEnv"]), ("kubernetes.sh", ["executorEnv", "kubernetes.driverEnv"])]
)
def test_spark_puts_newer_code_before_the_packed_one(script: str, where: list[str], stage: Stage) -> None:
    given, _ = submitted(script, stage, CODE="code.zip")
    assert given["--archives"] == ["/packed/curate.tar.gz#environment,code.zip#code"]
    found = [setting for setting in given["--conf"] if "PYTHONPATH" in setting]
    assert found == [f"spark.{one}.PYTHONPATH=code" for one in where]


@pytest.mark.parametrize("script", ["standalone.sh", "kubernetes.sh"])
def test_the_command_that_spark_starts_is_one_of_ours(script: str, stage: Stage) -> None:
    assert parsed(["curate", *submitted(script, stage)[1]]).runner == "spark"


def test_kubernetes_gives_driver_and_executors_the_keys_as_secrets(stage: Stage) -> None:
    keys = {setting for setting in submitted("kubernetes.sh", stage)[0]["--conf"] if "secretKeyRef" in setting}
    wanted = [(role, key) for role in ("driver", "executor") for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    assert keys == {f"spark.kubernetes.{role}.secretKeyRef.{key}=curate-s3:{key}" for role, key in wanted}


def spark_conf() -> dict[str, str]:
    lines = (JOBS / "spark" / "spark.conf").read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def test_no_setting_of_spark_is_made_twice(stage: Stage) -> None:
    given, _ = submitted("kubernetes.sh", stage)
    names = [setting.partition("=")[0] for setting in given["--conf"]]
    assert len({*names, *spark_conf()}) == len(names) + len(spark_conf())


@pytest.mark.skipif(find_spec("pyspark") is None, reason="needs the extra spark")
def test_spark_knows_every_setting(stage: Stage) -> None:
    """A misspelled one would be passed over in silence."""
    given, _ = submitted("kubernetes.sh", stage, CODE="code.zip")
    names = {*spark_conf(), *(setting.partition("=")[0] for setting in given["--conf"])}
    spec = find_spec("pyspark")
    assert spec is not None and spec.origin is not None
    constants = b""
    for part, folder in (("core", "internal/config"), ("core", "SparkConf"), ("kubernetes", "deploy/k8s/Config")):
        [path] = (Path(spec.origin).parent / "jars").glob(f"spark-{part}_*.jar")
        with zipfile.ZipFile(path) as jar:
            wanted = [name for name in jar.namelist() if name.startswith(f"org/apache/spark/{folder}")]
            constants += b"".join(map(jar.read, wanted))
    assert [name for name in names if not in_parts(name, constants)] == []


def in_parts(name: str, constants: bytes) -> bool:
    """Return whether a setting is among the strings of Spark's code: whole, in two, or what stands before a variable's name."""
    prefix = re.sub(r"(\.(secretKeyRef|executorEnv|driverEnv)\.).*", r"\1", name)
    dots = [found.start() for found in re.finditer(r"\.", name)]
    return prefix.encode() in constants or any(
        name[:dot].encode() in constants and name[dot:].encode() in constants for dot in dots
    )


def test_the_file_for_spark_submit_runs_the_command_but_not_in_its_child_processes() -> None:
    path = JOBS / "spark" / "main.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, path, "run", "--help"], env=environment, capture_output=True)
    assert found.returncode == 0
    assert b"--runner" in found.stdout
    runpy.run_path(str(path), run_name="__mp_main__")  # as multiprocessing does it


# Slurm ---------------------------------------------------------------------------------------------------------------

SBATCH = JOBS / "slurm" / "ray.sbatch"


@pytest.fixture
def slurm(stage: Stage) -> Iterator[Stage]:
    """A job of three nodes; as many have joined as `ray start` was started on, each until it is ended."""
    stage.stand_in("scontrol", "printf '%s\\n' node1 node2 node3")
    stage.stand_in("srun", "exec tail -f /dev/null")
    stage.stand_in("ray", 'for file in "$CALLS"/srun.*; do [[ $file == *.new ]] || printf \'{"node_id": "x"}, \'; done')
    stage.stand_in("sleep")
    stage.stand_in("curate", 'exit "$CURATE_EXIT"')
    yield stage
    running(stage)


def batch(slurm: Stage, **variables: str) -> subprocess.CompletedProcess[str]:
    job = {"SLURM_JOB_NODELIST": "node[1-3]", "SLURM_CPUS_ON_NODE": "32", "VENV": str(slurm.folder), "CURATE_EXIT": "0"}
    return slurm.run(SBATCH, *MORE, **{**FILLED, **job, **variables})


def running(slurm: Stage) -> list[int]:
    """Return which stand-ins of srun still run, and end them."""
    found = []
    for process in slurm.processes("srun"):
        try:
            os.kill(process, 9)
        except ProcessLookupError:
            continue
        found.append(process)
    return found


@pytest.mark.parametrize("code", [0, 1, 3])
def test_slurm_starts_a_head_and_the_other_nodes_and_ends_them_with_the_commands_exit_code(code: int, slurm: Stage) -> None:
    done = batch(slurm, CURATE_EXIT=str(code))
    assert running(slurm) == []
    assert done.returncode == code, done.stderr
    starts = {next(part for part in call if part.startswith("--nodelist=")): call for call in slurm.calls("srun")}
    assert sorted(starts) == ["--nodelist=node1", "--nodelist=node2", "--nodelist=node3"]
    assert len(slurm.calls("srun")) == 3
    assert all(call[call.index("ray") :][:3] == ["ray", "start", "--block"] for call in starts.values())
    heads = [name for name, call in starts.items() if "--head" in call and "--port=6379" in call]
    workers = [name for name, call in starts.items() if "--address=node1:6379" in call]
    assert (heads, sorted(workers)) == (["--nodelist=node1"], ["--nodelist=node2", "--nodelist=node3"])
    [line] = slurm.calls("curate")
    assert line == [*ASKED, "--runner", "ray", *MORE]
    assert parsed(["curate", *line]).address == "auto"
    assert slurm.seen("RAY_ADDRESS") >= {"node1:6379"}


def test_slurm_gives_a_job_a_token_of_its_own(slurm: Stage) -> None:
    tokens = set()
    for _ in range(2):
        assert batch(slurm).returncode == 0
        tokens |= slurm.seen("RAY_AUTH_TOKEN") - {None}  # None: scontrol is asked in the same breath
    assert len(tokens) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", token or "") for token in tokens)
    assert slurm.seen("RAY_AUTH_MODE") == {"token"}


def test_slurm_gives_up_on_nodes_that_do_not_join_in_time(slurm: Stage) -> None:
    slurm.stand_in("ray", """echo '[{"node_id": "x"}]'""")
    done = batch(slurm, JOIN_SECONDS="0")
    assert running(slurm) == []
    assert done.returncode == 1
    assert "only 1 of 3 nodes" in done.stderr
    assert slurm.calls("curate") == []


def test_slurm_reads_every_directive() -> None:
    """It stops looking for them at the first command."""
    lines = SBATCH.read_text(encoding="utf-8").splitlines()
    directives = [line.startswith("#SBATCH --") for line in lines]
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert sum(directives) == sum(directives[:first_command]) > 0
    assert {"#SBATCH --requeue", "#SBATCH --exclusive"} <= set(lines)


# Ray's runtime environment -------------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
def test_ray_takes_the_runtime_environment() -> None:
    code = """if True:
        import sys, yaml
        from ray.runtime_env import RuntimeEnv
        given = yaml.safe_load(open(sys.argv[1]))
        RuntimeEnv(**given)  # checks types; keys that it does not know it keeps
        print(*set(given) - RuntimeEnv.known_fields)
    """
    found = subprocess.run([sys.executable, "-c", code, RUNTIME_ENV], cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip()) == (0, ""), found.stderr


def test_what_ray_installs_is_brought_along() -> None:
    given = yaml.safe_load(RUNTIME_ENV.read_text(encoding="utf-8"))
    left_out = {name.removeprefix("/") for name in given["excludes"]}
    assert all((ROOT / name).is_dir() for name in left_out)
    assert not left_out & {"curate", "filters", "pipelines", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    constraints, package = given["pip"]["packages"]
    here = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"
    assert constraints == f"-c {here}/constraints.txt"
    found = re.fullmatch(re.escape(here) + r"\[(.+)\]", package)
    assert found
    assert set(found[1].split(",")) <= set(PROJECT["optional-dependencies"])


# KubeRay: the fields of a RayJob and of a pod that the manifest uses, and no others ----------------------------------


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=47)]
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|k|[MGTPE]|[KMGTPE]i)?$")]
Count = Annotated[int, Field(ge=0)]


class Metadata(Strict):
    name: Name


class Amounts(Strict):
    cpu: Quantity
    memory: Quantity
    gpu: Annotated[Count, Field(alias="nvidia.com/gpu")] = 0


class Resources(Strict):
    requests: Amounts
    limits: Amounts


class Seccomp(Strict):
    type: Literal["RuntimeDefault"]


class PodSecurity(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: Annotated[int, Field(gt=0)]
    runAsGroup: Annotated[int, Field(gt=0)]
    fsGroup: Annotated[int, Field(gt=0)]
    seccompProfile: Seccomp


class Capabilities(Strict):
    drop: list[Literal["ALL"]]


class Security(Strict):
    allowPrivilegeEscalation: Literal[False]
    capabilities: Capabilities


class Variable(Strict):
    name: str
    value: str


class Secret(Strict):
    secretRef: Metadata


class Mount(Strict):
    name: Name
    mountPath: Annotated[str, Field(pattern="^/")]


class Claim(Strict):
    claimName: Name


class Volume(Strict):
    name: Name
    persistentVolumeClaim: Claim


class Toleration(Strict):
    key: str
    operator: Literal["Exists"]
    effect: Literal["NoSchedule"]


class Container(Strict):
    name: Name
    image: Annotated[str, Field(pattern=r"^[^:]+:\d+\.\d+\.\d+-(cpu|gpu)$")]
    env: list[Variable]
    envFrom: list[Secret]
    volumeMounts: list[Mount]
    securityContext: Security
    resources: Resources


class Pod(Strict):
    securityContext: PodSecurity
    volumes: list[Volume]
    containers: Annotated[list[Container], Field(min_length=1, max_length=1)]
    tolerations: list[Toleration] = []


class Template(Strict):
    spec: Pod


class Head(Strict):
    rayStartParams: dict[str, str]
    template: Template


class Workers(Head):
    groupName: Name
    replicas: Count
    minReplicas: Count
    maxReplicas: Count


class Autoscaler(Strict):
    version: Literal["v1", "v2"]
    idleTimeoutSeconds: Count
    resources: Resources


class Authentication(Strict):
    mode: Literal["token"]


class Cluster(Strict):
    rayVersion: str
    authOptions: Authentication
    enableInTreeAutoscaling: Literal[True]
    autoscalerOptions: Autoscaler
    headGroupSpec: Head
    workerGroupSpecs: list[Workers]


class Specification(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode"]
    backoffLimit: Count
    shutdownAfterJobFinishes: Literal[True]
    ttlSecondsAfterFinished: Count
    rayClusterSpec: Cluster


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: Specification


@pytest.fixture(scope="module")
def job() -> Specification:
    return RayJob.model_validate(yaml.safe_load(RAYJOB.read_text(encoding="utf-8"))).spec


def pods(job: Specification) -> dict[str, Pod]:
    groups = {group.groupName: group.template.spec for group in job.rayClusterSpec.workerGroupSpecs}
    return {"head": job.rayClusterSpec.headGroupSpec.template.spec, **groups}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("minReplicas", "minReplica"),
        ("memory: 32Gi", "memory: 32GB"),
        ("ray.io/v1", "ray.io/v1alpha1"),
        ("maxReplicas: 4", "maxReplicas: -1"),
        ('num-cpus: "0"', "num-cpus: 0"),
        ("secretRef", "secretKeyRef"),
        ("runAsUser: 10001", "runAsUser: 0"),
    ],
)
def test_the_model_of_a_rayjob_finds_a_mistake(right: str, wrong: str) -> None:
    text = RAYJOB.read_text(encoding="utf-8")
    assert right in text
    with pytest.raises(ValidationError):
        RayJob.model_validate(yaml.safe_load(text.replace(right, wrong)))


def test_kuberay_starts_a_command_of_ours(job: Specification) -> None:
    given = parsed(shlex.split(job.entrypoint))
    assert given.runner == "ray"
    assert [urls.partition("://")[0] for urls in (*given.inputs, given.out)] == ["s3", "s3"]


def test_kuberay_has_a_group_for_cores_and_one_for_gpus_that_scale(job: Specification) -> None:
    groups = {group.groupName: group for group in job.rayClusterSpec.workerGroupSpecs}
    assert all(group.minReplicas <= group.replicas <= group.maxReplicas for group in groups.values())
    assert all(group.minReplicas < group.maxReplicas for group in groups.values())
    [gpu] = groups["gpu"].template.spec.containers
    [cpu] = groups["cpu"].template.spec.containers
    assert (cpu.resources.limits.gpu, gpu.resources.limits.gpu) == (0, 1)
    assert [one.key for one in groups["gpu"].template.spec.tolerations] == ["nvidia.com/gpu"]
    assert groups["gpu"].minReplicas >= 1  # the run asks once, at its start, whether the cluster has GPUs
    assert (cpu.image.rpartition("-")[2], gpu.image.rpartition("-")[2]) == ("cpu", "gpu")
    assert job.rayClusterSpec.headGroupSpec.rayStartParams == {"num-cpus": "0"}


def test_kuberays_pods_are_whole(job: Specification) -> None:
    for pod in pods(job).values():
        [container] = pod.containers
        assert {mount.name for mount in container.volumeMounts} == {volume.name for volume in pod.volumes}
        assert container.resources.requests == container.resources.limits  # Kubernetes wants it of GPUs; Ray counts limits
        assert [one.secretRef.name for one in container.envFrom] == ["curate-s3"]
        cache = container.volumeMounts[0].mountPath
        assert all(variable.value.startswith(cache) for variable in container.env)


def test_kuberays_versions_are_those_of_the_repository(job: Specification) -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert job.rayClusterSpec.rayVersion == pinned["ray"]
    for pod in pods(job).values():
        tag = pod.containers[0].image.partition(":")[2]
        version, _, kind = tag.rpartition("-")
        assert version == PROJECT["version"]
        assert f"\nUSER {pod.securityContext.runAsUser}:" in (ROOT / "docker" / f"{kind}.Dockerfile").read_text(encoding="utf-8")
