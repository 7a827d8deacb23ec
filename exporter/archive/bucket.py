"""The bucket: a few verbs over boto3, whose errors say what to do, and uploads that never hold a file in memory.

Checksums are asked for where the service needs them and no others: Ceph's RGW refuses the trailing ones that boto3
sends by itself since 1.36. Every body goes with its MD5 instead, which the service compares.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import boto3
import botocore.exceptions as boto
from botocore.config import Config as BotoConfig

from exporter.archive_settings import ArchiveSettings
from exporter.errors import ArchiveError, ConfigError

PART_BYTES = 16 * 1024**2
"""A larger file goes in parts of this size; one is in memory at a time."""

_READ_BYTES = 1024**2
_GROUPS = ("/global/AllUsers", "/global/AuthenticatedUsers")

_REFUSALS = (
    ({"SignatureDoesNotMatch"}, "credentials", "the secret key is wrong; renew it in the credentials"),
    ({"InvalidAccessKeyId"}, "credentials", "the access key is not known there (any more); make a new one"),
    ({"NoSuchBucket"}, "no_bucket", "there is no bucket {name}; make it, or correct archive.bucket"),
    ({"NoSuchKey", "404", "NoSuchUpload"}, "missing", "there is no such object"),
    ({"QuotaExceeded", "ServiceQuotaExceeded", "507"}, "full", "the project's quota there is full"),
    (
        {"AccessDenied", "403", "UserSuspended", "AccountProblem"},
        "denied",
        "not allowed; the user may be suspended, or the bucket another project's",
    ),
    ({"BadDigest", "InvalidDigest"}, "damaged", "what arrived is not what was sent"),
)
"""What a service says of why it refuses, the reason in a word, and what to do."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the bucket says of an object.

    Attributes:
        size: in bytes.
        modified: epoch seconds.
    """

    key: str
    size: int
    modified: float


class Bucket:
    """The archive's bucket. Keys are given without the prefix.

    Args:
        settings: where it is.

    Raises:
        ConfigError: the credentials' file cannot be used.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        self.settings = settings
        self.name = settings.bucket
        self._prefix = f"{settings.prefix.rstrip('/')}/" if settings.prefix else ""
        keys = _keys(settings.credentials_file, settings.profile) if settings.credentials_file else {}
        try:
            session = boto3.session.Session(profile_name=None if keys else settings.profile)
            self._client = session.client(
                "s3",
                endpoint_url=settings.endpoint,
                region_name=session.region_name or "us-east-1",  # RGW takes any
                verify=str(settings.ca_bundle) if settings.ca_bundle else None,
                config=BotoConfig(
                    signature_version="s3v4",
                    s3={"addressing_style": "path"},
                    connect_timeout=10,
                    read_timeout=60,
                    retries={"mode": "standard", "total_max_attempts": 2},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
                **keys,
            )
        except (boto.BotoCoreError, ValueError) as error:
            raise ConfigError(f"archive: {error}") from None

    def check(self) -> None:
        """Makes sure that the bucket is there, is ours to use, and is nobody else's to read.

        Raises:
            ArchiveError: one of these is not so.
        """
        with self._errors():
            self._client.list_objects_v2(Bucket=self.name, MaxKeys=1, Prefix=self._prefix)
        if words := self.openness():
            raise ArchiveError(
                f"bucket {self.name} can be read by others ({words}), so nothing is sent there; make it private",
                "public",
            )

    def openness(self) -> str:
        """Returns by what others may use the bucket; nothing where it is private, or where that can't be asked."""
        with suppress(boto.ClientError), self._errors(raw=True):
            grants = self._client.get_bucket_acl(Bucket=self.name)["Grants"]
            if open_to := sorted({g["Grantee"].get("URI", "").rsplit("/", 1)[-1] for g in grants if _is_open(g)}):
                return f"its ACL names {' and '.join(open_to)}"
        with suppress(boto.ClientError), self._errors(raw=True):
            policy = json.loads(self._client.get_bucket_policy(Bucket=self.name)["Policy"])
            statements = policy.get("Statement", [])
            for statement in statements if isinstance(statements, list) else [statements]:
                whom = statement.get("Principal")
                everyone = whom == "*" or (isinstance(whom, dict) and "*" in str(list(whom.values())))
                if statement.get("Effect") == "Allow" and everyone and not statement.get("Condition"):
                    return "its policy allows everybody something"
        return ""

    def stored(self, key: str) -> Stored | None:
        """Returns what the bucket has under a key; None where it has nothing.

        Raises:
            ArchiveError: the bucket cannot be asked.
        """
        try:
            with self._errors():
                head = self._client.head_object(Bucket=self.name, Key=self._prefix + key)
        except ArchiveError as error:
            if error.reason == "missing":
                return None
            if error.reason == "denied":  # the answer to HEAD has no text, that to GET says why
                with self._errors():
                    self._client.list_objects_v2(Bucket=self.name, MaxKeys=1, Prefix=self._prefix)
            raise
        return Stored(key, head["ContentLength"], head["LastModified"].timestamp())

    def listed(self, prefix: str = "") -> Iterator[Stored]:
        """Gives all objects whose keys begin so, ordered by key.

        Raises:
            ArchiveError: the bucket cannot be asked.
        """
        pages = self._client.get_paginator("list_objects_v2")
        with self._errors():
            for page in pages.paginate(Bucket=self.name, Prefix=self._prefix + prefix):
                for found in page.get("Contents", []):
                    key = found["Key"].removeprefix(self._prefix)
                    yield Stored(key, found["Size"], found["LastModified"].timestamp())

    def put(self, key: str, content: bytes, kind: str = "application/json") -> None:
        """Writes an object, in place of what is there.

        Raises:
            ArchiveError: it could not be written.
        """
        with self._errors():
            self._client.put_object(
                Bucket=self.name, Key=self._prefix + key, Body=content, ContentType=kind, ContentMD5=_md5(content)
            )

    def put_file(self, key: str, path: Path, kind: str = "application/octet-stream") -> None:
        """Writes a file as an object; a large one in parts, and what an earlier try left of it is removed.

        Raises:
            ArchiveError: it could not be written; no part of it is seen then.
            OSError: the file cannot be read.
        """
        size = path.stat().st_size
        if size <= PART_BYTES:
            self.put(key, path.read_bytes(), kind)
            return
        whole = {"Bucket": self.name, "Key": self._prefix + key}
        self._clear_parts(whole["Key"])
        with self._errors(), path.open("rb") as file:
            upload = self._client.create_multipart_upload(**whole, ContentType=kind)["UploadId"]
            try:
                parts: list[dict[str, Any]] = []
                while content := file.read(PART_BYTES):
                    number = len(parts) + 1
                    done = self._client.upload_part(
                        **whole, UploadId=upload, PartNumber=number, Body=content, ContentMD5=_md5(content)
                    )
                    parts.append({"PartNumber": number, "ETag": done["ETag"]})
                self._client.complete_multipart_upload(**whole, UploadId=upload, MultipartUpload={"Parts": parts})
            except BaseException:
                with suppress(boto.ClientError, boto.BotoCoreError):
                    self._client.abort_multipart_upload(**whole, UploadId=upload)
                raise
        found = self.stored(key)
        if found is None or found.size != size:
            raise ArchiveError(f"{key}: {found.size if found else 'no'} bytes arrived of {size}", "damaged")

    def _clear_parts(self, key: str) -> None:
        with self._errors():
            listed = self._client.list_multipart_uploads(Bucket=self.name, Prefix=key)
            for upload in listed.get("Uploads", []):
                self._client.abort_multipart_upload(Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"])

    def get(self, key: str) -> bytes:
        """Returns an object that is small.

        Raises:
            ArchiveError: it isn't there, or the bucket cannot be asked.
        """
        return b"".join(self.pieces(key))

    def pieces(self, key: str) -> Iterator[bytes]:
        """Gives an object piece by piece.

        Raises:
            ArchiveError: it isn't there, or the bucket cannot be asked.
        """
        with self._errors():
            body = self._client.get_object(Bucket=self.name, Key=self._prefix + key)["Body"]
            try:
                yield from body.iter_chunks(_READ_BYTES)
            finally:
                body.close()

    def expire(self, days: int) -> None:
        """Has the service remove what is older than so many days, and parts of uploads that were never finished.

        Raises:
            ArchiveError: it will not.
        """
        rule = {
            "ID": "rayslurm",
            "Status": "Enabled",
            "Filter": {"Prefix": self._prefix},
            "Expiration": {"Days": days},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        }
        with self._errors():
            self._client.put_bucket_lifecycle_configuration(Bucket=self.name, LifecycleConfiguration={"Rules": [rule]})

    def expiry_days(self) -> int | None:
        """Returns after how many days the service removes what is here; None where it doesn't, or that isn't told."""
        with suppress(boto.ClientError), self._errors(raw=True):
            rules = self._client.get_bucket_lifecycle_configuration(Bucket=self.name)["Rules"]
            days = [rule["Expiration"]["Days"] for rule in rules if "Days" in rule.get("Expiration", {})]
            return min(days, default=None)
        return None

    @contextmanager
    def _errors(self, *, raw: bool = False) -> Iterator[None]:
        """Says what went wrong, and what to do; `raw` leaves what the service itself refused as it is."""
        where = f"{self.settings.endpoint}, bucket {self.name}"
        try:
            yield
        except boto.ClientError as error:
            if raw:
                raise
            raise _refusal(where, self.name, error) from None
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError):
            raise ArchiveError(
                f"{where}: there are no credentials; name a file in archive.credentials_file, or set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for serve",
                "credentials",
            ) from None
        except boto.SSLError as error:
            raise ArchiveError(
                f"{where}: its certificate is not trusted ({error}); name the one to trust in archive.ca_bundle", "tls"
            ) from None
        except (boto.HTTPClientError, boto.BotoCoreError, ConnectionError, TimeoutError) as error:
            raise ArchiveError(f"{where}: cannot be reached: {error}", "unreachable") from None


def _refusal(where: str, name: str, error: boto.ClientError) -> ArchiveError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    told = f"{where}: {code} to {error.operation_name}"
    for codes, reason, words in _REFUSALS:
        if code in codes:
            return ArchiveError(f"{told}: {words.format(name=name)}", reason)
    reason = "unreachable" if isinstance(status, int) and status >= 500 else "archive"  # noqa: PLR2004 - HTTP
    return ArchiveError(f"{told}: {error.response.get('Error', {}).get('Message') or status}", reason)


def _is_open(grant: Mapping[str, Any]) -> bool:
    return str(grant["Grantee"].get("URI", "")).endswith(_GROUPS)


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _keys(path: Path, profile: str | None) -> dict[str, str]:
    """Returns the keys of an INI file as the AWS tools write it.

    Raises:
        ConfigError: it can be read by others, or hasn't the keys.
    """
    parser = configparser.ConfigParser(interpolation=None)
    section = profile or "default"
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"archive.credentials_file: {path} can be read by others; run: chmod 600 {path}")
        with path.open(encoding="utf-8") as file:
            parser.read_file(_as_ini(file, section))
        values = parser[section]
        keys = {name: values[name] for name in ("aws_access_key_id", "aws_secret_access_key")}
    except OSError as error:
        raise ConfigError(f"archive.credentials_file: {path}: {error.strerror}") from None
    except (KeyError, configparser.Error, UnicodeDecodeError):
        raise ConfigError(
            f"archive.credentials_file: {path} needs a section [{section}] with aws_access_key_id and "
            "aws_secret_access_key"
        ) from None
    if token := values.get("aws_session_token"):
        keys["aws_session_token"] = token
    return keys


def _as_ini(file: IO[str], section: str) -> Iterator[str]:
    """Gives the lines of a file; one without any section is that section."""
    lines = file.readlines()
    if not any(line.lstrip().startswith("[") for line in lines):
        yield f"[{section}]\n"
    yield from lines
