#include "text.h"

#include <cstring>

namespace unhot {
namespace {

constexpr uint64_t kExact =
    uint64_t{1} << 53;  // up to here, and with powers of ten up to 10^22, one operation rounds correctly
constexpr int kMostPower = 22;
constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

// Reads the number at `at`, which must end at `stop` or before a separator.  Returns where it ends, or null if it is not one
// that can be read here.
inline const char* parse_number(const char* at, const char* stop, char separator, double& number) {
    const bool negative = at < stop && *at == '-';
    at += at < stop && (*at == '-' || *at == '+');
    uint64_t digits = 0;
    int power = 0;
    const char* const first = at;
    for (; at < stop && is_digit(*at); ++at) {
        if (digits > kExact) return nullptr;
        digits = 10 * digits + static_cast<uint64_t>(*at - '0');
    }
    auto count = at - first;
    if (at < stop && *at == '.') {
        const char* const point = ++at;
        for (; at < stop && is_digit(*at); ++at) {
            if (digits > kExact) return nullptr;
            digits = 10 * digits + static_cast<uint64_t>(*at - '0');
        }
        if (at - point > 1000) return nullptr;
        power = -static_cast<int>(at - point);
        count += at - point;
    }
    if (count == 0) return nullptr;
    if (at < stop && (*at == 'e' || *at == 'E')) {
        ++at;
        const bool small = at < stop && *at == '-';
        at += at < stop && (*at == '-' || *at == '+');
        const char* const begin = at;
        int exponent = 0;
        for (; at < stop && is_digit(*at); ++at) {
            exponent = 10 * exponent + (*at - '0');
            if (exponent > 1000) return nullptr;
        }
        if (at == begin) return nullptr;
        power += small ? -exponent : exponent;
    }
    if ((at != stop && *at != separator) || digits > kExact || power > kMostPower || power < -kMostPower) return nullptr;
    const auto whole = static_cast<double>(digits);
    const double value = power < 0 ? whole / kPowers[-power] : whole * kPowers[power];
    number = negative ? -value : value;
    return at;
}

// The numbers from `at` to `stop`, if there are just `dim` and each can be read here.
template <typename T>
bool parse_all(const char* at, const char* stop, int64_t dim, char separator, T* out) {
    for (int64_t column = 0; column < dim; ++column) {
        if (column > 0) {
            if (at == stop) return false;
            ++at;  // the separator
        }
        double number;
        at = parse_number(at, stop, separator, number);
        if (!at) return false;
        out[column] = static_cast<T>(number);
    }
    return at == stop;
}

// Where the last `dim` fields begin, or null if there are fewer.
const char* last_fields(const char* line, const char* stop, int64_t dim, char separator) {
    for (const char* at = stop; at > line;) {
        --at;
        if (*at == separator && --dim == 0) return at + 1;
    }
    return nullptr;
}

}  // namespace

template <typename T>
Progress parse_lines(const char* text, int64_t size, int64_t dim, char separator, bool keyless, bool spaced,
                     const ParsedLines<T>& out) {
    Progress done{0, 0, 0, false};
    const char* const end = text + size;
    for (const char* line = text; line < end && done.rows < out.rows && out.most - done.odd >= dim;) {
        const auto newline = static_cast<const char*>(std::memchr(line, '\n', static_cast<size_t>(end - line)));
        if (!newline) break;
        const char* stop = newline;
        if (stop > line && stop[-1] == '\r') --stop;
        while (stop > line && stop[-1] == separator) --stop;
        T* const numbers = out.numbers + done.rows * dim;
        const char* key_end = line;
        const char* first = line;
        if (!keyless) {
            const auto found = static_cast<const char*>(std::memchr(line, separator, static_cast<size_t>(stop - line)));
            key_end = found ? found : stop;
            first = found ? found + 1 : stop;
        }
        if (!parse_all(first, stop, dim, separator, numbers)) {
            if (!keyless) {
                first = last_fields(line, stop, dim, separator);
                done.ragged = !first || (!spaced && first - 1 != key_end);
                if (first) key_end = first - 1;
            }
            int64_t fields = 1;
            for (const char* at = first; !done.ragged && at < stop; ++at) fields += *at == separator;
            done.ragged = done.ragged || fields != dim;
            if (done.ragged) return done;
            for (int64_t column = 0; column < dim; ++column) {
                const auto next = static_cast<const char*>(std::memchr(first, separator, static_cast<size_t>(stop - first)));
                const char* const field_end = next ? next : stop;
                double number = 0.0;
                if (!parse_number(first, field_end, separator, number)) {
                    int64_t* const odd = out.odd + 4 * done.odd++;
                    odd[0] = done.rows, odd[1] = column, odd[2] = first - text, odd[3] = field_end - text;
                }
                numbers[column] = static_cast<T>(number);
                first = field_end + (next != nullptr);
            }
        }
        out.keys[2 * done.rows] = line - text;
        out.keys[2 * done.rows + 1] = key_end - text;
        ++done.rows;
        line = newline + 1;
        done.consumed = line - text;
    }
    return done;
}

template Progress parse_lines<float>(const char*, int64_t, int64_t, char, bool, bool, const ParsedLines<float>&);
template Progress parse_lines<double>(const char*, int64_t, int64_t, char, bool, bool, const ParsedLines<double>&);

}  // namespace unhot
