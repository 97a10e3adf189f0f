// Printed by tools/print_kernels.py from src/unhot/laws: change those, and run it again.
#pragma once

namespace unhot {

enum Law : int {
    kLinear,
    kLinearMomentum,
    kLinearSum,
    kLinearMean,
    kLinearMomentumMean,
    kLinearCentered,
    kLinearMomentumCentered,
    kLinearDelta,
    kRowwiseSum,
    kMeasureSecondMoment,
    kMeasureLargestSecondMoment,
    kMeasureNorm,
    kMeasureSecondMomentNesterov,
    kCrossing,
    kSign,
    kClosedForm,
    kClosedFormRoot,
    kClosedFormShrinks,
    kClosedFormShrinksRoot,
    kLaws
};

struct LinearCoefficients {
    enum : int {
        w_hi,
        w_lo,
        w_b,
        b_w,
        b_hi,
        b_lo,
        v_hi,
        v_lo,
        count
    };
};

struct LinearScalars {
    enum : int {
        w_hi,
        w_lo,
        w_b,
        b_w,
        b_hi,
        b_lo,
        g_w,
        g_b,
        v_hi,
        v_lo,
        share,
        inside,
        outside,
        count
    };
};

struct MeasureCoefficients {
    enum : int {
        w_hi,
        w_lo,
        m_hi,
        m_lo,
        v_hi,
        v_lo,
        used,
        panels,
        count
    };
};

struct MeasureScalars {
    enum : int {
        w_hi,
        w_lo,
        m_hi,
        m_lo,
        m_g,
        v_hi,
        v_lo,
        v_g,
        alpha,
        gamma,
        c,
        epsilon,
        count
    };
};

struct MeasureShared {
    enum : int {
        epsilon,
        panels,
        terms,
        count
    };
};

struct CrossingCoefficients {
    enum : int {
        m_hi,
        m_lo,
        u_hi,
        u_lo,
        total,
        start,
        count
    };
};

struct CrossingScalars {
    enum : int {
        m_hi,
        m_lo,
        m_g,
        u_hi,
        u_lo,
        alpha,
        epsilon,
        count
    };
};

struct CrossingShared {
    enum : int {
        epsilon,
        beta_2,
        now,
        mask,
        sums,
        count
    };
};

struct SignCoefficients {
    enum : int {
        w_hi,
        w_lo,
        rates,
        m_hi,
        m_lo,
        count
    };
};

struct SignScalars {
    enum : int {
        w_hi,
        w_lo,
        rate,
        beta_1,
        share,
        m_hi,
        m_lo,
        m_g,
        count
    };
};

struct SignShared {
    enum : int {
        floor,
        count
    };
};

struct ClosedFormCoefficients {
    enum : int {
        first,
        series,
        count
    };
};

struct ClosedFormScalars {
    enum : int {
        w_hi,
        w_lo,
        over_rate,
        count
    };
};

struct ClosedFormShared {
    enum : int {
        over_rate,
        twice_shrinkage,
        twice_l2,
        l1,
        beta,
        exponent,
        least,
        count
    };
};

// How much a law reads; `width` is that of a line of coefficients, without the panels, and `of_row` says which
// arrays (bits) have one number for each row.
struct LawSizes {
    const char* name;
    int arrays, parameters, width, scalars;
    bool panels;
    unsigned of_row;
};

constexpr LawSizes kLawSizes[kLaws] = {
    {"Linear", 1, 0, 8, 13, false, 0},
    {"LinearMomentum", 2, 0, 8, 13, false, 0},
    {"LinearSum", 2, 0, 8, 13, false, 0},
    {"LinearMean", 2, 0, 8, 13, false, 0},
    {"LinearMomentumMean", 3, 0, 8, 13, false, 0},
    {"LinearCentered", 3, 0, 8, 13, false, 0},
    {"LinearMomentumCentered", 4, 0, 8, 13, false, 0},
    {"LinearDelta", 3, 0, 8, 13, false, 0},
    {"RowwiseSum", 2, 0, 8, 13, false, 2},
    {"MeasureSecondMoment", 3, 3, 7, 12, true, 0},
    {"MeasureLargestSecondMoment", 4, 3, 7, 12, true, 0},
    {"MeasureNorm", 3, 3, 7, 12, true, 0},
    {"MeasureSecondMomentNesterov", 3, 3, 7, 12, true, 0},
    {"Crossing", 3, 4, 6, 7, false, 0},
    {"Sign", 2, 1, 5, 8, false, 0},
    {"ClosedForm", 3, 7, 1, 3, false, 0},
    {"ClosedFormRoot", 3, 7, 1, 3, false, 0},
    {"ClosedFormShrinks", 3, 7, 17, 3, false, 0},
    {"ClosedFormShrinksRoot", 3, 7, 17, 3, false, 0},
};

}  // namespace unhot
