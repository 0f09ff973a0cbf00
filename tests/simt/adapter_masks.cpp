// The mask operators' emulated kernels as torch operators: torch.ops.htc_simt.*. No checks: tests behave.
#define HTC_INSTRUCTION_SET emulator
#include "cpu/compress_runs.cpp"
#include "torch/encode_masks.h"

namespace htc {
namespace {

// out [K, H, W] uint8
void paste_masks(Tensor masks, Tensor boxes, double threshold, Tensor out) {
  cuda::paste_masks(
      {masks.size(0), static_cast<int>(masks.size(1)), static_cast<int>(masks.size(2)),
       static_cast<const float*>(masks.const_data_ptr()), static_cast<const float*>(boxes.const_data_ptr()),
       out.size(1), out.size(2), static_cast<float>(threshold), static_cast<uint8_t*>(out.mutable_data_ptr())},
      nullptr);
}

// rois [K, 5], layer and number [K] int64, out [K, size, size]
void mask_targets(Tensor maps, Tensor rois, Tensor layer, Tensor number, Tensor out) {
  cuda::mask_targets(
      {maps.scalar_type() == ScalarType::Short, maps.const_data_ptr(), maps.size(0), maps.size(1), rois.size(0),
       static_cast<int>(maps.size(2)), static_cast<int>(maps.size(3)), static_cast<int>(out.size(1)),
       static_cast<const float*>(rois.const_data_ptr()), static_cast<const int64_t*>(layer.const_data_ptr()),
       static_cast<const int64_t*>(number.const_data_ptr()), static_cast<float*>(out.mutable_data_ptr())},
      nullptr);
}

// A negative room: what the adapter would make room for.
Tensor packet_of(const EncodeMasks& op, const Tensor& masks, int64_t room) {
  return runs_on_host("encode_masks", op, masks, room < 0 ? likely_runs(op) : room,
                      [&](uint64_t* memory, int64_t most) { cuda::find_runs(op, memory, most, nullptr); });
}

// Runs [total, 2] of int32, mask after mask, and where every mask's begin [K + 1].
std::tuple<Tensor, Tensor> find_runs(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold,
                                     int64_t room) {
  Strings strings;
  const EncodeMasks op = describe_masks(masks, boxes, height, width, threshold, strings);
  const Tensor packet = packet_of(op, masks, room);
  const CompressRuns found = describe_runs(op, packet, strings);
  Tensor runs =
      torch::stable::new_empty(masks, {*static_cast<const int64_t*>(packet.const_data_ptr()), 2}, ScalarType::Int);
  Tensor offsets = torch::stable::new_empty(masks, {op.count + 1}, ScalarType::Long);
  uint32_t* out = static_cast<uint32_t*>(runs.mutable_data_ptr());
  int64_t* starts = static_cast<int64_t*>(offsets.mutable_data_ptr());
  starts[0] = 0;
  for (int64_t i = 0; i < op.count * found.parts; i++) {
    const uint32_t* run = found.runs + 2 * found.places[2 * i];
    out = std::copy(run, run + 2 * found.places[2 * i + 1], out);
    starts[i / found.parts + 1] = (out - static_cast<uint32_t*>(runs.mutable_data_ptr())) / 2;
  }
  if (found.parts == 0) std::fill(starts, starts + op.count + 1, 0);
  return {runs, offsets};
}

// As htc_fast::encode_masks.
std::tuple<Tensor, Tensor> encode_masks(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold,
                                        int64_t room) {
  Strings strings;
  const EncodeMasks op = describe_masks(masks, boxes, height, width, threshold, strings);
  const Tensor packet = packet_of(op, masks, room);
  cpu::emulator::compress_runs(describe_runs(op, packet, strings), torch_threads());
  return pack_strings(strings, masks);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_FRAGMENT(htc_simt, m) {
  m.def("paste_masks(Tensor masks, Tensor boxes, float threshold, Tensor(a!) out) -> ()");
  m.def("mask_targets(Tensor maps, Tensor rois, Tensor layer, Tensor number, Tensor(a!) out) -> ()");
  m.def("find_runs(Tensor masks, Tensor boxes, int height, int width, float threshold, int room) -> (Tensor, Tensor)");
  m.def(
      "encode_masks(Tensor masks, Tensor boxes, int height, int width, float threshold, int room) -> (Tensor, "
      "Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(htc_simt, CPU, m) {
  m.impl("paste_masks", TORCH_BOX(&htc::paste_masks));
  m.impl("mask_targets", TORCH_BOX(&htc::mask_targets));
  m.impl("find_runs", TORCH_BOX(&htc::find_runs));
  m.impl("encode_masks", TORCH_BOX(&htc::encode_masks));
}
