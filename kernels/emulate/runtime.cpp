// The fixed part of the emulator on the C++ side: the thread's state, the calls over to Rust, and the
// functions that the compiler calls before every load and store of an instrumented kernel.
//
// The kernels are compiled with -fsanitize=thread, but no ThreadSanitizer runtime is linked: these
// are its entry points. This file itself must not be instrumented.
#include "runtime.h"

#ifdef GLMAE_SANITIZE
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

extern "C" {
// Also the anchor from which Rust finds the other thread-local variables of this executable.
extern thread_local GlmaeEmuThread glmae_emu_self;
thread_local GlmaeEmuThread glmae_emu_self;
}
#define self glmae_emu_self
static GlmaeEmuCallbacks call;

#define HERE __builtin_return_address(0)

static inline GlmaeDim dim(const uint32_t* v) { return {v[0], v[1], v[2]}; }

static inline void access(const void* at, uint64_t bytes, uint32_t kind, const void* pc) {
    // A thread's own stack is private to it (the address of a local must not be shared).
    if (reinterpret_cast<uint64_t>(at) - self.stack_low < self.stack_bytes) return;
    call.access(self.block, at, bytes, kind, pc);
}

extern "C" {
GlmaeEmuThread* glmae_emu_this_thread(void) { return &self; }
void glmae_emu_install(const GlmaeEmuCallbacks* callbacks) { call = *callbacks; }

GlmaeDim glmae_emu_thread_idx(void) { return dim(self.thread_idx); }
GlmaeDim glmae_emu_block_idx(void) { return dim(self.block_idx); }
GlmaeDim glmae_emu_block_dim(void) { return dim(self.block_dim); }
GlmaeDim glmae_emu_grid_dim(void) { return dim(self.grid_dim); }
void* glmae_emu_dynamic_shared(void) { return self.dynamic_shared; }

uint32_t glmae_emu_barrier(uint32_t id, uint32_t threads, uint32_t reduce, uint32_t value) {
    return call.barrier(self.block, id, threads, reduce, value, HERE);
}
void glmae_emu_warp(uint32_t op, uint32_t mask, void* payload,
                    void (*complete)(void* const* payloads, uint32_t mask)) {
    call.warp(self.block, op, mask, payload, complete, HERE);
}
void glmae_emu_copy(void* to, const void* from, uint32_t bytes, uint32_t from_bytes) {
    call.copy(self.block, to, from, bytes, from_bytes, HERE);
}
void glmae_emu_copy_commit(void) { call.copy_commit(self.block); }
void glmae_emu_copy_wait(uint32_t pending) { call.copy_wait(self.block, pending, HERE); }
void glmae_emu_fault(uint32_t code) { call.fault(self.block, code, HERE); }
void glmae_emu_access(const void* at, uint64_t bytes, uint32_t kind) {
    access(at, bytes, kind, HERE);
}

#define GLMAE_TSAN(n)                                                                     \
    void __tsan_read##n(void* at) { access(at, n, GLMAE_ACCESS_READ, HERE); }             \
    void __tsan_write##n(void* at) { access(at, n, GLMAE_ACCESS_WRITE, HERE); }           \
    void __tsan_volatile_read##n(void* at) { access(at, n, GLMAE_ACCESS_READ, HERE); }    \
    void __tsan_volatile_write##n(void* at) { access(at, n, GLMAE_ACCESS_WRITE, HERE); }
GLMAE_TSAN(1)
GLMAE_TSAN(2)
GLMAE_TSAN(4)
GLMAE_TSAN(8)
GLMAE_TSAN(16)

// CUDA has no unaligned access: the device would fault.
#define GLMAE_TSAN_UNALIGNED(n)                                                             \
    void __tsan_unaligned_read##n(void* at) {                                               \
        if (reinterpret_cast<uint64_t>(at) % n)                                             \
            call.fault(self.block, GLMAE_FAULT_MISALIGNED, HERE);                           \
        access(at, n, GLMAE_ACCESS_READ, HERE);                                             \
    }                                                                                       \
    void __tsan_unaligned_write##n(void* at) {                                              \
        if (reinterpret_cast<uint64_t>(at) % n)                                             \
            call.fault(self.block, GLMAE_FAULT_MISALIGNED, HERE);                           \
        access(at, n, GLMAE_ACCESS_WRITE, HERE);                                            \
    }
GLMAE_TSAN_UNALIGNED(2)
GLMAE_TSAN_UNALIGNED(4)
GLMAE_TSAN_UNALIGNED(8)
GLMAE_TSAN_UNALIGNED(16)

void __tsan_read_range(void* at, uint64_t n) { access(at, n, GLMAE_ACCESS_READ, HERE); }
void __tsan_write_range(void* at, uint64_t n) { access(at, n, GLMAE_ACCESS_WRITE, HERE); }
void __tsan_vptr_update(void** at, void*) { access(at, 8, GLMAE_ACCESS_WRITE, HERE); }
void __tsan_vptr_read(void** at) { access(at, 8, GLMAE_ACCESS_READ, HERE); }

// clang calls these in place of the plain functions.
void* __tsan_memcpy(void* to, const void* from, uint64_t n) {
    access(from, n, GLMAE_ACCESS_READ, HERE);
    access(to, n, GLMAE_ACCESS_WRITE, HERE);
    return __builtin_memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, uint64_t n) {
    access(from, n, GLMAE_ACCESS_READ, HERE);
    access(to, n, GLMAE_ACCESS_WRITE, HERE);
    return __builtin_memmove(to, from, n);
}
void* __tsan_memset(void* to, int byte, uint64_t n) {
    access(to, n, GLMAE_ACCESS_WRITE, HERE);
    return __builtin_memset(to, byte, n);
}

void __tsan_func_entry(void*) {}
void __tsan_func_exit(void) {}
void __tsan_init(void) {}

// -fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero, likewise without
// a runtime. The device faults on the first, and 32-bit index arithmetic overflows on large volumes.
// Under the feature `sanitize` this is the whole of -fsanitize=undefined.
#define GLMAE_UBSAN(name, code) \
    void __ubsan_handle_##name(void*, uint64_t, uint64_t) { call.fault(self.block, code, HERE); }
GLMAE_UBSAN(type_mismatch_v1, GLMAE_FAULT_MISALIGNED)
GLMAE_UBSAN(out_of_bounds, GLMAE_FAULT_ARRAY_INDEX)
GLMAE_UBSAN(add_overflow, GLMAE_FAULT_OVERFLOW)
GLMAE_UBSAN(sub_overflow, GLMAE_FAULT_OVERFLOW)
GLMAE_UBSAN(mul_overflow, GLMAE_FAULT_OVERFLOW)
GLMAE_UBSAN(negate_overflow, GLMAE_FAULT_OVERFLOW)
GLMAE_UBSAN(divrem_overflow, GLMAE_FAULT_DIVISION)
GLMAE_UBSAN(shift_out_of_bounds, GLMAE_FAULT_SHIFT)
GLMAE_UBSAN(pointer_overflow, GLMAE_FAULT_OVERFLOW)
GLMAE_UBSAN(float_cast_overflow, GLMAE_FAULT_OVERFLOW)
GLMAE_UBSAN(load_invalid_value, GLMAE_FAULT_UNDEFINED)
GLMAE_UBSAN(vla_bound_not_positive, GLMAE_FAULT_UNDEFINED)
GLMAE_UBSAN(nonnull_arg, GLMAE_FAULT_UNDEFINED)
GLMAE_UBSAN(nonnull_return_v1, GLMAE_FAULT_UNDEFINED)
GLMAE_UBSAN(invalid_builtin, GLMAE_FAULT_UNDEFINED)
GLMAE_UBSAN(builtin_unreachable, GLMAE_FAULT_UNDEFINED)
GLMAE_UBSAN(missing_return, GLMAE_FAULT_UNDEFINED)

#ifdef GLMAE_SANITIZE
void glmae_emu_poison(const void* at, uint64_t bytes, uint32_t poisoned) {
    if (poisoned) {
        __asan_poison_memory_region(at, bytes);
    } else {
        __asan_unpoison_memory_region(at, bytes);
    }
}
void glmae_emu_leave_stack(void** fake, uint64_t low, uint64_t bytes) {
    __sanitizer_start_switch_fiber(fake, reinterpret_cast<const void*>(low), bytes);
}
void glmae_emu_arrive_on_stack(void* fake, uint64_t* low, uint64_t* bytes) {
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(fake, &bottom, &size);
    *low = reinterpret_cast<uint64_t>(bottom), *bytes = size;
}
#else
void glmae_emu_poison(const void*, uint64_t, uint32_t) {}
void glmae_emu_leave_stack(void**, uint64_t, uint64_t) {}
void glmae_emu_arrive_on_stack(void*, uint64_t* low, uint64_t* bytes) { *low = 0, *bytes = 0; }
#endif
}
