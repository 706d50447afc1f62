"""What a run found: results in official formats, tables."""
