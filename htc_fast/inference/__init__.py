"""From pictures to instances: prediction, and a detector laid out once for its device or written as a file."""

from htc_fast.inference.export import export_file
from htc_fast.inference.framed import Framed
from htc_fast.inference.optimize import Optimized, optimize
from htc_fast.inference.views import Views

__all__ = ["Framed", "Optimized", "Views", "export_file", "optimize"]
