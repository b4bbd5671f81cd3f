"""An adapter added into its base model's weights: python -m flash.models.merging BASE ADAPTER FOLDER."""

import sys
from pathlib import Path


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Added in float32, and written in the base's own type: four bytes a parameter are needed for it."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    kept = AutoConfig.from_pretrained(base, local_files_only=True).get_text_config().dtype or torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.to(kept).save_pretrained(out)


if __name__ == "__main__":
    merge(*map(Path, sys.argv[1:]))
