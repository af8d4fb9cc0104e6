"""SAEs as SAELens, sparsify, dictionary_learning and Gemma Scope share them, with their activations and reconstructions.

    python tests/reference/saes.py              writes the fixtures
    python tests/reference/saes.py check DIR    opens SAEs that Realign wrote: DIR/saelens/NAME with SAELens, and
                                                DIR/sparsify/NAME/layers.16 with sparsify
    (sae-lens 6.54.12, eai-sparsify 1.3.3, dictionary-learning 0.1.0, torch 2.9.0, numpy 2.4.6; the last two libraries
    with `pip install --no-deps`: the parts of them that train a language model are not needed)

Writes crates/sae/tests/fixtures/NAME/: the files by the library's own writer, and reference.json by its own reader and
its own `encode` and `decode`. Gemma Scope's params.npz is written by numpy in its layout, Gemma Scope 2's
params.safetensors by safetensors, and SAELens' loaders of them read both.
SAELens 6 writes no legacy files: those are its own ones with the fields of version 3. (saelens_sae.py makes two more.)
"""
import json, os, pathlib, shutil, sys, types

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernel needs a GPU
import numpy as np
import sae_lens, sparsify, torch

for module, needed in [("nnsight", "LanguageModel"), ("zstandard", "open")]:  # dictionary_learning imports them for its data
    sys.modules[module] = types.SimpleNamespace(**{needed: object})
import dictionary_learning.dictionary as dl
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from sae_lens import SAE, registry
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/sae/tests/fixtures"
D_IN, D_SAE, D_OUT, K, INPUTS = 8, 24, 6, 3, 8


def rounded(x):
    return [[float(f"{v:.8g}") for v in row] for row in x.tolist()]


def inputs():
    torch.manual_seed(99)
    return torch.randn(INPUTS, D_IN) * torch.tensor([0.05, 0.5, 1.0, 3.0]).repeat(INPUTS // 4)[:, None]


def store(folder, acts, out, x=None, **more):
    fields = {
        "made_with": f"tests/reference/saes.py, sae-lens {sae_lens.__version__}, eai-sparsify 1.3.3, dictionary-learning 0.1.0, torch {torch.__version__}",
        "inputs": rounded(inputs() if x is None else x),
        "activations": [[[int(i), float(f"{row[i]:.8g}")] for i in row.nonzero()[:, 0]] for row in acts],  # [latent, value]
        "reconstructions": rounded(out),
        **more,
    }
    assert 0 < (acts != 0).sum() < acts.numel(), folder
    (folder / "reference.json").write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items()) + "\n}\n")
    print(folder.relative_to(OUT), (acts != 0).sum(1).tolist())


def fresh(name, seed):
    shutil.rmtree(OUT / name, ignore_errors=True)
    (OUT / name).mkdir(parents=True)
    torch.manual_seed(seed)
    return OUT / name


def randomise(module, unit=False):
    for name, parameter in module.named_parameters():
        parameter.normal_(0, 0.5)
        if unit and name == "W_dec":
            parameter.div_(parameter.norm(dim=1, keepdim=True))  # else a pursuit leaves ever more over
        if name == "threshold":
            parameter.abs_().sub_(0.1)  # some below zero
    return module


def saelens(name, seed, architecture, training=False, legacy=None, **fields):
    folder = fresh(name, seed)
    classes = (registry.get_sae_training_class if training else registry.get_sae_class)(architecture)
    metadata = SAEMetadata(model_name="smollm2-135m-instruct", hook_name="blocks.16.hook_resid_post", context_size=128)
    sae = randomise(classes[0](classes[1](d_in=D_IN, d_sae=D_SAE, metadata=metadata, **fields)), unit=architecture == "matching_pursuit")
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(0.8)
    if training == "finished":
        sae.save_inference_model(folder)
    else:
        sae.save_model(folder)
    if training == "unfinished":
        # SAELens has no inference for it: it is what save_inference_model would make of it.
        sae.save_inference_model(folder / "finished")
        sae = SAE.load_from_disk(folder / "finished")
        shutil.rmtree(folder / "finished")
    else:
        if legacy is not None:
            (folder / "cfg.json").write_text(json.dumps({"d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cpu", **legacy}))
        sae = SAE.load_from_disk(folder)
    x = inputs()
    store(folder, sae.encode(x), sae(x))


def sparse_coder(name, seed, **fields):
    folder = fresh(name, seed)
    SparseCoder.save_to_disk(randomise(SparseCoder(D_IN, SparseCoderConfig(k=K, **fields))), folder)
    coder = SparseCoder.load_from_disk(folder)
    x = inputs()
    values, indices, _ = coder.encode(x)
    store(folder, torch.zeros(INPUTS, coder.num_latents).scatter(1, indices, values), coder(x).sae_out)


def dictionary(name, seed, module, **fields):
    folder = fresh(name, seed)
    randomise(module)
    if getattr(module, "threshold", None) is not None and module.threshold.ndim == 0:
        module.threshold.fill_(0.8)
    torch.save(module.state_dict(), folder / "ae.pt")
    trainer = {"dict_class": type(module).__name__, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 16, "lm_name": "smollm2-135m-instruct", "submodule_name": "resid_post_layer_16", **fields}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"d_submodule": D_IN, "io": "out", "n_ctxs": 3000, "ctx_len": 128}}, indent=4))
    module, _ = load_dictionary(str(folder), device="cpu")
    acts = module.encode(inputs())
    out = module.decoder(acts) if isinstance(module, dl.AutoEncoderNew) else module.decode(acts)
    store(folder, acts, out)


def gemma_scope(seed):
    release, sae_id = "gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"
    folder = fresh(f"{release}/{sae_id}", seed)
    weights = {n: torch.randn(*s).mul(0.5).numpy() for n, s in {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, D_IN), "b_enc": (D_SAE,), "b_dec": (D_IN,)}.items()}
    np.savez(folder / "params.npz", **weights, threshold=torch.rand(D_SAE).numpy())
    loaders.hf_hub_download = lambda **_: str(folder / "params.npz")
    overrides = {"d_in": D_IN, "d_sae": D_SAE}
    cfg, state, _ = loaders.gemma_2_sae_huggingface_loader(f"google/{release}", sae_id, cfg_overrides=overrides)
    sae = SAE.from_dict(loaders.handle_config_defaulting(cfg))
    sae.load_state_dict(state)
    x = inputs()
    assert sae.cfg.metadata.hook_name == "blocks.20.hook_resid_post"
    store(folder, sae.encode(x), sae(x))


def gemma_scope_2(sae_id, seed, config=None, skip=False):
    release = "gemma-scope-2-1b-pt"
    folder = fresh(f"{release}/{sae_id}", seed)
    d_out = D_OUT if "transcoder" in sae_id else D_IN
    shapes = {"w_enc": (D_IN, D_SAE), "w_dec": (D_SAE, d_out), "b_enc": (D_SAE,), "b_dec": (d_out,), **({"affine_skip_connection": (D_IN, d_out)} if skip else {})}
    weights = {name: torch.randn(*shape).mul(0.5) for name, shape in shapes.items()}
    save_file({**weights, "threshold": torch.rand(D_SAE)}, folder / "params.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", **config}))

    def local(repo_id=None, filename=None, subfolder=None, **_):
        path = OUT / release / (subfolder or "") / filename
        if not path.exists():
            raise loaders.EntryNotFoundError("no such file", response=types.SimpleNamespace(headers={}, request=None))
        return str(path)

    loaders.hf_hub_download = local
    loaders.get_safetensors_tensor_shapes = lambda *_: {name: list(shape) for name, shape in shapes.items()}
    cfg, state, _ = loaders.gemma_3_sae_huggingface_loader(f"google/{release}", sae_id)
    sae = SAE.from_dict(loaders.handle_config_defaulting(cfg))
    sae.load_state_dict(state)
    x = inputs()
    about = {name: sae.cfg.metadata[name] for name in ["model_name", "hook_name", "hook_name_out", "hf_hook_name", "hf_hook_name_out"]}
    store(folder, sae.encode(x), sae(x), architecture=cfg["architecture"], metadata=about)


def temporal(name, seed, **fields):
    """Two sequences of four tokens: novel latents, and reconstructions with what the tokens before foretell and without."""
    folder = fresh(name, seed)
    classes = registry.get_sae_class("temporal")
    metadata = SAEMetadata(model_name="smollm2-135m-instruct", hook_name="blocks.16.hook_resid_post", context_size=128)
    randomise(classes[0](classes[1](d_in=D_IN, d_sae=D_SAE, n_heads=2, bottleneck_factor=3, metadata=metadata, **fields))).save_model(folder)
    sae = SAE.load_from_disk(folder)
    x = inputs() * 20  # it divides them by 4 d_in
    novel, predicted = sae.encode_with_predictions(x.view(2, INPUTS // 2, D_IN))
    flat = lambda y: y.reshape(INPUTS, -1)
    store(folder, flat(novel), flat(sae(x.view(2, INPUTS // 2, D_IN))), x=x, predicted=rounded(flat(predicted)), novel=rounded(flat(sae.decode(novel))))


@torch.no_grad()
def make():
    saelens("saelens_standard", 1, "standard")
    saelens("saelens_gated", 2, "gated", apply_b_dec_to_input=False)
    saelens("saelens_jumprelu", 3, "jumprelu", apply_b_dec_to_input=False)
    saelens("saelens_batchtopk", 4, "batchtopk", training="finished", k=float(K))
    saelens("saelens_batchtopk_unfinished", 5, "batchtopk", training="unfinished", k=float(K))
    saelens("saelens_matryoshka", 6, "matryoshka_batchtopk", training="unfinished", k=float(K), matryoshka_widths=[8, D_SAE])
    plain = {"apply_b_dec_to_input": False, "d_out": D_OUT}
    saelens("saelens_transcoder", 7, "transcoder", **plain)
    saelens("saelens_skip_transcoder", 8, "skip_transcoder", **plain)
    saelens("saelens_jumprelu_transcoder", 9, "jumprelu_transcoder", **plain)
    old = {"model_name": "smollm2-135m-instruct", "hook_point": "blocks.16.hook_resid_post", "hook_point_layer": 16, "context_size": 128, "sae_lens_training_version": "3.9.0"}
    saelens("saelens_legacy", 10, "standard", legacy={**old, "activation_fn_str": "relu", "normalize_activations": False, "apply_b_dec_to_input": True, "finetuning_scaling_factor": False})
    saelens("saelens_legacy_topk", 11, "topk", k=K, apply_b_dec_to_input=False, legacy={**old, "architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": False})
    saelens("saelens_abstopk", 12, "abstopk", k=K)
    saelens("saelens_abstopk_rescaled", 13, "abstopk", k=K, rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=False)
    # Tokens that end below the threshold, by a latent that comes again, and by the number of steps.
    saelens("saelens_pursuit", 14, "matching_pursuit", residual_threshold=0.3)
    saelens("saelens_pursuit_repeating", 15, "matching_pursuit", residual_threshold=0.0, max_iterations=11, stop_on_duplicate_support=False, apply_b_dec_to_input=False)
    temporal("saelens_temporal", 16, n_attn_layers=2, kval_topk=K, normalize_activations="constant_scalar_rescale", activation_normalization_factor=0.7)
    temporal("saelens_temporal_untied", 17, tied_weights=False, sae_diff_type="relu", apply_b_dec_to_input=False)
    temporal("saelens_temporal_uncentred", 18, apply_b_dec_to_input=False)
    sparse_coder("sparsify/layers.10", 20, num_latents=D_SAE)
    sparse_coder("sparsify/layers.3.mlp", 21, expansion_factor=3, activation="groupmax")
    sparse_coder("sparsify/layers.3.transcoder", 22, num_latents=D_SAE, transcode=True, skip_connection=True)
    (OUT / "sparsify/config.json").write_text(json.dumps({"sae": {}, "model": "HuggingFaceTB/SmolLM2-135M", "dataset": "EleutherAI/SmolLM2-135M-10B"}))
    sizes = (D_IN, D_SAE)
    dictionary("dictionary_relu", 30, dl.AutoEncoder(*sizes))
    dictionary("dictionary_april", 31, dl.AutoEncoderNew(*sizes))
    dictionary("dictionary_gated", 32, dl.GatedAutoEncoder(*sizes))
    dictionary("dictionary_topk", 33, AutoEncoderTopK(*sizes, K), k=K)
    dictionary("dictionary_batchtopk", 34, BatchTopKSAE(*sizes, K), k=K)
    dictionary("dictionary_matryoshka", 35, MatryoshkaBatchTopKSAE(*sizes, K, [8, 16]), k=K)
    dictionary("dictionary_jumprelu", 36, dl.JumpReluAutoEncoder(*sizes))
    gemma_scope(40)
    places = [f"model.layers.7.{place}" for place in ["output", "self_attn.o_proj.input", "post_feedforward_layernorm.output", "pre_feedforward_layernorm.output"]]
    gemma_scope_2("resid_post/layer_7_width_16k_l0_small", 41, {"hf_hook_point_in": places[0], "hf_hook_point_out": places[0], "affine_connection": False})
    gemma_scope_2("attn_out/layer_7_width_16k_l0_small", 42, {"hf_hook_point_in": places[1]})
    gemma_scope_2("mlp_out_all/layer_7_width_16k_l0_small", 43)
    gemma_scope_2("transcoder/layer_7_width_16k_l0_small", 44, {"hf_hook_point_in": places[3], "hf_hook_point_out": places[2]})
    gemma_scope_2("transcoder_all/layer_7_width_16k_l0_small_affine", 45, {"hf_hook_point_in": places[3], "hf_hook_point_out": places[2], "affine_connection": True}, skip=True)
    gemma_scope_2("transcoder_all/layer_8_width_16k_l0_big_affine", 46, skip=True)


@torch.no_grad()
def check(folder):
    def same(name, acts, out):
        wanted = json.loads((OUT / name / "reference.json").read_text())
        dense = torch.zeros(acts.shape)
        for row, active in zip(dense, wanted["activations"]):
            for latent, value in active:
                row[latent] = value
        for found, wanted in [(acts, dense), (out, torch.tensor(wanted["reconstructions"]))]:
            torch.testing.assert_close(found, wanted, rtol=3e-5, atol=3e-5)
        print(f"{name}: the same numbers")

    def inputs_of(name):
        return torch.tensor(json.loads((OUT / name / "reference.json").read_text())["inputs"])

    for cfg in sorted((folder / "saelens").rglob("cfg.json")):
        name = str(cfg.parent.relative_to(folder / "saelens"))
        sae, x = SAE.load_from_disk(cfg.parent), inputs_of(name)
        same(name, sae.encode(x), sae(x))
    for cfg in sorted((folder / "sparsify").rglob("cfg.json")):
        name = str(cfg.parent.parent.relative_to(folder / "sparsify"))
        coder, x = SparseCoder.load_from_disk(cfg.parent), inputs_of(name)
        values, indices, _ = coder.encode(x)
        same(name, torch.zeros(len(x), coder.num_latents).scatter(1, indices, values), coder(x).sae_out)


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            make()
        case ["check", folder]:
            check(pathlib.Path(folder))
        case _:
            sys.exit(__doc__)
