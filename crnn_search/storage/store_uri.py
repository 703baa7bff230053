"""obstore's store of a URI, with timeouts and retries."""

from __future__ import annotations

import configparser
import functools
import http.client
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from obstore.exceptions import BaseError
from obstore.store import S3Store, from_url

from crnn_search.errors import InputError
from crnn_search.storage.retry import READ_RETRY_FOR_S
from crnn_search.text import first_line, shown

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

TIMEOUT_S, READ_TIMEOUT_S = 30.0, 10.0
"""How long one request may take, in a run and in commands that only read runs."""

S3_OPTIONS = ("region", "endpoint_override", "scheme")

SCHEMES = ("s3", "gs", "az")

NOT_IN_A_URI = frozenset("#?%")
"""Characters that mean something else in a URI: a name with one would be read as another."""


def connect(uri: str, retry_for_s: float) -> ObjectStore:
    """obstore's store of the bucket in a URI. retry_for_s: how long a failed request is retried.

    Raises:
        InputError: the URI is of no object store, is ambiguous, or holds a password.
    """
    parts = split(uri)
    if parts.username or parts.password:
        raise InputError(
            f"a storage may not name its credentials, which logs would repeat: "
            f"{parts.scheme}://…@{parts.hostname}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or give the machine a role"
        )
    if parts.scheme not in SCHEMES or not parts.netloc or uri != uri.strip():
        starts = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(
            f"a storage must be a folder or a URI that starts with {starts} and a bucket's name, "
            f"got {shown(uri)}"
        )
    if "#" in uri or "%" in parts.path:
        raise InputError(f"the path of a URI must be one without # and %, got {shown(uri)}")
    _check_options(parts)
    try:
        return _bucket(parts._replace(path=""), retry_for_s)
    except (BaseError, OSError, ValueError) as error:
        raise InputError(
            f"{shown(uri)} is not a storage that obstore knows: {first_line(error)}"
        ) from error


def split(uri: str) -> SplitResult:
    """The parts of a URI.

    Raises:
        InputError: it has none.
    """
    try:
        return urlsplit(uri)
    except ValueError as error:
        raise InputError(
            f"a storage must be a folder or a URI, got {shown(uri)}: {error}"
        ) from None


def _check_options(parts: SplitResult) -> None:
    known = S3_OPTIONS if parts.scheme == "s3" else ()
    given = [text.partition("=") for text in parts.query.split("&") if text]
    wrong = [name for name, _, value in given if name not in known or not value]
    if wrong:
        raise InputError(
            f"an {parts.scheme}:// storage takes the options {', '.join(known) or '(none)'}, each "
            f"as NAME=VALUE after a ?, got {shown(wrong[0])}"
        )


@functools.lru_cache
def _bucket(parts: SplitResult, retry_for_s: float) -> ObjectStore:
    """A bucket's store; one for all runs in it, as it takes 20 ms to make one."""
    options = dict(parse_qsl(parts.query))
    client, retry = _limits(retry_for_s)
    client["allow_http"] = options.get("scheme") == "http"
    if parts.scheme == "s3":
        config = _s3_config(parts.netloc, options)
        return S3Store(parts.netloc, config=config, client_options=client, retry_config=retry)
    return from_url(urlunsplit(parts), client_options=client, retry_config=retry)


def _limits(retry_for_s: float) -> tuple[ClientConfig, RetryConfig]:
    """Timeouts and retries."""
    timeout_s = READ_TIMEOUT_S if retry_for_s <= READ_RETRY_FOR_S else TIMEOUT_S
    client: ClientConfig = {
        "timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=READ_TIMEOUT_S),
    }
    retry: RetryConfig = {
        "max_retries": 1000 if retry_for_s else 0,
        "retry_timeout": timedelta(seconds=retry_for_s),
        "backoff": {
            "init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=20), "base": 2
        },
    }  # fmt: skip
    return client, retry


def _s3_config(bucket: str, options: dict[str, str]) -> S3Config:
    """obstore's settings for the options of a URI, and what it does not find by itself."""
    config = _shared_credentials()
    endpoint = options.get("endpoint_override")
    if endpoint:
        scheme = options.get("scheme", "https")
        config["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
        config["virtual_hosted_style_request"] = False
    region = options.get("region") or os.environ.get("AWS_REGION")
    region = region or os.environ.get("AWS_DEFAULT_REGION")
    config["region"] = region or ("us-east-1" if endpoint else _region_of(bucket))
    return config


def _shared_credentials() -> S3Config:
    """Keys in `~/.aws/credentials`, which obstore does not read; the environment's come first."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    parser = configparser.RawConfigParser()
    try:
        parser.read(Path(file).expanduser(), encoding="utf-8")
    except RuntimeError:  # there is no home folder
        return {}
    except (configparser.Error, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the keys in {file}: {first_line(error)}") from error
    profile = os.environ.get("AWS_PROFILE", "default")
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    keys = dict(parser[profile]) if parser.has_section(profile) else {}
    found: S3Config = {name: keys[name] for name in names if name in keys}  # type: ignore[assignment]
    return found


def _region_of(bucket: str) -> str:
    """The region of one of Amazon's buckets, which S3 tells anybody; us-east-1 without answer."""
    client = http.client.HTTPSConnection(f"{bucket}.s3.amazonaws.com", timeout=READ_TIMEOUT_S)
    try:
        client.request("HEAD", "/")
        return client.getresponse().getheader("x-amz-bucket-region") or "us-east-1"
    except (OSError, http.client.HTTPException):
        return "us-east-1"
    finally:
        client.close()
