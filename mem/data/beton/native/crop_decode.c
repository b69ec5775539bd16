/* Decoding of a part of a JPEG image with libjpeg-turbo.
 *
 * Only the columns of the crop pass through the inverse DCT, upsampling and colour conversion. Rows above the crop pass
 * only through Huffman decoding, and rows below it are not read. The pixels equal those of FFCV's complete decoding,
 * which has the same settings (fast inverse DCT, smooth upsampling). Smooth upsampling reads the neighbouring columns,
 * so the decoded part extends beyond the crop (libjpeg-turbo, libjpeg.txt, "Decompressing partial scanlines").
 */

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

#include "crops.h"

#define MARGIN 2 /* Number of columns decoded on each side of the crop. */
#define ROWS_PER_CALL 16

struct failure {
    struct jpeg_error_mgr manager;
    jmp_buf caller;
};

static void leave(j_common_ptr info) { longjmp(((struct failure *)info->err)->caller, 1); }

/* Leave at a warning, because it means that the data are damaged. Trace messages have levels of at least 0. */
static void on_message(j_common_ptr info, int level) {
    if (level < 0) leave(info);
}

/* Return whether an image has the common properties: baseline or extended sequential, a single scan, YCbCr, and
 * chrominance that is subsampled by at most 2 in each direction. */
static int is_supported(j_decompress_ptr info) {
    if (info->num_components != 3 || info->jpeg_color_space != JCS_YCbCr || info->data_precision != 8) return 0;
    if (info->progressive_mode || info->arith_code || jpeg_has_multiple_scans(info)) return 0;
    if (info->comp_info[0].h_samp_factor > 2 || info->comp_info[0].v_samp_factor > 2) return 0;
    for (int i = 1; i < 3; i++)
        if (info->comp_info[i].h_samp_factor != 1 || info->comp_info[i].v_samp_factor != 1) return 0;
    return 1;
}

static void read_rows(j_decompress_ptr info, const struct mem_crop *crop, uint8_t *scratch, int64_t stride) {
    if (crop->top) jpeg_skip_scanlines(info, (JDIMENSION)crop->top);
    for (int64_t done = 0; done < crop->height;) {
        JSAMPROW rows[ROWS_PER_CALL];
        int64_t missing = crop->height - done;
        JDIMENSION count = missing < ROWS_PER_CALL ? (JDIMENSION)missing : ROWS_PER_CALL;
        for (JDIMENSION i = 0; i < count; i++) rows[i] = scratch + (done + i) * stride;
        done += jpeg_read_scanlines(info, rows, count);
    }
    /* After the last row of the image, read the rest of the file, as a complete decoding does. */
    if (crop->top + crop->height == crop->rows) jpeg_finish_decompress(info);
}

struct mem_pixels mem_decode_crop(const struct mem_crop *crop, uint8_t *scratch) {
    struct mem_pixels found = {NULL, crop->height, crop->width, 0};
    struct jpeg_decompress_struct info;
    struct failure failure;

    info.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = leave;
    failure.manager.emit_message = on_message;
    if (setjmp(failure.caller)) {
        jpeg_destroy_decompress(&info);
        return (struct mem_pixels){NULL, 0, 0, 0};
    }
    /* A new decoder for each image, because a decoder keeps the tables of the previous image. */
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, (unsigned char *)(uintptr_t)crop->source, (unsigned long)crop->jpeg_bytes);
    jpeg_read_header(&info, TRUE);
    if (is_supported(&info) && info.image_height == crop->rows && info.image_width == crop->columns) {
        info.out_color_space = JCS_EXT_RGB;
        info.dct_method = JDCT_IFAST;
        jpeg_start_decompress(&info);
        JDIMENSION first = crop->left > MARGIN ? (JDIMENSION)(crop->left - MARGIN) : 0;
        int64_t end = crop->left + crop->width + MARGIN;
        JDIMENSION columns = (JDIMENSION)(end < crop->columns ? end : crop->columns) - first;
        jpeg_crop_scanline(&info, &first, &columns); /* moves `first` to the start of a block */
        found.stride = 3 * (int64_t)columns;
        read_rows(&info, crop, scratch, found.stride);
        found.data = scratch + 3 * (crop->left - first);
    }
    jpeg_destroy_decompress(&info);
    return found;
}
