// Numbers in lines of text: vectors as word2vec, GloVe and TensorBoard write them.
#pragma once

#include <cstdint>

namespace unhot {

// What is found in a text, and where.
template <typename T>
struct ParsedLines {
    T* numbers;     // rows of `dim` numbers
    int64_t rows;   // how many there is room for
    int64_t* keys;  // two for each row: where its key begins and ends
    int64_t* odd;   // four for each number that is left to the caller: row, column, where it begins and ends
    int64_t most;   // how many of these there is room for, at least `dim`
};

struct Progress {
    int64_t rows, consumed, odd;  // consumed: the characters up to the end of the last line that was read
    bool ragged;                  // the line that follows does not have the fields that it should
};

// Reads whole lines: a key unless `keyless`, and `dim` numbers, with `separator` between and perhaps at the end.  With
// `spaced`, a key may contain separators: the numbers are the last fields of the line.  Stops where there is no room for
// another line.  A number is that of Python's float(), rounded once more to T; what takes more than a multiplication or a
// division by a power of ten, or is no number, is left to the caller.
template <typename T>
Progress parse_lines(const char* text, int64_t size, int64_t dim, char separator, bool keyless, bool spaced,
                     const ParsedLines<T>& out);

}  // namespace unhot
