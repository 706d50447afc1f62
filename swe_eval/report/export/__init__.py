"""A run in the forms that others read: a table of its trials, a submission to the SWE-bench leaderboard."""
