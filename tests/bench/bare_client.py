"""prometheus_client alone, with the series of a page of rayslurm's; `bare_client.py PAGE` prints its port."""

from __future__ import annotations

import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, start_http_server
from prometheus_client.parser import text_string_to_metric_families


def main() -> None:
    """Serves until it is killed."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    for family in text_string_to_metric_families(Path(sys.argv[1]).read_text(encoding="utf-8")):
        labels = list(family.samples[0].labels)
        make = Counter if family.type == "counter" else Gauge
        metric = make(family.name, family.documentation, labels, registry=registry)
        for sample in family.samples:
            child = metric.labels(**sample.labels) if labels else metric
            child.inc(sample.value) if isinstance(child, Counter) else child.set(sample.value)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    print(server.server_port, flush=True)
    thread.join()


if __name__ == "__main__":
    main()
