"""``sandbox=podman``: Docker's sandboxes in rootless Podman, which takes Docker's commands and has no daemon."""

from __future__ import annotations

from swe_eval.sandbox.docker import DockerSandboxes
from swe_eval.sandbox.engine import tagged
from swe_eval.sandbox.store.registry import Reference


class PodmanSandboxes(DockerSandboxes):
    """See ``Sandboxes``."""

    kind = "podman"
    image_root = ".Store.GraphRoot"

    def called(self, image: str) -> str:
        """In full: where no registry is configured to be searched, Podman refuses a name without one."""
        found = Reference.parse(image)
        return tagged(f"{found.host}/{found.repository}{image.removeprefix('')}")
