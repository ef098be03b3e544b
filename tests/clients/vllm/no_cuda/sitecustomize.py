"""On PYTHONPATH of vLLM and its own processes: packages that PyPI builds for CUDA and that do not load beside a CPU torch count as
absent. Text needs none of them."""
import sys

sys.modules.update(torchvision=None, torchaudio=None, torchcodec=None)
