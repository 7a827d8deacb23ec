"""The pages say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from exporter.archive_settings import ArchiveSettings
from exporter.budgets import Budget
from exporter.campaigns.model import Campaign, Retries, Schedule
from exporter.config import (
    BudgetSettings,
    Config,
    MetricsSettings,
    PartitionSettings,
    PolicySettings,
    SiteSettings,
    SshSettings,
)
from exporter.launch.bring import BringItem, BringLimits
from exporter.launch.spec import Cluster, Consequence, Container, Continuation, RaySettings, Spec
from exporter.metrics.reference import reference
from exporter.probes import probe_makers
from exporter.sites.overrides import BalanceSettings, RateSettings, TermSettings
from exporter.vm_settings import VmSettings

TOP = Path(__file__).parents[2]


def test_the_list_of_metrics_is_that_of_the_catalogue() -> None:
    assert (TOP / "docs/metrics.md").read_text() == reference(), "run: make render"


@pytest.mark.parametrize(
    "model",
    [
        Config, SiteSettings, SshSettings, BudgetSettings, VmSettings, MetricsSettings, Spec, Cluster, RaySettings,
        Container, Continuation, Consequence, BringItem, BringLimits, PartitionSettings, PolicySettings,
        BalanceSettings, RateSettings, TermSettings, ArchiveSettings,
    ],
)  # fmt: skip
def test_every_key_of_the_configuration_is_documented(model: type[BaseModel]) -> None:
    page = (TOP / "docs/configuration.md").read_text()
    documented = {key for cell in re.findall(r"`([A-Za-z_., :]+)`", page) for key in re.split(r"[., :]+", cell)}
    assert set(model.model_fields) - documented == set()


def test_every_key_of_a_campaign_is_documented() -> None:
    page = (TOP / "docs/campaigns.md").read_text()
    documented = set(re.findall(r"`([a-z_]+)`", page))
    own = (set(Campaign.model_fields) - set(Spec.model_fields)) | set(Schedule.model_fields) | set(Retries.model_fields)
    assert own - documented == set()


def test_every_period_of_a_budget_is_documented() -> None:
    page = (TOP / "docs/budgets.md").read_text()
    assert all(f"{period}: " in page for period in Budget.model_fields)


@pytest.mark.parametrize("page", [*sorted(TOP.glob("docs/**/*.md")), TOP / "README.md", TOP / "tests/lab/README.md"])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_all_that_asks_a_site_is_documented() -> None:
    text = (TOP / "docs/operations.md").read_text()
    table = text.partition("**What is asked, and how often.**")[2].partition("After a restart")[0]
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", table)) == {*probe_makers(), "archive", "campaigns", "continuations"}
