// Opens the namespace; each operator's own file adds its schema with STABLE_TORCH_LIBRARY_FRAGMENT.
#include "torch/common.h"

STABLE_TORCH_LIBRARY(htc_fast, m) { (void)m; }
