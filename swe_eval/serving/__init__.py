"""How adapters are served: the seam (``server.py``), one file per answer, and our own server (``app/``)."""
