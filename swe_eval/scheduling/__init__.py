"""Many trials at once: in which order, how many (``admission.py``), and who may take a turn (``gate.py``)."""
