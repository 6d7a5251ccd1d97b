// SPDX-License-Identifier: MIT
// to_chars and from_chars, <bit>, <limits>, <complex>-like arithmetic, a rational and a fixed-point type, chrono.
#include <bit>
#include <charconv>
#include <chrono>
#include <compare>
#include <limits>
#include <numeric>
#include <string_view>
#include "torture.h"

struct Rational {
    int64_t n, d;
    constexpr Rational(int64_t a, int64_t b = 1)
        : n(a / std::gcd(a, b) * (b < 0 ? -1 : 1)), d(b / std::gcd(a, b) * (b < 0 ? -1 : 1)) {}
    friend constexpr Rational operator+(Rational a, Rational b) { return {a.n * b.d + b.n * a.d, a.d * b.d}; }
    friend constexpr Rational operator*(Rational a, Rational b) { return {a.n * b.n, a.d * b.d}; }
    friend constexpr Rational operator/(Rational a, Rational b) { return {a.n * b.d, a.d * b.n}; }
    friend constexpr std::strong_ordering operator<=>(Rational a, Rational b) { return a.n * b.d <=> b.n * a.d; }
};
struct Fixed {
    int32_t raw;
    friend Fixed operator*(Fixed a, Fixed b) { return {int32_t(int64_t(a.raw) * b.raw >> 16)}; }
    friend Fixed operator/(Fixed a, Fixed b) { return {int32_t((int64_t(a.raw) << 16) / b.raw)}; }
    explicit operator double() const { return raw / 65536.0; }
};
struct Complex {
    double re, im;
    friend Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
    friend Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
    double norm() const { return re * re + im * im; }
};

template <typename T> static void show(T value, int base) {
    char text[80];
    auto [end, error] = std::to_chars(text, text + sizeof text, value, base);
    T back{};
    auto parsed = std::from_chars(text, end, back, base);
    printf("%.*s %d ", int(end - text), text, error == std::errc() && back == value && parsed.ptr == end);
}
static void show(double value) {
    char text[80];
    auto end = std::to_chars(text, text + sizeof text, value).ptr;
    printf("%.*s ", int(end - text), text);
    end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific, 5).ptr;
    printf("%.*s ", int(end - text), text);
    end = std::to_chars(text, text + sizeof text, float(value)).ptr;
    printf("%.*s\n", int(end - text), text);
}

int main() {
    show(0, 10), show(-2147483647 - 1, 10), show(0xdeadbeefu, 16), show(std::numeric_limits<int64_t>::min(), 2),
        show(uint8_t(200), 7);
    puts("");
    for (double value : {0.1, 1e22, 1e23, 123456.789, 5e-324, 1.0 / 3, -0.0, 2e-7, 6.02214076e23})
        show(value);
    int parsed = 0;
    for (std::string_view text : {"12x", "-5", "99999999999", "", "+3"}) {
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
        printf("%d %d %d; ", parsed, int(end - text.data()), error != std::errc());
    }
    puts("");
    printf("%d %d %d %u %u\n", std::popcount(0xf0f0u), std::countl_zero(uint16_t(5)), std::countr_one(7u),
           std::rotl(0x80000001u, 4), std::bit_ceil(100u));
    printf("%" PRIx64 " %d\n", std::bit_cast<uint64_t>(1.5), std::has_single_bit(64u));
    Rational sum = 0;
    for (int i = 1; i < 20; i++)
        sum = sum + Rational(i & 1 ? 1 : -1, i);
    printf("%" PRId64 "/%" PRId64 " %d\n", sum.n, sum.d, sum > Rational(2, 3));
    Fixed x{3 << 16}, y{-(5 << 15)};
    printf("%.5f %.5f\n", double(x * y), double(x / y));
    for (int row = -6; row <= 6; row++) {
        for (int column = -18; column <= 8; column++) {
            Complex c{column / 9.0, row / 6.0}, z{0, 0};
            int n = 0;
            while (n < 30 && z.norm() < 4)
                z = z * z + c, n++;
            putchar(" .:-=+*#%@"[n / 3 % 10]);
        }
        puts("");
    }
    using namespace std::chrono_literals;
    auto time = 1h + 23min - 45s + 678ms;
    auto date = std::chrono::sys_days(std::chrono::year(2024) / 2 / 29) + std::chrono::days(366);
    std::chrono::year_month_day ymd(date);
    printf("%" PRId64 " %d-%u-%u %d\n", int64_t(time.count()), int(ymd.year()), unsigned(ymd.month()),
           unsigned(ymd.day()), int(date.time_since_epoch().count()));
    return 0;
}
