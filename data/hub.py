"""Whether the Hugging Face hub can be reached, asked once and quickly.

In:  an address on the hub. Out: its status, or None where there is no way to it; its own clients
     would retry for most of a minute before they said so.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException

TIMEOUT_S = 5.0


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token goes to the hub alone, and a redirect is an answer too."""

    def redirect_request(self, *args):
        return None


def status(path: str) -> tuple[int | None, str]:
    """(HTTP status of a HEAD request for ENDPOINT/path, "") or (None, the reason)."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    # With the user's token, without which the hub denies that a gated model is there.
    address, headers = f"{constants.ENDPOINT}/{path}", build_hf_headers()
    request = urllib.request.Request(address, method="HEAD", headers=headers)
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=TIMEOUT_S) as reply:
            return reply.status, ""
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, HTTPException) as error:
        return None, str(getattr(error, "reason", error))
