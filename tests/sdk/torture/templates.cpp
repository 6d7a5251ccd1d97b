// SPDX-License-Identifier: MIT
// Templates: variadic, specialized, recursive, constexpr tables, CRTP, concepts, literals.
#include <array>
#include <tuple>
#include <type_traits>
#include <utility>
#include "torture.h"

template <typename... T> constexpr auto sum(T... values) { return (values + ... + 0); }
template <unsigned N> struct Factorial {
    static constexpr uint64_t value = N * Factorial<N - 1>::value;
};
template <> struct Factorial<0> {
    static constexpr uint64_t value = 1;
};

template <typename T, size_t... I> constexpr std::array<T, sizeof...(I)> squares(std::index_sequence<I...>) {
    return {T(I * I)...};
}
constexpr auto table = [] {
    std::array<uint8_t, 256> result{};
    for (unsigned i = 0; i < 256; i++)
        for (unsigned k = i; k; k >>= 1)
            result[i] = uint8_t(result[i] + (k & 1));
    return result;
}();

template <typename Derived> struct Counter {
    static inline int live = 0;
    Counter() { live++; }
    Counter(const Counter &) { live++; }
    ~Counter() { live--; }
    int twice() const { return 2 * static_cast<const Derived *>(this)->value(); }
};
struct A : Counter<A> {
    int value() const { return 21; }
};
struct B : Counter<B> {
    int value() const { return Counter<A>::live; }
};

template <typename T>
concept Number = std::is_arithmetic_v<T>;
template <Number T> struct Vector {
    T x, y;
    friend constexpr Vector operator+(Vector a, Vector b) { return {T(a.x + b.x), T(a.y + b.y)}; }
    friend constexpr T operator*(Vector a, Vector b) { return T(a.x * b.x + a.y * b.y); }
    constexpr auto operator<=>(const Vector &) const = default;
};
template <typename T> struct Kind {
    static constexpr const char *name = "value";
};
template <typename T> struct Kind<T *> {
    static constexpr const char *name = "pointer";
};
template <typename T, size_t N> struct Kind<T[N]> {
    static constexpr const char *name = "array";
};

template <typename T> uint64_t hash_of(T value) {
    if constexpr (std::is_floating_point_v<T>)
        return uint64_t(double(value) * 1000);
    else
        return uint64_t(int64_t(value)) * 0x9e3779b97f4a7c15;
}
template <typename... T> uint64_t hash_all(const std::tuple<T...> &values) {
    return std::apply(
        [](auto... value) {
            uint64_t h = 0;
            ((h = h * 31 + hash_of(value)), ...);
            return h;
        },
        values);
}
template <int N, typename F> void repeat(F f) {
    if constexpr (N > 0) {
        repeat<N - 1>(f);
        f(std::integral_constant<int, N>{});
    }
}
constexpr uint64_t operator""_k(unsigned long long n) { return n * 1000; }

int main() {
    printf("%d %.2f %" PRIu64 " %" PRIu64 "\n", sum(1, 2, 3), sum(1, 2.5, 3.25f), Factorial<20>::value, 7_k);
    for (auto square : squares<uint16_t>(std::make_index_sequence<20>{}))
        printf("%d ", square);
    int bits = 0;
    for (auto count : table)
        bits += count;
    printf("%d\n", bits);
    {
        A one, two = one;
        B other;
        printf("%d %d %d\n", two.twice(), other.twice(), Counter<A>::live + Counter<B>::live);
    }
    printf("%d\n", Counter<A>::live + Counter<B>::live);
    Vector<int8_t> a{100, 2}, b{100, 3};
    Vector<double> c{0.5, 2}, d{4, 0.25};
    printf("%d %d %g %d %d\n", (a + b).x, a * b, c * d, a < b, c == d);
    printf("%s %s %s\n", Kind<int>::name, Kind<int *>::name, Kind<char[4]>::name);
    printf("%" PRIu64 "\n", hash_all(std::make_tuple(1, -2, 3.5, 4.25f, 'a', int64_t(1) << 40)));
    int total = 0;
    repeat<6>([&](auto n) { total = total * 10 + decltype(n)::value; });
    printf("%d\n", total);
    return 0;
}
