// SPDX-License-Identifier: MIT
// What compiled C++ calls, without exceptions and run-time type information. Out of memory is a panic: a throwing
// operator new must not return a null pointer.
#include "give_up.h"

namespace std {
enum class align_val_t : size_t {};
struct nothrow_t {
    explicit nothrow_t() = default;
};
extern const nothrow_t nothrow;
const nothrow_t nothrow{};
} // namespace std

static void *need(void *memory) {
    if (!memory)
        give_up("operator new: out of memory");
    return memory;
}

static void *take(size_t size) { return malloc(size ? size : 1); }

static void *take(size_t size, std::align_val_t alignment) {
    size_t step = static_cast<size_t>(alignment);
    return aligned_alloc(step, size ? size : 1);
}

void *operator new(size_t size) { return need(take(size)); }
void *operator new[](size_t size) { return need(take(size)); }
void *operator new(size_t size, const std::nothrow_t &) noexcept { return take(size); }
void *operator new[](size_t size, const std::nothrow_t &) noexcept { return take(size); }
void *operator new(size_t size, std::align_val_t alignment) { return need(take(size, alignment)); }
void *operator new[](size_t size, std::align_val_t alignment) { return need(take(size, alignment)); }
void *operator new(size_t size, std::align_val_t alignment, const std::nothrow_t &) noexcept {
    return take(size, alignment);
}
void *operator new[](size_t size, std::align_val_t alignment, const std::nothrow_t &) noexcept {
    return take(size, alignment);
}
void operator delete(void *memory) noexcept { free(memory); }
void operator delete[](void *memory) noexcept { free(memory); }
void operator delete(void *memory, size_t) noexcept { free(memory); }
void operator delete[](void *memory, size_t) noexcept { free(memory); }
void operator delete(void *memory, const std::nothrow_t &) noexcept { free(memory); }
void operator delete[](void *memory, const std::nothrow_t &) noexcept { free(memory); }
void operator delete(void *memory, std::align_val_t) noexcept { free(memory); }
void operator delete[](void *memory, std::align_val_t) noexcept { free(memory); }
void operator delete(void *memory, size_t, std::align_val_t) noexcept { free(memory); }
void operator delete[](void *memory, size_t, std::align_val_t) noexcept { free(memory); }

namespace std {
inline namespace __1 {
// What libc++'s headers do where they would throw. Of printf's formats, theirs have %s only.
[[noreturn]] __attribute__((weak)) void __libcpp_verbose_abort(const char *format, ...) noexcept {
    char text[256];
    size_t length = 0;
    const char *inserted = "";
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    while (length < sizeof text - 1 && (*inserted || *format)) {
        if (*inserted) {
            text[length++] = *inserted++;
        } else if (format[0] == '%' && format[1] == 's') {
            inserted = __builtin_va_arg(arguments, const char *);
            format += 2;
        } else {
            text[length++] = *format++;
        }
    }
    __builtin_va_end(arguments);
    while (length && text[length - 1] == '\n')
        length--;
    text[length] = 0;
    give_up(text);
}
[[noreturn]] __attribute__((weak)) void __throw_system_error(int, const char *what) { give_up(what); }
} // namespace __1
} // namespace std

extern "C" {
__attribute__((visibility("hidden"))) void *__dso_handle = nullptr;

[[noreturn]] void __cxa_pure_virtual() { give_up("pure virtual function called"); }
[[noreturn]] void __cxa_deleted_virtual() { give_up("deleted virtual function called"); }

int __cxa_atexit(void (*function)(void *), void *argument, void *object);
// The thread ends with the program.
int __cxa_thread_atexit(void (*function)(void *), void *argument, void *object) {
    return __cxa_atexit(function, argument, object);
}

// Guards of static variables in functions (Itanium C++ ABI, 3.3.3): the first byte says that it is made.
int __cxa_guard_acquire(char *guard) { return !*guard; }
void __cxa_guard_release(char *guard) { *guard = 1; }
void __cxa_guard_abort(char *) {}
}
