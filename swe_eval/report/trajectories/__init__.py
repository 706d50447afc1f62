"""Any two trajectories of an instance side by side: a page, whose data are files or are served on request."""

PAGE = "trajectories.html"
"""In the run's directory, beside the report; ``#<instance_id>`` leads to an instance."""
