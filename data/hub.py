"""Whether the Hugging Face hub can be reached, asked once and quickly.

In:  an address on the hub. Out: its status, or None where there is no way to it; its own clients
     would retry for most of a minute before they said so.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException

TIMEOUT_S = 5.0


def status(path: str) -> tuple[int | None, str]:
    """(HTTP status of a HEAD request for ENDPOINT/path, "") or (None, the reason)."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(f"{constants.ENDPOINT}/{path}", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            return reply.status, ""
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, HTTPException) as error:
        return None, str(getattr(error, "reason", error))
