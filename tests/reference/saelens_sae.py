"""TopK SAEs in SAELens 6's folder format, with their activations and reconstructions.

    python tests/reference/saelens_sae.py     (sae-lens 6.54.12, torch 2.9.0, numpy 2.3.5; its own environment)

Writes crates/sae/tests/fixtures/{saelens_topk,saelens_topk_rescaled}/: cfg.json and sae_weights.safetensors by
`SAE.save_model`, reference.json from the SAE that `SAE.load_from_disk` reads back. The second one selects by
pre-activation x decoder norm (activations are in those units) and does not subtract b_dec from the input.
Some inputs have fewer than k positive pre-activations: TopK applies ReLU after the choice.
"""
import json, pathlib, shutil
import numpy as np
import sae_lens, torch
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/sae/tests/fixtures"
D_IN, D_SAE, K, INPUTS = 16, 64, 4, 12


def table(x):
    return [[float(f"{v:.8g}") for v in row] for row in x.tolist()]


def by_hand(weights, x, rescale, subtract):
    """The same in numpy f64: what a reader of the folder has to compute."""
    w = {k: v.double().numpy() for k, v in weights.items()}
    norm = np.linalg.norm(w["W_dec"], axis=1) if rescale else np.ones(D_SAE)
    pre = ((x - w["b_dec"] * subtract) @ w["W_enc"] + w["b_enc"]) * norm
    acts = np.zeros_like(pre)
    best = np.argsort(-pre, axis=1)[:, :K]
    np.put_along_axis(acts, best, np.maximum(np.take_along_axis(pre, best, 1), 0), 1)
    return acts, (acts / norm) @ w["W_dec"] + w["b_dec"]


@torch.no_grad()
def make(folder, seed, rescale, subtract):
    torch.manual_seed(seed)
    metadata = SAEMetadata(model_name="smollm2-135m-instruct", hook_name="blocks.16.hook_resid_post", context_size=128, prepend_bos=False)
    sae = TopKSAE(TopKSAEConfig(
        d_in=D_IN, d_sae=D_SAE, k=K, rescale_acts_by_decoder_norm=rescale, apply_b_dec_to_input=subtract, metadata=metadata
    ))
    for parameter in sae.parameters():
        parameter.normal_(0, 0.5)
    sae.b_enc.sub_(2.0)  # so that some inputs have fewer than k positive pre-activations
    shutil.rmtree(folder, ignore_errors=True)
    sae.save_model(folder)
    sae = SAE.load_from_disk(folder)
    x = torch.randn(INPUTS, D_IN) * torch.tensor([0.05, 0.3, 1.0, 3.0]).repeat(INPUTS // 4)[:, None]
    acts = sae.encode(x)
    out = sae.decode(acts)
    hand = by_hand(sae.state_dict(), x.double().numpy(), rescale, subtract)
    assert np.abs(hand[0] - acts.numpy()).max() < 1e-5 and np.abs(hand[1] - out.numpy()).max() < 1e-5
    fields = {
        "made_with": f"tests/reference/saelens_sae.py, sae-lens {sae_lens.__version__}, torch {torch.__version__}",
        "active_per_input": (acts > 0).sum(1).tolist(),
        "inputs": table(x),
        "activations": [[[int(i), float(f"{row[i]:.8g}")] for i in row.nonzero()[:, 0]] for row in acts],  # [latent, value], by latent
        "reconstructions": table(out),
    }
    (folder / "reference.json").write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items()) + "\n}\n")
    print(folder, sum(f.stat().st_size for f in folder.iterdir()), fields["active_per_input"])


if __name__ == "__main__":
    make(OUT / "saelens_topk", 0, rescale=False, subtract=True)
    make(OUT / "saelens_topk_rescaled", 1, rescale=True, subtract=False)
