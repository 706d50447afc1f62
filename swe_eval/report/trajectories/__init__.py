"""Any two trajectories of an instance side by side: a page, and its data a file per instance or served as asked for."""

PAGE = "trajectories.html"
"""In the run's directory, beside the report; each instance is at ``#<instance_id>``."""
