// What the adapters of encode_logits and encode_prototypes, and the emulator's, share: the arguments. Where the strings
// go is the caller's to say.
#pragma once
#include "masks.h"
#include "torch/encode_masks.h"

namespace htc {

// Checked in Python; here only what would read beyond the map.
template <class Operator>
void take_crop(Operator& op, const std::vector<double>& crop) {
  STD_TORCH_CHECK(crop.size() == 4 && 0 <= crop[0] && crop[0] < crop[2] && crop[2] <= op.map_w && 0 <= crop[1] &&
                      crop[1] < crop[3] && crop[3] <= op.map_h && op.height >= 0 && op.width >= 0,
                  "htc_fast: crop must be x1, y1, x2, y2 inside the map");
  for (int i = 0; i < 4; ++i) op.crop[i] = static_cast<float>(crop[static_cast<size_t>(i)]);
}

inline EncodeLogits describe_logits(const Tensor& logits, int64_t height, int64_t width, double threshold,
                                    const std::vector<double>& crop) {
  STD_TORCH_CHECK(logits.dim() == 3, "encode_logits: logits must be [K, h, w]");
  EncodeLogits op{logits.size(0),
                  static_cast<int>(logits.size(1)),
                  static_cast<int>(logits.size(2)),
                  static_cast<const float*>(logits.const_data_ptr()),
                  {},
                  height,
                  width,
                  static_cast<float>(threshold),
                  nullptr};
  take_crop(op, crop);
  return op;
}

inline EncodePrototypes describe_prototypes(const Tensor& coefficients, const Tensor& prototypes, const Tensor& boxes,
                                            int64_t height, int64_t width, double threshold,
                                            const std::vector<double>& crop, bool cut_after) {
  STD_TORCH_CHECK(coefficients.dim() == 2 && prototypes.dim() == 3 && boxes.dim() == 2 && boxes.size(1) == 4 &&
                      coefficients.size(1) == prototypes.size(0) && boxes.size(0) == coefficients.size(0),
                  "encode_prototypes: coefficients must be [K, P], prototypes [P, h, w] and boxes [K, 4]");
  EncodePrototypes op{coefficients.size(0),
                      coefficients.size(1),
                      static_cast<int>(prototypes.size(1)),
                      static_cast<int>(prototypes.size(2)),
                      static_cast<const float*>(coefficients.const_data_ptr()),
                      static_cast<const float*>(prototypes.const_data_ptr()),
                      static_cast<const float*>(boxes.const_data_ptr()),
                      {},
                      height,
                      width,
                      static_cast<float>(threshold),
                      cut_after,
                      nullptr};
  take_crop(op, crop);
  return op;
}

}  // namespace htc
