// What every adapter needs: element types, threads, the current stream. The only header that sees Torch.
#pragma once
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "ops.h"

namespace htc {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Half: return DType::f16;
    case ScalarType::BFloat16: return DType::bf16;
    case ScalarType::Double: return DType::f64;
    default: STD_TORCH_CHECK(false, "htc_fast: expected a float32, float64, float16 or bfloat16 tensor");
  }
  return DType::f32;
}

// The caller's intra-op threads.
inline Parallel torch_threads() {
  return [](int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
    torch::stable::parallel_for(0, count, grain, body);
  };
}

// The symbol lives in libtorch_cuda.so, which a CPU build of torch lacks; looked up late, one binary loads in both.
inline Stream current_stream(int32_t device) {
  using Getter = AOTITorchError (*)(int32_t, void**);
  static const Getter getter = reinterpret_cast<Getter>(
      dlsym(dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD), "aoti_torch_get_current_cuda_stream"));
  void* stream = nullptr;
  STD_TORCH_CHECK(getter != nullptr && getter(device, &stream) == 0, "htc_fast: torch gave no CUDA stream");
  return stream;
}

}  // namespace htc
