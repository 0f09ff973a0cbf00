// What _build has besides what was built.
#pragma once
#include <pybind11/pybind11.h>

// K objects, each a list of polygons, each a list x1, y1, x2, y2, ... -> points (float64), where polygons begin in
// them, and objects in those (int64), as bytearrays; None where anything else is among them, or a number beyond 1e15.
pybind11::object pack_polygons(const pybind11::list& objects);
