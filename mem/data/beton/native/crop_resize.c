/* Resizing of RGB pixels with the same results as OpenCV's INTER_AREA, bit for bit.
 *
 * If both sides shrink, an output pixel is the mean of the area that it covers in the source. Otherwise, OpenCV
 * interpolates linearly, with weights that it derives from this area (OpenCV 4.6, imgproc, resize.cpp). Both methods
 * combine the columns of a source row first, and then rows. A sum of floats depends on the order of its terms, which is
 * therefore OpenCV's. The compiler must not fuse multiplications and additions (-ffp-contract=off).
 */

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "crops.h"

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

#define UNIT 2048         /* Sum of the two weights of a linear interpolation. */
#define ROUND 12582912.0f /* 1.5 * 2^23. Adding it to a small float rounds to the nearest integer, ties to even. */

/* Red, green, blue and one unused float. */
typedef float pixel __attribute__((vector_size(16), aligned(4), may_alias));

/* The source pixels of each output pixel, along one direction. */
struct axis {
    int64_t size;   /* Number of output pixels. */
    int64_t taps;   /* Number of consecutive source pixels per output pixel. */
    int64_t *first; /* First source pixel of each output pixel. */
    float *weights; /* `taps` weights for each output pixel. Unused weights are 0. */
};

static void area_axis(struct axis *axis, int64_t source, double scale) {
    for (int64_t i = 0; i < axis->size; i++) {
        double begin = (double)i * scale, end = begin + scale;
        double length = fmin(scale, (double)source - begin);
        int64_t last = (int64_t)fmin(floor(end), (double)(source - 1));
        int64_t whole = (int64_t)fmin(ceil(begin), (double)last);
        float *weights = axis->weights + i * axis->taps;
        int64_t n = 0;
        memset(weights, 0, (size_t)axis->taps * sizeof *weights);
        axis->first[i] = whole;
        if ((double)whole - begin > 1e-3) {
            axis->first[i] = whole - 1;
            weights[n++] = (float)(((double)whole - begin) / length);
        }
        for (int64_t k = whole; k < last; k++) weights[n++] = (float)(1.0 / length);
        if (end - (double)last > 1e-3) weights[n++] = (float)(fmin(fmin(end - (double)last, 1.0), length) / length);
    }
}

static void linear_axis(struct axis *axis, int64_t source, double scale, double inverse, int clamp) {
    for (int64_t i = 0; i < axis->size; i++) {
        int64_t at = (int64_t)floor((double)i * scale);
        float part = (float)((double)(i + 1) - (double)(at + 1) * inverse);
        part = part <= 0 ? 0.0f : part - floorf(part);
        if (clamp && at >= source - 1) { /* the last column has no right neighbour */
            at = source - 1;
            part = 0;
        }
        axis->first[i] = at;
        axis->weights[2 * i] = rintf((1.0f - part) * UNIT);
        axis->weights[2 * i + 1] = rintf(part * UNIT);
    }
}

static void mirror(struct axis *axis) {
    for (int64_t i = 0, j = axis->size - 1; i < j; i++, j--) {
        int64_t first = axis->first[i];
        axis->first[i] = axis->first[j];
        axis->first[j] = first;
        for (int64_t k = 0; k < axis->taps; k++) {
            float *a = &axis->weights[i * axis->taps + k], *b = &axis->weights[j * axis->taps + k], weight = *a;
            *a = *b;
            *b = weight;
        }
    }
}

INLINE void combine_taps(const float *restrict values, const struct axis *x, int64_t taps, float *restrict out) {
    for (int64_t i = 0; i < x->size; i++) {
        const float *from = values + 3 * x->first[i], *weights = x->weights + i * taps;
        pixel sum = *(const pixel *)from * weights[0];
        for (int64_t k = 1; k < taps; k++) sum += *(const pixel *)(from + 3 * k) * weights[k];
        *(pixel *)(out + 3 * i) = sum; /* the next pixel overwrites the unused float */
    }
}

/* Combine the columns of a source row. `values` is memory for the source row. */
INLINE void combine_columns(const struct mem_pixels *source, int64_t row, const struct axis *x, float *restrict values,
                            float *restrict out) {
    const uint8_t *restrict bytes = source->data + row * source->stride;
    for (int64_t i = 0; i < 3 * source->columns; i++) values[i] = bytes[i];
    if (x->taps == 2) combine_taps(values, x, 2, out); /* constants, for which the compiler unrolls the loop */
    else if (x->taps == 3) combine_taps(values, x, 3, out);
    else combine_taps(values, x, x->taps, out);
}

FOR_EACH_PROCESSOR
static void shrink(const struct mem_pixels *source, const struct mem_pixels *out, const struct axis axes[2],
                   float *values, float *restrict row, float *restrict sum) {
    const struct axis *y = &axes[0];
    int64_t length = 3 * out->columns, combined = -1;
    for (int64_t i = 0; i < out->rows; i++) {
        for (int64_t k = 0; k < y->taps; k++) {
            float weight = y->weights[i * y->taps + k];
            int64_t at = y->first[i] + k;
            if (weight == 0) continue; /* unused */
            if (at != combined) combine_columns(source, at, &axes[1], values, row);
            combined = at;
            if (k == 0)
                for (int64_t j = 0; j < length; j++) sum[j] = weight * row[j];
            else
                for (int64_t j = 0; j < length; j++) sum[j] += weight * row[j];
        }
        uint8_t *restrict to = out->data + i * out->stride;
        for (int64_t j = 0; j < length; j++) {
            float rounded = sum[j] + ROUND;
            uint32_t bits;
            memcpy(&bits, &rounded, sizeof bits);
            to[j] = (uint8_t)bits;
        }
    }
}

FOR_EACH_PROCESSOR
static void interpolate(const struct mem_pixels *source, const struct mem_pixels *out, const struct axis axes[2],
                        float *values, float *restrict row, int16_t *rows[2]) {
    const struct axis *y = &axes[0];
    int64_t length = 3 * out->columns, combined[2] = {-1, -1};
    for (int64_t i = 0; i < out->rows; i++) {
        const int16_t *pair[2];
        for (int k = 0; k < 2; k++) {
            int64_t at = y->first[i] + k < source->rows ? y->first[i] + k : source->rows - 1;
            int16_t *restrict to = rows[at % 2];
            if (combined[at % 2] != at) {
                combine_columns(source, at, &axes[1], values, row);
                for (int64_t j = 0; j < length; j++) to[j] = (int16_t)((int32_t)row[j] >> 4);
                combined[at % 2] = at;
            }
            pair[k] = to;
        }
        const int16_t *upper = pair[0], *lower = pair[1];
        int16_t above = (int16_t)y->weights[2 * i], below = (int16_t)y->weights[2 * i + 1];
        uint8_t *restrict to = out->data + i * out->stride;
        for (int64_t j = 0; j < length; j++) {
            int16_t a = (int16_t)((above * upper[j]) >> 16), b = (int16_t)((below * lower[j]) >> 16);
            to[j] = (uint8_t)((int16_t)(a + b + 2) >> 2);
        }
    }
}

static int is_whole(double scale) { return fabs(scale - rint(scale)) < DBL_EPSILON; }

int mem_resize_area(const struct mem_pixels *source, const struct mem_pixels *out, int mirrored) {
    const int64_t from[2] = {source->rows, source->columns}, to[2] = {out->rows, out->columns};
    double inverse[2], scale[2];
    for (int i = 0; i < 2; i++) {
        inverse[i] = (double)to[i] / (double)from[i];
        scale[i] = 1 / inverse[i];
    }
    int shrinks = scale[0] >= 1 && scale[1] >= 1;
    if (shrinks && is_whole(scale[0]) && is_whole(scale[1])) return 0; /* OpenCV uses other arithmetic for these */

    struct axis axes[2];
    int64_t weights = 0;
    for (int i = 0; i < 2; i++) {
        axes[i].size = to[i];
        axes[i].taps = shrinks ? (int64_t)ceil(scale[i]) + 1 : 2; /* parts of pixels at both ends, pixels between */
        weights += axes[i].size * axes[i].taps;
    }
    /* A source row, followed by zeros for the unused taps; two rows of the output, each followed by an unused float. */
    int64_t values = 3 * (source->columns + axes[1].taps) + 1, row = 3 * out->columns + 1;
    size_t floats = (size_t)(weights + values + 2 * row);
    int64_t *firsts = malloc((size_t)(to[0] + to[1]) * sizeof *firsts + floats * sizeof(float));
    if (!firsts) return 0;
    float *memory = (float *)(firsts + to[0] + to[1]), *line = memory + weights, *first_row = line + values;
    axes[0].first = firsts;
    axes[1].first = firsts + to[0];
    axes[0].weights = memory;
    axes[1].weights = memory + axes[0].size * axes[0].taps;
    memset(line, 0, (size_t)values * sizeof *line);
    for (int i = 0; i < 2; i++) {
        if (shrinks) area_axis(&axes[i], from[i], scale[i]);
        else linear_axis(&axes[i], from[i], scale[i], inverse[i], i == 1);
    }
    if (mirrored) mirror(&axes[1]);
    if (shrinks) {
        shrink(source, out, axes, line, first_row, first_row + row);
    } else {
        int16_t *integers = (int16_t *)(first_row + row), *rows[2] = {integers, integers + 3 * out->columns};
        interpolate(source, out, axes, line, first_row, rows);
    }
    free(firsts);
    return 1;
}
