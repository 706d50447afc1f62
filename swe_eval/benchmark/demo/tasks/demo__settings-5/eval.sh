#!/bin/bash
set -uxo pipefail
git status
git checkout 87c144231cb075f292c244cd7be03a9ce2010a04 tests/test_settings.py
git apply -v - <<'EOF_114329324912'
diff --git a/tests/test_settings.py b/tests/test_settings.py
index d86f68e..bfd067c 100644
--- a/tests/test_settings.py
+++ b/tests/test_settings.py
@@ -14,3 +14,11 @@ def test_comments_and_empty_lines():
 def test_line_without_separator():
     with pytest.raises(ValueError):
         parse("name")
+
+
+def test_value_with_separator():
+    assert parse("url = http://host/?a=1&b=2") == {"url": "http://host/?a=1&b=2"}
+
+
+def test_value_of_separators():
+    assert parse("rule = ===") == {"rule": "==="}
EOF_114329324912
: '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider tests/test_settings.py
: '>>>>> End Test Output'
git checkout 87c144231cb075f292c244cd7be03a9ce2010a04 tests/test_settings.py
