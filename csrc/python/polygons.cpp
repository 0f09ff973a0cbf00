// Nested lists of numbers to buffers: what people give as polygons, ten times quicker than Python goes through it.
#include "python/polygons.h"

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr double kFarthest = 1e15;  // pixels from the origin

// A list of floats and integers that are not too far away; false for anything else.
bool add(PyObject* polygon, std::vector<double>& points) {
  if (!PyList_CheckExact(polygon)) return false;
  const Py_ssize_t count = PyList_GET_SIZE(polygon);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* one = PyList_GET_ITEM(polygon, i);
    if (PyFloat_CheckExact(one)) {
      points.push_back(PyFloat_AS_DOUBLE(one));
    } else if (PyLong_CheckExact(one)) {
      points.push_back(PyLong_AsDouble(one));
      if (points.back() == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        return false;
      }
    } else {
      return false;
    }
    if (!(std::fabs(points.back()) <= kFarthest)) return false;
  }
  return count % 2 == 0;
}

template <class T>
pybind11::bytearray buffer(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

pybind11::object pack_polygons(const pybind11::list& objects) {
  std::vector<double> points;
  std::vector<int64_t> parts{0}, ends{0};
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(objects.ptr()); ++k) {
    PyObject* object = PyList_GET_ITEM(objects.ptr(), k);
    if (!PyList_CheckExact(object)) return pybind11::none();
    for (Py_ssize_t q = 0; q < PyList_GET_SIZE(object); ++q) {
      // Two numbers first: the object may be one polygon of such points.
      const size_t before = points.size();
      if (!add(PyList_GET_ITEM(object, q), points) || (q == 0 && points.size() == before + 2)) return pybind11::none();
      parts.push_back(static_cast<int64_t>(points.size() / 2));
    }
    ends.push_back(static_cast<int64_t>(parts.size()) - 1);
  }
  return pybind11::make_tuple(buffer(points), buffer(parts), buffer(ends));
}
