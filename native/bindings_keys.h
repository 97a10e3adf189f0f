// The part of the Python module unhot._native that knows keys.
#pragma once

#include <nanobind/nanobind.h>

namespace unhot {

void define_keys(nanobind::module_& module);

}  // namespace unhot
