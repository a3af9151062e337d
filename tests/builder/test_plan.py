import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.plan import Cluster, plan
from schemas.specs import CaptionerSpec, EndpointSpec


def spec(name: str, gpus: float, cpus: int = 1) -> CaptionerSpec:
    return CaptionerSpec(name=name, repo="org/x", num_gpus=gpus, num_cpus=cpus)


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=12),
    st.sampled_from([Cluster(2, 0), Cluster(16, 4), Cluster(64, 8), Cluster(512, 64)]),
    st.integers(0, 100_000),
)
def test_every_model_with_rows_is_served_once_and_no_wave_exceeds_the_cluster(gpus, cluster, rows):
    specs = {f"m{n}": spec(f"m{n}", g) for n, g in enumerate(gpus)}
    counts = {name: rows * (n % 3) for n, name in enumerate(specs)}
    waves = plan(specs, counts, cluster)
    served = [model for wave in waves for pool in wave for model in pool.models]
    assert sorted(served) == sorted(name for name, count in counts.items() if count)
    for wave in waves:
        assert sum(pool.actors * pool.num_gpus for pool in wave) <= cluster.gpus + 1e-9
        assert sum(pool.actors * pool.num_cpus for pool in wave) <= cluster.cpus
        assert all(pool.actors >= 1 for pool in wave)


def test_without_a_gpu_small_models_share_the_cores():
    [[pool]] = plan({"a": spec("a", 0.1), "b": spec("b", 0.1)}, {"a": 500, "b": 500}, Cluster(2, 0))
    assert pool.models == ("a", "b")
    assert (pool.actors, pool.num_cpus, pool.num_gpus) == (2, 1, 0)


def test_on_gpus_a_big_model_gets_the_larger_part_of_the_cluster_for_its_larger_work():
    [wave] = plan({"a": spec("a", 1), "b": spec("b", 1)}, {"a": 9000, "b": 1000}, Cluster(64, 8))
    actors = {pool.models: pool.actors for pool in wave}
    assert sum(actors.values()) == 8
    assert actors["a",] > actors["b",]


def test_models_that_do_not_fit_together_come_in_waves():
    waves = plan({"a": spec("a", 3), "b": spec("b", 3)}, {"a": 10, "b": 10}, Cluster(16, 4))
    assert [[pool.models for pool in wave] for wave in waves] == [[("a",)], [("b",)]]


def test_a_model_larger_than_the_cluster_is_refused():
    with pytest.raises(ValueError, match="a needs 8 GPUs for one actor and the cluster has 4"):
        plan({"a": spec("a", 8)}, {"a": 1}, Cluster(16, 4))


def test_a_server_is_asked_by_one_actor_that_takes_no_gpu_and_no_place_in_a_shared_one():
    def served(name: str, host: str) -> EndpointSpec:
        return EndpointSpec(name=name, base_url=f"http://{host}/v1", served_model="m")

    specs = {"a": served("a", "x"), "b": served("b", "x"), "c": served("c", "y"), "d": spec("d", 0.1)}
    [wave] = plan(specs, dict.fromkeys(specs, 10_000), Cluster(64, 8))
    actors = {pool.models: (pool.actors, pool.num_gpus) for pool in wave}
    assert actors["a", "b"] == actors["c",] == (1, 0)
    assert actors["d",][0] > 1
