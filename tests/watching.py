"""Watches which other machines a program asks for, through the C library, in all its processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from crnn_search.storage.cache import CACHE_VARIABLE, cache_folder

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

POSSIBLE = sys.platform == "linux" and shutil.which("cc") is not None

LOG = "connections"
"""The file in a watched program's folder with a line for each name or address."""


def environment(folder: Path) -> dict[str, str]:
    """The environment of a program with a new home in `folder`, which is watched if possible.

    Without what this process has set for itself. The cache stays: kernels take long to compile.
    """
    ours = {"ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED"}
    found = {name: value for name, value in os.environ.items() if name not in ours}
    home, source, shim, log = (folder / name for name in ("home", "shim.c", "shim.so", LOG))
    home.mkdir()
    log.touch()
    found |= {"HOME": str(home), CACHE_VARIABLE: str(cache_folder())}
    if not POSSIBLE:
        return found
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    return found | {"LD_PRELOAD": str(shim), "CONNECTIONS": str(log)}
