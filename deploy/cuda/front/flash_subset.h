// Read in front of every source of flash attention (front/nvcc): which kernels a build has.
//
// Flash attention makes a kernel for each combination of what its switches ask. Those that our calls never ask for have one
// answer here, and a call that asks for another ends the program: the project's own switch-off flags would silently compute
// something else. The kernel for lengths and head sizes that fill no tile also takes those that do.
#pragma once

#include <cstdio>
#include <cstdlib>

#include <cutlass/numeric_types.h>

#include "flash.h"
#include "static_switch.h"

[[noreturn]] inline void flash_left_out(const char *what) {
    std::fprintf(stderr, "flash attention: not in this build (deploy/cuda/front/flash_subset.h): %s\n", what);
    std::abort();
}

#define FLASH_BOTH(CONDITION, NAME, ...)                                                                               \
    [&] {                                                                                                              \
        if (CONDITION) {                                                                                               \
            constexpr static bool NAME = true;                                                                         \
            return __VA_ARGS__();                                                                                      \
        } else {                                                                                                       \
            constexpr static bool NAME = false;                                                                        \
            return __VA_ARGS__();                                                                                      \
        }                                                                                                              \
    }()

// The general kernel, whatever the condition says.
#define FLASH_GENERAL(CONDITION, NAME, ...)                                                                            \
    [&] {                                                                                                              \
        constexpr static bool NAME = false;                                                                            \
        return __VA_ARGS__();                                                                                          \
    }()

#define FLASH_NEVER(CONDITION, NAME, ...)                                                                              \
    [&] {                                                                                                              \
        if (CONDITION) flash_left_out(#CONDITION);                                                                     \
        constexpr static bool NAME = false;                                                                            \
        return __VA_ARGS__();                                                                                          \
    }()

// A switch is told by the name of its constant.
#undef BOOL_SWITCH
#define BOOL_SWITCH(CONDITION, NAME, ...) FLASH_##NAME(CONDITION, NAME, __VA_ARGS__)
#define FLASH_Is_causal FLASH_BOTH
#define FLASH_IsEvenMNConst FLASH_GENERAL
#if defined(HEAD_SIZE) && HEAD_SIZE == 96
// Its heads are those of 72 numbers of SigLIP's tower.
#define FLASH_IsEvenKConst FLASH_GENERAL
#else
#define FLASH_IsEvenKConst FLASH_BOTH
#endif
#define FLASH_Is_dropout FLASH_NEVER
#define FLASH_Is_local FLASH_NEVER
#define FLASH_Is_softcap FLASH_NEVER
#define FLASH_Has_alibi FLASH_NEVER
#define FLASH_ReturnSoftmaxConst FLASH_NEVER
#define FLASH_Split FLASH_NEVER
#define FLASH_Append_KV FLASH_NEVER

#ifdef DISPATCH
#undef HEADDIM_SWITCH
#define HEADDIM_SWITCH(SIZE, ...)                                                                                      \
    [&] {                                                                                                              \
        if (SIZE <= 64) {                                                                                              \
            constexpr static int kHeadDim = 64;                                                                        \
            return __VA_ARGS__();                                                                                      \
        } else if (SIZE <= 96) {                                                                                       \
            constexpr static int kHeadDim = 96;                                                                        \
            return __VA_ARGS__();                                                                                      \
        } else if (SIZE <= 128) {                                                                                      \
            constexpr static int kHeadDim = 128;                                                                       \
            return __VA_ARGS__();                                                                                      \
        } else {                                                                                                       \
            flash_left_out("head size above 128");                                                                     \
        }                                                                                                              \
    }()

// The cache in pages is reached by name, not by a switch: prompts attend to it, each row to what is before it.
#define FLASH_PAGED_LEFT_OUT(SIZE, CAUSAL)                                                                             \
    template <>                                                                                                        \
    inline void run_mha_fwd_splitkv_paged_<cutlass::half_t, SIZE, CAUSAL>(Flash_fwd_params &, cudaStream_t) {          \
        flash_left_out("a cache in pages, not causal or with head size above 128");                                    \
    }                                                                                                                  \
    template <>                                                                                                        \
    inline void run_mha_fwd_splitkv_paged_<cutlass::bfloat16_t, SIZE, CAUSAL>(Flash_fwd_params &, cudaStream_t) {      \
        flash_left_out("a cache in pages, not causal or with head size above 128");                                    \
    }
FLASH_PAGED_LEFT_OUT(64, false)
FLASH_PAGED_LEFT_OUT(128, false)
FLASH_PAGED_LEFT_OUT(256, false)
FLASH_PAGED_LEFT_OUT(256, true)
FLASH_PAGED_LEFT_OUT(512, false)
FLASH_PAGED_LEFT_OUT(512, true)
#endif
