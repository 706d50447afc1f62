"""Remakes the demo's adapter: ``python -m swe_eval.benchmark.demo.train [--out DIR] [--tokenizer]``.

Every demonstration is played for real, so that what the adapter is trained on is byte for byte what an agent will meet.
Then a LoRA adapter learns all turns by heart. About three minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from rich.progress import Progress
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from swe_eval.benchmark.demo.model import SHIPPED, model_hash, tiny_model
from swe_eval.benchmark.instances import Instance, load
from swe_eval.command import settings_of
from swe_eval.mini import SandboxEnvironment, mini_config
from swe_eval.sandbox.local import LocalSandboxes
from swe_eval.settings import Settings

# isort: split
# after swe_eval.mini, which sets the two up
import litellm
from minisweagent.agents.default import DefaultAgent
from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel

HERE = Path(__file__).parent
ADAPTER = HERE / "adapter"
EPOCHS, LEARNING_RATE = 120, 2e-3
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
    if wrong := mistakes(played, options.out):
        sys.exit("the adapter does not repeat:\n\n" + "\n\n".join(wrong))


def conversations() -> list[Conversation]:
    """Every demonstration, played in a sandbox with the demo's own settings."""
    settings = settings_of()
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


def train(played: Sequence[Conversation], out: Path) -> None:
    """Train an adapter that answers as the demonstrations do, and write it to ``out``."""
    torch.manual_seed(0)
    tokenizer, base = _load_base()
    model = get_peft_model(base, LORA)
    examples = [_encode(tokenizer, messages) for messages in played]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * len(examples), pct_start=0.1)
    with Progress() as progress:
        task = progress.add_task("training", total=EPOCHS)
        for _ in range(EPOCHS):
            loss = sum(_step(model, example, optimizer, schedule) for example in examples) / len(examples)
            progress.update(task, advance=1, description=f"loss {loss:.4f}")
    _save(model, out)
    (out / "training.json").write_text(json.dumps({"fingerprint": fingerprint(played)}, indent=2) + "\n")


def mistakes(played: Sequence[Conversation], adapter: Path) -> list[str]:
    """The turns that the saved adapter, decoding greedily, does not repeat word for word."""
    tokenizer, base = _load_base()
    model = PeftModel.from_pretrained(base, adapter).eval()
    return [
        message["content"]
        for messages in played
        for index, message in enumerate(messages)
        if message["role"] == "assistant" and _answer(model, tokenizer, messages[:index]) != message["content"]
    ]


def _play(instance: Instance, turns: Sequence[dict[str, str]], settings: Settings) -> Conversation:
    mini = mini_config(settings.agent)
    answers = (f"{turn['thought']}\n\n```mswea_bash_command\n{turn['command']}\n```" for turn in turns)
    model = _Scripted(answers, model_name="scripted", cost_tracking="ignore_errors", **mini["model"])
    with LocalSandboxes("train").start(instance, "rollout") as sandbox:
        agent = DefaultAgent(model, SandboxEnvironment(sandbox, settings, mini["environment"]["env"]), **mini["agent"])
        agent.run(instance.problem_statement)
    said = [message for message in agent.messages if message["role"] != "exit"]
    return [{"role": message["role"], "content": message["content"]} for message in said]


class _Scripted(LitellmTextbasedModel):
    """mini-swe-agent's model for text actions, with a script in place of the endpoint."""

    def __init__(self, answers: Iterable[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._answers = iter(answers)

    def _query(self, messages: Any, **kwargs: Any) -> litellm.ModelResponse:
        return litellm.ModelResponse(choices=[{"message": {"role": "assistant", "content": next(self._answers)}}])


def _load_base() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    directory = tiny_model()
    return AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)


def _encode(tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> dict[str, torch.Tensor]:
    """The model's arguments; what the assistant says is what there is to learn."""
    encoded: Any = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    input_ids = encoded["input_ids"]
    return {"input_ids": input_ids, "labels": input_ids.masked_fill(encoded["assistant_masks"] == 0, -100)}


def _step(model: PeftModel, example: dict[str, torch.Tensor], optimizer: Any, schedule: Any) -> float:
    """One update; returns the loss before it."""
    loss = model(**example).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return float(loss.item())


def _save(model: PeftModel, out: Path) -> None:
    """As PEFT does, less its model card and this machine's paths, with 16 bits per weight."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.to(torch.bfloat16) for name, weight in get_peft_model_state_dict(model).items()}
    save_file(weights, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = f"swe_eval/{tiny_model().name}", True
    config.target_modules = sorted(config.target_modules)  # PEFT's set is in another order each time
    config.save_pretrained(str(out))


def _answer(model: PeftModel, tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> str:
    prompt: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**prompt, max_new_tokens=256)
    return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
