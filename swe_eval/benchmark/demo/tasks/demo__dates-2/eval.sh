#!/bin/bash
set -uxo pipefail
git status
git checkout 383539fafc6270141c3892fe6bda10a053d786a7 tests/test_dates.py
git apply -v - <<'EOF_114329324912'
diff --git a/tests/test_dates.py b/tests/test_dates.py
index 9ea9729..e67fd33 100644
--- a/tests/test_dates.py
+++ b/tests/test_dates.py
@@ -14,3 +14,11 @@ def test_leap_year():
 def test_no_such_month():
     with pytest.raises(ValueError):
         days_in_month(2024, 13)
+
+
+def test_centuries():
+    assert [days_in_month(year, 2) for year in (1800, 1900, 2100)] == [28, 28, 28]
+
+
+def test_every_fourth_century():
+    assert [days_in_month(year, 2) for year in (1600, 2000, 2400)] == [29, 29, 29]
EOF_114329324912
: '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider tests/test_dates.py
: '>>>>> End Test Output'
git checkout 383539fafc6270141c3892fe6bda10a053d786a7 tests/test_dates.py
