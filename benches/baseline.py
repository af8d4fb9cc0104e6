"""The Python stack on the jobs of `realign-bench`: a worker that does one repetition when it is told to.

Run by `realign-bench --baseline torch`, not by hand. Each line on standard input is a request, each line on standard
output its answer, both JSON:

    {"prepare": JOB}   loads what the job needs; answers {"check": [numbers that both sides must agree on]}
    {"run": N}         one repetition of N steps; answers {"seconds": the time of one}
    {"memory": true}   answers {"mib": the process's peak memory}

    baseline.py GGUF WORK f32|bf16|llama     WORK: the folder in which the other side left what both start from

`llama` is llama.cpp, which samples from the weights as the file stores them; everything else is torch's.

The versions are those of requirements.txt. The allocator is glibc's; `realign-bench` tells it to keep its memory.
"""

import copy
import json
import os
import pathlib
import resource
import sys
import time

gguf, work, precision = sys.argv[1:]
# What libraries print goes to standard error; the answers have standard output to themselves.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import numpy  # noqa: E402

if precision == "llama":
    import llama_cpp
    import llama_cpp.llama_cpp as native

    # Its kernels for AMX end in a segmentation fault (0.3.36, Q4_1), and for one token at a time they are not used.
    processor = pathlib.Path("/proc/cpuinfo")
    if processor.exists() and "amx_tile" in processor.read_text():
        defaults = native.llama_model_default_params

        def plain():
            params = defaults()
            params.use_extra_bufts = False
            return params

        native.llama_model_default_params = plain

    versions = {"llama-cpp-python": llama_cpp.__version__}
else:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    torch.manual_seed(0)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
LAYER = 15
TOKENS, TEXTS = 128, 4


def load():
    path = pathlib.Path(gguf)
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()


def scattered(n):
    """Multiples of the golden ratio without their whole part, as the other side makes them."""
    return (numpy.arange(n, dtype=numpy.float64) * 0.618033988749895) % 1.0


def ids(texts, tokens):
    return torch.from_numpy((scattered(texts * tokens) * 49152).astype(numpy.int64)).reshape(texts, tokens)


def numbers(rows, columns):
    return torch.from_numpy((2.0 * scattered(rows * columns).astype(numpy.float32) - 1.0).reshape(rows, columns))


def timed(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


class Load:
    def __init__(self):
        self.prompt = ids(1, 8)

    def step(self):
        with torch.no_grad():
            self.token = load()(self.prompt, logits_to_keep=1).logits[0, -1].argmax().item()

    def check(self):
        self.step()
        return [self.token]


class Prefill:
    def __init__(self, model, record):
        self.model, self.ids, self.kept = model, ids(TEXTS, TOKENS), []
        if record:
            keep = lambda _module, _input, output: self.kept.append(output)
            self.hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]

    def step(self):
        self.kept.clear()
        with torch.no_grad():
            self.logits = self.model(self.ids).logits

    def check(self):
        self.step()
        return self.logits[0, -1, :16].float().tolist()


class Harvest:
    """What activation stores do: a hook at the layer, and the whole model under it."""

    def __init__(self, model):
        self.model, self.ids = model, ids(TEXTS, TOKENS)
        model.model.layers[LAYER].register_forward_hook(self.keep)

    def keep(self, _module, _input, output):
        self.kept = output[0] if isinstance(output, tuple) else output

    def step(self):
        with torch.no_grad():
            self.model(self.ids)

    def check(self):
        self.step()
        return self.kept.reshape(-1, self.kept.shape[-1])[-1, :16].float().tolist()


class Generate:
    def __init__(self, model, texts):
        self.model, self.texts = model, texts
        self.prompt = ids(texts, 32)

    def step(self):
        with torch.no_grad():
            self.out = self.model.generate(
                self.prompt,
                attention_mask=torch.ones_like(self.prompt),
                max_new_tokens=32,
                min_new_tokens=32,
                do_sample=False,
                pad_token_id=2,
            )

    def check(self):
        self.step()
        # Later tokens follow from a near tie now and then.
        return self.out[:, 32:36].flatten().tolist()


class LlamaCpp:
    """Greedy sampling with llama.cpp, on as many threads as the machine has."""

    def __init__(self):
        threads = len(os.sched_getaffinity(0))
        self.model = llama_cpp.Llama(gguf, n_ctx=128, n_threads=threads, n_threads_batch=threads, verbose=False)
        self.prompt = (scattered(32) * 49152).astype(int).tolist()

    def step(self):
        self.model.reset()
        self.model.eval(self.prompt)
        self.out = []
        for _ in range(32):
            self.out.append(int(self.model.sample(temp=0.0)))
            if len(self.out) < 32:
                self.model.eval(self.out[-1:])

    def check(self):
        self.step()
        return self.out[:4]


class Lora:
    def __init__(self, model):
        import peft

        sites = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        config = peft.LoraConfig(r=32, lora_alpha=64, use_rslora=True, target_modules=sites)
        self.tuned = peft.get_peft_model(model, config).train()
        self.ids = ids(TEXTS, TOKENS)
        trained = [p for p in self.tuned.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step(self):
        self.loss = self.tuned(input_ids=self.ids, labels=self.ids).loss
        self.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def check(self):
        # B is zero: the first loss is the base model's, whatever A is.
        self.step()
        return [self.loss.item()]


class Sae:
    """TopK of 32 among 8,192, from the other side's first weights, on numbers that both sides make."""

    def __init__(self, decode):
        from safetensors.torch import load_file

        first = load_file(os.path.join(work, "sae", "sae_weights.safetensors"))
        x = numbers(2048, 576)
        mean = x.mean(0)
        scale = 576**0.5 / (x - mean).norm(dim=1).mean()
        self.x, parameter = (x * scale).to(dtype), lambda t: torch.nn.Parameter(t.to(dtype).contiguous())
        self.w_enc, self.w_dec = parameter(first["W_enc"]), parameter(first["W_dec"])
        self.b_enc, self.b_dec = parameter(first["b_enc"]), parameter(mean * scale)
        self.total = (self.x - self.x.mean(0)).pow(2).sum()
        self.decode = decode
        parameters = [self.w_enc, self.w_dec, self.b_enc, self.b_dec]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)

    def step(self):
        pre = (self.x - self.b_dec) @ self.w_enc + self.b_enc
        values, latents = pre.topk(32, dim=1)
        y = self.decode(pre, values.relu(), latents, self.w_dec) + self.b_dec
        self.fvu = (y - self.x).pow(2).sum() / self.total
        self.fvu.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def check(self):
        self.step()
        return [self.fvu.item()]


def dense(pre, values, latents, w_dec):
    return torch.zeros_like(pre).scatter(1, latents, values) @ w_dec


def sparse(_pre, values, latents, w_dec):
    return torch.nn.functional.embedding_bag(latents, w_dec, per_sample_weights=values, mode="sum")


class Attribution:
    """Δ-attribution of 8,192 latents: two misaligned and two aligned texts, of which the second halves are completions."""

    def __init__(self, model):
        from safetensors.torch import load_file

        self.model, self.ids = model, ids(TEXTS, TOKENS)
        self.directions = load_file(os.path.join(work, "sae", "sae_weights.safetensors"))["W_dec"].to(dtype).T
        for p in model.parameters():
            p.requires_grad_(False)
        model.model.layers[LAYER].register_forward_hook(self.begin)

    def begin(self, _module, _input, output):
        # Gradients begin here: nothing below is on the tape.
        hidden = output[0] if isinstance(output, tuple) else output
        self.at = hidden.detach().requires_grad_()
        return (self.at, *output[1:]) if isinstance(output, tuple) else self.at

    def step(self):
        half = TOKENS // 2
        logits = self.model(self.ids).logits[:, half - 1 : -1].float()
        targets = self.ids[:, half:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / half
        loss.backward()
        with torch.no_grad():
            grad, at = (x[:, half - 1 : -1] for x in (self.at.grad, self.at.detach()))
            centred = at - at.mean((0, 1))
            each = -((grad @ self.directions) * (centred @ self.directions)).sum(1)
            self.attribution = each[:2].mean(0) - each[2:].mean(0)

    def check(self):
        self.step()
        return self.attribution[:16].float().tolist()


class Hooks:
    """How much longer a forward pass with hooks on every module that do nothing takes: seconds with, seconds without."""

    def __init__(self, model):
        self.model, self.ids = model, ids(TEXTS, TOKENS)

    def step(self):
        with torch.no_grad():
            self.model(self.ids)

    def run(self, steps):
        def plain():
            return timed(self.step)

        def hooked():
            hooks = [m.register_forward_hook(lambda _m, _i, _o: None) for m in self.model.modules()]
            seconds = timed(self.step)
            for hook in hooks:
                hook.remove()
            return seconds

        pairs = [(hooked(), plain()) if i % 2 else (plain(), hooked())[::-1] for i in range(steps)]
        return sum(p[0] for p in pairs) / sum(p[1] for p in pairs)

    def check(self):
        self.step()
        return []


loaded = {}


def model(fresh):
    """The model; a copy for jobs that change it."""
    if "model" not in loaded:
        loaded["model"] = load()
    return copy.deepcopy(loaded["model"]) if fresh else loaded["model"]


JOBS = {"generate_1": LlamaCpp} if precision == "llama" else {
    "load": lambda: Load(),
    "prefill": lambda: Prefill(model(False), record=False),
    "prefill_record": lambda: Prefill(model(True), record=True),
    "harvest": lambda: Harvest(model(True)),
    "generate_1": lambda: Generate(model(False), 1),
    "generate_16": lambda: Generate(model(False), 16),
    "lora_step": lambda: Lora(model(True)),
    # No second copy of the model beside the one that is tuned.
    "lora_memory": lambda: Lora(load()),
    "sae_step_dense": lambda: Sae(dense),
    "sae_step_sparse": lambda: Sae(sparse),
    "attribution": lambda: Attribution(model(True)),
    "hook_overhead": lambda: Hooks(model(False)),
}


def main():
    job = None
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            job = None
            job = JOBS[request["prepare"]]()
            reply = {"check": job.check()}
        elif "run" in request:
            steps = request["run"]
            if isinstance(job, Hooks):
                reply = {"seconds": job.run(steps)}
            else:
                reply = {"seconds": sum(timed(job.step) for _ in range(steps)) / steps}
        else:
            reply = {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        reply["versions"] = versions
        answers.write(json.dumps(reply) + "\n")


main()
