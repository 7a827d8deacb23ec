"""What a practice Ray tells of its nodes, held against the labels that a real Ray 2.60 has on its page."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.practice.ray import Node, node_metrics

LEFT_OUT = {"JobId", "WorkerId", "otel_scope_name", "otel_scope_schema_url", "otel_scope_version"}
OF_NODE = {"IsHeadNode", "RayNodeType", "SessionName", "Version", "ip"}
OF_GPU = OF_NODE | {"GpuDeviceName", "GpuIndex"}
SEEN = {
    "ray_node_cpu_utilization": OF_NODE,
    "ray_node_cpu_count": OF_NODE,
    "ray_node_mem_used": OF_NODE,
    "ray_node_mem_total": OF_NODE,
    "ray_node_disk_utilization_percentage": OF_NODE,
    "ray_node_network_send_speed": OF_NODE,
    "ray_node_network_receive_speed": OF_NODE,
    "ray_node_gpus_available": OF_GPU,
    "ray_node_gpus_utilization": OF_GPU,
    "ray_tasks": {"Component", "IsRetry", "Name", "NodeAddress", "SessionName", "Source", "State", "Version"},
    "ray_actors": {"Component", "Name", "NodeAddress", "SessionName", "Source", "State", "Version"},
    "ray_object_store_memory": {"Component", "Location", "NodeAddress", "ObjectState", "SessionName", "Version"},
}
"""Labels by name, but for `LEFT_OUT`: of a page of Ray 2.60, and of its reporter agent where that page had no GPU."""


def told(node: Node, number: int = 0, now: float = 1e9) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = node_metrics(node, number, "session_1", now)
    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text)
    }


def test_names_and_labels_are_those_of_a_real_one() -> None:
    found = told(Node(4, gpus=2))
    assert {name: set(labels) for name, [(labels, _), *_] in found.items()} == SEEN
    assert not LEFT_OUT & set().union(*SEEN.values())


def test_each_gpu_has_an_index_and_a_node_without_has_none() -> None:
    assert [labels["GpuIndex"] for labels, _ in told(Node(4, gpus=2))["ray_node_gpus_utilization"]] == ["0", "1"]
    assert "ray_node_gpus_available" not in told(Node(4))


def test_only_the_head_tells_of_actors() -> None:
    assert "ray_actors" not in told(Node(4), number=1)
    [(labels, _)] = told(Node(4), number=1)["ray_node_cpu_count"]
    assert (labels["IsHeadNode"], labels["RayNodeType"], labels["ip"]) == ("false", "worker", "10.0.0.2")


@pytest.mark.parametrize("now", range(1_000_000_000, 1_000_000_300, 20))
def test_it_is_busy_within_bounds_or_idle(now: int) -> None:
    busy, idle = told(Node(4, gpus=1), now=now), told(Node(4, gpus=1, idle=True), now=now)
    for name in ("ray_node_cpu_utilization", "ray_node_gpus_utilization"):
        assert 30 < busy[name][0][1] <= 100
        assert idle[name][0][1] < 5
    assert 0 < busy["ray_node_mem_used"][0][1] < busy["ray_node_mem_total"][0][1]
    assert [value for labels, value in idle["ray_tasks"] if labels["State"] == "RUNNING"] == [0]
