// What every adapter needs: element types, threads, the current stream. The only header that sees Torch.
#pragma once
#include <dlfcn.h>
#include <sys/mman.h>
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

// Fresh memory costs a page fault every 4 KB: 12 ms for 50 MB, more than filling it. Huge pages cost a tenth.
inline void advise_huge_pages(const Tensor& tensor, int64_t element_size) {
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t last = (begin + static_cast<uintptr_t>(tensor.numel() * element_size)) / kPage * kPage;
  if (last > first + kPage) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

// The stable ABI of torch 2.11 knows transpose, but not yet permute.
inline Tensor channels_at_the_end(const Tensor& x) {  // a view [N, H, W, C] of [N, C, H, W]
  return torch::stable::transpose(torch::stable::transpose(x, 1, 2), 2, 3);
}
inline Tensor channels_second(const Tensor& x) {  // a view [N, C, H, W] of [N, H, W, C]
  return torch::stable::transpose(torch::stable::transpose(x, 2, 3), 1, 2);
}

inline int64_t element_size(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }

// Contiguous float32; on CUDA also on a 16-byte boundary, which a view into a larger tensor need not be.
inline Tensor float_rows(const Tensor& any) {
  const Tensor rows = torch::stable::contiguous(torch::stable::to(any, ScalarType::Float));
  const bool aligned = reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 16 == 0;
  return rows.is_cpu() || aligned ? rows : torch::stable::clone(rows);
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

// The first number of an int32 tensor on a device; waits for what the current stream has been given so far.
inline int64_t read_count(const Tensor& counts) {
  const Tensor host = torch::stable::to(counts, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  return *static_cast<const int32_t*>(host.const_data_ptr());
}

}  // namespace htc
