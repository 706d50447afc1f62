#!/bin/bash
set -uxo pipefail
git status
git checkout 66e49a021258e6fdadec8f33247db11542e2ac75 tests/test_stats.py
git apply -v - <<'EOF_114329324912'
diff --git a/tests/test_stats.py b/tests/test_stats.py
index 08c2423..765b56c 100644
--- a/tests/test_stats.py
+++ b/tests/test_stats.py
@@ -14,3 +14,11 @@ def test_window_longer_than_series():
 def test_window_must_be_positive():
     with pytest.raises(ValueError):
         moving_average([1, 2], 0)
+
+
+def test_every_window():
+    assert moving_average([1, 2, 3, 4], 2) == [1.5, 2.5, 3.5]
+
+
+def test_window_as_long_as_series():
+    assert moving_average([2, 4], 2) == [3]
EOF_114329324912
: '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider tests/test_stats.py
: '>>>>> End Test Output'
git checkout 66e49a021258e6fdadec8f33247db11542e2ac75 tests/test_stats.py
