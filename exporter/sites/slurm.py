"""Any Slurm site: nothing is assumed that Slurm itself doesn't promise."""

from exporter.sites.profile import SiteProfile

PROFILE = SiteProfile(name="slurm", title="A Slurm site")
