"""What is known of a job as plain data: the JSON of `rayslurm explain --json`."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from exporter.explain.gather import Explanation, Text, Working
from exporter.store.submissions import Submission


def to_json(told: Explanation) -> dict[str, Any]:
    """Returns the explanation with `source` and `at` (epoch seconds) beside what each source says; null is not known.

    Values of `ray.env` may be keys, so the first digits of their digests stand for them.
    """
    job = told.job
    return {
        "site": job.site,
        "job_id": job.job_id,
        "now": told.now,
        "identity": {
            "title": told.title,
            "job_name": job.job_name,
            "root_id": job.root_id,
            "user": job.user,
            "project": job.project,
            "partition": job.partition,
            "campaign": job.campaign,
            "followed_since": told.followed.since if told.followed else None,
        },
        "journal": _journal(told),
        "state": {
            **{name: getattr(job, name) for name in _STATE},
            "source": "sacct" if job.final else "squeue",
            "at": job.seen,
            "sacct_tries": told.followed.sacct_tries if told.followed else None,
            "sacct_after": told.followed.sacct_after or None if told.followed else None,
        },
        "times": {name: getattr(job, name) for name in _TIMES}
        | {"ray_ready_time": told.run.ready_time if told.run else None},
        "size": {name: getattr(job, name) for name in ("nodes", "cpus", "gpus", "node_list")},
        "run": None if told.run is None else {**asdict(told.run), "source": "supervisor"},
        "ray": None if told.ray is None else {**told.ray.as_json(None), "source": "ray"},
        "tunnels": [asdict(one) for one in told.tunnels],
        "tunnel_failures": [asdict(one) for one in told.failures],
        "exposed": [asdict(one) for one in told.exposed],
        "consequences": [asdict(one) for one in told.consequences],
        "seen_of_no_use": [asdict(one) for one in told.spells],
        "waste": [asdict(one) for one in told.waste],
        "efficiency": [asdict(one) for one in told.efficiency],
        "reports": [{**asdict(one.report), "at": one.at} for one in told.reports],
        "bills": [{**asdict(one.bill), "final": one.final, "at": one.at} for one in told.bills],
        "reserved": None if told.reserved is None else asdict(told.reserved),
        "estimate": None if told.estimate is None else told.estimate.as_json(),
        "estimate_mismatch": None if told.mismatch is None else asdict(told.mismatch),
        "second_opinion": None if told.opinion is None else asdict(told.opinion),
        "report_awaited": None if told.awaited is None else asdict(told.awaited),
        "rate": None if told.working is None else _working(told.working),
        "seff_components": told.seff.billing_components if told.seff else {},
        "chain": None if told.chain is None else told.chain.as_json(),
        "disagreements": [asdict(one) for one in told.disagreements],
        "advice": asdict(told.advised),
        "texts": [_text(one) for one in told.texts],
    }


_STATE = ("state", "state_since", "pending_reason", "exit_code", "signal", "restarts", "final")
_TIMES = (
    "submit_time", "expected_start_time", "start_time", "end_time", "elapsed_seconds", "time_limit_seconds",
)  # fmt: skip


def _journal(told: Explanation) -> dict[str, Any] | None:
    row = told.submission
    if row is None:
        return None
    names = ("token", "slurm_name", "key", "state", "error", "run_dir", "created", "updated", "forced", "chain", "link")
    return {
        **{name: getattr(row, name) for name in names},
        "spec": shown_spec(row),
        "ports": {lease.tunnel: lease.port for lease in told.leases},
        "brought": (told.brought or {}).get("total"),
    }


def shown_spec(row: Submission) -> dict[str, Any]:
    """Returns a spec of the journal without the values of `ray.env`, which may be keys."""
    ray = row.spec.get("ray")
    if not isinstance(ray, dict) or not ray.get("env"):
        return row.spec
    digests = {
        name: f"sha256:{hashlib.sha256(str(value).encode()).hexdigest()[:8]}" for name, value in ray["env"].items()
    }
    return {**row.spec, "ray": {**ray, "env": digests}}


def _working(working: Working) -> dict[str, Any]:
    return {
        "rule": working.rule,
        "source": working.source,
        "kind": working.rate.kind,
        "unit": working.rate.unit,
        "attempts": [
            {
                "elapsed_seconds": one.elapsed_seconds,
                "amounts": _plain(asdict(one.amounts)),
                "components": [] if one.charge is None else [[of, float(units)] for of, units in one.charge.components],
                "units": None if one.charge is None else float(one.charge.units),
            }
            for one in working.attempts
        ],
    }


def _text(text: Text) -> dict[str, Any]:
    return {
        **asdict(text.raw),
        "warnings": [asdict(warning) for warning in text.warnings],
        "refused": text.refused or None,
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in values.items()}
