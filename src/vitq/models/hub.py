"""Ask the model hub, and give up at once where there is no network instead of retrying for a minute."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

from huggingface_hub import constants

from vitq.errors import ModelError, first_line


@contextmanager
def download(what: str) -> Iterator[None]:
    """Run a download of ``what``; files already downloaded are used without a network.

    Raises ModelError that says to pass a weights file when the download fails.
    """
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _hub_resolves()
    try:
        yield
    except ModelError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{what} could not be fetched from the hub ({first_line(error)}); pass a local file with weights=FILE "
            "(--weights FILE) or a local folder, or check the name and the network"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = was_offline


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Read a model from local files: whatever goes wrong there is a ModelError that names ``what``."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # a stranger's configuration ends in any type
        raise ModelError(
            f"{what} cannot be loaded ({type(error).__name__}: {first_line(error)}); give a folder that timm or "
            "transformers saved, or the model itself as a module"
        ) from error


def _hub_resolves() -> bool:
    """Whether the hub's name is known here; behind a proxy that cannot be told and is taken for granted."""
    host = urlparse(constants.ENDPOINT).hostname
    if host is None or urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
