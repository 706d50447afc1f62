"""Where commands run: the seam (``sandbox.py``) and one file per answer."""
