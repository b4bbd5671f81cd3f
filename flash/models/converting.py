"""From a GGUF file to a folder that transformers loads: float32 weights, tokenizer, config.

python -m flash.models.converting FILE.gguf FOLDER
"""

import sys
from pathlib import Path


def convert(gguf: Path, out: Path) -> None:
    """The weights are dequantised all at once: 1.1 GB at the peak for 135 M parameters."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    out.mkdir(parents=True)
    # A model read from GGUF refuses to be saved: it is marked as quantised although its weights no longer are. So
    # its parts are written one by one.
    del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.float32
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    weights = model.state_dict()
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()}, out / "model.safetensors", {"format": "pt"}
    )


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
