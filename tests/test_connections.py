"""No command opens a connection to another machine that its user did not ask for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from crnn_search.storage.cache import CACHE_VARIABLE, cache_folder
from tests.small_run import LAUNCH, PROGRAM, REPOSITORY, FinishedRun, one_core

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a compiler"
    ),
]

SHIM = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void note(const char *what, const char *where) {
    const char *path = getenv("CONNECTIONS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%s %s\n", what, where);
        fclose(file);
    }
}

static void note_address(const char *what, const struct sockaddr *to) {
    char text[INET6_ADDRSTRLEN] = "";
    if (to && to->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)to)->sin_addr, text, sizeof text);
    if (to && to->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)to)->sin6_addr, text, sizeof text);
    const char *name = strncmp(text, "::ffff:", 7) ? text : text + 7;
    if (*name && strncmp(name, "127.", 4) && strcmp(name, "::1"))
        note(what, name);
}

int connect(int fd, const struct sockaddr *to, socklen_t size) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    note_address("connect", to);
    return real(fd, to, size);
}

ssize_t sendto(int fd, const void *data, size_t n, int flags, const struct sockaddr *to,
               socklen_t size) {
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
        dlsym(RTLD_NEXT, "sendto");
    note_address("sendto", to);
    return real(fd, data, n, flags, to, size);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    struct in6_addr ignored;
    if (name && strcmp(name, "localhost") && !inet_pton(AF_INET, name, &ignored)
        && !inet_pton(AF_INET6, name, &ignored))
        note("getaddrinfo", name);
    return real(name, service, hints, found);
}
"""

Watched = Callable[..., list[str]]


@pytest.fixture
def watched(tmp_path: Path, finished: FinishedRun) -> Watched:
    """Runs `crnn-search` with a new home on a copy of the finished run; returns what it asks for
    of other machines. It is watched through the C library, in all of its processes.
    """
    shutil.copytree(finished.folder, tmp_path / "runs" / "demo")
    for name in ("data", "space.yaml"):
        (tmp_path / name).symlink_to(finished.root / name)
    (tmp_path / "home").mkdir()
    source, shim, log = tmp_path / "shim.c", tmp_path / "shim.so", tmp_path / "connections"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    log.touch()

    def run(program: str, *arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            preexec_fn=one_core,
            env=_environment()
            | {
                "PYTHONPATH": REPOSITORY,
                "HOME": str(tmp_path / "home"),
                CACHE_VARIABLE: str(cache_folder()),  # with the kernels, which take long to compile
                "LD_PRELOAD": str(shim),
                "CONNECTIONS": str(log),
            },
        )
        assert done.returncode == 0, done.stderr
        return log.read_text().splitlines()

    return run


def _environment() -> dict[str, str]:
    """Without what this process has set for itself."""
    ours = {"ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def test_a_connection_is_seen(watched: Watched) -> None:
    program = """
import contextlib, socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(type=kind) as client, contextlib.suppress(OSError):
        client.settimeout(0.1)
        client.connect(("192.0.2.77", 9))
with contextlib.suppress(OSError):
    socket.getaddrinfo("name.invalid", 80)
"""
    assert watched(program) == ["connect 192.0.2.77"] * 2 + ["getaddrinfo name.invalid"]


@pytest.mark.parametrize(
    "words",
    [
        ["check", "space.yaml"],
        ["list"],
        ["status", "runs/demo"],
        ["logs", "runs/demo"],
        ["report", "runs/demo", "--data-dir", "data"],
        ["export", "runs/demo", "--data-dir", "data"],
        ["predict", "runs/demo/model/model.onnx", "one.png"],
        ["predict", "runs/demo/model", "one.png"],
    ],
    ids=" ".join,
)
def test_command_opens_no_connection(watched: Watched, tmp_path: Path, words: list[str]) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "one.png")
    assert watched(PROGRAM, *words) == []
    written = {path.name.lower() for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert not {name for name in written if "device" in name or "telemetry" in name}


RAYS_OWN = {"connect 169.254.169.254", "getaddrinfo metadata.google.internal"}
"""Ray 2.60 asks the machine's metadata service which cloud it is in, whatever its settings."""


@pytest.mark.long
def test_launch_opens_no_connection_of_its_own(watched: Watched) -> None:
    words = [word if word != "demo" else "new" for word in LAUNCH]
    short = ("--trials", "1", "--set", "retrain.finalists=1", "--set", "retrain.seeds=1")
    assert set(watched(PROGRAM, *words, *short)) <= RAYS_OWN
