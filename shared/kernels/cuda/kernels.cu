// All kernels, compiled as one module.

#include "choose.cu"
#include "copy_blocks.cu"
#include "gather.cu"
#include "norms.cu"
#include "paged_attend.cu"
#include "paged_merge.cu"
#include "pointwise.cu"
#include "rope_cache.cu"
#include "tiles.cu"
