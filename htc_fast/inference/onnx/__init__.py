"""A detector as one ONNX file of standard operators: written (`export_onnx`) and run (`OnnxDetector`)."""

from htc_fast.inference.onnx.file import export_onnx

__all__ = ["export_onnx"]
