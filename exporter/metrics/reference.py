"""docs/metrics.md, made from the catalogue: `python -m exporter.metrics.reference`."""

from __future__ import annotations

import sys

from exporter.metrics.catalogue import CATALOGUE

_HEAD = """\
# Metrics

Made from the catalogue by `make render`. Values are collected at an interval, not at the scrape, but for the last few
that rayslurm knows of itself. What is not known is absent. States are Slurm's base states in lower case, and `unknown`
where no answer of the site names the job.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def reference() -> str:
    """Returns the page, in Markdown."""
    rows = (
        f"| `{metric.name}` | {metric.kind} | {' '.join(f'`{label}`' for label in metric.labels)} "
        f"| {metric.help.removesuffix(' Collected at an interval, not at the scrape.')} |\n"
        for metric in CATALOGUE.values()
    )
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(reference())
