from lru import LRUCache


def cache_of(*keys, capacity=2):
    cache = LRUCache(capacity)
    for key in keys:
        cache.put(key, key.upper())
    return cache


def test_stores_values():
    assert cache_of("a", "b").get("a") == "A"


def test_oldest_makes_room():
    assert cache_of("a", "b", "c").get("a") is None


def test_default():
    assert cache_of("a").get("z", "nothing") == "nothing"
