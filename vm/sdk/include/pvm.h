/* SPDX-License-Identifier: MIT */
/* What a guest tells its host: exports, imports, and how to take memory or give up. For C11, C++17 and later.

     PVM_IMPORT(uint32_t, get_third_number);                     // declares and defines the stub
     PVM_EXPORT(uint32_t, add_numbers, uint32_t, uint32_t);      // the function itself is defined anywhere

     uint32_t add_numbers(uint32_t a, uint32_t b) { return a + b + get_third_number(); }

   The result type comes first (void for none), then the name, then the types of 0 to 6 arguments: integers, pointers,
   bool, enumerations, float, double. What does not fit the six argument registers does not compile; a 64-bit argument
   takes two registers of a 32-bit guest. Both declare the function, in C++ with C linkage. Both also record its types,
   in the section .pvm_signatures: see docs/guests.md.

     struct point { int32_t x, y; char name[8]; };
     PVM_STRUCT(struct point, x, y, name);                       // its fields, 1 to 24 of them

   lets `pvm bindings` make a dataclass of what such pointers point to. Fields are what can cross, and arrays of it. */
#ifndef PVM_H
#define PVM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define PVM__C extern "C"
#define PVM__ASSERT static_assert
#else
#define PVM__C
#define PVM__ASSERT _Static_assert
#endif

/* The letter of a type in a signature: those of Python's struct module, and v for void. */
#ifdef __cplusplus
extern "C++" {
template <typename T, bool = __is_enum(T)> struct pvm__letter {
    static_assert(__is_pointer(T), "no type that can cross between guest and host");
    static constexpr int value = 'P';
};
template <typename T> struct pvm__letter<T, true> : pvm__letter<__underlying_type(T)> {};
template <typename T> struct pvm__letter<const T, false> : pvm__letter<T> {};
template <typename T> struct pvm__letter<volatile T, false> : pvm__letter<T> {};
template <typename T> struct pvm__letter<const volatile T, false> : pvm__letter<T> {};
template <> struct pvm__letter<void> { static constexpr int value = 'v'; };
template <> struct pvm__letter<bool> { static constexpr int value = '?'; };
template <> struct pvm__letter<char> { static constexpr int value = 'B'; };
template <> struct pvm__letter<signed char> { static constexpr int value = 'b'; };
template <> struct pvm__letter<unsigned char> { static constexpr int value = 'B'; };
template <> struct pvm__letter<short> { static constexpr int value = 'h'; };
template <> struct pvm__letter<unsigned short> { static constexpr int value = 'H'; };
template <> struct pvm__letter<int> { static constexpr int value = 'i'; };
template <> struct pvm__letter<unsigned int> { static constexpr int value = 'I'; };
template <> struct pvm__letter<long> { static constexpr int value = sizeof(long) == 8 ? 'q' : 'i'; };
template <> struct pvm__letter<unsigned long> { static constexpr int value = sizeof(long) == 8 ? 'Q' : 'I'; };
template <> struct pvm__letter<long long> { static constexpr int value = 'q'; };
template <> struct pvm__letter<unsigned long long> { static constexpr int value = 'Q'; };
template <> struct pvm__letter<float> { static constexpr int value = 'f'; };
template <> struct pvm__letter<double> { static constexpr int value = 'd'; };
template <typename T> struct pvm__array {
    using element = T;
    static constexpr int is = 0;
};
template <typename T, decltype(sizeof 0) N> struct pvm__array<T[N]> {
    using element = T;
    static constexpr int is = 1;
};
template <typename T> struct pvm__size { static constexpr int value = sizeof(T); };
template <> struct pvm__size<void> { static constexpr int value = 0; };
}
#define PVM__LETTER(T) (pvm__letter<T>::value)
#define PVM__SIZE(T) (pvm__size<T>::value)
#define PVM__CHECK(T)
#define PVM__FIELD(T, field) decltype(((T *)0)->field)
#define PVM__IS_ARRAY(T, field) (pvm__array<PVM__FIELD(T, field)>::is)
#define PVM__ELEMENT(T, field) pvm__array<PVM__FIELD(T, field)>::element
#else
/* The cast drops qualifiers, and refuses structures; a function may return void. */
#define PVM__PROBE(T) ((__typeof__((T)0)(*)(void))0)
#define PVM__LETTER(T) \
    _Generic(PVM__PROBE(T), void (*)(void): 'v', _Bool (*)(void): '?', \
        char (*)(void): 'B', signed char (*)(void): 'b', unsigned char (*)(void): 'B', \
        short (*)(void): 'h', unsigned short (*)(void): 'H', int (*)(void): 'i', unsigned int (*)(void): 'I', \
        long (*)(void): sizeof(long) == 8 ? 'q' : 'i', unsigned long (*)(void): sizeof(long) == 8 ? 'Q' : 'I', \
        long long (*)(void): 'q', unsigned long long (*)(void): 'Q', \
        float (*)(void): 'f', double (*)(void): 'd', default: 'P')
#define PVM__SIZE(T) _Generic(PVM__PROBE(T), void (*)(void): 0, default: sizeof(T))
/* Of what has no letter of its own only pointers are as large as one. */
#define PVM__CHECK(T) \
    PVM__ASSERT(PVM__LETTER(T) != 'P' || PVM__SIZE(T) == sizeof(void *), \
                #T " is no type that can cross between guest and host");
#define PVM__FIELD(T, field) __typeof__(((T *)0)->field)
/* The comma turns an array into a pointer, and leaves other types as they are. */
#define PVM__IS_ARRAY(T, field) \
    (!__builtin_types_compatible_p(PVM__FIELD(T, field), __typeof__((0, ((T *)0)->field))))
#define PVM__ELEMENT(T, field) \
    __typeof__(*__builtin_choose_expr(PVM__IS_ARRAY(T, field), ((T *)0)->field, &((T *)0)->field))
#endif

/* Registers that a value takes. */
#define PVM__REGISTERS(T) ((PVM__SIZE(T) + sizeof(void *) - 1) / sizeof(void *))

/* PVM__EACH(F, types...) is F(type, number) for each of 0 to 6 types. */
#define PVM__SELECT(a, b, c, d, e, f, g, name, ...) name
#define PVM__EACH(F, ...) \
    PVM__SELECT(0, ##__VA_ARGS__, PVM__6, PVM__5, PVM__4, PVM__3, PVM__2, PVM__1, PVM__0, )(F, ##__VA_ARGS__)
#define PVM__0(F)
#define PVM__1(F, a) F(a, 1)
#define PVM__2(F, a, b) F(a, 1) F(b, 2)
#define PVM__3(F, a, b, c) F(a, 1) F(b, 2) F(c, 3)
#define PVM__4(F, a, b, c, d) F(a, 1) F(b, 2) F(c, 3) F(d, 4)
#define PVM__5(F, a, b, c, d, e) F(a, 1) F(b, 2) F(c, 3) F(d, 4) F(e, 5)
#define PVM__6(F, a, b, c, d, e, f) F(a, 1) F(b, 2) F(c, 3) F(d, 4) F(e, 5) F(f, 6)

/* PVM__EACH_FIELD(F, T, fields...) is F(T, field) for each of 1 to 24 fields. */
#define PVM__SELECT_FIELD(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19, a20, a21, a22, a23, a24, name, ...) name
#define PVM__EACH_FIELD(F, T, ...) \
    PVM__SELECT_FIELD(__VA_ARGS__, PVM__F24, PVM__F23, PVM__F22, PVM__F21, PVM__F20, PVM__F19, PVM__F18, PVM__F17, PVM__F16, \
        PVM__F15, PVM__F14, PVM__F13, PVM__F12, PVM__F11, PVM__F10, PVM__F9, PVM__F8, PVM__F7, PVM__F6, PVM__F5, PVM__F4, \
        PVM__F3, PVM__F2, PVM__F1, )(F, T, __VA_ARGS__)
#define PVM__F1(F, T, a) F(T, a)
#define PVM__F2(F, T, a, ...) F(T, a) PVM__F1(F, T, __VA_ARGS__)
#define PVM__F3(F, T, a, ...) F(T, a) PVM__F2(F, T, __VA_ARGS__)
#define PVM__F4(F, T, a, ...) F(T, a) PVM__F3(F, T, __VA_ARGS__)
#define PVM__F5(F, T, a, ...) F(T, a) PVM__F4(F, T, __VA_ARGS__)
#define PVM__F6(F, T, a, ...) F(T, a) PVM__F5(F, T, __VA_ARGS__)
#define PVM__F7(F, T, a, ...) F(T, a) PVM__F6(F, T, __VA_ARGS__)
#define PVM__F8(F, T, a, ...) F(T, a) PVM__F7(F, T, __VA_ARGS__)
#define PVM__F9(F, T, a, ...) F(T, a) PVM__F8(F, T, __VA_ARGS__)
#define PVM__F10(F, T, a, ...) F(T, a) PVM__F9(F, T, __VA_ARGS__)
#define PVM__F11(F, T, a, ...) F(T, a) PVM__F10(F, T, __VA_ARGS__)
#define PVM__F12(F, T, a, ...) F(T, a) PVM__F11(F, T, __VA_ARGS__)
#define PVM__F13(F, T, a, ...) F(T, a) PVM__F12(F, T, __VA_ARGS__)
#define PVM__F14(F, T, a, ...) F(T, a) PVM__F13(F, T, __VA_ARGS__)
#define PVM__F15(F, T, a, ...) F(T, a) PVM__F14(F, T, __VA_ARGS__)
#define PVM__F16(F, T, a, ...) F(T, a) PVM__F15(F, T, __VA_ARGS__)
#define PVM__F17(F, T, a, ...) F(T, a) PVM__F16(F, T, __VA_ARGS__)
#define PVM__F18(F, T, a, ...) F(T, a) PVM__F17(F, T, __VA_ARGS__)
#define PVM__F19(F, T, a, ...) F(T, a) PVM__F18(F, T, __VA_ARGS__)
#define PVM__F20(F, T, a, ...) F(T, a) PVM__F19(F, T, __VA_ARGS__)
#define PVM__F21(F, T, a, ...) F(T, a) PVM__F20(F, T, __VA_ARGS__)
#define PVM__F22(F, T, a, ...) F(T, a) PVM__F21(F, T, __VA_ARGS__)
#define PVM__F23(F, T, a, ...) F(T, a) PVM__F22(F, T, __VA_ARGS__)
#define PVM__F24(F, T, a, ...) F(T, a) PVM__F23(F, T, __VA_ARGS__)

#define PVM__PARAMETERS(...) \
    PVM__SELECT(0, ##__VA_ARGS__, PVM__P6, PVM__P5, PVM__P4, PVM__P3, PVM__P2, PVM__P1, PVM__P0, )(__VA_ARGS__)
#define PVM__P0() void
#define PVM__P1(a) a pvm__1
#define PVM__P2(a, b) a pvm__1, b pvm__2
#define PVM__P3(a, b, c) a pvm__1, b pvm__2, c pvm__3
#define PVM__P4(a, b, c, d) a pvm__1, b pvm__2, c pvm__3, d pvm__4
#define PVM__P5(a, b, c, d, e) a pvm__1, b pvm__2, c pvm__3, d pvm__4, e pvm__5
#define PVM__P6(a, b, c, d, e, f) a pvm__1, b pvm__2, c pvm__3, d pvm__4, e pvm__5, f pvm__6

#define PVM__ADD_REGISTERS(T, n) +PVM__REGISTERS(T)
#define PVM__CHECK_ONE(T, n) PVM__CHECK(T)
/* A pointer's letter is followed by its type in quotes, for the sake of structures that are declared. */
#define PVM__TEXT_LETTER(T, n) \
    ".byte %c[type" #n "]\n" \
    ".if %c[type" #n "] == 0x50\n" \
    ".ascii \"\\\"" #T "\\\"\"\n" \
    ".endif\n"
#define PVM__LETTER_OPERAND(T, n) , [type##n] "i"(PVM__LETTER(T))

#define PVM__CHECKS(R, ...) \
    PVM__CHECK(R) \
    PVM__EACH(PVM__CHECK_ONE, ##__VA_ARGS__) \
    PVM__ASSERT((0 PVM__EACH(PVM__ADD_REGISTERS, ##__VA_ARGS__)) <= 6, "the arguments take more than 6 registers"); \
    PVM__ASSERT(PVM__REGISTERS(R) <= 2, "the result takes more than 2 registers");

#if __SIZEOF_POINTER__ == 8
#define PVM__POINTER ".8byte "
#else
#define PVM__POINTER ".4byte "
#endif

/* Label 1 is the metadata record, label 2 its symbol. Then the text record: kind, symbol, (arguments), result. */
#define PVM__METADATA(kind, symbol, R, ...) \
    ".pushsection .polkavm_metadata,\"a\",@progbits\n" \
    "1: .byte 1\n" \
    ".4byte 0\n" \
    ".4byte %c[length]\n" \
    PVM__POINTER "2f\n" \
    ".byte %c[inputs]\n" \
    ".byte %c[outputs]\n" \
    "2: .ascii \"" symbol "\"\n" \
    ".popsection\n" \
    ".pushsection .pvm_signatures,\"\",@progbits\n" \
    ".ascii \"" kind " " symbol "(\"\n" \
    PVM__EACH(PVM__TEXT_LETTER, ##__VA_ARGS__) \
    ".ascii \")\"\n" \
    PVM__TEXT_LETTER(R, 0) \
    ".ascii \"\\n\"\n" \
    ".popsection\n"

#define PVM__OPERANDS(R, symbol, ...) \
    [length] "i"(sizeof(symbol) - 1), [inputs] "i"(0 PVM__EACH(PVM__ADD_REGISTERS, ##__VA_ARGS__)), \
    [outputs] "i"(PVM__REGISTERS(R)), [type0] "i"(PVM__LETTER(R)) PVM__EACH(PVM__LETTER_OPERAND, ##__VA_ARGS__)

/* An import is a stub that the linker turns into one ecalli. Every file that names it has one, all the same: weak. */
#define PVM_IMPORT(R, name, ...) \
    PVM__CHECKS(R, ##__VA_ARGS__) \
    PVM__C __attribute__((weak, visibility("hidden"), naked, noinline)) R name(PVM__PARAMETERS(__VA_ARGS__)) { \
        __asm__ volatile(".4byte 0x0000000b\n" \
                         PVM__POINTER "1f\n" \
                         "ret\n" \
                         PVM__METADATA("import", #name, R, ##__VA_ARGS__)::PVM__OPERANDS(R, #name, ##__VA_ARGS__)); \
    } \
    PVM__C R name(PVM__PARAMETERS(__VA_ARGS__))

/* An export goes through a few instructions that run static constructors before anything else, if the program has any:
   the driver links __pvm_constructors only then, and otherwise the weak symbol is 0. */
#define PVM_EXPORT(R, name, ...) PVM_EXPORT_AS(R, #name, name, ##__VA_ARGS__)

/* The same under another symbol, any string literal without \ and ". */
#define PVM_EXPORT_AS(R, symbol, name, ...) \
    PVM__CHECKS(R, ##__VA_ARGS__) \
    PVM__C R name(PVM__PARAMETERS(__VA_ARGS__)); \
    PVM__C __attribute__((used, visibility("hidden"), naked, noinline)) void pvm__export_##name(void) { \
        __asm__ volatile(".weak __pvm_constructors\n" \
                         "lui t0, %%hi(__pvm_constructors)\n" \
                         "addi t0, t0, %%lo(__pvm_constructors)\n" \
                         "beqz t0, 3f\n" \
                         "jalr t1, t0\n" \
                         "3: tail " #name "\n" \
                         ".pushsection .polkavm_exports,\"R\",@note\n" \
                         ".byte 1\n" \
                         PVM__POINTER "1f\n" \
                         PVM__POINTER "pvm__export_" #name "\n" \
                         ".popsection\n" \
                         PVM__METADATA("export", symbol, R, ##__VA_ARGS__)::PVM__OPERANDS(R, symbol, ##__VA_ARGS__)); \
    } \
    PVM__C R name(PVM__PARAMETERS(__VA_ARGS__))

/* Describes a structure: its type, then the names of its fields. Takes no memory in the guest, and no code. */
#define PVM_STRUCT(T, ...) PVM__STRUCT(__COUNTER__, T, #T, __VA_ARGS__)
#define PVM__STRUCT(number, T, name, ...) PVM__STRUCT_NUMBERED(number, T, name, __VA_ARGS__)
#define PVM__STRUCT_NUMBERED(number, T, name, ...) \
    PVM__EACH_FIELD(PVM__CHECK_FIELD, T, __VA_ARGS__) \
    __attribute__((used, naked, noinline)) static void pvm__struct_##number(void) { \
        __asm__ volatile(".pushsection .pvm_signatures,\"\",@progbits\n" \
                         ".ascii \"struct \\\"" name "\\\" %c0\"\n"::"i"(sizeof(T))); \
        PVM__EACH_FIELD(PVM__TEXT_FIELD, T, __VA_ARGS__) \
        __asm__ volatile(".ascii \"\\n\"\n.popsection\n"); \
    } \
    PVM__ASSERT(sizeof(T) > 0, "")
#define PVM__CHECK_FIELD(T, field) \
    PVM__CHECK(PVM__ELEMENT(T, field)) \
    PVM__ASSERT(PVM__LETTER(PVM__ELEMENT(T, field)) != 'v', #field " is no field that can be described");
#define PVM__TEXT_FIELD(T, field) \
    __asm__ volatile(".ascii \" \"\n" \
                     ".byte %c0\n" \
                     ".if %c1\n" \
                     ".ascii \"*%c2\"\n" \
                     ".endif\n" \
                     ".ascii \"@%c3:" #field "\"\n"::"i"(PVM__LETTER(PVM__ELEMENT(T, field))), \
                     "i"(PVM__IS_ARRAY(T, field)), \
                     "i"(sizeof(PVM__FIELD(T, field)) / sizeof(PVM__ELEMENT(T, field))), \
                     "i"(__builtin_offsetof(T, field)));

/* The program's stack, in bytes, where 64 KiB are not enough; the largest of all files counts. */
#define PVM_STACK_SIZE(bytes) \
    __asm__(".pushsection .polkavm_min_stack_size,\"R\",@note\n.4byte " #bytes "\n.popsection\n")

#ifdef __cplusplus
extern "C" {
#endif

/* Of the C library, what is there in any case. <stdlib.h>, <string.h> and the rest come with the libc. */
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *memory, size_t size);
void *aligned_alloc(size_t alignment, size_t size);
void free(void *memory);
void *memcpy(void *__restrict to, const void *__restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *left, const void *right, size_t size);
size_t strlen(const char *text);
__attribute__((noreturn)) void exit(int status);
__attribute__((noreturn)) void abort(void);

/* Moves the end of the heap by `bytes` (0: only asks) and returns the new end; NULL if there is no more memory, and
   nothing has changed. New memory is zero. malloc uses it, and copes with others who do. */
static inline void *pvm_sbrk(size_t bytes) {
    void *end;
    __asm__ volatile(".insn r 0x0b, 1, 0, %0, %1, x0" : "=r"(end) : "r"(bytes) : "memory");
    return end;
}

/* Where the heap begins. */
static inline void *pvm_heap_base(void) {
    void *base;
    __asm__(".insn r 0x0b, 3, 0, %0, x0, x0" : "=r"(base));
    return base;
}

/* Ends the call in progress with a trap, after writing "panic: ", the text and a newline to standard error. */
__attribute__((noreturn, cold)) void pvm_panic(const char *text);

#ifdef __cplusplus
}
#endif

#endif
