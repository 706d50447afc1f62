"""``report.html`` and ``report.md``: a file for what stands in each part of the page, and the templates that set it."""
