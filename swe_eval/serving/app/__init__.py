"""Our Transformers server: one base model, many LoRA adapters, OpenAI's API. Knows nothing of the rest of swe_eval."""
