"""rayslurm: Ray clusters as Slurm jobs, and what they cost, as Prometheus metrics."""

__version__ = "0.1.0.dev0"
