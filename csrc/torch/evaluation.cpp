// measure_masks, match_detections, precision_curves: adapter.
#include "evaluation.h"

#include "torch/run_strings.h"

namespace htc {
namespace {

const double* doubles(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double && tensor.is_cpu() && tensor.is_contiguous(),
                  "htc_fast: evaluation takes contiguous float64 tensors on the CPU");
  return static_cast<const double*>(tensor.const_data_ptr());
}

const uint8_t* bytes(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Byte && tensor.is_cpu() && tensor.is_contiguous(),
                  "htc_fast: evaluation takes contiguous uint8 tensors on the CPU");
  return static_cast<const uint8_t*>(tensor.const_data_ptr());
}

const uint16_t* bits(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Short && tensor.is_cpu() && tensor.is_contiguous(),
                  "htc_fast: evaluation takes contiguous int16 tensors on the CPU");
  return static_cast<const uint16_t*>(tensor.const_data_ptr());
}

double* writable(const Tensor& tensor) { return static_cast<double*>(tensor.mutable_data_ptr()); }

MaskTexts describe_texts(const Tensor& text, const Tensor& offsets, const Tensor& sizes) {
  return {sizes.size(0), reinterpret_cast<const char*>(bytes(text)), int64s(offsets), int64s(sizes)};
}

std::tuple<Tensor, Tensor, Tensor> measure_masks(const Tensor& text, const Tensor& offsets, const Tensor& sizes) {
  const int64_t count = sizes.size(0);
  Tensor areas = torch::stable::new_empty(sizes, {count}, ScalarType::Double);
  Tensor boxes = torch::stable::new_empty(sizes, {count, 4}, ScalarType::Double);
  Tensor faults = torch::stable::new_empty(sizes, {count}, ScalarType::Byte);
  cpu::measure_masks({describe_texts(text, offsets, sizes), writable(areas), writable(boxes),
                      static_cast<uint8_t*>(faults.mutable_data_ptr())},
                     torch_threads());
  return {areas, boxes, faults};
}

template <class T>
Tensor column(const std::vector<T>& values, const Tensor& like) {
  const ScalarType type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Long;
  Tensor out = torch::stable::new_empty(like, {static_cast<int64_t>(values.size())}, type);
  std::copy(values.begin(), values.end(), static_cast<T*>(out.mutable_data_ptr()));
  return out;
}

// images, classes, scores, boxes, text, offsets, sizes; all empty where a slower reader is wanted.
std::vector<Tensor> read_results(const Tensor& json) {
  // Room that is not written to takes no memory.
  Tensor text = torch::stable::new_empty(json, {json.numel()}, ScalarType::Byte);
  ResultColumns made;
  cpu::read_results(
      {json.numel(), reinterpret_cast<const char*>(bytes(json)), static_cast<char*>(text.mutable_data_ptr()), &made},
      torch_threads());
  text = torch::stable::narrow(text, 0, 0, made.offsets.empty() ? 0 : made.offsets.back());
  return {
      column(made.images, json),  column(made.classes, json), column(made.scores, json), column(made.boxes, json), text,
      column(made.offsets, json), column(made.sizes, json)};
}

// order, ends, boxes, areas, pixels, text, offsets, sizes.
Objects describe_objects(const std::vector<Tensor>& parts) {
  STD_TORCH_CHECK(parts.size() == 8, "match_detections: eight tensors describe detections or truths");
  return {int64s(parts[0]),  int64s(parts[1]),  doubles(parts[2]),
          doubles(parts[3]), doubles(parts[4]), describe_texts(parts[5], parts[6], parts[7])};
}

std::tuple<Tensor, Tensor> match_detections(int64_t by, double boundary, const std::vector<Tensor>& found,
                                            const std::vector<Tensor>& truth, const Tensor& crowd,
                                            const Tensor& ignored, const Tensor& lenient, const Tensor& ranges,
                                            const Tensor& thresholds) {
  STD_TORCH_CHECK(thresholds.numel() <= 16, "match_detections: at most 16 thresholds");
  const std::vector<int64_t> shape{found[0].numel(), ranges.size(0)};
  Tensor matched = torch::stable::new_empty(ranges, shape, ScalarType::Short);
  Tensor uncounted = torch::stable::new_empty(ranges, shape, ScalarType::Short);
  cpu::match_detections({static_cast<OverlapOf>(by), boundary, lenient.numel(), ranges.size(0), thresholds.numel(),
                         describe_objects(found), describe_objects(truth), bytes(crowd), bytes(ignored), bytes(lenient),
                         doubles(ranges), doubles(thresholds), static_cast<uint16_t*>(matched.mutable_data_ptr()),
                         static_cast<uint16_t*>(uncounted.mutable_data_ptr())},
                        torch_threads());
  return {matched, uncounted};
}

std::tuple<Tensor, Tensor, Tensor> precision_curves(const Tensor& ends, const Tensor& ranks, const Tensor& scores,
                                                    const Tensor& matched, const Tensor& uncounted,
                                                    const Tensor& truths, const Tensor& recalls, const Tensor& most,
                                                    int64_t thresholds) {
  const int64_t classes = truths.size(0), ranges = truths.size(1), limits = most.numel();
  const std::vector<int64_t> curve{thresholds, recalls.numel(), classes, ranges, limits};
  Tensor precision = torch::stable::new_empty(recalls, curve);
  Tensor score_at = torch::stable::new_empty(recalls, curve);
  Tensor recall = torch::stable::new_empty(recalls, {thresholds, classes, ranges, limits});
  cpu::precision_curves({classes, ranges, thresholds, recalls.numel(), limits, int64s(ends), int64s(ranks),
                         doubles(scores), bits(matched), bits(uncounted), int64s(truths), doubles(recalls),
                         int64s(most), writable(precision), writable(recall), writable(score_at)},
                        torch_threads());
  return {precision, recall, score_at};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("read_results", TORCH_BOX(&htc::read_results));
  m.impl("measure_masks", TORCH_BOX(&htc::measure_masks));
  m.impl("match_detections", TORCH_BOX(&htc::match_detections));
  m.impl("precision_curves", TORCH_BOX(&htc::precision_curves));
}
