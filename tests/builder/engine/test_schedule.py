from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_builds import I2T, T2I, cluster_of, lower_bound
from simulate import Simulation, by_kind, spread

from cyclepref.builder.engine.crew_state import Start, Stop, Work
from cyclepref.builder.engine.plan import Cluster, Node, PlanError, crews
from cyclepref.builder.engine.schedule import Schedule
from cyclepref.schemas.specs import CaptionerSpec, EndpointSpec


def spec(name: str, gpus: float, cpus: int = 1) -> CaptionerSpec:
    return CaptionerSpec(name=name, repo="org/x", num_gpus=gpus, num_cpus=cpus)


def served(name: str) -> EndpointSpec:
    return EndpointSpec(name=name, base_url="http://x/v1", served_model="m")


def test_small_models_of_all_stages_share_a_crew_as_far_as_one_gpu_goes():
    specs = {name: spec(name, gpus) for name, gpus in (("a", 1), ("b", 0.4), ("c", 0.4), ("d", 0.4), ("e", 0.1))}
    found = {crew.models: crew.num_gpus for crew in crews(specs, Cluster(64, 8))}
    assert found == {("a",): 1, ("b", "c", "e"): 0.9, ("d",): 0.4}
    assert [crew.models for crew in crews(specs, Cluster(8, 0))] == [("a",), ("b", "c", "d", "e")]


def test_a_model_larger_than_any_node_is_refused():
    with pytest.raises(PlanError, match="a needs 4 GPUs on one node for one host, and the largest node has 2 "):
        crews({"a": spec("a", 4)}, Cluster.of([Node(16, 2)] * 4))


def test_a_servers_models_never_get_a_second_host():
    specs = {"a": served("a"), "b": served("b")}
    cluster = Cluster(64, 8)
    [crew] = crews(specs, cluster)
    assert (crew.models, crew.most) == (("a", "b"), 1)
    schedule = Schedule([crew], {name: Work(16, 64) for name in specs}, cluster)
    schedule.offer("a", 1_000_000)
    assert schedule.changes(0) == [Start(crew)]
    schedule.host_up("h", crew, 0)
    assert schedule.changes(1000) == []


@pytest.mark.parametrize("build", [I2T, T2I], ids=["i2t", "t2i"])
@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_the_papers_recipes_end_within_a_tenth_of_the_lower_bound(build, gpus):
    seconds = Simulation(build, cluster_of(gpus), guess=by_kind).run().seconds
    assert seconds <= 1.1 * lower_bound(build, lambda end: end * gpus)


@pytest.mark.parametrize("gpus", [8, 64])
@pytest.mark.parametrize("build", [I2T, T2I], ids=["i2t", "t2i"])
def test_so_they_do_with_rates_that_differ_by_fifty_times_and_are_not_known_before(build, gpus):
    build = spread(build, gpus)
    seconds = Simulation(build, cluster_of(gpus), seed=gpus).run().seconds
    assert seconds <= 1.1 * lower_bound(build, lambda end: end * gpus)


# On 512 GPUs a build takes some 15 minutes, of which a load is up to a tenth: 1.1 times the bound is not reached for
# every build. The bound knows all costs beforehand; a host that was started on a wrong guess has to load a second
# time. It also lets all hosts end at one moment, where a batch of eight images takes 42 s.
@pytest.mark.parametrize(
    ("guess", "within"), [(lambda model: model.row_s, 1.15), (by_kind, 1.2)], ids=["known", "kind"]
)
@pytest.mark.parametrize("build", [I2T, T2I, spread(T2I, 1)], ids=["i2t", "t2i", "t2i of other rates"])
def test_on_512_gpus_loads_and_unknown_costs_take_up_to_a_fifth_more(build, guess, within):
    seconds = Simulation(build, cluster_of(512), guess=guess).run().seconds
    assert seconds <= within * lower_bound(build, lambda end: end * 512)


@pytest.mark.parametrize(("before", "after"), [(8, 64), (64, 32)], ids=["late", "gone"])
def test_nodes_that_come_late_or_go_are_made_use_of(before, after):
    turn = 1800.0
    simulation = Simulation(T2I, cluster_of(before), guess=by_kind, resizes=((turn, cluster_of(after)),))

    def gpu_seconds(end: float) -> float:
        return min(end, turn) * before + max(0.0, end - turn) * after

    assert simulation.run().seconds <= 1.1 * lower_bound(T2I, gpu_seconds)


def test_a_crew_of_several_gpus_that_waits_gets_its_place_though_the_others_are_never_idle():
    cluster = Cluster(16, 2)
    big, small = crews({"big": spec("big", 2), "small": spec("small", 1)}, cluster)
    schedule = Schedule([big, small], {"big": Work(8, 32), "small": Work(8, 32)}, cluster)
    schedule.offer("small", 1_000_000)
    assert schedule.changes(0) == [Start(small)] * 2
    for host in "xy":
        schedule.host_up(host, small, 0)
        schedule.loaded(host, "small", 10)
        schedule.began(host, "small", 8, 10)
    schedule.offer("big", 800)
    assert schedule.changes(11) == []
    schedule.done("x", "small", 8, 8, 18)
    assert schedule.pick("x", 18) is None, "it makes way"
    assert schedule.changes(18) == []
    schedule.done("y", "small", 8, 8, 20)
    assert sorted(schedule.changes(20)) == [Stop("x"), Stop("y")]
    schedule.host_gone("x")
    assert schedule.changes(21) == [], "the free GPU is not given away again"
    schedule.host_gone("y")
    assert schedule.changes(22) == [Start(big)]


# Small enough to be run often: a big captioner, one of two GPUs, and a metric that shares a GPU.
SMALL = replace(I2T, inputs=60, forward=(I2T.forward[0], replace(I2T.forward[4], gpus=2.0), I2T.forward[5]))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([2, 3, 8, 16]),
    st.lists(st.floats(20, 2000), max_size=4),
    st.lists(st.tuples(st.floats(1, 1500), st.sampled_from([2, 8, 16])), max_size=3),
)
def test_no_row_is_given_twice_or_forgotten_whatever_dies_comes_or_goes(seed, gpus, deaths, resizes):
    simulation = Simulation(
        spread(SMALL, seed), cluster_of(gpus), seed, deaths=tuple(deaths),
        resizes=tuple((at, cluster_of(size)) for at, size in resizes),
    )  # fmt: skip
    simulation.run()
    for model in SMALL.models:
        assert simulation.given[model.name] == dict.fromkeys(range(SMALL.rows(model)), 1)


def test_on_one_gpu_a_model_is_finished_before_the_next_one_is_loaded():
    build = replace(I2T, inputs=60)
    outcome = Simulation(build, cluster_of(1)).run()
    assert {outcome.loads[model.name] for model in (*build.forward, build.backward)} == {1}
    assert outcome.loads[build.metric.name] <= 4  # four of its hosts share the GPU


def test_an_idle_host_gives_way_to_a_crew_that_waits_and_a_busy_one_does_not():
    cluster = Cluster(8, 1)
    a, b = crews({"a": spec("a", 1), "b": spec("b", 1)}, cluster)
    schedule = Schedule([a, b], {"a": Work(8, 32), "b": Work(8, 32)}, cluster)
    schedule.offer("a", 8)
    assert schedule.changes(0) == [Start(a)]
    schedule.host_up("h", a, 0)
    schedule.loaded("h", "a", 10)
    schedule.offer("b", 8)
    assert schedule.pick("h", 10) == ("a", 8)
    schedule.began("h", "a", 8, 10)
    assert schedule.changes(11) == []
    schedule.done("h", "a", 8, 5, 15)
    assert schedule.changes(15) == [Stop("h")]
    schedule.host_gone("h")
    assert schedule.changes(16) == [Start(b)]
