// How kernels get their exported names. Names stand in the sources as profilers print them, at the start
// of a line: build.rs, scripts/kernel-budget.py and the tests find kernels by these lines.
//
//   GLMAE_KERNEL(name, threads)
//       behind a kernel that is written out: threads per block, as __launch_bounds__ says.
//
//   GLMAE_INSTANCE(name, type, (threads[, blocks per SM]), (parameters), body)
//       the kernel `name`; parameters and body may say `T` for the type. A family whose members differ
//       in types and constants has a macro that stands for its parameters and body.
//
//   GLMAE_TWINS(f32 name, bf16 name, (threads[, blocks per SM]), (parameters), body)
//       two instances: T is float, T is bf16.
//
//   GLMAE_HOPPER(name, (threads, 1), blocks of a cluster, (parameters), body)
//       a kernel for sm_90a alone. The host's compiler sees its name and parameters, by which launches are checked,
//       and no body: only `--device ptx:90a` executes it without a GPU.
#pragma once

#define GLMAE_FIRST(first, ...) first

// `T` needs a scope of its own. The exported symbol is the bare name all the same.
#define GLMAE_INSTANCE_(name, type, bounds, parameters, ...)                               \
    namespace name##_export {                                                              \
    using T = type;                                                                        \
    GLMAE_EXPORT __global__ void __launch_bounds__ bounds name parameters { __VA_ARGS__; } \
    GLMAE_KERNEL(name, GLMAE_FIRST bounds)                                                 \
    }
// In two steps, so that the macro of a family may stand for two arguments.
#define GLMAE_INSTANCE(name, type, bounds, ...) GLMAE_INSTANCE_(name, type, bounds, __VA_ARGS__)

#define GLMAE_TWINS(name_f32, name_bf16, bounds, ...)   \
    GLMAE_INSTANCE(name_f32, float, bounds, __VA_ARGS__) \
    GLMAE_INSTANCE(name_bf16, bf16, bounds, __VA_ARGS__)

#ifdef __CUDACC__
#define GLMAE_HOPPER_(name, bounds, cluster, parameters, ...)                                 \
    GLMAE_EXPORT __global__ void __launch_bounds__ bounds __cluster_dims__(cluster, 1, 1) name \
        parameters {                                                                          \
        __VA_ARGS__;                                                                          \
    }
#else
#define GLMAE_HOPPER_(name, bounds, cluster, parameters, ...)                         \
    GLMAE_EXPORT void name parameters { __trap(); } \
    GLMAE_KERNEL(name, GLMAE_FIRST bounds)
#endif
#define GLMAE_HOPPER(name, bounds, cluster, ...) GLMAE_HOPPER_(name, bounds, cluster, __VA_ARGS__)
