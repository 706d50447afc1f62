"""Which instances are run: datasets in swebench 5's schema, and the bundled demo."""
