import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.catalog.resolve import model_spec
from cyclepref.builder.engine.plan import Cluster, Crew, Node, PlanError, Room, crews
from cyclepref.schemas.recipe import ModelChoice, RecipeError
from cyclepref.schemas.specs import CaptionerSpec, EndpointSpec


def spec(name: str, gpus: float, cpus: int = 1) -> CaptionerSpec:
    return CaptionerSpec(name=name, repo="org/x", num_gpus=gpus, num_cpus=cpus)


# A head without GPUs, workers with one GPU each, and one with eight.
MIXED = Cluster.of([Node(8, 0), *[Node(16, 1)] * 3, Node(96, 8)])


def placed(crew: Crew, cluster: Cluster) -> int:
    """How many hosts of a crew a cluster has room for."""
    room, count = Room(cluster), 0
    while room.take(crew):
        count += 1
    return count


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=12),
    st.sampled_from([Cluster(2, 0), Cluster(16, 4), Cluster(64, 8), Cluster(512, 64), MIXED]),
)
def test_every_model_is_in_one_crew_and_every_crew_has_a_place(gpus, cluster):
    specs = {f"m{n}": spec(f"m{n}", g) for n, g in enumerate(gpus)}
    found = crews(specs, cluster)
    assert sorted(model for crew in found for model in crew.models) == sorted(specs)
    assert all(placed(crew, cluster) >= 1 for crew in found)
    assert all(crew.num_gpus <= max(1, *(specs[model].num_gpus for model in crew.models)) for crew in found)


@given(
    st.lists(st.sampled_from([0.1, 0.5, 1.0, 2.0]), min_size=1, max_size=12),
    st.sampled_from([Cluster(16, 4), Cluster(64, 8), MIXED]),
)
def test_a_place_that_is_given_back_leaves_the_room_as_it_was_and_no_gpu_is_given_twice(gpus, cluster):
    room = Room(cluster)
    before = room.copy()
    taken = [place for g in gpus if (place := room.take(Crew(("m",), 1, g)))]
    assert sum(place.share * len(place.gpus) for place in taken) <= cluster.gpus + 1e-9
    assert all(left >= -1e-9 for free in room.gpus for left in free)
    for place in taken:
        room.give(place)
    assert room.cpus == before.cpus
    assert [pytest.approx(free) for free in room.gpus] == before.gpus


def test_a_model_larger_than_any_node_is_refused_however_many_nodes_there_are():
    cluster = Cluster.of([Node(8, 0), *[Node(16, 2)] * 4])
    with pytest.raises(
        PlanError, match=r"needs 4 GPUs on one node .* largest node has 2 \(the cluster has 8 on 5 nodes"
    ):
        crews({"a": spec("a", 4)}, cluster)


def test_hosts_are_packed_by_node_and_not_over_its_edge():
    # One GPU of each node is left over, and two halves of two nodes are no node.
    assert placed(Crew(("a",), 1, 2), Cluster.of([Node(16, 3)] * 2)) == 2


def test_a_fraction_lies_on_one_gpu():
    assert placed(Crew(("a",), 1, 0.6), Cluster(64, 4)) == 4


def test_what_needs_no_gpu_leaves_the_cores_of_gpu_nodes_alone():
    room = Room(Cluster.of([Node(4, 0), Node(4, 4)]))
    assert all(room.take(Crew(("b",), 1, 0)) for _ in range(4))
    assert all(room.take(Crew(("a",), 1, 1)) for _ in range(4))


def test_a_host_asks_for_no_more_cores_than_a_node_with_its_gpus_has():
    [crew] = crews({"a": spec("a", 1, cpus=32)}, Cluster.of([Node(64, 0), Node(16, 1)]))
    assert crew.num_cpus == 16


def test_parts_of_several_gpus_are_refused_when_the_recipe_is_read():
    with pytest.raises(RecipeError, match=r"num_gpus: .*above 1 it must be a whole number.*got 1.5"):
        model_spec(ModelChoice(model="org/x", settings={"num_gpus": 1.5}), "captioner")


def test_a_server_is_asked_by_one_host_that_takes_no_gpu_and_no_place_in_a_shared_one():
    def served(name: str, host: str) -> EndpointSpec:
        return EndpointSpec(name=name, base_url=f"http://{host}/v1", served_model="m")

    specs = {"a": served("a", "x"), "b": served("b", "x"), "c": served("c", "y"), "d": spec("d", 0.1)}
    found = {crew.models: (crew.most, crew.num_gpus) for crew in crews(specs, Cluster(64, 8))}
    assert found == {("a", "b"): (1, 0), ("c",): (1, 0), ("d",): (None, 0.1)}
