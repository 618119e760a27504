// Named ranges for Nsight, over the header-only NVTX 3: nothing is linked, and without a profiler a
// call is a few nanoseconds. Compiled with the feature `nvtx` only (src/device/nvtx.rs).
#include <stdint.h>
#include <nvtx3/nvToolsExt.h>

static nvtxDomainHandle_t domain(void) {
    static nvtxDomainHandle_t glmae;
    nvtxDomainHandle_t known = __atomic_load_n(&glmae, __ATOMIC_ACQUIRE);
    if (!known) {
        known = nvtxDomainCreateA("glmae");  // the same handle whoever asks
        __atomic_store_n(&glmae, known, __ATOMIC_RELEASE);
    }
    return known;
}

// `name` ends with a zero byte and is copied by the profiler.
void glmae_nvtx_push(const char* name) {
    nvtxEventAttributes_t event = {0};
    event.version = NVTX_VERSION;
    event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    event.messageType = NVTX_MESSAGE_TYPE_ASCII;
    event.message.ascii = name;
    nvtxDomainRangePushEx(domain(), &event);
}

void glmae_nvtx_pop(void) { nvtxDomainRangePop(domain()); }
