"""Merging: what is computed, what is refused, and that a merged checkpoint is made once, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from merging_fixtures import (
    adapter,
    by_hand,
    by_peft,
    checkpoint,
    logits,
    merged,
    peft_adapter,
    products,
    tensors,
    write_adapter,
)
from safetensors.torch import load_file, save_file

from swe_eval.errors import UserError
from swe_eval.merging import cache, making, merged_checkpoint
from swe_eval.merging.__main__ import main
from swe_eval.merging.tensors import narrow, widen

EXACT = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in float32 with ``q_a_proj`` and ``q_b_proj``, in one file."""
    return checkpoint(tmp_path_factory.mktemp("base") / "one-file", q_lora_rank=48)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where merged checkpoints are kept, for this test alone."""
    monkeypatch.setenv("SWE_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "merged"


@pytest.fixture
def small(base: Path, tmp_path: Path) -> Path:
    """An adapter on a few tensors."""
    return adapter(base, tmp_path / "small", "o_proj")


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


class TestValues:
    @pytest.mark.parametrize(
        "targets",
        [
            "q_a_proj",
            "q_b_proj",
            "kv_a_proj",
            "kv_b_proj",
            "o_proj",
            r"layers\.0\.mlp",
            r"mlp\.gate\.",
            "shared_experts",
            r"mlp\.experts",
            r"mlp\.experts\.3\.",
            r"mlp\.experts\.\d+\.up_proj",
            "lm_head",
            "kv_b_proj|shared_experts|layers.0.mlp",
            "_proj|gate|lm_head",
        ],
    )
    def test_it_is_the_model_with_every_product_added_by_hand(self, base: Path, tmp_path: Path, targets: str) -> None:
        trained = adapter(base, tmp_path / "adapter", targets)
        torch.testing.assert_close(logits(merged(base, trained)), logits(by_hand(base, trained)), **EXACT)
        assert (logits(base) - logits(by_hand(base, trained))).abs().max() > 1e-2

    def test_a_query_without_a_lora_of_its_own(self, tmp_path: Path) -> None:
        base = checkpoint(tmp_path / "base", q_lora_rank=None)
        trained = adapter(base, tmp_path / "adapter", "q_proj")
        torch.testing.assert_close(logits(merged(base, trained)), logits(by_hand(base, trained)), **EXACT)

    @pytest.mark.parametrize(
        "config",
        [
            {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
            {"target_parameters": ["mlp.experts.gate_up_proj"]},
            {"target_parameters": ["mlp.experts.down_proj"], "target_modules": ["kv_b_proj"]},
            {"target_modules": ["gate_proj", "up_proj", "down_proj"]},
            {"target_modules": "all-linear"},
            {"target_modules": ["gate", "q_a_proj"], "alpha_pattern": {"gate.weight": 3}},
            {"target_modules": ["o_proj"], "use_rslora": True},
            {"target_modules": ["o_proj", "kv_b_proj"], "rank_pattern": {"kv_b_proj": 2}, "use_rslora": True},
            {"target_modules": ["o_proj"], "alpha_pattern": {r"layers\.[01]\.self_attn\.o_proj": 3}},
            {"target_parameters": ["experts.down_proj"], "alpha_pattern": {"experts.down_proj": 3}, "use_rslora": True},
            {"target_modules": ["o_proj", "q_a_proj"], "use_dora": True},
            {"target_modules": ["o_proj", "embed_tokens", "lm_head"]},
            {"target_modules": ["o_proj"], "modules_to_save": ["lm_head", "gate", "norm"]},
        ],
        ids=str,
    )
    def test_it_is_what_peft_computes(self, base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
        """Saved by PEFT on transformers 5: fused experts, patterns, rsLoRA, DoRA, embeddings, modules saved whole."""
        trained = peft_adapter(base, tmp_path / "adapter", **config)
        expected = logits(by_peft(base, trained))
        torch.testing.assert_close(logits(merged(base, trained)), expected, atol=1e-5, rtol=1e-4)

    def test_it_is_what_peft_merges(self, base: Path, tmp_path: Path) -> None:
        trained = peft_adapter(base, tmp_path / "adapter", target_parameters=["experts.gate_up_proj", "gate.weight"])
        theirs = by_peft(base, trained).merge_and_unload()
        torch.testing.assert_close(logits(merged(base, trained)), logits(theirs), **EXACT)

    @pytest.mark.parametrize("transposed", [False, True])
    def test_experts_that_the_checkpoint_has_as_a_stack(self, tmp_path: Path, transposed: bool) -> None:
        """[expert, out, in], or [expert, in, out] as GPT-OSS has them; A is of in, and B of out, all the same."""
        base, r = tmp_path / "base", 2
        shape = (3, 16, 24) if transposed else (3, 24, 16)
        base.mkdir()
        (base / "config.json").write_text('{"tie_word_embeddings": false}')
        save_file({"layers.0.experts.gate_up_proj": torch.zeros(shape)}, base / "model.safetensors")
        a, b = torch.randn(3, r, 16), torch.randn(24, r, 3)
        key = "base_model.model.layers.0.experts"
        values = {f"{key}.lora_A.weight": a.reshape(-1, 16), f"{key}.lora_B.weight": b.reshape(24, -1)}
        made = merged(base, write_adapter(tmp_path / "adapter", values, r=r))
        expected = torch.einsum("ore,eri->eio" if transposed else "ore,eri->eoi", b, a) * 4
        torch.testing.assert_close(tensors(made)["layers.0.experts.gate_up_proj"], expected)

    def test_bfloat16_is_rounded_once(self, tmp_path: Path) -> None:
        """The sum is made in float32; rounding the product first would change other bits."""
        base = checkpoint(tmp_path / "base", dtype=torch.bfloat16)
        trained = adapter(base, tmp_path / "adapter", "o_proj", lora_alpha=1)
        before, after = tensors(base), tensors(merged(base, trained))
        values, name = load_file(trained / "adapter_model.safetensors"), "model.layers.1.self_attn.o_proj"
        key = f"base_model.model.{name}"
        delta = values[f"{key}.lora_B.weight"] @ values[f"{key}.lora_A.weight"] / 4
        weight = before[f"{name}.weight"]
        assert torch.equal(after[f"{name}.weight"], (weight.float() + delta).bfloat16())
        assert not torch.equal(after[f"{name}.weight"], weight + delta.bfloat16())

    @pytest.mark.parametrize(("dtype", "theirs"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
    def test_rounding_is_that_of_torch(self, dtype: str, theirs: torch.dtype) -> None:
        bits = np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint32)
        values = bits.view(np.float32)
        values = values[np.abs(values) < 60000]
        expected = torch.from_numpy(values).to(theirs)
        ours = narrow(values, dtype)
        assert np.array_equal(ours.view(np.int16), expected.view(torch.int16).numpy())
        assert np.array_equal(widen(ours, dtype), expected.float().numpy())


class TestCheckpoint:
    def test_shards_are_merged_as_one_file_is(self, base: Path, tmp_path: Path) -> None:
        sharded = checkpoint(tmp_path / "sharded", q_lora_rank=48, shards="400KB")
        one = tensors(merged(base, adapter(base, tmp_path / "a", "experts|kv_b_proj")))
        many = merged(sharded, adapter(sharded, tmp_path / "b", "experts|kv_b_proj"))
        assert len(list(many.glob("*.safetensors"))) > 3
        assert {name: value.tolist() for name, value in one.items()} == {
            name: value.tolist() for name, value in tensors(many).items()
        }

    def test_a_shard_that_stays_as_it_is_takes_no_room(self, tmp_path: Path) -> None:
        base = checkpoint(tmp_path / "base", shards="400KB")
        made = merged(base, adapter(base, tmp_path / "adapter", "lm_head"))
        written = [file.name for file in made.glob("*.safetensors") if file.stat().st_nlink == 1]
        index = json.loads((base / "model.safetensors.index.json").read_text())
        assert written == [index["weight_map"]["lm_head.weight"]]

    def test_all_that_is_beside_the_weights_comes_along(self, base: Path, tmp_path: Path) -> None:
        """Code and templates too; other copies of the weights, which would be unmerged, do not."""
        model = Path(shutil.copytree(base, tmp_path / "model"))
        (model / "additional").mkdir()
        for file in ("modeling_x.py", "additional/tool.jinja", "pytorch_model.bin", "consolidated.safetensors"):
            (model / file).write_text("text")
        made = merged(model, adapter(base, tmp_path / "adapter", "o_proj"))
        assert {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()} == {
            *("config.json", "generation_config.json", "chat_template.jinja", "model.safetensors"),
            *("modeling_x.py", "additional/tool.jinja", "merged.json"),
        }

    @pytest.mark.parametrize("shards", ["5GB", "400KB"])
    @pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
    def test_tied_embeddings_part_when_one_of_them_is_changed(self, tmp_path: Path, target: str, shards: str) -> None:
        """PEFT adds the product to one use of the tensor; merging it into the tensor would change both."""
        base = checkpoint(tmp_path / "base", tie_word_embeddings=True, shards=shards)
        trained = peft_adapter(base, tmp_path / "adapter", target_modules=[target, "o_proj"])
        torch.testing.assert_close(logits(merged(base, trained)), logits(by_peft(base, trained)), **EXACT)

    def test_an_embedding_that_may_be_tied_under_another_name_is_refused(self, base: Path, tmp_path: Path) -> None:
        model = Path(shutil.copytree(base, tmp_path / "model"))
        config = {"text_config": {"vocab_size": 1024, "tie_word_embeddings": True}}
        (model / "config.json").write_text(json.dumps(config))
        trained = adapter(base, tmp_path / "adapter", "lm_head")
        assert "lm_head.weight may be tied to another tensor" in refusal(lambda: merged(model, trained))

    def test_tied_embeddings_stay_tied_otherwise(self, tmp_path: Path) -> None:
        base = checkpoint(tmp_path / "base", tie_word_embeddings=True)
        trained = adapter(base, tmp_path / "adapter", "o_proj")
        made = merged(base, trained)
        assert "lm_head.weight" not in tensors(made)
        torch.testing.assert_close(logits(made), logits(by_hand(base, trained)), **EXACT)

    def test_memory_is_a_fraction_of_a_shard(self, tmp_path: Path) -> None:
        """However large a tensor is: three shards of 64 MB, each one tensor, and all of them change."""
        base, names = tmp_path / "base", [f"layers.{number}.weight" for number in range(3)]
        base.mkdir()
        for name in names:
            save_file({name: torch.zeros(4096, 8192, dtype=torch.bfloat16)}, base / f"{name}.safetensors")
        weight_map = {name: f"{name}.safetensors" for name in names}
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (base / "config.json").write_text('{"tie_word_embeddings": false}')
        trained = adapter(base, tmp_path / "adapter", "layers")
        code = f"""
import resource, sys
from pathlib import Path
from swe_eval.merging.checkpoint import open_checkpoint
from swe_eval.merging.making import merge
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
merge(open_checkpoint(Path({str(base)!r})), Path({str(trained)!r}), Path({str(tmp_path / "out")!r}), lambda line: None)
assert "torch" not in sys.modules
print(peak() - before)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert int(done.stdout) < 1.5 * 4096 * 8192 * 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("config", "why"),
        [
            ({"peft_type": "IA3"}, "peft_type=IA3 is not LORA"),
            ({"bias": "all"}, "bias=all: PEFT does not save every trained bias"),
            ({"lora_bias": True}, "lora_bias=True is not understood"),
            ({"trainable_token_indices": [1]}, "trainable_token_indices=[1] is not understood"),
            ({"fan_in_fan_out": True}, "fan_in_fan_out=True is not understood"),
            ({"layer_replication": [[0, 2]]}, "layer_replication=[[0, 2]] is not understood"),
            ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa trains against another base; save it with"),
            ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head, of which it has no tensors"),
            ({"r": 8}, "layers.0.self_attn.o_proj has rank 4, and 8 in adapter_config.json"),
            ({"use_dora": True}, "o_proj: use_dora=True does not fit its tensors"),
        ],
        ids=str,
    )
    def test_a_configuration_that_is_more_than_plain_lora(
        self, base: Path, tmp_path: Path, config: dict[str, Any], why: str
    ) -> None:
        trained = write_adapter(tmp_path / "adapter", products(base, r"0\.self_attn\.o_proj"), **config)
        assert why in refusal(lambda: merged(base, trained))

    @pytest.mark.parametrize(
        ("before", "after", "why"),
        [
            ("base_model.model.", "", "does not begin with base_model.model."),
            (
                "base_model.model.",
                "base_model.model.model.",
                "model.model.layers.0.self_attn.o_proj is not in the base",
            ),
            ("layers.0", "layers.30", "model.layers.30.self_attn.o_proj is not in the base model"),
            ("o_proj", "kv_b_proj", "model.layers.0.self_attn.kv_b_proj.weight is [256, 64] in the base model, and"),
            ("lora_B.weight", "lora_B.bias", "o_proj has no pair of lora_A and lora_B, only lora_A"),
            ("lora_A", "lora_X", "o_proj has no pair of lora_A and lora_B, only lora_B"),
            ("self_attn.o_proj", "mlp.experts", "model.layers.0.mlp.experts: 0 places there for 128 x 128"),
        ],
    )
    def test_a_tensor_that_has_no_place(self, base: Path, tmp_path: Path, before: str, after: str, why: str) -> None:
        values = products(base, r"layers\.0\.self_attn\.o_proj")
        moved = {key.replace(before, after): value for key, value in values.items()}
        assert why in refusal(lambda: merged(base, write_adapter(tmp_path / "adapter", moved)))

    def test_fused_experts_of_an_older_peft(self, base: Path, tmp_path: Path) -> None:
        """Before 0.19 they were laid out with in and out exchanged, which shapes do not always tell."""
        trained = peft_adapter(base, tmp_path / "adapter", target_parameters=["experts.down_proj"])
        config = json.loads((trained / "adapter_config.json").read_text())
        (trained / "adapter_config.json").write_text(json.dumps(config | {"peft_version": "0.18.1"}))
        assert "experts: before PEFT 0.19 fused experts were laid out otherwise" in refusal(
            lambda: merged(base, trained)
        )

    def test_a_quantized_base(self, tmp_path: Path) -> None:
        base = checkpoint(tmp_path / "base")
        trained = adapter(base, tmp_path / "adapter", "o_proj")
        weights = load_file(base / "model.safetensors")
        quantized = {name: value.to(torch.float8_e4m3fn) for name, value in weights.items()}
        save_file(quantized, base / "model.safetensors")
        assert "is F8_E4M3 in the base model; merge into a checkpoint that is not" in refusal(
            lambda: merged(base, trained)
        )

    def test_values_that_are_not_finite(self, base: Path, tmp_path: Path) -> None:
        values = {key: value / 0 for key, value in products(base, "o_proj").items()}
        trained = write_adapter(tmp_path / "adapter", values)
        assert "merging makes values that are not finite" in refusal(lambda: merged(base, trained))
        assert not list(tmp_path.glob("*merged*"))

    def test_a_base_that_is_cut_short(self, base: Path, small: Path, tmp_path: Path) -> None:
        torn = Path(shutil.copytree(base, tmp_path / "torn"))
        os.truncate(torn / "model.safetensors", 1_000_000)
        assert "model.safetensors: cut short, or damaged" in refusal(lambda: merged(torn, small))

    @pytest.mark.parametrize(
        ("missing", "why"), [("config.json", "no config.json"), ("model.safetensors", "neither model.safetensors nor")]
    )
    def test_a_base_that_is_none(self, base: Path, small: Path, tmp_path: Path, missing: str, why: str) -> None:
        torn = Path(shutil.copytree(base, tmp_path / "torn"))
        (torn / missing).unlink()
        assert why in refusal(lambda: merged(torn, small))

    def test_a_configuration_that_is_damaged(self, base: Path, small: Path, tmp_path: Path) -> None:
        torn = Path(shutil.copytree(base, tmp_path / "torn"))
        (torn / "config.json").write_text("{")
        assert f"{torn / 'config.json'} cannot be read" in refusal(lambda: merged(torn, small))

    def test_a_hub_id_that_is_not_there(self, small: Path) -> None:
        line = refusal(lambda: merged_checkpoint("nobody/nothing", small, print))
        assert line.startswith("model.base_model=nobody/nothing: no directory, nor to be had from the hub: ")


class TestCache:
    def test_what_was_merged_before_is_not_merged_again(self, base: Path, small: Path, kept: Path) -> None:
        said: list[str] = []
        made = merged_checkpoint(str(base), small, said.append)
        before = {file: file.stat().st_ino for file in made.iterdir()}
        said.clear()
        assert merged_checkpoint(str(base), small, said.append) == made
        assert {file: file.stat().st_ino for file in made.iterdir()} == before
        assert said == [f"merged before: {made}"]

    @pytest.mark.parametrize("changed", ["model.safetensors", "chat_template.jinja", "adapter_config.json"])
    def test_another_content_is_another_checkpoint(
        self, base: Path, tmp_path: Path, kept: Path, small: Path, changed: str
    ) -> None:
        model = Path(shutil.copytree(base, tmp_path / "model"))
        before = merged_checkpoint(str(model), small, print)
        file = (small if "adapter" in changed else model) / changed
        file.write_bytes(file.read_bytes() + b" " if file.suffix != ".safetensors" else file.read_bytes())
        assert merged_checkpoint(str(model), small, print) != before

    def test_an_adapter_that_is_written_over_meanwhile_is_not_kept_under_its_old_content(
        self, base: Path, small: Path, kept: Path
    ) -> None:
        def write_over(said: str) -> None:
            if said.startswith("merging "):
                config = small / "adapter_config.json"
                config.write_text(config.read_text() + " ")

        line = refusal(lambda: merged_checkpoint(str(base), small, write_over))
        assert line == f"{small}: it, or {base}, was changed while they were merged; give the command again"
        assert not list(kept.iterdir())

    def test_killed_in_the_middle_the_next_call_makes_it_whole(self, base: Path, small: Path, kept: Path) -> None:
        code = f"""
import os
from pathlib import Path
from swe_eval.merging import making, merged_checkpoint
making.EVERY = 0
def say(line):
    if " of " in line:
        os.kill(os.getpid(), 9)
merged_checkpoint({str(base)!r}, Path({str(small)!r}), say)
"""
        died = subprocess.run([sys.executable, "-c", code])
        assert died.returncode == -signal.SIGKILL
        assert [path.suffix for path in sorted(kept.iterdir())] == [".lock", ".part"]
        made = merged_checkpoint(str(base), small, print)
        assert list(kept.iterdir()) == [made]
        torch.testing.assert_close(logits(made), logits(by_hand(base, small)), **EXACT)

    def test_what_another_killed_merge_left_is_removed(self, base: Path, small: Path, kept: Path) -> None:
        (kept / ".0123.part" / "model").mkdir(parents=True)
        made = merged_checkpoint(str(base), small, print)
        assert list(kept.iterdir()) == [made]

    def test_two_at_once_make_one(self, base: Path, small: Path, kept: Path) -> None:
        """Whoever comes second waits, and takes what is there."""
        said: list[str] = []
        with ThreadPoolExecutor() as pool:
            made = list(pool.map(lambda _: merged_checkpoint(str(base), small, said.append), range(4)))
        assert len({*made}) == 1
        assert sum(line.startswith("merged in") for line in said) == 1
        assert list(kept.iterdir()) == [made[0]]

    def test_a_disk_that_is_too_small_is_said_first(
        self, base: Path, small: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 3, 7))
        line = refusal(lambda: merged_checkpoint(str(base), small, print))
        assert line.startswith(f"{kept}: merging needs 4.1 MB, there are 7 bytes; run python -m swe_eval.merging clean")
        assert not list(kept.iterdir())

    def test_a_disk_that_gets_full_leaves_nothing(
        self, base: Path, small: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

        monkeypatch.setattr(making, "write_checkpoint", fail)
        assert f"{kept}: merging needs" in refusal(lambda: merged_checkpoint(str(base), small, print))
        assert not list(kept.iterdir())

    def test_progress_is_said_now_and_then(
        self, base: Path, small: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(making, "EVERY", 0)
        said: list[str] = []
        made = merged_checkpoint(str(base), small, said.append)
        assert said[0].startswith("merging small: 4.")
        assert said[1].startswith("merging small: ")
        assert re.fullmatch(rf"merged in \d+ s: {made}", said[-1])

    def test_what_was_not_used_for_long_is_cleaned_up(self, base: Path, small: Path, kept: Path) -> None:
        old = merged_checkpoint(str(base), small, print)
        os.utime(old, (0, 0))
        new = merged_checkpoint(str(base), adapter(base, small.with_name("new"), "kv_b"), print)
        assert cache.clean(days=30) == [old]
        assert list(kept.iterdir()) == [new]


class TestCommand:
    @pytest.fixture
    def run(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
        def call(*arguments: object) -> str:
            monkeypatch.setattr("sys.argv", ["merging", *map(str, arguments)])
            main()
            return capsys.readouterr().out

        return call

    def test_merge_list_clean(self, base: Path, small: Path, kept: Path, run: Callable[..., str]) -> None:
        said = run("merge", "--base", base, "--adapter", small)
        (made,) = kept.iterdir()
        assert said.splitlines()[-1].endswith(f": {made}")
        assert run("list") == f"{made}: 4.1 MB, used 0 days ago: {base} + {small}\n"
        assert run("clean") == f"removed {made}\n"
        assert not list(kept.iterdir())

    def test_out_is_a_new_directory(
        self, base: Path, small: Path, run: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = small.with_name("out")
        run("merge", "--base", base, "--adapter", small, "--out", out)
        assert (out / "model.safetensors").is_file()
        with pytest.raises(SystemExit, match="2"):
            run("merge", "--base", base, "--adapter", small, "--out", out)
        assert capsys.readouterr().err == f"swe_eval: --out {out}: is there already; write a new directory\n"
