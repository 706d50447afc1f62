"""Does this LoRA checkpoint fix more real issues, and can I believe the number?"""

__version__ = "0.1.0"
