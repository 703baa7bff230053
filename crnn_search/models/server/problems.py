"""Every error as JSON, `{"error": "…"}`: the rule, the value received, what is valid."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from crnn_search.errors import InputError
from crnn_search.text import cut, printable, shown

SHOWN = 5
"""How many problems of a request are told; it may have thousands."""


class UnavailableError(Exception):
    """What predicts does not answer."""


def problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that says what is wrong."""
    return JSONResponse({"error": printable(text)}, status, headers)


def add_handlers(app: FastAPI) -> None:
    """Let an application answer every error so."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(InputError, _input)
    app.add_exception_handler(UnavailableError, _unavailable)
    app.add_exception_handler(Exception, _failure)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = shown(request.url.path)
    known = {
        404: f"there is no {path}; /docs lists what there is",
        405: f"{path} does not take {shown(request.method)}; /docs says what it takes",
    }
    text = known.get(error.status_code, cut(str(error.detail)))
    return problem(error.status_code, text, error.headers)


async def _input(request: Request, error: Exception) -> Response:
    return problem(422, str(error))


async def _unavailable(request: Request, error: Exception) -> Response:
    return problem(503, f"the model does not answer: {error}; try again", {"retry-after": "1"})


async def _failure(request: Request, error: Exception) -> Response:
    return problem(500, "the server failed at this request; its log says why")


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wanted = "multipart/form-data" if request.url.path.endswith("/files") else "application/json"
    got = request.headers.get("content-type", "")
    if got.partition(";")[0].strip().lower() != wanted:
        return problem(415, f"Content-Type must be {wanted}, got {shown(got)}")
    problems = error.errors()
    told = [_told(one) for one in problems[:SHOWN]]
    if more := len(problems) - SHOWN:
        told += [f"and {more:,} more"] * (more > 0)
    return problem(422, "; ".join(told))


def _told(one: Mapping[str, Any]) -> str:
    """A problem that Pydantic found: where, what is valid, what it got."""
    if one["type"] == "json_invalid":
        return f"the body must be JSON: {one['ctx']['error']} (character {one['loc'][-1]:,})"
    where = _place(one["loc"][1:]) or "the body"
    if one["type"] == "missing":
        return f"{where}: is missing"
    if one["type"] == "extra_forbidden":
        return f"{where}: is not known"
    return f"{where}: {cut(one['msg'])}, got {cut(reprlib.repr(one['input']))}"


def _place(steps: Sequence[str | int]) -> str:
    """A place in the body, as `sequences[0][2]`."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return cut(text)
