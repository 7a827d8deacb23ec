"""The reports probe: `seff` once a finished job, what becomes of its answer, and when it is given up."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exporter.client.replay import Exchange, ReplayTransport
from exporter.efficiency import combined
from exporter.errors import AnswerError, CommandError, InputError
from exporter.probes import ProbeContext
from exporter.probes.jobs import JobsProbe
from exporter.probes.reports import LOOK_SECONDS, PAUSE_SECONDS, RETRY_SECONDS, SEFF_PER_HOUR, ReportsProbe
from exporter.records import Bill, EfficiencyReport
from exporter.store import bills, counters, jobs, reports
from exporter.store.db import Store
from tests.site_texts import BILLED, SEFF
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"
PUHTI: dict[str, Any] = {"profile": "puhti", "closed": False}
RUNNING = {"STATE": "RUNNING", "START_TIME": "1794999910"}
NOT_FOUND = Exchange("seff", stderr="Job not found.\n", exit_status=2)


def seff(job_id: str = "77", state: str = "COMPLETED", used: str = "00:03:21", ratio: str = "50.25") -> Exchange:
    return Exchange("seff", SEFF.format(job_id=job_id, state=state, used=used, ratio=ratio) + BILLED)


def ended(
    store: Store, make_site: MakeSite, *answers: Exchange, rows: list[dict[str, str]], **keys: Any
) -> tuple[ProbeContext, ReplayTransport]:
    """Returns a site where these jobs have ended, and accounting has said so."""
    for row in rows:
        if "." not in row["JobID"]:
            root = jobs.root_of(row["JobID"])
            store.write(lambda connection, root=root: jobs.track(connection, SITE, root, now=1.0))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    context, transport = make_site(
        [
            Exchange("queue", squeue(), repeat=True),
            Exchange("accounting_fields", HELPFORMAT),
            Exchange("accounting", sacct(*rows)),
            *answers,
        ],
        **{**PUHTI, **keys},
    )
    JobsProbe().run(context)
    return context, transport


def asked(transport: ReplayTransport) -> list[str]:
    return [what[1] for verb, what in transport.asked if verb == "seff"]


def bill(store: Store, job_id: str = "77") -> Bill | None:
    with store.snapshot() as connection:
        return bills.of_job(connection, SITE, job_id)


def shown(store: Store, job_id: str = "77") -> list[EfficiencyReport]:
    with store.snapshot() as connection:
        return combined(reports.of_job(connection, SITE, job_id))


def billed(store: Store) -> dict[str, float]:
    with store.snapshot() as connection:
        return {
            f"{counter.labels['project']} {counter.labels['kind']} {counter.labels['unit']}": counter.value
            for counter in counters.read(connection)
            if counter.name == "billing_units_total"
        }


def test_a_finished_job_is_reported_and_billed_once(store: Store, make_site: MakeSite) -> None:
    context, transport = ended(store, make_site, seff(), rows=finished("77"))
    assert bill(store) is None, "at CSC the bill is what seff prints"
    probe = ReportsProbe()
    assert [probe.run(context) for _ in range(3)] == [LOOK_SECONDS] * 3
    assert asked(transport) == ["77"]
    assert bill(store) == Bill("seff", "cpu", "BU", 0.13, "project_2001234")
    assert billed(store) == {"project_2001234 cpu BU": 0.13}
    by_seff, by_sacct = shown(store)
    assert (by_seff.source, by_seff.cpu_used_seconds, by_seff.cpu_efficiency_ratio) == ("seff", 201, 0.5025)
    assert by_seff.memory_peak_bytes == pytest.approx(2.93 * 1024**3)
    assert (by_sacct.source, by_sacct.cpu_used_seconds, by_sacct.memory_peak_bytes) == ("sacct", None, None)
    assert by_sacct.walltime_efficiency_ratio == pytest.approx(100 / 1200)


def test_the_counter_of_units_begins_at_zero_while_the_job_waits(store: Store, make_site: MakeSite) -> None:
    store.write(lambda connection: jobs.track(connection, SITE, "77", now=1.0))
    context, _ = make_site([Exchange("queue", squeue({"JOBID": "77"}))], **PUHTI)
    JobsProbe().run(context)
    assert billed(store) == {"project_2001234 cpu BU": 0}


def test_several_reports_are_asked_for_one_by_one(store: Store, make_site: MakeSite) -> None:
    rows = [*finished("77"), *finished("78"), *finished("79_1")]
    array = Exchange("seff", SEFF.format(job_id="79", state="FAILED", used="1", ratio="1").replace(
        "Cluster", "Array Job ID: 79_1\nCluster").replace("Utilized: 1\n", "Utilized: 00:00:01\n"))  # fmt: skip
    context, transport = ended(store, make_site, seff("77"), seff("78"), array, rows=rows)
    probe = ReportsProbe()
    assert [probe.run(context) for _ in range(3)] == [PAUSE_SECONDS, PAUSE_SECONDS, LOOK_SECONDS]
    assert asked(transport) == ["77", "78", "79_1"]
    assert bill(store, "79_1") is not None, "seff printed no bill, so it is by formula"


@pytest.mark.parametrize(
    ("rows", "keys", "expected"),
    [
        pytest.param(finished("77"), {"seff": "none"}, True, id="the site's seff is of no use"),
        pytest.param(finished("77+1"), {}, True, id="a part of a heterogeneous job"),
        pytest.param(
            [{"JobID": "77", "State": "CANCELLED by 1", "Start": "None", "End": "1795000010", "ElapsedRaw": "0"}],
            {},
            True,
            id="it never ran",
        ),
        pytest.param(finished("77"), {"profile": "slurm", "closed": None}, False, id="nothing is known of the site"),
    ],
)
def test_a_job_that_seff_cannot_tell_of_is_not_asked_for(
    store: Store, make_site: MakeSite, rows: list[dict[str, str]], keys: dict[str, Any], expected: bool
) -> None:
    context, transport = ended(store, make_site, rows=rows, **keys)
    ReportsProbe().run(context)
    assert asked(transport) == []
    found = bill(store, rows[0]["JobID"])
    assert (found is not None and found.source == "formula") == expected


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(NOT_FOUND, CommandError, id="slurmdbd is away: Job not found."),
        pytest.param(Exchange("seff", ""), AnswerError, id="empty"),
        pytest.param(Exchange("seff", SEFF[:120]), AnswerError, id="half"),
        pytest.param(Exchange("seff", "Hello, world\n"), InputError, id="something else"),
        pytest.param(seff("78"), InputError, id="another job"),
        pytest.param(seff(state="RUNNING"), InputError, id="it lags behind accounting"),
    ],
)
def test_a_report_that_cannot_be_had_is_asked_for_again_later(
    store: Store, make_site: MakeSite, clock: Clock, answer: Exchange, error: type[Exception]
) -> None:
    context, transport = ended(store, make_site, answer, seff(), rows=finished("77"))
    probe = ReportsProbe()
    with pytest.raises(error):
        probe.run(context)
    assert bill(store) is None
    assert [report.source for report in shown(store)] == ["sacct"]
    clock.now += RETRY_SECONDS[0] - 1
    probe.run(context)
    assert asked(transport) == ["77"], "too early"
    clock.now += 2
    probe.run(context)
    assert asked(transport) == ["77", "77"]
    assert bill(store) == Bill("seff", "cpu", "BU", 0.13, "project_2001234")


def test_a_report_is_given_up_in_the_end_and_the_bill_is_by_formula(
    store: Store, make_site: MakeSite, clock: Clock
) -> None:
    tries = len(RETRY_SECONDS) + 1
    context, transport = ended(store, make_site, *[NOT_FOUND] * tries, rows=finished("77"))
    probe = ReportsProbe()
    for _ in range(tries):
        with pytest.raises(CommandError):
            probe.run(context)
        clock.now += 3600
    probe.run(context)
    assert len(asked(transport)) == tries
    found = bill(store)
    # 4 cores and 6000 MiB for 100 s
    assert found is not None
    assert found.source == "formula"
    assert found.units == pytest.approx((4 + 0.1 * 6000 / 1024) / 36)
    assert billed(store) == {"project_2001234 cpu BU": pytest.approx(found.units)}


def test_a_task_of_an_array_is_reported_and_billed_once_however_many_end_after_it(
    store: Store, make_site: MakeSite, clock: Clock
) -> None:
    """Accounting tells of all tasks whenever one more has ended."""
    tries = len(RETRY_SECONDS) + 1
    tasks = [f"80_{task}" for task in range(1, 5)]
    store.write(lambda connection: jobs.track(connection, SITE, "80", now=1.0))

    def queue(*still: str) -> Exchange:
        return Exchange("queue", squeue(*({"JOBID": task, **RUNNING} for task in still)))

    def accounting(ends: int) -> Exchange:
        over = [row for task in tasks[:ends] for row in finished(task)]
        still = [{**row, "State": "RUNNING", "End": "Unknown"} for task in tasks[ends:] for row in finished(task)]
        return Exchange("accounting", sacct(*over, *still))

    answers = [queue(*tasks), queue(*tasks[1:]), Exchange("accounting_fields", HELPFORMAT), accounting(1)]
    answers += [NOT_FOUND] * tries
    for ends in (2, 3, 4):
        text = SEFF.format(job_id=f"9{ends}", state="COMPLETED", used="00:03:21", ratio="50.25") + BILLED
        of_task = Exchange("seff", text.replace("Cluster", f"Array Job ID: 80_{ends}\nCluster"))
        answers += [queue(*tasks[ends:]), accounting(ends), of_task]
    context, transport = make_site(answers, **PUHTI)

    JobsProbe().run(context)
    JobsProbe().run(context)
    for _ in range(tries):
        with pytest.raises(CommandError):
            ReportsProbe().run(context)
        clock.now += 3600
    by_formula = (4 + 0.1 * 6000 / 1024) / 36
    for ends in (2, 3, 4):
        JobsProbe().run(context)
        ReportsProbe().run(context)
        clock.now += 3600
        assert billed(store) == {"project_2001234 cpu BU": pytest.approx(by_formula + (ends - 1) * 0.13)}
        assert [found and found.source for found in (bill(store, task) for task in tasks[:ends])] == [
            "formula", *["seff"] * (ends - 1),
        ]  # fmt: skip
        assert all(len(shown(store, task)) == 2 for task in tasks[1:ends]), "what seff told of them stays"
    assert asked(transport) == ["80_1"] * tries + tasks[1:]


def test_a_bill_that_contradicts_itself_is_not_taken(store: Store, make_site: MakeSite) -> None:
    """One digit too many on the way, and 0.13 BU were 10.13."""
    text = seff().stdout
    context, _ = ended(store, make_site, Exchange("seff", text.replace("0.13", "10.13", 1)), rows=finished("77"))
    assert "10.13" not in text
    ReportsProbe().run(context)
    found = bill(store)
    assert found is not None
    assert found.source == "formula"
    assert found.units == pytest.approx((4 + 0.1 * 6000 / 1024) / 36)
    assert shown(store)[0].source == "seff", "the rest of its report holds"


def test_a_job_that_runs_again_after_its_bill_is_not_paid_twice(store: Store, make_site: MakeSite) -> None:
    """Its new bill waits for seff, and none is published meanwhile; what was paid stays paid."""
    ended(store, make_site, rows=finished("77"))
    for source, units, final in (("formula", 3.0, True), ("formula", 5.0, False), ("seff", 5.1, True)):
        one = Bill(source, "cpu", "BU", units, "project_2001234")
        store.write(partial(bills.keep, site=SITE, job_id="77", bill=one, final=final, now=1.0))
    assert billed(store) == {"project_2001234 cpu BU": pytest.approx(5.1)}


def test_zeros_that_stand_for_no_report_are_no_efficiency(store: Store, make_site: MakeSite) -> None:
    rows = [{**row, "State": state, "TotalCPU": "00:00:00"} for row, state in zip(
        finished("77"), ("NODE_FAIL", "CANCELLED"), strict=True)]  # fmt: skip
    context, _ = ended(store, make_site, seff(state="NODE_FAIL", used="00:00:00", ratio="0.00"), rows=rows)
    ReportsProbe().run(context)
    assert all(report.cpu_efficiency_ratio is None and report.memory_peak_bytes is None for report in shown(store))
    assert bill(store) == Bill("seff", "cpu", "BU", 0.13, "project_2001234"), "it has to be paid all the same"


def test_a_requeued_job_is_billed_for_every_attempt(store: Store, make_site: MakeSite) -> None:
    times = {"Start": "1794999700", "End": "1794999900", "ElapsedRaw": "200"}
    first = [{**row, **times} for row in finished("77", "NODE_FAIL")]
    last = finished("77", Restarts="1")
    # Accounting is asked without --duplicates at first, since nobody knows.
    context, transport = ended(store, make_site, Exchange("accounting", sacct(*first, *last)), seff(), rows=last)
    store.write(lambda connection: connection.execute("UPDATE tracked SET sacct_after = 0"))
    JobsProbe().run(context)
    assert [what for verb, what in transport.asked if verb == "accounting"] == [(("77",), False), (("77",), True)]
    ReportsProbe().run(context)
    found = bill(store)
    assert found is not None
    assert found.source == "formula"
    assert found.units == pytest.approx(3 * (4 + 0.1 * 6000 / 1024) / 36)
    assert asked(transport) == ["77"], "for its efficiency"


def test_no_more_than_the_hour_allows(store: Store, make_site: MakeSite, clock: Clock) -> None:
    context, transport = ended(store, make_site, seff(), rows=finished("77"))
    for _ in range(SEFF_PER_HOUR):
        context.ledger.finish(context.ledger.take("seff"), "seff", "ok")
    probe = ReportsProbe()
    probe.run(context)
    assert asked(transport) == []
    clock.now += 3601
    probe.run(context)
    assert asked(transport) == ["77"]


def test_gpus_are_averaged_and_their_energy_is_not_the_jobs(store: Store, make_site: MakeSite) -> None:
    text = (Path(__file__).parents[1] / "golden/seff/puhti_gpus.txt").read_text().replace("6200001", "77")
    rows = finished("77", "TIMEOUT", Partition="gpu", AllocTRES="billing=5,cpu=20,mem=128G,node=2,gres/gpu=2")
    context, _ = ended(store, make_site, Exchange("seff", text), rows=rows)
    ReportsProbe().run(context)
    by_seff = shown(store)[0]
    assert by_seff.gpu_efficiency_ratio == pytest.approx((0.9231 + 0.125) / 2)
    assert all(report.energy_joules is None for report in shown(store))
    assert bill(store) == Bill("seff", "gpu", "BU", 307.61, "project_2009876")
