"""When the certificate beside a site's key ends; read on this machine, without asking the site."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.client.credentials import certificate_expiry
from exporter.probes.base import ProbeContext, Unhurried
from exporter.store import samples
from exporter.store.samples import Sample

LOOK_SECONDS = 60.0


@dataclass(slots=True)
class CertificateProbe(Unhurried):
    """Looks at the certificate of one site's key."""

    name: str = "certificate"
    keeps_seconds: float = 0

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        key = context.site.settings.ssh.key
        expiry = certificate_expiry(key) if key is not None else None
        found = [] if expiry is None else [Sample("ssh_certificate_expiry_timestamp_seconds", expiry)]
        context.store.write(
            lambda connection: samples.replace(connection, context.site.name, self.name, found, now=context.clock())
        )
        return LOOK_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return LOOK_SECONDS


def make() -> CertificateProbe:
    """Returns the probe for one site."""
    return CertificateProbe()
