/* Types and functions that the C files in this folder share. The entry point is in crops.c. */

#ifndef MEM_CROPS_H
#define MEM_CROPS_H

#include <stdint.h>

/* One crop: a row of the int64 array that mem/data/beton/crops.py passes. */
struct mem_crop {
    int64_t source;     /* Address of the stored content. */
    int64_t jpeg_bytes; /* Length of the content in bytes if it is JPEG data, or -1 for raw pixels. */
    int64_t rows;       /* Size of the image, in pixels. */
    int64_t columns;
    int64_t top; /* The crop, in pixels. */
    int64_t left;
    int64_t height;
    int64_t width;
    int64_t mirrored; /* Whether the result is flipped horizontally. */
};

/* RGB pixels with 8 bits per value. */
struct mem_pixels {
    uint8_t *data;
    int64_t rows;
    int64_t columns;
    int64_t stride; /* Distance between two rows, in bytes. */
};

/* Decode a crop of a JPEG image into `scratch`, which has room for the complete image.
 *
 * Return the pixels of the crop. Their `data` is NULL if the image must be decoded completely instead. */
struct mem_pixels mem_decode_crop(const struct mem_crop *crop, uint8_t *scratch);

/* Resize `source` to the size of `out` with the same result as OpenCV's INTER_AREA, and flip it if `mirrored`.
 *
 * Return 0 if the sizes are not supported or memory is exhausted. `out` is then unchanged. */
int mem_resize_area(const struct mem_pixels *source, const struct mem_pixels *out, int mirrored);

#endif
