"""Our Transformers server: one base model, many LoRA adapters, OpenAI's API. Knows nothing of the rest of swe_eval.

http.py          the app: routes, key, models
  protocol.py      what may be asked            errors.py       what is answered instead
  chat.py          /v1/chat/completions         completions.py  /v1/completions
  tools.py         tool calls in text           answering.py    a request's answers, while its client waits
engine.py        prompts in, answers out: one thread, and the queue before it
  scheduler.py     who is computed when         batch.py        who is decoded together
  sequence.py      one answer being generated   prefix_cache.py what earlier requests have read
  sampling.py      the next token               kv.py           keys and values
  text.py          tokens to text               metrics.py      counts for Prometheus
weights.py       base model and adapters in memory
  adapters.py      which adapter each row of a pass gets
  latent_attention.py  DeepSeek-V3's attention, faster
  quantized_experts.py routed experts in 4 or 8 bits
"""
