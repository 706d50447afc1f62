"""A bounded cache that forgets what was not used for longest."""

from collections import OrderedDict


class LRUCache:
    """At most `capacity` entries."""

    def __init__(self, capacity):
        self.capacity = capacity
        self._items = OrderedDict()

    def get(self, key, default=None):
        """The value stored under the key, or the default."""
        return self._items.get(key, default)

    def put(self, key, value):
        """Stores the value; the entry unused for longest makes room."""
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self.capacity:
            self._items.popitem(last=False)
