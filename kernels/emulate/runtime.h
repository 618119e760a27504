// What the shim calls: thin functions of `runtime.cpp`, compiled once and not instrumented, which
// note where they were called from and hand over to the emulator (Rust).
#pragma once
#include <stdint.h>

#include "../include/abi.h"

struct GlmaeDim {
    uint32_t x, y, z;
};

extern "C" {
// Constant for the life of a fibre, and a kernel never leaves its fibre: the compiler may keep them.
__attribute__((const)) GlmaeDim glmae_emu_thread_idx(void);
__attribute__((const)) GlmaeDim glmae_emu_block_idx(void);
__attribute__((const)) GlmaeDim glmae_emu_block_dim(void);
__attribute__((const)) GlmaeDim glmae_emu_grid_dim(void);
__attribute__((const)) void* glmae_emu_dynamic_shared(void);

uint32_t glmae_emu_barrier(uint32_t id, uint32_t threads, uint32_t reduce, uint32_t value);
void glmae_emu_warp(uint32_t op, uint32_t mask, void* payload,
                    void (*complete)(void* const* payloads, uint32_t mask));
void glmae_emu_copy(void* to, const void* from, uint32_t bytes, uint32_t from_bytes);
void glmae_emu_copy_commit(void);
void glmae_emu_copy_wait(uint32_t pending);
void glmae_emu_fault(uint32_t code);
void glmae_emu_access(const void* at, uint64_t bytes, uint32_t kind);

// Called by Rust.
GlmaeEmuThread* glmae_emu_this_thread(void);
void glmae_emu_install(const GlmaeEmuCallbacks* callbacks);

// For AddressSanitizer; they do nothing where it is not linked. Memory that is out of bounds, and changes of
// stack: `leave` just before one (`fake` null when the stack left behind is finished), `arrive` just
// after, which tells the stack that was left.
void glmae_emu_poison(const void* at, uint64_t bytes, uint32_t poisoned);
void glmae_emu_leave_stack(void** fake, uint64_t low, uint64_t bytes);
void glmae_emu_arrive_on_stack(void* fake, uint64_t* low, uint64_t* bytes);
}
