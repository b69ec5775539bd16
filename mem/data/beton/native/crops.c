/* Crops of stored images for the data loader: decode, crop, resize and flip several images per call.
 *
 * Python loads this library with ctypes, which releases the global interpreter lock during the call. FFCV's functions
 * process what this library does not support. The pixels are those of FFCV's functions in all cases.
 */

#include <string.h>

#include "crops.h"

/* FFCV's functions (libffcv.cpp). */
typedef int (*ffcv_imdecode)(unsigned char *, uint64_t, uint32_t, uint32_t, unsigned char *, uint32_t, uint32_t,
                             uint32_t, uint32_t, uint32_t, uint32_t, _Bool, _Bool);
typedef void (*ffcv_resize)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                            int64_t);

/* Flip rows in place. */
static void flip(const struct mem_pixels *pixels) {
    for (int64_t row = 0; row < pixels->rows; row++) {
        uint8_t *left = pixels->data + row * pixels->stride, *right = left + 3 * (pixels->columns - 1);
        for (; left < right; left += 3, right -= 3) {
            uint8_t pixel[3];
            memcpy(pixel, left, 3);
            memcpy(left, right, 3);
            memcpy(right, pixel, 3);
        }
    }
}

/* Return the crop as a part of the complete decoded image. */
static struct mem_pixels part_of(uint8_t *image, const struct mem_crop *crop) {
    struct mem_pixels part = {image, crop->height, crop->width, 3 * crop->columns};
    part.data += crop->top * part.stride + 3 * crop->left;
    return part;
}

/* Decode, crop, resize and flip images.
 *
 * crops:   `count` crops, which lie inside their images.
 * scratch: Memory for the largest decoded JPEG image.
 * out:     Destination of shape (count, rows, columns, 3).
 *
 * Return the position of the first image that cannot be decoded, or -1. */
int64_t mem_crops(int64_t count, const struct mem_crop *crops, uint8_t *scratch, uint8_t *out, int64_t rows,
                  int64_t columns, ffcv_imdecode imdecode, ffcv_resize resize) {
    for (int64_t i = 0; i < count; i++) {
        const struct mem_crop *crop = &crops[i];
        uint8_t *content = (uint8_t *)(uintptr_t)crop->source;
        struct mem_pixels source, result = {out + i * rows * columns * 3, rows, columns, 3 * columns};
        if (crop->jpeg_bytes < 0) {
            source = part_of(content, crop);
        } else {
            source = mem_decode_crop(crop, scratch);
            if (!source.data) {
                uint32_t height = (uint32_t)crop->rows, width = (uint32_t)crop->columns;
                uint64_t bytes = (uint64_t)crop->jpeg_bytes;
                if (imdecode(content, bytes, height, width, scratch, height, width, 0, 0, 1, 1, 0, 0) != 0) return i;
                source = part_of(scratch, crop);
            }
        }
        if (source.rows == rows && source.columns == columns) {
            for (int64_t row = 0; row < rows; row++)
                memcpy(result.data + row * result.stride, source.data + row * source.stride, (size_t)result.stride);
        } else if (mem_resize_area(&source, &result, crop->mirrored != 0)) {
            continue; /* already flipped */
        } else {
            resize(0, (int64_t)(uintptr_t)source.data, source.rows, source.stride / 3, 0, source.rows, 0,
                   source.columns, (int64_t)(uintptr_t)result.data, rows, columns);
        }
        if (crop->mirrored) flip(&result);
    }
    return -1;
}
