"""What type checkers and editors see of the package; `__init__.py` imports the same at first use."""

from htc_fast.detector import create_model as create_model
from htc_fast.detector import list_models as list_models
from htc_fast.detector import load as load
from htc_fast.errors import UserError as UserError
from htc_fast.inference import optimize as optimize

BEGAN: float
__version__: str
