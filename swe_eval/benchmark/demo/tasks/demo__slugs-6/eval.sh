#!/bin/bash
set -uxo pipefail
git status
git checkout 66c1b0757ba11d983bf948b126008cc0a3146075 tests/test_slugs.py
git apply -v - <<'EOF_114329324912'
diff --git a/tests/test_slugs.py b/tests/test_slugs.py
index 9c62f23..e83520f 100644
--- a/tests/test_slugs.py
+++ b/tests/test_slugs.py
@@ -11,3 +11,12 @@ def test_accents():
 
 def test_max_length():
     assert slugify("Ten small tasks", max_length=7) == "ten-sma"
+
+
+def test_punctuation_at_the_ends():
+    assert slugify("¿Hello, world!") == "hello-world"
+    assert slugify("(draft) notes...") == "draft-notes"
+
+
+def test_cut_behind_a_word():
+    assert slugify("Ten small tasks", max_length=4) == "ten"
EOF_114329324912
: '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider tests/test_slugs.py
: '>>>>> End Test Output'
git checkout 66c1b0757ba11d983bf948b126008cc0a3146075 tests/test_slugs.py
