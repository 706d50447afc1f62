#!/bin/bash
set -uxo pipefail
git status
git checkout e420fdeab18ba5e777bf2368cc8a9611616a9adf tests/test_romans.py
git apply -v - <<'EOF_114329324912'
diff --git a/tests/test_romans.py b/tests/test_romans.py
index a685596..c756fbe 100644
--- a/tests/test_romans.py
+++ b/tests/test_romans.py
@@ -11,3 +11,8 @@ def test_different_letters(numeral, number):
 def test_unknown_letter():
     with pytest.raises(KeyError):
         from_roman("XQ")
+
+
+@pytest.mark.parametrize(("numeral", "number"), [("II", 2), ("XXX", 30), ("MMXXVI", 2026)])
+def test_repeated_letters(numeral, number):
+    assert from_roman(numeral) == number
EOF_114329324912
: '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider tests/test_romans.py
: '>>>>> End Test Output'
git checkout e420fdeab18ba5e777bf2368cc8a9611616a9adf tests/test_romans.py
