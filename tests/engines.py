"""Fixtures of the tests that run on every engine: a real cluster of two nodes, a runner on it, and a run without disturbance."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from curate.core.contracts import Runner
from curate.runners.local.runner import LocalRunner
from tests.clusters import Cluster, has_java, ray_cluster, spark_cluster
from tests.running import RECIPE, Setup, run_job, written
from tests.s3 import environment_of

ON_CLUSTERS = pytest.mark.parametrize("engine", ["ray", "spark"], indirect=True)
ON_RAY = pytest.mark.parametrize("engine", ["ray"], indirect=True)
ON_SPARK = pytest.mark.parametrize("engine", ["spark"], indirect=True)

FEWER = "\n".join(line for line in RECIPE.splitlines() if "image_reuse" not in line and "common_ngrams" not in line)
"""The demo's recipe with two corpus counts, which an engine takes seconds to start for; all kinds have a test of their own."""


@pytest.fixture(scope="module", params=["local", "ray", "spark"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    # asked by name: Ray reads the cluster's token when it is imported
    if find_spec({"local": "pebble", "ray": "ray", "spark": "pyspark"}[name]) is None:
        pytest.skip(f"needs the extra {name}")
    if name == "spark" and not has_java():
        pytest.skip("needs Java 17")
    return name


@pytest.fixture(scope="module")
def cluster(engine: str, curate_cache: Path, s3_server: str) -> Iterator[Cluster | None]:
    """Start a cluster whose nodes reach the S3 server; None for the runner that needs none."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment_of(s3_server).items():
            patch.setenv(name, value)
        if engine == "local":
            yield None
            return
        with ray_cluster() if engine == "ray" else spark_cluster() as found:
            for name, value in found.environment().items():
                patch.setenv(name, value)
            yield found


@pytest.fixture(scope="module")
def runner(engine: str, cluster: Cluster) -> Iterator[Runner]:
    """Return a runner that finds the cluster by what is in the environment."""
    if engine == "local":
        with LocalRunner(2) as here:
            yield here
    elif engine == "ray":
        from curate.runners.ray.runner import RayRunner

        with RayRunner() as on_ray:
            yield on_ray
    else:
        from curate.runners.spark.runner import SparkRunner

        with SparkRunner() as on_spark:
            yield on_spark


@pytest.fixture(scope="module")
def setup(demo: Path) -> Setup:
    return Setup(FEWER, sorted((demo / "pairs").glob("*.tar")), (f"eval_overlap.sets={demo / 'eval'}",))


@pytest.fixture(scope="module")
def undisturbed(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what a run in this process writes that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run_job(setup, out)
    return written(out)


@pytest.fixture
def line(engine: str, setup: Setup, tmp_path: Path) -> list[object]:
    """Return the arguments of the command that runs the setup into `out`."""
    (tmp_path / "recipe.yaml").write_text(setup.recipe)
    settings = [part for override in setup.overrides for part in ("--set", override)]
    return ["run", tmp_path / "recipe.yaml", *setup.inputs, "--out", tmp_path / "out", "--runner", engine, *settings]
