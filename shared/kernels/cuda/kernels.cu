// All kernels, compiled as one module.

#include "copy_blocks.cu"
#include "norms.cu"
#include "paged_attend.cu"
#include "paged_merge.cu"
#include "pointwise.cu"
#include "rope_cache.cu"
#include "rows.cu"
#include "tiles.cu"
