// A picture through the file that `htc_fast.export --format onnx` wrote, with onnxruntime's C API (its C++ header)
// alone.
//
//   g++ -std=c++20 -O2 predict.cpp -o predict -I FOLDER/include -L FOLDER/lib -lonnxruntime -Wl,-rpath,FOLDER/lib
//   ./predict model.onnx picture.ppm overlay.ppm [score]
//
// FOLDER is an unpacked release of onnxruntime; pictures are binary PPM (`convert picture.jpg picture.ppm`).
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

const uint8_t COLOURS[6][3] = {{230, 60, 75}, {60, 180, 75},  {255, 200, 25},
                               {67, 99, 216}, {245, 130, 49}, {66, 212, 244}};

struct Picture {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3], RGB
  uint8_t* at(int64_t y, int64_t x) { return &pixels[(y * width + x) * 3]; }
};

Picture read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t height = 0, width = 0, most = 0;
  file >> magic >> width >> height >> most;
  if (!file || magic != "P6" || most != 255 || std::min(height, width) < 1 || std::max(height, width) > 1 << 16)
    throw std::runtime_error("cannot read " + path +
                             ": expected a binary PPM picture (P6) of 8 bits without comments.");
  Picture picture{height, width, std::vector<uint8_t>(height * width * 3)};
  file.get();  // the one white space before the pixels
  if (!file.read(reinterpret_cast<char*>(picture.pixels.data()), picture.pixels.size()))
    throw std::runtime_error("cannot read " + path + ": it ends before its last pixel.");
  return picture;
}

void write(const std::string& path, const Picture& picture) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
  if (!file.write(reinterpret_cast<const char*>(picture.pixels.data()), picture.pixels.size()).flush())
    throw std::runtime_error("cannot write " + path + ".");
}

// What stands in the brackets behind a name of the file's notes (JSON): its numbers, or its strings as they are
// written.
std::vector<std::string> list(const std::string& notes, const std::string& name) {
  const std::string before = "\"" + name + "\": [";
  size_t at = notes.find(before);
  if (at == std::string::npos) throw std::runtime_error("the model's notes have no " + name + ".");
  std::vector<std::string> found;
  for (at += before.size(); notes.at(at) != ']'; at += notes.at(at) == ',' ? 2 : 0) {
    const bool quoted = notes[at] == '"';
    size_t end = at += quoted;
    while (quoted ? notes.at(end) != '"' : notes.at(end) != ',' && notes[end] != ']') end += notes[end] == '\\' ? 2 : 1;
    found.push_back(notes.substr(at, end - at));
    at = end + quoted;
  }
  return found;
}

// One side of a picture made `size` long: bilinear at pixel centres, rounded.
Picture stretch(Picture picture, int64_t size, bool across) {
  const int64_t length = across ? picture.width : picture.height;
  Picture made{across ? picture.height : size, across ? size : picture.width, {}};
  made.pixels.resize(made.height * made.width * 3);
  for (int64_t y = 0; y < made.height; ++y)
    for (int64_t x = 0; x < made.width; ++x) {
      const double at = std::clamp(((across ? x : y) + 0.5) * length / size - 0.5, 0.0, length - 1.0);
      const int64_t low = at, high = std::ceil(at);
      const float share = at - low;
      const uint8_t* one = across ? picture.at(y, low) : picture.at(low, x);
      const uint8_t* other = across ? picture.at(y, high) : picture.at(high, x);
      for (int c = 0; c < 3; ++c) made.at(y, x)[c] = one[c] + (other[c] - one[c]) * share + 0.5f;
    }
  return made;
}

// A mask [cells, cells] at one point of its box, 0 to 1: bilinear between the cells' centres, zeros outside.
double sample(const float* mask, int64_t cells, double y, double x) {
  const double row = y * cells - 0.5, column = x * cells - 0.5;
  double sum = 0;
  for (int64_t i = std::floor(row); i <= std::floor(row) + 1; ++i)
    for (int64_t j = std::floor(column); j <= std::floor(column) + 1; ++j)
      if (std::min(i, j) >= 0 && std::max(i, j) < cells)
        sum += mask[i * cells + j] * (1 - std::abs(row - i)) * (1 - std::abs(column - j));
  return sum;
}

// Half a colour over the object, and its box around it.
void draw(Picture& picture, const std::array<float, 4>& box, const float* mask, int64_t cells, const uint8_t* colour) {
  const auto [left, top, right, bottom] = box;
  const int64_t x0 = left, y0 = top, x1 = std::min<int64_t>(right, picture.width - 1);
  const int64_t y1 = std::min<int64_t>(bottom, picture.height - 1);
  for (int64_t y = y0; y <= y1; ++y)
    for (int64_t x = x0; x <= x1; ++x) {
      const double down = (y + 0.5 - top) / (bottom - top), across = (x + 0.5 - left) / (right - left);
      const bool inside = down >= 0 && down <= 1 && across >= 0 && across <= 1;  // no number: neither
      const bool edge = y == y0 || y == y1 || x == x0 || x == x1;
      const bool object = inside && sample(mask, cells, down, across) >= 0.5;
      uint8_t* pixel = picture.at(y, x);
      for (int c = 0; c < 3; ++c) pixel[c] = edge ? colour[c] : object ? (pixel[c] + colour[c]) / 2 : pixel[c];
    }
}

// What the model takes: one picture of [height, width, 3] bytes, or normalised floats [3, height, width].
struct Entry {
  bool bytes;
  int64_t height, width;
  std::vector<int64_t> shape;
};

Entry entry_of(const Ort::Session& session) {
  const auto type = session.GetInputTypeInfo(0);
  const auto tensor = type.GetTensorTypeAndShapeInfo();
  const bool bytes = tensor.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  auto shape = tensor.GetShape();
  if (shape[0] > 1) throw std::runtime_error("the model takes several pictures at once: export it with a batch of 1.");
  shape[0] = 1;  // -1 where the batch may have any size
  return {bytes, shape[bytes ? 1 : 2], shape[bytes ? 2 : 3], shape};
}

std::vector<Ort::Value> detect(Ort::Session& session, const Entry& entry, const std::string& notes, Picture small) {
  const int64_t H = entry.height, W = entry.width;
  std::vector<uint8_t> bytes(H * W * 3);
  std::vector<float> floats(H * W * 3);
  std::array<float, 3> mean, deviation;
  for (int c = 0; c < 3; ++c) {
    mean[c] = std::stof(list(notes, "mean").at(c));
    deviation[c] = std::stof(list(notes, "std").at(c));
  }
  for (int64_t y = 0; y < small.height; ++y)
    for (int64_t x = 0; x < small.width; ++x)
      for (int c = 0; c < 3; ++c) {
        bytes[(y * W + x) * 3 + c] = small.at(y, x)[c];
        floats[(c * H + y) * W + x] = (small.at(y, x)[c] - mean[c]) / deviation[c];
      }
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::array<int64_t, 2> size{small.height, small.width}, row{1, 2};
  Ort::Value inputs[] = {
      entry.bytes ? Ort::Value::CreateTensor<uint8_t>(memory, bytes.data(), bytes.size(), entry.shape.data(), 4)
                  : Ort::Value::CreateTensor<float>(memory, floats.data(), floats.size(), entry.shape.data(), 4),
      Ort::Value::CreateTensor<int64_t>(memory, size.data(), 2, row.data(), 2)};
  const char *given[] = {"images", "image_sizes"}, *wanted[] = {"boxes", "scores", "labels", "masks"};
  return session.Run(Ort::RunOptions(), given, inputs, 2, wanted, 4);
}

void run(const char* model, const std::string& from, const std::string& to, double least) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::Session session(env, model, Ort::SessionOptions());
  Ort::AllocatorWithDefaultOptions allocator;
  const auto notes = session.GetModelMetadata().LookupCustomMetadataMapAllocated("htc_fast", allocator);
  if (!notes) throw std::runtime_error("htc_fast did not write this model: give the file that its export wrote.");
  const auto names = list(notes.get(), "class_names");
  const Entry entry = entry_of(session);
  Picture picture = read(from);
  const double scale = std::min(double(entry.height) / picture.height, double(entry.width) / picture.width);
  const int64_t height = std::clamp<int64_t>(picture.height * scale + 0.5, 1, entry.height);
  const int64_t width = std::clamp<int64_t>(picture.width * scale + 0.5, 1, entry.width);
  const auto found = detect(session, entry, notes.get(), stretch(stretch(picture, width, true), height, false));

  const float *boxes = found[0].GetTensorData<float>(), *scores = found[1].GetTensorData<float>();
  const int64_t* labels = found[2].GetTensorData<int64_t>();
  const int64_t cells = found[3].GetTensorTypeAndShapeInfo().GetShape()[3];  // of [1, D, cells, cells]
  const float across = float(picture.width) / width, down = float(picture.height) / height;
  std::vector<std::array<float, 4>> own;  // boxes in the picture's pixels, best first
  for (size_t n = 0; n < found[2].GetTensorTypeAndShapeInfo().GetElementCount(); ++n) {
    if (labels[n] < 0 || scores[n] < least) break;
    const float* box = boxes + 4 * n;
    own.push_back({box[0] * across, box[1] * down, box[2] * across, box[3] * down});
    const auto [x, y, x2, y2] = own[n];
    std::printf("%s %.4f %.2f %.2f %.2f %.2f\n", names.at(labels[n]).c_str(), scores[n], x, y, x2, y2);
  }
  for (size_t n = own.size(); n-- > 0;)  // the best on top
    draw(picture, own[n], found[3].GetTensorData<float>() + n * cells * cells, cells, COLOURS[n % 6]);
  write(to, picture);
}

int main(int count, char** words) {
  if (count < 4 || count > 5) {
    std::fprintf(stderr, "usage: predict model.onnx picture.ppm overlay.ppm [score]\n");
    return 2;
  }
  try {
    run(words[1], words[2], words[3], count == 5 ? std::atof(words[4]) : 0.5);
  } catch (const std::exception& error) {  // Ort::Exception is one
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
