"""What `rayslurm parse KIND --json` prints: the contract's fields in the contract's order."""

from __future__ import annotations

import json

from exporter.parsers import sacct, squeue
from exporter.parsers.as_json import to_json

FIELDS = """
    job_id array_id job_name user project partition state cancelled_by_uid exit_code signal req_cpus alloc_cpus
    req_nodes alloc_nodes submit_time start_time end_time elapsed_seconds time_limit_seconds planned_seconds
    planned_cpu_seconds cpu_time_seconds total_cpu_seconds ave_cpu_seconds ave_cpu_freq_hertz ave_disk_read_bytes
    ave_disk_write_bytes max_rss_bytes memory_peak_bytes memory_requested_bytes energy_joules billing_tres
    tres_allocated restarts steps
"""


def test_sacct_has_the_contracts_fields_for_jobs_and_steps() -> None:
    found = to_json(sacct.parse("JobID|State|TotalCPU|AllocTRES\n5|FAILED|00:01.500|cpu=2\n5.0|FAILED||\nx\n"))
    assert list(found) == ["records", "warnings"]
    (record,) = found["records"]
    assert list(record) == [*FIELDS.split(), "attempts"]
    assert list(record["steps"][0]) == [*FIELDS.split(), "attempts"]
    assert record["tres_allocated"] == {"cpu": 2}
    assert record["total_cpu_seconds"] == 1.5
    assert record["user"] is None
    assert found["warnings"] == [{"line": 4, "text": "x", "reason": "1 cells where the header has 4"}]


def test_it_is_json_with_whole_numbers_whole() -> None:
    text = json.dumps(to_json(squeue.parse("JOBID|STATE|TIME\n5|RUNNING|1:05\n")))
    assert '"elapsed_seconds": 65,' in text
    assert '"gpus": null' in text
