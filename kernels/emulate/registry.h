// GLMAE_KERNEL(name, max_threads): exports a kernel to the emulator as `<build>_info_<name>`, with
// a trampoline that unpacks the driver's argument slots, and the count, kinds and sizes it expects.
#pragma once

namespace GLMAE_NS {

template <typename T> struct ArgKind { static constexpr uint8_t value = GLMAE_ARG_STRUCT; };
template <typename T> struct ArgKind<T*> { static constexpr uint8_t value = GLMAE_ARG_POINTER; };
template <> struct ArgKind<int> { static constexpr uint8_t value = GLMAE_ARG_SIGNED; };
template <> struct ArgKind<long> { static constexpr uint8_t value = GLMAE_ARG_SIGNED; };
template <> struct ArgKind<long long> { static constexpr uint8_t value = GLMAE_ARG_SIGNED; };
template <> struct ArgKind<unsigned> { static constexpr uint8_t value = GLMAE_ARG_UNSIGNED; };
template <> struct ArgKind<unsigned long> { static constexpr uint8_t value = GLMAE_ARG_UNSIGNED; };
template <> struct ArgKind<unsigned long long> {
    static constexpr uint8_t value = GLMAE_ARG_UNSIGNED;
};
template <> struct ArgKind<float> { static constexpr uint8_t value = GLMAE_ARG_FLOAT; };
template <> struct ArgKind<double> { static constexpr uint8_t value = GLMAE_ARG_FLOAT; };

template <int... I> struct Indices {};
template <int N, int... I> struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I> struct MakeIndices<0, I...> { using type = Indices<I...>; };

template <auto Kernel, typename F = decltype(Kernel)> struct Entry;
template <auto Kernel, typename... A>
struct Entry<Kernel, void (*)(A...)> {
    static constexpr uint32_t COUNT = sizeof...(A);
    static constexpr uint8_t KINDS[COUNT] = {ArgKind<A>::value...};
    static constexpr uint32_t SIZES[COUNT] = {sizeof(A)...};
    // Not instrumented: the slots are the launcher's memory, not the device's.
    template <int... I>
    GLMAE_UNCHECKED void unpack(void** args, Indices<I...>) {
        Kernel(*static_cast<const A*>(args[I])...);
    }
    GLMAE_UNCHECKED void call(void** args) {
        unpack(args, typename MakeIndices<int(COUNT)>::type{});
    }
};

}  // namespace GLMAE_NS

#define GLMAE_JOIN_(a, b, c) a##b##c
#define GLMAE_JOIN(a, b, c) GLMAE_JOIN_(a, b, c)
#define GLMAE_KERNEL(kernel, threads)                                                      \
    extern "C" {                                                                           \
    extern const GlmaeKernelInfo GLMAE_JOIN(GLMAE_BUILD, _info_, kernel);                     \
    const GlmaeKernelInfo GLMAE_JOIN(GLMAE_BUILD, _info_, kernel) = {                         \
        #kernel,          &Entry<&kernel>::call, Entry<&kernel>::KINDS,                    \
        Entry<&kernel>::SIZES, Entry<&kernel>::COUNT, threads};                            \
    }
