#!/bin/bash
set -uxo pipefail
git status
git checkout 2b9e2aadcd4ae42b387eea4394ba16ed66e766f0 tests/test_lru.py
git apply -v - <<'EOF_114329324912'
diff --git a/tests/test_lru.py b/tests/test_lru.py
index 443849a..d20124c 100644
--- a/tests/test_lru.py
+++ b/tests/test_lru.py
@@ -18,3 +18,18 @@ def test_oldest_makes_room():
 
 def test_default():
     assert cache_of("a").get("z", "nothing") == "nothing"
+
+
+def test_reading_counts_as_use():
+    cache = cache_of("a", "b")
+    cache.get("a")
+    cache.put("c", "C")
+    assert cache.get("a") == "A"
+    assert cache.get("b") is None
+
+
+def test_reading_a_missing_key_changes_nothing():
+    cache = cache_of("a", "b")
+    cache.get("z")
+    cache.put("c", "C")
+    assert cache.get("b") == "B"
EOF_114329324912
: '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider tests/test_lru.py
: '>>>>> End Test Output'
git checkout 2b9e2aadcd4ae42b387eea4394ba16ed66e766f0 tests/test_lru.py
