// What the encoders' CUDA adapters and the emulator's share: arguments become structs, kernels run, runs come home.
#pragma once
#include "torch/encode_logits.h"
#include "torch/run_strings.h"

namespace htc {

// Maps whose rows' tables fit a block's shared memory.
template <class Operator>
void check_map(const char* name, const Operator& op) {
  STD_TORCH_CHECK(op.map_h <= 8192, name, ": on CUDA maps have at most 8192 rows, got ", op.map_h);
  STD_TORCH_CHECK(static_cast<int64_t>(op.map_h) * op.map_w <= (int64_t{1} << 24) - 256, name,
                  ": on CUDA a map has fewer than 2^24 - 256 cells, got ", op.map_h, " x ", op.map_w);
}

// A negative room: what is likely to be enough.
template <class Operator, class Find>
Tensor packet_on_host(const char* name, const Operator& op, const Tensor& like, int64_t room, Find find) {
  check_image(name, op);
  return runs_on_host(name, op, like, room < 0 ? likely_runs(op) : room, find);
}

inline Tensor packet_of_logits(const EncodeLogits& op, const Tensor& like, int64_t room, Stream stream) {
  check_map("encode_logits", op);
  return packet_on_host("encode_logits", op, like, room,
                        [&](uint64_t* packet, int64_t most) { cuda::find_runs(op, packet, most, stream); });
}

inline Tensor packet_of_prototypes(const EncodePrototypes& op, const Tensor& like, int64_t room, Stream stream) {
  check_map("encode_prototypes", op);
  Tensor maps = torch::stable::new_empty(like, {op.count, op.map_h, op.map_w}, ScalarType::Float);
  float* cells = static_cast<float*>(maps.mutable_data_ptr());
  cuda::prototype_maps(op, cells, stream);
  return packet_on_host("encode_prototypes", op, like, room,
                        [&](uint64_t* packet, int64_t most) { cuda::find_runs(op, cells, packet, most, stream); });
}

inline EncodeBitmaps describe_bitmaps(const Tensor& masks) {
  STD_TORCH_CHECK(masks.dim() == 3 && masks.element_size() == 1, "encode: masks must be [K, H, W] of bytes");
  return {masks.size(0), masks.size(1), masks.size(2), static_cast<const uint8_t*>(masks.const_data_ptr()), nullptr};
}

inline Tensor packet_of_bitmaps(const EncodeBitmaps& op, const Tensor& like, int64_t room, Stream stream) {
  return packet_on_host("encode", op, like, room,
                        [&](uint64_t* packet, int64_t most) { cuda::find_runs(op, packet, most, stream); });
}

// masks [K, height, width] of bytes. The runs travel to them in one piece, and the host does not wait for it.
inline void decode_into(Tensor& masks, const Tensor& runs, const Tensor& offsets, Stream stream) {
  const int64_t count = masks.size(0), height = masks.size(1), width = masks.size(2), numbers = runs.numel();
  STD_TORCH_CHECK(offsets.numel() == count + 1, "decode: offsets must be [K + 1]");
  STD_TORCH_CHECK(width <= kMostColumns && height <= 65535 * 512, "decode: on CUDA an image has at most ", kMostColumns,
                  " columns and ", 65535 * 512, " rows, got ", height, " x ", width);
  const torch::stable::Device host(torch::headeronly::DeviceType::CPU);
  const int64_t size = numbers + count + 1;
  Tensor packed =
      torch::stable::new_empty(masks, {size}, ScalarType::Long, std::nullopt, host, /*pin_memory=*/masks.is_cuda());
  int64_t* out = static_cast<int64_t*>(packed.mutable_data_ptr());
  std::copy(int64s(offsets), int64s(offsets) + count + 1, std::copy(int64s(runs), int64s(runs) + numbers, out));
  Tensor there = torch::stable::new_empty(masks, {size}, ScalarType::Long);
  torch::stable::copy_(there, packed, /*non_blocking=*/true);
  const int64_t* given = static_cast<const int64_t*>(there.const_data_ptr());
  const RunMasks described{count, given, given + numbers, nullptr};
  cuda::decode_runs({described, height, width, static_cast<uint8_t*>(masks.mutable_data_ptr())}, stream);
}

}  // namespace htc
