"""A detector as one ONNX file of standard operators: `export_onnx` writes it, `OnnxDetector` runs it."""

from htc_fast.inference.onnx.file import check_installed, check_name, check_opset, export_onnx
from htc_fast.inference.onnx.session import OnnxDetector

__all__ = ["OnnxDetector", "check_installed", "check_name", "check_opset", "export_onnx"]
