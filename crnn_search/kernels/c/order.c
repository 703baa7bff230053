/* Numbers of a matrix in another order. */
#include "vectors.h"

INLINE void turn_some(const int count, int outer, int inner, const float *from, float *to) {
    for (int j = 0; j < inner; j++)
#pragma GCC unroll 8
        for (int i = 0; i < count; i++) to[(long)j * outer + i] = from[(long)i * inner + j];
}

/* Each row, `(outer, inner)`, turned to `(inner, outer)`. */
void turn_rows(long rows, int outer, int inner, const float *from, float *to) {
    const long size = (long)outer * inner;
    for (long row = 0; row < rows; row++, from += size, to += size) {
        int i = 0;
        for (; i + LANES <= outer; i += LANES)
            turn_some(LANES, outer, inner, from + (long)i * inner, to + i);
        turn_some(outer - i, outer, inner, from + (long)i * inner, to + i);
    }
}
