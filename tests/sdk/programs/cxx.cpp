// SPDX-License-Identifier: MIT
// What C++ needs of its run time, and of libc++.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

struct Shape {
    explicit Shape(const char *name) : name(name) { std::printf("made %s\n", name); }
    virtual ~Shape() { std::printf("gone %s\n", name); }
    virtual double area() const = 0;
    const char *name;
};

struct Square final : Shape {
    explicit Square(double side) : Shape("square"), side(side) {}
    double area() const override { return side * side; }
    double side;
};

struct Named {
    virtual ~Named() = default;
    virtual const char *label() const { return "named"; }
};

struct Both : Shape, Named {
    Both() : Shape("both") {}
    double area() const override { return 1; }
    const char *label() const override { return "both"; }
};

static Square global(3);
static const std::string text = std::string("static ") + "string";

static int counted() {
    static int calls = [] {
        std::puts("once");
        return 10;
    }();
    return ++calls;
}

template <typename T, int N> constexpr T power(T base) {
    if constexpr (N == 0)
        return 1;
    else
        return base * power<T, N - 1>(base);
}

thread_local std::vector<int> local{1, 2, 3};

struct alignas(64) Wide {
    char bytes[64];
};

int main() {
    std::printf("%s %g\n", text.c_str(), global.area());
    int first = counted();
    std::printf("%d %d\n", first, counted());
    std::unique_ptr<Shape> shape = std::make_unique<Both>();
    std::printf("%g %s\n", shape->area(), static_cast<Both &>(*shape).label());
    std::vector<int> numbers(100);
    std::iota(numbers.begin(), numbers.end(), 0);
    std::sort(numbers.begin(), numbers.end(), std::greater<>());
    std::printf("%d %d %d\n", numbers[0], numbers[99], std::accumulate(numbers.begin(), numbers.end(), 0));
    std::map<std::string, int> ordered{{"b", 2}, {"a", 1}};
    for (auto &[key, value] : ordered)
        std::printf("%s=%d ", key.c_str(), value);
    std::unordered_map<std::string, int> hashed;
    for (int i = 0; i < 1000; i++)
        hashed[std::to_string(i)] = i;
    std::printf("%zu %d %d\n", hashed.size(), hashed["777"], std::stoi("-12"));
    std::function<int(int)> add = [&](int x) { return x + static_cast<int>(numbers.size()); };
    std::variant<int, std::string> either = "variant";
    std::optional<int> none;
    std::printf("%d %s %d\n", add(1), std::get<std::string>(either).c_str(), none.value_or(-1));
    char digits[32];
    *std::to_chars(digits, digits + 31, 0.1).ptr = 0;
    std::printf("%s %d %g\n", digits, power<int, 5>(3), power<double, 3>(0.5));
    auto *wide = new Wide[3];
    std::printf("%d\n", static_cast<int>(reinterpret_cast<unsigned long>(wide) % 64));
    delete[] wide;
    std::printf("%d\n", new (std::nothrow) char[std::size_t{1} << 30] == nullptr || true);
    local.push_back(4);
    std::printf("%zu\n", local.size());
    std::shared_ptr<int> shared = std::make_shared<int>(5), other = shared;
    std::printf("%d %ld\n", *other, shared.use_count());
    return 0;
}
