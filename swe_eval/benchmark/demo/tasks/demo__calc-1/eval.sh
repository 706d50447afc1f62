#!/bin/bash
set -uxo pipefail
git status
git checkout 9628cc057c5f73a06baee70fc088e66b1b3fe499 tests/test_calc.py
git apply -v - <<'EOF_114329324912'
diff --git a/tests/test_calc.py b/tests/test_calc.py
index 1667b87..afb7ead 100644
--- a/tests/test_calc.py
+++ b/tests/test_calc.py
@@ -14,3 +14,11 @@ def test_nested():
 def test_leftover_operand():
     with pytest.raises(ValueError):
         evaluate("1 2")
+
+
+def test_subtraction():
+    assert evaluate("7 2 -") == 5
+
+
+def test_division():
+    assert evaluate("8 2 /") == 4
EOF_114329324912
: '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider tests/test_calc.py
: '>>>>> End Test Output'
git checkout 9628cc057c5f73a06baee70fc088e66b1b3fe499 tests/test_calc.py
