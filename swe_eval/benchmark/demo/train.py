"""Remakes the demo's adapter: ``python -m swe_eval.benchmark.demo.train [--out DIR] [--tokenizer]``.

Every demonstration is played for real, so that what the adapter is trained on is byte for byte what an agent will meet.
Then a LoRA adapter learns all turns by heart. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from rich.progress import Progress
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import swe_eval.resolvers  # noqa: F401 - conf/ uses them
from swe_eval.benchmark.demo.model import SHIPPED, model_hash, tiny_model
from swe_eval.benchmark.instances import Instance, load
from swe_eval.command import conf_dir
from swe_eval.rollout import SandboxEnvironment, mini_config
from swe_eval.sandbox.local import LocalSandboxes
from swe_eval.settings import Settings, settings_from

HERE = Path(__file__).parent
ADAPTER = HERE / "adapter"
EPOCHS, LEARNING_RATE = 80, 2e-3
LORA = LoraConfig(
    r=32,
    lora_alpha=64,
    target_modules=["q_proj", "kv_a_proj_with_mqa", "o_proj"],  # not kv_b_proj: vLLM ignores it without a word
    task_type="CAUSAL_LM",
)

Conversation = list[dict[str, str]]


def main() -> None:
    """Console entry point."""
    parser = argparse.ArgumentParser(description="Remake the demo's LoRA adapter.")
    parser.add_argument("--out", type=Path, default=ADAPTER, help="directory to write (default: the shipped one)")
    parser.add_argument("--tokenizer", action="store_true", help="remake the tokenizer first: that is another model")
    options = parser.parse_args()
    played = conversations()
    if options.tokenizer:
        train_tokenizer(played)
    train(played, options.out)
    exact, turns = replay(played, options.out)
    print(f"{exact} of {turns} turns are repeated word for word")


def conversations() -> list[Conversation]:
    """Every demonstration, played in a sandbox with the demo's own settings."""
    settings = _demo_settings()
    turns = yaml.safe_load((HERE / "demonstrations.yaml").read_text())
    return [_play(instance, turns[instance.instance_id], settings) for instance in load(settings.benchmark).instances]


def fingerprint(played: Sequence[Conversation]) -> str:
    """Hash of all that an adapter is trained on: the base model with its tokenizer, and every message."""
    return hashlib.sha256(json.dumps([model_hash(), played]).encode()).hexdigest()


def train_tokenizer(played: Sequence[Conversation]) -> None:
    """Byte-level BPE on the demo's texts: conversations are short then, and training is quick."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=json.loads((SHIPPED / "config.json").read_text())["vocab_size"],
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([message["content"] for messages in played for message in messages], trainer)
    tokenizer.save(str(SHIPPED / "tokenizer.json"))
