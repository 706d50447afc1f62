"""Images without an engine: fetched from a registry, unpacked once per layer, shared by all sandboxes."""

from swe_eval.sandbox.store.store import Store

__all__ = ["Store"]
