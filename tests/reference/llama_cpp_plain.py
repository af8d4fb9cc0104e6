"""llama-cpp-python with weights as the file has them, and not repacked for the processor.

With AMX, llama.cpp's kernels for repacked weights end in a segmentation fault (0.3.36 on a virtual Sapphire Rapids: llama_decode of
more than one token of SmolLM2-135M in Q4_1), and which processor a comparison runs on should not change it.
"""
import llama_cpp.llama_cpp as native
from llama_cpp import Llama  # noqa: F401, for those who import this

defaults = native.llama_model_default_params


def plain():
    params = defaults()
    params.use_extra_bufts = False
    return params


native.llama_model_default_params = plain
