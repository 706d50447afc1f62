"""What is measured is what was trained: an adapter that would not be served exactly is refused at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from adapter_fixtures import PREFIX, Made, examined, model, modules, shapes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from swe_eval.adapters import CONFIG, WEIGHTS, base_hash, check, content_hash, examine, to_merge
from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.errors import UserError
from swe_eval.settings import PACKAGE, AdapterSettings

O_PROJ = modules("o_proj")
FIRST_A, FIRST_B = (f"{PREFIX}{O_PROJ[0]}.lora_{side}.weight" for side in "AB")
ATTENTION, EXPERTS = modules("self_attn"), modules(r"\.experts\.")


def rename(made, change):
    made.weights = {change(name): weight for name, weight in made.weights.items()}


def set_config(**fields):
    return lambda made: made.config.update(fields)


def set_weight(name, change):
    return lambda made: made.weights.update({name: change(made.weights[name])})


def put(name, shape=(8, 8), dtype=np.float32):
    return lambda made: made.weights.update({PREFIX + name: np.ones(shape, dtype)})


SPOILT = {
    "not LoRA": set_config(peft_type="IA3"),
    "bad config": set_config(r=0),
    "bad pattern": set_config(target_modules="(", rank_pattern={"[": 2}),
    "no r": lambda made: made.config.pop("r"),
    "no targets": set_config(target_modules=None),
    "use_dora": set_config(use_dora=True),
    "modules_to_save": set_config(modules_to_save=["lm_head"]),
    "bias": set_config(bias="all"),
    "lora_bias": set_config(lora_bias=True),
    "trainable_token_indices": set_config(trainable_token_indices=[1, 2]),
    "alora_invocation_tokens": set_config(alora_invocation_tokens=[5]),
    "layer_replication": set_config(layer_replication=[[0, 2], [1, 3]]),
    "init_lora_weights": set_config(init_lora_weights="pissa_niter_4"),
    "unknown option": set_config(use_qalora=True),
    "wrong prefix": lambda made: rename(made, lambda name: name.replace("model.layers", "model.model.layers")),
    "no prefix": lambda made: rename(made, lambda name: name.removeprefix(PREFIX)),
    "adapter name": lambda made: rename(made, lambda name: name.replace(".weight", ".default.weight")),
    "base copy": put("lm_head.base_layer.weight"),
    "embedding": put("model.embed_tokens.lora_embedding_A"),
    "stray": put("lm_head.weight"),
    "unknown module": lambda made: rename(made, lambda name: name.replace("o_proj", "out_proj")),
    "beyond the model": lambda made: rename(made, lambda name: name.replace("layers.2", "layers.3")),
    "transposed": set_weight(FIRST_A, np.transpose),
    "wrong base": set_weight(FIRST_A, lambda a: a[:, :64]),
    "wrong rank": set_config(r=8),
    "other rank": set_weight(FIRST_B, lambda b: b[:, :2]),
    "not a matrix": set_weight(FIRST_A, np.ravel),
    "no lora_B": lambda made: made.weights.pop(FIRST_B),
    "no lora_A": lambda made: made.weights.pop(FIRST_A),
    "missing": lambda made: [made.weights.pop(name) for name in (FIRST_A, FIRST_B)],
    "not targeted": set_config(target_modules=O_PROJ[1:]),
    "wrong type": set_weight(FIRST_A, lambda a: a.astype(np.int8)),
    "not finite": set_weight(FIRST_B, lambda b: np.where(np.arange(4) == 2, np.nan, b)),
    "zero": set_weight(FIRST_B, np.zeros_like),
    "untrained": lambda made: [w.fill(0) for name, w in made.weights.items() if "lora_B" in name],
}
SAID = {  # the kind of problem where it is not the name of the case, or where one mistake is two
    "no r": {"bad config"},
    "bad pattern": {"bad config"},
    "stray": {"not LoRA"},
    "other rank": {"wrong rank"},
}


@pytest.mark.parametrize("case", SPOILT)
def test_each_kind_of_broken_adapter_is_refused_by_its_own_message(case, tmp_path):
    made = Made(O_PROJ)
    SPOILT[case](made)
    [found] = examined(made.write(tmp_path / "a"))
    assert {problem.kind for problem in found.problems} == SAID.get(case, {case})
    assert {verdict.kind for verdict in found.verdicts.values()} == {"refused"}
    for problem in found.problems:
        assert str(tmp_path) in problem.text
        assert "; " in problem.text  # what is wrong; what to do
        assert "\n" not in problem.text


def without(name):
    return lambda folder: (folder / name).unlink()


def cut(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def pickled(folder):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def whole_model(folder):
    (folder / CONFIG).rename(folder / "config.json")


FILES = {
    "no config": (without(CONFIG), "no adapter_config.json in"),
    "whole model": (whole_model, "it is a whole model: write model=hf"),
    "no weights": (without(WEIGHTS), "no adapter_model.safetensors in"),
    "pickled": (pickled, "is a pickle, which can run code when it is read; convert it"),
    "damaged": (cut, "is cut off or damaged"),
    "text": (lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs"), "is cut off or damaged"),
    "bad config": (lambda folder: (folder / CONFIG).write_text("{"), "is not JSON"),
    "list": (lambda folder: (folder / CONFIG).write_text("[]"), "adapter_config.json: the whole is []"),
    "empty": (lambda folder: save_file({}, folder / WEIGHTS), "holds no tensors"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_adapter_are_refused(case, tmp_path):
    spoil, text = FILES[case]
    folder = Made(O_PROJ).write(tmp_path / "a")
    spoil(folder)
    [found] = examined(folder)
    [problem] = found.problems
    assert text in problem.text
    assert {verdict.kind for verdict in found.verdicts.values()} == {"refused"}


@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("use_dora", "python -m swe_eval.merging merge"),
        ("modules_to_save", "python -m swe_eval.merging merge"),
        ("embedding", "python -m swe_eval.merging merge"),
        ("bias", "PEFT's merge_and_unload()"),
    ],
)
def test_what_is_more_than_lora_is_sent_to_a_merge_that_takes_it(case, remedy, tmp_path):
    made = Made(O_PROJ)
    SPOILT[case](made)
    [found] = examined(made.write(tmp_path))
    assert any(remedy in problem.text for problem in found.problems)


def test_an_adapter_that_lies_deeper_is_pointed_at(tmp_path):
    inner = Made(O_PROJ).write(tmp_path / "step-9" / "actor")
    [found] = examined(tmp_path)
    assert found.problems[0].text == f"no {CONFIG} in {tmp_path}; did you mean {inner}?"


def test_every_problem_of_every_adapter_is_told_at_once(tmp_path, settings):
    made = Made(O_PROJ, use_dora=True)
    set_weight(FIRST_A, lambda a: a[:, :64])(made)
    paths = [made.write(tmp_path / "a"), tmp_path / "b"]
    arms = ", ".join(f"{{name: {path.name}, path: {path}}}" for path in paths)
    with pytest.raises(UserError) as error:
        check(settings("lora=list", f"lora.adapters=[{arms}]"))
    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["a", "a", "b"]


def test_three_tensors_at_most_are_named(tmp_path):
    made = Made(ATTENTION)
    rename(made, lambda name: name.replace("self_attn", "attn"))
    [problem] = examined(made.write(tmp_path))[0].problems
    assert "attn.kv_b_proj, model.layers.0.attn.o_proj and 9 more;" in problem.text


class TestVerdicts:
    """Per backend. That they are true of PEFT is tested in ``test_adapters_served.py``."""

    @pytest.mark.parametrize(
        ("names", "config", "transformers", "vllm"),
        [
            (modules("q_proj|o_proj|kv_a"), {}, "ok", "ok"),
            (ATTENTION, {}, "ok", "vLLM ignores kv_b_proj"),
            (["lm_head"], {}, "ok", "vLLM has no LoRA for lm_head"),
            (modules("mlp.gate$"), {}, "ok", "ok"),
            (modules("shared_experts"), {}, "drops model.layers.1.mlp.shared_experts.down_proj", "ok"),
            (modules("layers.0.mlp"), {}, "drops model.layers.0.mlp.down_proj", "ok"),
            (EXPERTS, {}, "ok", "ok"),
            (EXPERTS, {"use_rslora": True}, "rsLoRA's scale is then wrong", "ok"),
            (EXPERTS, {"lora_dropout": 0.1}, "PEFT refuses experts with lora_dropout", "ok"),
            (EXPERTS, {"target_modules": r".*\.experts\.\d+\..*"}, "in vain with a regular expression", "ok"),
            (modules(r"experts\.\d+\.down"), {}, "ok", "vLLM takes experts only all together"),
            (modules(r"experts\.\d+\.up"), {}, "cannot fuse experts' up_proj alone", "only all together"),
            (modules(r"experts\.3\."), {}, "only adapters of every expert in every layer", "only all together"),
            (modules(r"1.mlp.experts\."), {}, "only adapters of every expert in every layer", "ok"),
            (
                EXPERTS,
                {"alpha_pattern": {"up_proj": 3}},
                "PEFT forgets rank_pattern and alpha_pattern",
                "that vLLM heeds rank_pattern and alpha_pattern of",
            ),
            (
                modules("mlp.gate$"),
                {"target_modules": [], "target_parameters": ["gate.weight"], "alpha_pattern": {"gate.weight": 3}},
                "ok",
                "that vLLM heeds rank_pattern and alpha_pattern of",
            ),
            (O_PROJ, {"alpha_pattern": {"layers.1.self_attn.o_proj": 3}}, "ok", "ok"),
            (O_PROJ, {"r": 1024}, "ok", "vLLM takes ranks up to 512"),
            (O_PROJ, {"rank_pattern": {"no_module": 1024}}, "ok", "vLLM takes ranks up to 512"),
        ],
    )
    def test_what_a_backend_would_lose_must_be_merged(self, names, config, transformers, vllm, tmp_path):
        [found] = examined(Made(names, **config).write(tmp_path))
        for backend, said in (("transformers", transformers), ("vllm", vllm)):
            verdict = str(found.verdicts[backend])
            assert verdict == "ok" if said == "ok" else said in verdict and verdict.startswith("must be merged: ")

    def test_the_second_set_of_target_parameters_on_one_server_must_be_merged(self, tmp_path):
        """PEFT holds one set per model; an adapter without any may stand beside it."""
        names = (modules("mlp.gate$"), O_PROJ, EXPERTS, modules("mlp.gate$"))
        folders = [Made(these).write(tmp_path / str(index)) for index, these in enumerate(names)]
        kinds = [each.verdicts["transformers"].kind for each in examined(*folders)]
        assert kinds == ["ok", "ok", "must be merged", "ok"]

    @pytest.mark.parametrize(
        ("names", "config", "said"),
        [
            (EXPERTS, {"use_rslora": True}, "rsLoRA's scale is then wrong"),
            (EXPERTS, {"alpha_pattern": {"up_proj": 3}}, "PEFT forgets rank_pattern and alpha_pattern"),
            (modules("mlp.gate$"), {"alpha_pattern": {"gate": 3}}, "PEFT forgets rank_pattern and alpha_pattern"),
        ],
    )
    def test_what_peft_would_scale_wrongly_must_be_merged_before_the_base_is_here(self, names, config, said, tmp_path):
        """What it would drop is refused when the server loads it."""
        [found] = examined(Made(names, **config).write(tmp_path), base="org/not-downloaded")
        assert said in str(found.verdicts["transformers"])

    def test_a_run_that_is_not_to_merge_stops_with_the_reason_and_a_way_out(self, tmp_path, settings):
        folder = Made(modules("shared_experts")).write(tmp_path / "a")
        why = "^lora: trained: serving=transformers: must be merged: PEFT.*write lora.apply=auto"
        with pytest.raises(UserError, match=why):
            check(settings("lora=trained", f"lora.path={folder}", "lora.apply=runtime"))

    def test_an_adapter_to_merge_exactly_when_the_server_could_not_apply_it(self, tmp_path, settings):
        lost, kept = (Made(modules(name)).write(tmp_path / name) for name in ("shared_experts", "o_proj"))
        both = settings("lora=ab", f"lora.baseline={kept}", f"lora.trained={lost}")
        assert to_merge(both) == {"trained"}
        assert check(both) == []


class TestWarnings:
    """What does not stop a run and should be known."""

    def said(self, made, folder, **base):
        [found] = examined(made.write(folder), **base)
        assert all(verdict.kind != "refused" for verdict in found.verdicts.values())
        return [problem.kind for problem in found.problems]

    def test_another_base_model_is_named(self, tmp_path):
        assert self.said(Made(O_PROJ, base_model_name_or_path="org/Other-7B"), tmp_path) == ["other base"]

    @pytest.mark.parametrize("path", ["some/where/{}", "/hub/models--swe_eval--{}/snapshots/123abc", "{}"])
    def test_the_same_base_model_by_another_path_is_not(self, path, tmp_path):
        named = path.format(tiny_model().name)
        assert self.said(Made(O_PROJ, base_model_name_or_path=named), tmp_path) == []

    def test_experts_that_no_token_was_sent_to_may_be_zero(self, tmp_path):
        made = Made(EXPERTS)
        set_weight(f"{PREFIX}{EXPERTS[0]}.lora_B.weight", np.zeros_like)(made)
        assert self.said(made, tmp_path) == ["idle experts"]

    def test_an_adapter_trained_where_experts_are_fused_may_lack_them(self, tmp_path):
        made = Made(modules("shared_experts|layers.0.mlp"), target_modules=["gate_proj", "up_proj", "down_proj"])
        assert self.said(made, tmp_path) == ["no experts"]

    def test_without_the_base_model_a_and_b_must_still_agree(self, tmp_path):
        made = Made(O_PROJ)
        SPOILT["other rank"](made)
        [found] = examined(made.write(tmp_path), base="org/not-downloaded")
        assert [problem.kind for problem in found.problems] == ["base unknown", "two ranks"]

    def test_a_base_model_that_is_not_here_yet_is_not_guessed(self, tmp_path):
        assert self.said(Made(["lm_head"]), tmp_path, base="org/not-downloaded") == ["base unknown"]


class TestBase:
    """The skeleton that adapters are held against."""

    def copy(self, folder: Path, *, tied: bool = False, layers: int = 3) -> Path:
        """The tiny model in two shards and an index."""
        weights = load_file(tiny_model() / "model.safetensors")
        config = json.loads((tiny_model() / "config.json").read_text())
        if tied:
            del weights["lm_head.weight"]
        folder.mkdir()
        (folder / "config.json").write_text(
            json.dumps(config | {"tie_word_embeddings": tied, "num_hidden_layers": layers})
        )
        names = sorted(weights)
        index = {name: f"model-{1 + (place % 2)}.safetensors" for place, name in enumerate(names)}
        for file in set(index.values()):
            save_file({name: weights[name] for name in names if index[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        return folder

    def test_a_sharded_model_is_read_by_its_index(self, tmp_path):
        [found] = examined(Made(ATTENTION).write(tmp_path / "a"), base=self.copy(tmp_path / "m"))
        assert found.problems == ()

    def test_tied_embeddings_have_an_lm_head(self, tmp_path):
        [found] = examined(Made(["lm_head"]).write(tmp_path / "a"), base=self.copy(tmp_path / "m", tied=True))
        assert found.problems == ()

    def test_without_an_lm_head_of_its_own_a_model_ties_it_whatever_its_configuration_says(self, tmp_path):
        """Gemma's says nothing: it is the default of its class."""
        base = self.copy(tmp_path / "m", tied=True)
        config = json.loads((base / "config.json").read_text())
        del config["tie_word_embeddings"]
        (base / "config.json").write_text(json.dumps(config))
        [found] = examined(Made(["lm_head"]).write(tmp_path / "a"), base=base)
        assert found.problems == ()

    def test_a_layer_for_multi_token_prediction_is_none_of_the_models(self, tmp_path):
        """DeepSeek-V3's checkpoints hold one layer more than the model runs; no server applies its adapter."""
        [found] = examined(Made(ATTENTION).write(tmp_path / "a"), base=self.copy(tmp_path / "m", layers=2))
        assert [problem.kind for problem in found.problems] == ["beyond the model"]

    def test_a_directory_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="no such directory; write a hub id or the path of a model"):
            examined(Made(O_PROJ).write(tmp_path / "a"), base=tmp_path / "none")

    def test_a_model_that_lacks_a_shard_is_refused(self, tmp_path):
        base = self.copy(tmp_path / "m")
        (base / "model-2.safetensors").unlink()
        with pytest.raises(UserError, match=r"no model-2\.safetensors, which its index names"):
            examined(Made(O_PROJ).write(tmp_path / "a"), base=base)

    def test_a_damaged_shard_is_refused(self, tmp_path):
        base = self.copy(tmp_path / "m")
        cut_file = base / "model-1.safetensors"
        cut_file.write_bytes(cut_file.read_bytes()[:-1])
        with pytest.raises(UserError, match=r"model-1\.safetensors is damaged"):
            examined(Made(O_PROJ).write(tmp_path / "a"), base=base)


def test_the_demos_adapter_is_flawless():
    [found] = examined(PACKAGE / "benchmark" / "demo" / "adapter")
    assert found.problems == ()
    assert [str(verdict) for verdict in found.verdicts.values()] == ["ok", "ok"]


def test_the_bare_base_model_must_be_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such directory; write a hub id"):
        examine([AdapterSettings(name="base", path=None)], model(tmp_path / "nowhere"))


def test_the_checks_need_no_torch(tmp_path):
    made = Made(O_PROJ).write(tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from adapter_fixtures import examined
examined(Path({str(made)!r}))
print([name for name in ("torch", "transformers", "peft", "huggingface_hub") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# Hypothesis runs a test many times with one tmp_path, hence directories of its own
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
NAMES = sorted(shapes())
subsets = st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True)


@quick
@given(names=subsets, data=st.data(), dtype=st.sampled_from([np.float16, np.float32, np.float64]))
def test_any_adapter_that_was_made_correctly_is_never_refused(names, data, dtype):
    ranks = {name: data.draw(st.integers(1, 9)) for name in names}
    made = Made(names, r=data.draw(st.integers(1, 9)), ranks=ranks, use_rslora=data.draw(st.booleans()))
    made.weights = {name: weight.astype(dtype) for name, weight in made.weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        [found] = examined(made.write(Path(folder)))
    assert found.problems == ()
    if set(names) <= set(ATTENTION):
        assert str(found.verdicts["transformers"]) == "ok"


@quick
@given(st.lists(st.sampled_from([name for name in ATTENTION if "kv_b" not in name]), min_size=1, unique=True))
def test_any_adapter_of_attention_but_kv_b_proj_is_served_by_both(names):
    with tempfile.TemporaryDirectory() as folder:
        [found] = examined(Made(names).write(Path(folder)))
    assert {str(verdict) for verdict in found.verdicts.values()} == {"ok"}


def one_value(value):
    def change(weight):
        weight.flat[weight.size // 2] = value
        return weight

    return change


MUTATIONS = {
    "transpose": np.transpose,
    "flatten": np.ravel,
    "reshape": lambda weight: weight.reshape(weight.shape[0] * 2, -1),
    "add a dimension": lambda weight: weight[None],
    "cut the rows": lambda weight: weight[:-1],
    "cut the columns": lambda weight: weight[:, :-1],
    "NaN": one_value(np.nan),
    "infinity": one_value(-np.inf),
    "zero": np.zeros_like,
}


@quick
@given(names=subsets, data=st.data(), how=st.sampled_from([*MUTATIONS, "drop", "drop the pair", "rename", "truncate"]))
def test_any_single_mutation_is_never_ok(names, data, how):
    """Experts are left out where zero is legitimate."""
    names = [name for name in names if how != "zero" or ".experts." not in name] or O_PROJ
    made = Made(names, r=2)
    victim = data.draw(st.sampled_from(sorted(made.weights)))
    if how in MUTATIONS:
        made.weights[victim] = MUTATIONS[how](made.weights[victim])
    elif how == "rename":
        at = data.draw(st.integers(0, len(victim)))
        made.weights[f"{victim[:at]}x{victim[at:]}"] = made.weights.pop(victim)
    elif how.startswith("drop"):
        both = [victim.replace("lora_B", "lora_A"), victim.replace("lora_A", "lora_B")]
        for name in both if how == "drop the pair" else [victim]:
            del made.weights[name]
    with tempfile.TemporaryDirectory() as folder:
        path = made.write(Path(folder)) / WEIGHTS
        if how == "truncate":
            path.write_bytes(path.read_bytes()[: -data.draw(st.integers(1, 2000))])
        [found] = examined(path.parent)
    assert all(verdict.kind == "refused" for verdict in found.verdicts.values()), found


@pytest.mark.parametrize("lacking", [CONFIG, WEIGHTS])
def test_what_only_another_server_can_load_is_known_by_its_path(lacking, tmp_path):
    """serving=external may have adapter_model.bin, or the adapter merged."""
    folder = Made(O_PROJ).write(tmp_path)
    (folder / lacking).unlink()
    assert content_hash(AdapterSettings(name="a", path=str(folder))) == f"path:{folder}"


@pytest.mark.parametrize("changed", ["model.safetensors", "config.json"])
def test_a_base_model_is_known_by_its_content(changed, tmp_path):
    for name in ("one", "another"):
        shutil.copytree(tiny_model(), tmp_path / name)
    assert base_hash(model(tmp_path / "one")) == base_hash(model(tmp_path / "another"))
    if changed == "config.json":
        (tmp_path / "one" / changed).write_text("{}")
    else:
        weights = load_file(tmp_path / "one" / changed)
        save_file(weights | {"model.norm.weight": weights["model.norm.weight"] * 2}, tmp_path / "one" / changed)
    assert base_hash(model(tmp_path / "one")) != base_hash(model(tmp_path / "another"))


def test_a_model_of_the_hub_is_known_by_its_weights_once_all_are_here(tmp_path, monkeypatch):
    """A commit that changes none of them, as one of the README, is the same model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def hash_of(commit, files):
        snapshot = tmp_path / "models--hub--id" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name, content in {"config.json": "{}", **files}.items():
            blob = tmp_path / sha256(content.encode()).hexdigest()
            blob.write_text(content)
            (snapshot / name).symlink_to(blob)
        return base_hash(model("hub/id").model_copy(update={"revision": commit}))

    assert hash_of("begun", {}) is None
    whole = hash_of("whole", {"model.safetensors": "weights"})
    assert whole == hash_of("readme", {"model.safetensors": "weights", "README.md": "new"})
    assert whole != hash_of("trained", {"model.safetensors": "others"})
    assert base_hash(model("hub/id")) is None
