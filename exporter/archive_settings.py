"""The section `archive` of rayslurm.yaml: the bucket in which what jobs left behind is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from exporter.yamlfile import Duration, FileModel, Size, UserPath


class ArchiveSettings(FileModel):
    """An S3 bucket, and how much goes there.

    Attributes:
        endpoint: the service's address, such as `https://a3s.fi`.
        bucket: the bucket; it must be there.
        prefix: what all keys begin with.
        credentials_file: an INI file as the AWS tools write it, 0600; where left out, boto3's usual chain.
        profile: the section of that file, or boto3's profile.
        ca_bundle: certificates to trust in place of the usual ones.
        max_file: a larger file is cut in its middle where it is text, else left out.
        max_job: bytes that are fetched of one job at most.
        max_results: how many of the files that a spec names as results are kept of one job.
        spool: bytes that may wait on this machine; nothing more is fetched meanwhile.
        give_up_after: how long a job that cannot be kept is tried.
    """

    endpoint: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]_-]+/?$")]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{2,62}$")]
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?)?$")] = ""
    credentials_file: UserPath | None = None
    profile: str | None = None
    ca_bundle: UserPath | None = None
    max_file: Size = 64 * 1024**2
    max_job: Size = 512 * 1024**2
    max_results: Annotated[int, Field(ge=0, le=1000)] = 100
    spool: Size = 2 * 1024**3
    give_up_after: Annotated[Duration, Field(gt=0)] = 14 * 86400

    @field_validator("endpoint")
    @classmethod
    def _encrypted(cls, value: str) -> str:
        host = value.split("://", 1)[1].split(":", maxsplit=1)[0].rstrip("/")
        if value.startswith("http:") and host not in {"127.0.0.1", "localhost"}:
            raise ValueError("write https://: over http everybody on the way reads what is kept")
        return value.rstrip("/")
