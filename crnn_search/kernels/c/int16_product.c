/* Products of matrices: left, `(rows, depth)`, times the other turned, `(columns, depth)`.
 *
 * Sums are made in blocks of depth. Each row of either side is scaled by the largest Euclidean norm of
 * its blocks, so that ordinary numbers have some eleven bits and, by Cauchy and Schwarz, no block's sum
 * of products leaves 32. */
#include "int16.h"

#define PANEL 16 /* rows, of either side, that are packed together */
#define BLOCK 200 /* pairs of a block: a panel of each side fits into the first cache */
#define TILE 6    /* rows of the result at once, of two times eight columns */

/* A side, as pairs of numbers. Right ones, and left ones from columns, lie in panels of sixteen rows:
 * `(rows / 16, steps, 16)`; left ones from rows as they were. */
typedef struct {
    int32_t *pairs;
    float *up, *down, *squares;  /* by row, filled to a multiple of sixteen: scales, and a norm */
    long by_panel, by_row, by_step;
} Side;

INLINE long filled_rows(long rows) { return (rows + PANEL - 1) / PANEL * PANEL; }

INLINE long steps_of(int depth) { return (depth + 1) / 2; }

INLINE long line_of(int depth) { return filled(depth) / 2; }

INLINE long side_size(long rows, int depth) { return filled_rows(rows) * (line_of(depth) + 3); }

/* How many numbers of 32 bits the product needs as scratch. */
long int16_product_scratch(long rows, int columns, int depth) {
    return side_size(rows, depth) + side_size(columns, depth) + line_of(depth);
}

INLINE Side side_at(int32_t **scratch, long rows, int depth) {
    const long filled = filled_rows(rows), steps = steps_of(depth);
    Side side = {.up = (float *)*scratch, .by_panel = PANEL * steps, .by_row = 1, .by_step = PANEL};
    side.down = side.up + filled;
    side.squares = side.down + filled;
    side.pairs = *scratch + 3 * filled;
    *scratch += side_size(rows, depth);
    return side;
}

/* A norm and a number's largest size, to a row's scale. Rounding may add half to each number. */
INLINE Scale row_scale(float square, float most) {
    const float norm = sqrtf(square), limit = sqrtf(LIMIT) - 350.0f; /* half of 2 BLOCK's root: 10 */
    if (!(most <= FLT_MAX)) return scale_of(most, limit);
    return norm * MOST < most * limit ? scale_of(most, MOST) : scale_of(norm, limit);
}

/* One row as whole numbers, filled to a multiple of eight. */
static Scale whole_row(int depth, const float *from, int16_t *to) {
    float square = 0;
    I most = {0};
    for (int start = 0; start < depth; start += 2 * BLOCK) {
        const int end = start + 2 * BLOCK < depth ? start + 2 * BLOCK : depth;
        V squares = {0};
        for (int i = start; i < end; i += LANES) {
            V v = load(from, i, 1, end - i);
            squares += v * v;
            most = larger(most, size_bits(v));
        }
        float own = 0;
        for (int i = 0; i < LANES; i++) own += squares[i];
        square = own > square ? own : square;
    }
    const Scale scale = row_scale(square, largest(most));
    for (int i = 0; i < depth; i += LANES)
        store_whole(to + i, whole(load(from, i, 1, depth - i) * scale.up));
    return scale;
}

/* Left rows that lie in memory one after another. */
static void pack_left(long rows, int depth, const float *from, long apart, Side *side) {
    side->by_panel = PANEL * line_of(depth);
    side->by_row = line_of(depth);
    side->by_step = 1;
    for (long row = 0; row < rows; row++)
        side->down[row] = whole_row(depth, from + row * apart,
                                    (int16_t *)(side->pairs + row * side->by_row)).down;
}

/* Right ones. line: room for one. */
static void pack_right(long rows, int depth, const float *from, long apart, Side side,
                       int32_t *line) {
    const long steps = steps_of(depth);
    for (long row = 0; row < rows; row++) {
        int32_t *to = side.pairs + row / PANEL * side.by_panel + row % PANEL;
        side.down[row] = whole_row(depth, from + row * apart, (int16_t *)line).down;
        for (long step = 0; step < steps; step++) to[step * PANEL] = line[step];
    }
}

/* Packs rows that lie beside one another: from is `(depth, rows)`. */
static void pack_columns(long rows, int depth, const float *from, long apart, Side side) {
    const long steps = steps_of(depth), filled = filled_rows(rows);
    float *block = side.up, *most = side.down; /* until they are scales */
    memset(side.squares, 0, sizeof(float) * filled);
    memset(block, 0, sizeof(float) * filled);
    memset(most, 0, sizeof(float) * filled);
    for (int i = 0; i < depth; i++) {
        for (long row = 0; row < rows; row += LANES) {
            V v = load(from, i * apart + row, 1, rows - row);
            store_floats(block + row, load_floats(block + row) + v * v);
            store_floats(most + row, (V)larger((I)load_floats(most + row), size_bits(v)));
        }
        if ((i + 1) % (2 * BLOCK) && i + 1 < depth) continue;
        for (long row = 0; row < filled; row++)
            if (block[row] > side.squares[row]) side.squares[row] = block[row];
        memset(block, 0, sizeof(float) * filled);
    }
    for (long row = 0; row < filled; row++) {
        const Scale scale = row_scale(side.squares[row], most[row]);
        side.up[row] = scale.up;
        side.down[row] = scale.down;
    }
    for (long step = 0; step < steps; step++)
        for (long row = 0; row < filled; row += LANES) {
            const int count = rows - row < LANES ? rows - row : LANES;
            const long at = 2 * step * apart + row;
            const V up = load_floats(side.up + row);
            V first = {0}, second = {0};
            if (count > 0) first = load(from, at, 1, count);
            if (count > 0 && 2 * step + 1 < depth) second = load(from, at + apart, 1, count);
            store_pairs(side.pairs + (row / PANEL * steps + step) * PANEL + row % PANEL,
                        paired(whole(first * up), whole(second * up)));
        }
}

/* Sums over some steps, of some rows and sixteen columns. */
INLINE void sum_tile(const int rows, long steps, const int32_t *left, long by_row, long by_step,
                     const int32_t *right, int32_t *found) {
    I sums[TILE][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = (I){0};
    for (long step = 0; step < steps; step++, left += by_step, right += PANEL) {
        I one = load_pairs(right), other = load_pairs(right + LANES);
        KEEP(one);
        KEEP(other);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const I here = all_pairs(left + r * by_row);
            sums[r][0] = add_pairs(sums[r][0], here, one);
            sums[r][1] = add_pairs(sums[r][1], here, other);
            KEEP_SUM(sums[r][0]);
            KEEP_SUM(sums[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        store_pairs(found + r * PANEL, sums[r][0]);
        store_pairs(found + r * PANEL + LANES, sums[r][1]);
    }
}

/* Some rows of a panel times sixteen columns. add: to what is in the result, else to bias. */
static void product_tile(int rows, long steps, const int32_t *left, long by_row, long by_step,
                         const int32_t *right, const float *left_down, const float *right_down,
                         int add, const float *bias, float *out, long apart, int columns) {
    int32_t found[TILE * PANEL];
    WITH_ROWS(rows, sum_tile, steps, left, by_row, by_step, right, found)
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < PANEL && c < columns; c += LANES) {
            float *to = out + r * apart + c;
            const V sum = __builtin_convertvector(load_pairs(found + r * PANEL + c), V);
            const V before = load(add ? to : bias + c, 0, 1, columns - c);
            store(to, 0, 1, columns - c, before + sum * left_down[r] * load_floats(right_down + c));
        }
}

/* left: `(rows, depth)`, or turned `(depth, rows)`; right: `(columns, depth)`, or turned. So far
 * apart lie a line and the next. bias: by column. out: `(rows, columns)`. */
void int16_product(long rows, int columns, int depth, const float *left, int left_apart,
                   int left_turned, const float *right, int right_apart, int right_turned,
                   const float *bias, float *out, int32_t *scratch) {
    Side one = side_at(&scratch, rows, depth), other = side_at(&scratch, columns, depth);
    if (left_turned)
        pack_columns(rows, depth, left, left_apart, one);
    else
        pack_left(rows, depth, left, left_apart, &one);
    if (right_turned)
        pack_columns(columns, depth, right, right_apart, other);
    else
        pack_right(columns, depth, right, right_apart, other, scratch);
    const long steps = steps_of(depth);
    for (long step = 0; step < steps; step += BLOCK) {
        const long now = steps - step < BLOCK ? steps - step : BLOCK;
        for (long c = 0; c < columns; c += PANEL)
            for (long r = 0; r < rows;) {
                /* Sixteen rows as six, five and five, so that none reaches into the next panel. */
                const int most = r % PANEL == 0 ? 6 : 5, tile = rows - r < most ? rows - r : most;
                product_tile(tile, now,
                             one.pairs + r / PANEL * one.by_panel + r % PANEL * one.by_row +
                                 step * one.by_step,
                             one.by_row, one.by_step,
                             other.pairs + c / PANEL * other.by_panel + step * PANEL,
                             one.down + r, other.down + c, step > 0, bias + c,
                             out + r * columns + c, columns, columns - c);
                r += tile;
            }
    }
}
