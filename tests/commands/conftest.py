"""One thread for tiny tensors."""

from tests.tiny import one_thread  # noqa: F401
