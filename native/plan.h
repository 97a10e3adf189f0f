// Which rows some ids name, and when they were last touched: hash tables no larger than the ids, in the first caches.
#pragma once

#include <cstdint>

namespace unhot {

constexpr uint32_t kFrozen = 0xFFFFFFFFu;  // the step of the last touch of rows that nothing changes

// The position of the first id outside [0, rows), or -1.
int64_t outside(const int64_t* ids, int64_t count, int64_t rows);

// Makes rows of all tables of the ids of each in turn, counts[t] of them, by adding the number of the table's first row.
// Returns -1, or the position of the first id outside [0, rows[t]).
int64_t number_rows(int64_t* ids, const int64_t* counts, const int64_t* rows, const int64_t* firsts, int64_t tables);

// The distinct rows in the order of their first occurrence, and each row's positions in order; see src/unhot/kernels/plan.py.
// `rows` and `order` hold `count` numbers, `starts` count + 1.  Returns the number of distinct rows.  The steps of the last
// touches, if there are any, are brought into the caches by the way.
int64_t group(const int64_t* ids, int64_t count, const uint32_t* last, int64_t* rows, int64_t* order, int64_t* starts);

// The distinct steps before `now` among last[rows[k]], and for each row the place of its own, or -1 for `now`.
// `steps` holds `count` numbers.  Returns the number of distinct steps.
int64_t last_steps(const uint32_t* last, const int64_t* rows, int64_t count, uint32_t now, int64_t* steps, int32_t* line);

}  // namespace unhot
