"""What the site's own Slurm says of its partitions keeps a launch from being sent; forced, Slurm refuses it itself."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.store import partitions
from exporter.store.db import Store
from tests.lab.lab import Completed, Lab
from tests.lab.serving import SITE, configure

SPEC = "site: lab\ncluster: {{cpus_per_node: 1, memory_per_node: {memory}, time: 5m, partition: {partition}}}\n"


def test_what_slurm_would_refuse_is_not_sent(lab: Lab, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, practice_clock_factor=1)

    def launch(*arguments: str, memory: str = "64M", partition: str = "small") -> tuple[Completed, list[str]]:
        """Launches, and returns what `sbatch` was called with meanwhile."""
        (tmp_path / "spec.yaml").write_text(SPEC.format(memory=memory, partition=partition))
        before = len(lab.site_log())
        done = rayslurm.run("launch", str(tmp_path / "spec.yaml"), *arguments, check=False)
        return done, [entry.program for entry in lab.site_log()[before:] if entry.program == "sbatch"]

    with rayslurm.serving():
        probe = {"site": SITE, "probe": "partitions"}
        lab.wait(lambda: rayslurm.value("probe_success", **probe) == 1, 30, "the site's own list of partitions")
        truth = lab.sh("scontrol --all --oneliner show partition", check=True).stdout
        with Store(rayslurm.state_dir / "rayslurm.sqlite3") as store, store.snapshot() as connection:
            listing = partitions.listing(connection, SITE)
        assert listing is not None
        found = {name: (record.nodes, record.whole_nodes) for name, record in listing.partitions.items()}
        assert found == {
            name: (int(nodes), shared == "EXCLUSIVE")
            for name, shared, nodes in re.findall(
                r"PartitionName=(\S+) .* OverSubscribe=(\S+) .* TotalNodes=(\d+)", truth
            )
        }
        assert listing.partitions["test"].max_time_seconds == 3600
        assert listing.partitions["small-g"].max_cpus_per_node == 8

        done, sent = launch(partition="smal")
        assert (done.returncode, sent) == (4, [])
        assert "there is no partition smal (the site's own `sinfo`, read " in done.stderr
        assert "Did you mean small" in done.stderr
        done, sent = launch(memory="9000M")
        assert (done.returncode, sent) == (4, [])
        assert "gives a job at most 8000M of memory on a node, not 9000M (the site's own `sinfo`" in done.stderr

        done, sent = launch("--force", memory="9000M")
        assert (done.returncode, sent) == (1, ["sbatch"])
        assert "forced, though lab: partition small gives a job at most 8000M" in done.stderr
        assert "sbatch refused: sbatch: error: Batch job submission failed: Requested node config" in done.stderr
        done, sent = launch("--force", partition="smal")
        assert (done.returncode, sent) == (1, ["sbatch"])
        assert "Invalid partition name specified" in done.stderr
