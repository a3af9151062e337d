import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.catalog.resolve import model_spec
from cyclepref.builder.engine.plan import Cluster, Node, PlanError, Room, plan
from cyclepref.schemas.recipe import ModelChoice, RecipeError
from cyclepref.schemas.specs import CaptionerSpec, EndpointSpec


def spec(name: str, gpus: float, cpus: int = 1) -> CaptionerSpec:
    return CaptionerSpec(name=name, repo="org/x", num_gpus=gpus, num_cpus=cpus)


# A head without GPUs, workers with one GPU each, and one with eight.
MIXED = Cluster.of([Node(8, 0), *[Node(16, 1)] * 3, Node(96, 8)])


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=12),
    st.sampled_from([Cluster(2, 0), Cluster(16, 4), Cluster(64, 8), Cluster(512, 64), MIXED]),
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
        room = Room(cluster)
        assert all(room.take(pool) for pool in wave)


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
    with pytest.raises(PlanError, match="a needs 8 GPUs on one node for one actor, and the largest node has 4 "):
        plan({"a": spec("a", 8)}, {"a": 1}, Cluster(16, 4))


def test_a_model_larger_than_any_node_is_refused_however_many_nodes_there_are():
    cluster = Cluster.of([Node(8, 0), *[Node(16, 2)] * 4])
    with pytest.raises(
        PlanError, match=r"needs 4 GPUs on one node .* largest node has 2 \(the cluster has 8 on 5 nodes"
    ):
        plan({"a": spec("a", 4)}, {"a": 1}, cluster)


def test_actors_are_packed_by_node_and_not_over_its_edge():
    cluster = Cluster.of([Node(16, 3)] * 2)
    [[pool]] = plan({"a": spec("a", 2)}, {"a": 100}, cluster)
    assert pool.actors == 2  # one GPU of each node is left over, and two halves of two nodes are no node
    waves = plan({"a": spec("a", 2), "b": spec("b", 2), "c": spec("c", 2)}, dict.fromkeys("abc", 9), cluster)
    assert [[pool.models for pool in wave] for wave in waves] == [[("a",), ("b",)], [("c",)]]


def test_a_fraction_lies_on_one_gpu():
    [[pool]] = plan({"a": spec("a", 0.6)}, {"a": 100}, Cluster(64, 4))
    assert pool.actors == 4


def test_what_needs_no_gpu_leaves_the_cores_of_gpu_nodes_alone():
    cluster = Cluster.of([Node(4, 0), Node(4, 4)])
    [wave] = plan({"a": spec("a", 1), "b": spec("b", 0)}, {"a": 4, "b": 4}, cluster)
    assert {pool.models: pool.actors for pool in wave} == {("a",): 4, ("b",): 4}


def test_an_actor_asks_for_no_more_cores_than_a_node_with_its_gpus_has():
    [[pool]] = plan({"a": spec("a", 1, cpus=32)}, {"a": 9}, Cluster.of([Node(64, 0), Node(16, 1)]))
    assert (pool.num_cpus, pool.actors) == (16, 1)


def test_parts_of_several_gpus_are_refused_when_the_recipe_is_read():
    with pytest.raises(RecipeError, match=r"num_gpus: .*above 1 it must be a whole number.*got 1.5"):
        model_spec(ModelChoice(model="org/x", settings={"num_gpus": 1.5}), "captioner")


def test_a_server_is_asked_by_one_actor_that_takes_no_gpu_and_no_place_in_a_shared_one():
    def served(name: str, host: str) -> EndpointSpec:
        return EndpointSpec(name=name, base_url=f"http://{host}/v1", served_model="m")

    specs = {"a": served("a", "x"), "b": served("b", "x"), "c": served("c", "y"), "d": spec("d", 0.1)}
    [wave] = plan(specs, dict.fromkeys(specs, 10_000), Cluster(64, 8))
    actors = {pool.models: (pool.actors, pool.num_gpus) for pool in wave}
    assert actors["a", "b"] == actors["c",] == (1, 0)
    assert actors["d",][0] > 1
