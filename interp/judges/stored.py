"""Requests and replies as the cache keeps them: plain dicts, and back.

In:  a `Request` and whom it goes to, a `Reply`. Out: dicts that JSON can say, which hold no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from interp.judges.client import Reply, Request, Usage


def request_dict(request: Request, endpoint: str) -> dict:
    """All that decides a reply, as it is kept and hashed."""
    fields = dict(vars(request))
    fields["messages"] = [dict(vars(message)) for message in request.messages]
    for name in ("temperature", "top_p"):  # 0 and 0.0 are one setting
        if fields[name] is not None:
            fields[name] = float(fields[name])
    return {"endpoint": without_secrets(endpoint), **fields}


def reply_dict(reply: Reply) -> dict:
    return {**vars(reply), "usage": dict(vars(reply.usage))}


def reply_of(entry: Mapping) -> Reply:
    """The reply of an entry of the cache."""
    fields = entry["reply"]
    return Reply(**{**fields, "usage": Usage(**fields["usage"])})


def without_secrets(endpoint: str) -> str:
    """An address without user, password and query, where keys may stand."""
    if "://" not in endpoint:
        return endpoint
    parts = urlsplit(endpoint)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
