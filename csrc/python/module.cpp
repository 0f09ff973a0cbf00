// What was built: read by htc_fast.info and by the choice of backends.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "python/polygons.h"

namespace {

std::vector<std::string> words(std::string text) {
  for (char& letter : text) letter = letter == ',' ? ' ' : letter;
  std::istringstream stream(text);
  std::vector<std::string> out;
  for (std::string word; stream >> word;) out.push_back(word);
  return out;
}

}  // namespace

PYBIND11_MODULE(_build, m) {
  m.doc() = "What this build of htc_fast contains.";
  m.def("pack_polygons", &pack_polygons);
  m.attr("compiler") = HTC_CXX_COMPILER;
  m.attr("instruction_sets") = words(HTC_INSTRUCTION_SETS);
  m.attr("instruction_set") = words(HTC_INSTRUCTION_SETS).at(htc::cpu::instruction_set());
  m.attr("cuda") = std::string(HTC_CUDA_VERSION);
  m.attr("cuda_architectures") =
      std::string(HTC_CUDA_VERSION).empty() ? std::vector<std::string>{} : words(HTC_CUDA_ARCHITECTURES);
}
